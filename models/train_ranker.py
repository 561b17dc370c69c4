"""Training of the ranking network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import Calibration, fit_calibration
from models.choice import ChoiceSet, Fusion, choice_loss, fit_fusion
from models.data import Float32, Int64, MalformedData, RankingSet
from models.determinism import deterministic
from models.devices import Hardware
from models.evaluate import evaluate_ranking
from models.fitting import Lesson, Notebook, Verdict, fit
from models.inputs import Standardiser, fit_standardiser
from models.losses import heads_loss
from models.network import RankerNetwork, places
from models.parallel import Team
from models.pieces import fit_pieces, sampled
from models.progress import Epoch, Progress
from models.ranker import Ranker
from models.selection import Rounds, brought, eliminated, told_lists, told_rows
from models.settings import RankerConfig
from models.signature import Signature

HEADS = ("play", "completion", "retention")
_ROWS_JUDGED = 4_096  # at once
_ROWS_ASKED = 4_096  # what features say to them
_LISTS_AT_ONCE = 256  # so that temporaries stay small


@dataclass(frozen=True)
class Lists:
    """Lists to choose from as tensors: inputs (L, W, I) and log inclusions (L, W), the title played in column 0."""

    inputs: Tensor
    log_inclusion: Tensor

    def __len__(self) -> int:
        return len(self.log_inclusion)

    def some(self, lists: Tensor) -> Lists:
        """The lists with these numbers."""
        return Lists(self.inputs[lists], self.log_inclusion[lists])


@dataclass(frozen=True)
class Choices:
    """What teaches the choice head: sampled lists to train on, and of a later period every candidate that was retrieved."""

    train: ChoiceSet
    validation: ChoiceSet


@dataclass(frozen=True)
class Rows:
    """Ranking rows, standardised only when a batch asks for them: the features may lie in a file."""

    features: Float32  # raw, of the whole data set
    numbers: Int64  # (N,) which of its rows these are
    inputs: Standardiser
    place: Tensor  # (N,)
    labels: dict[str, Tensor]  # (N,) by head, NaN where unknown

    def __len__(self) -> int:
        return len(self.place)

    def some(self, rows: Tensor) -> Batch:
        """The rows with these numbers, in their order."""
        raw = np.asarray(self.features[self.numbers[rows.numpy()]])
        labels = {head: label[rows] for head, label in self.labels.items()}
        return Batch(torch.from_numpy(self.inputs.transform(raw)), self.place[rows], labels)

    def share_of(self, rows: Tensor, team: Team) -> Batch:
        """A team member's share of a batch, each head weighted by the share of the batch's known labels that it holds."""
        mine, held = team.share(rows), self.labels.items()
        shares = {head: _known(label[mine]) / max(_known(label[rows]), 1) for head, label in held}
        return replace(self.some(mine), shares=shares)

    def in_order(self, at_once: int) -> Iterator[Batch]:
        """All rows, `at_once` at a time."""
        return map(self.some, torch.split(torch.arange(len(self)), at_once))


@dataclass(frozen=True)
class Batch:
    """Some rows: inputs (n, I), places (n,), labels (n,) by head, and each head's share of its batch's known labels.

    With them go lists to choose from; the share of head `choice` is that of the batch's lists.
    """

    inputs: Tensor
    place: Tensor
    labels: dict[str, Tensor]
    shares: dict[str, float] = field(default_factory=dict)
    lists: Lists | None = None


@dataclass(frozen=True)
class Study:
    """All that a network learns from, in one training or in one for each set of features that its heads may read."""

    lesson: Lesson[Batch]
    train: Rows
    validation: Rows
    taught: Lists | None
    held_out: Lists | None
    heads: tuple[str, ...]
    config: RankerConfig

    def network(self, hardware: Hardware, progress: Progress, notebook: Notebook | None) -> RankerNetwork:
        """A trained one; where heads have bodies of their own, each reads the features that serve it best."""
        first = self.made()
        halvings = self.config.halvings if first.parted else 0

        def train(network: RankerNetwork, number: int) -> None:
            tell = partial(_in_round, progress, number, halvings + 1)
            fit(network, self.lesson, self.config, hardware, tell, notebook and notebook.of(number))

        if halvings:
            owners = self.train.inputs.owners
            return eliminated(Rounds(self.made, train, self.loss, self.told, owners), halvings)
        train(first, 0)
        return first

    def made(self) -> RankerNetwork:
        """One that has learnt nothing, the same every time."""
        torch.manual_seed(self.config.seed)
        return RankerNetwork(self.train.inputs.width, self.heads, self.config)

    def loss(self, network: RankerNetwork) -> dict[str, float]:
        """Each head's, over all validation rows and lists."""
        return _losses(network, self.validation, self.held_out, self.heads)

    def told(self, network: RankerNetwork) -> dict[str, Float32]:
        """How much each feature says to each head, by evenly spaced rows and lists."""
        owners, lists = self.train.inputs.owners, self.taught
        rows = self.train.some(torch.arange(len(self.train))[:: -(-len(self.train) // _ROWS_ASKED)])
        by_rows = [head for head in self.heads if head != "choice" or lists is None]
        parts = brought(network, by_rows, rows.inputs, rows.place, owners)
        found = {head: told_rows(one) for head, one in parts.items()}
        return found if lists is None else {**found, "choice": self._told_of_choice(network, lists)}

    def _told_of_choice(self, network: RankerNetwork, lists: Lists) -> Float32:
        count, width = lists.log_inclusion.shape
        some = lists.some(torch.arange(count)[:: -(-count * width // _ROWS_ASKED)])
        inputs = some.inputs.flatten(0, 1)
        nowhere = torch.zeros(len(inputs), dtype=torch.long)
        parts = brought(network, ["choice"], inputs, nowhere, self.train.inputs.owners)["choice"]
        return told_lists(parts.reshape(len(some), width, -1), ~torch.isposinf(some.log_inclusion).numpy())


def _in_round(progress: Progress, number: int, rounds: int, epoch: Epoch) -> None:
    """Report an epoch of a round, epochs counted through all rounds."""
    progress(replace(epoch, number=number * epoch.of + epoch.number, of=rounds * epoch.of))


@deterministic()
def train_ranker(
    train: RankingSet,
    validation: RankingSet,
    config: RankerConfig,
    signature: Signature,
    progress: Progress = lambda _: None,
    choices: Choices | None = None,
    *,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
) -> Ranker:
    """Train a ranker from `config.seed`; the caller's random state is left alone.

    It has a head for play, and one for completion (among plays) and for retention where `train` holds
    different labels of it, and with `choices` one for what is chosen. Every head is calibrated on `validation`; the
    choice head is weighed against the retriever's score on `choices.validation`.

    How far training has come is written to the file `checkpoint` after every epoch, and if that exists training goes
    on from there. Without `hardware` this process trains alone, on its processor.

    Raises:
        MalformedData: nothing to learn, or rows that do not fit the signature or the order of time.
        OtherRun, DamagedCheckpoint, Diverged: as `models.fitting.fit` says.
    """
    _check(train, validation, signature, choices)
    hardware = hardware or Hardware()
    rng = np.random.default_rng(config.seed)
    chosen = None
    if len(train) > config.max_rows:
        chosen = np.sort(rng.choice(len(train), config.max_rows, replace=False))
    inputs = inputs_of(train, config)
    rows = rows_of(train, inputs, config, chosen)
    taught, held_out = (
        (_lists_of(choices.train, inputs), _lists_of(choices.validation, inputs)) if choices else (None, None)
    )
    notebook = Notebook.at(checkpoint, config, hardware, signature, train, validation, choices)
    with torch.random.fork_rng(devices=hardware.gpus):
        heads = (*heads_in(rows), *(["choice"] if choices else []))
        judged = rows_of(validation, inputs, config)
        lesson = lesson_of(rows, judged, heads, config, taught, held_out)
        study = Study(lesson, rows, judged, taught, held_out, heads, config)
        network = study.network(hardware, progress, notebook)
    known = bool(rows.place.any())
    position = float(config.serving_position) if known else float("nan")
    ranker = Ranker(network, inputs, dict.fromkeys(network.heads, Calibration()), position, config, signature)
    fusion = _fuse(network, held_out, choices.validation) if choices and held_out else None
    ranker = replace(ranker, calibration=_calibrate(ranker, validation), fusion=fusion)
    return replace(ranker, metrics=evaluate_ranking(ranker, validation))


def lesson_of(
    train: Rows,
    validation: Rows,
    heads: Sequence[str],
    config: RankerConfig,
    taught: Lists | None = None,
    held_out: Lists | None = None,
) -> Lesson[Batch]:
    """Multi-task learning by the sum of the heads' mean losses, in the loop of `models.fitting`.

    for each batch of rows (x, place, labels) and of lists to choose from:
      1. score every head                        z = network(x, place)
      2. weigh each head's loss over its labels  L = Σ_k w_k · mean BCE(z_k, y_k) + w_o · mean choice loss(z_o)
    """
    weights = {head: float(getattr(config, f"{head}_weight")) for head in heads}

    def batches(rng: np.random.Generator, team: Team) -> Iterator[Batch]:
        parts = torch.split(torch.from_numpy(rng.permutation(len(train))), config.rows_per_batch)
        for rows, lists in zip(parts, _list_parts(taught, len(parts), rng), strict=True):
            batch = train.share_of(rows, team)
            yield batch if taught is None else _with_lists(batch, taught, lists, team)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        if not len(batch.place):  # fewer rows in the batch than members of the team
            return batch.inputs.new_zeros(())
        return batch_loss(network, batch, weights)  # 1, 2

    def judge(network: nn.Module) -> Verdict:
        value = _loss(network, validation, held_out, weights)
        return Verdict(-value, {"loss": value})

    steps = -(-len(train) // config.rows_per_batch)
    return Lesson(partial(_optimizer, config=config), batches, steps, loss, judge)


def batch_loss(network: nn.Module, batch: Batch, weights: Mapping[str, float]) -> Tensor:
    """One member's part of a batch's loss; rows and lists go through the network together."""
    lists, n = batch.lists, len(batch.place)
    parts = {head: weight * batch.shares.get(head, 0.0) for head, weight in weights.items()}
    if lists is None or not len(lists):
        return _labelled_loss(network(batch.inputs, batch.place), batch.labels, parts)
    inputs = torch.cat([batch.inputs, lists.inputs.flatten(0, 1)])
    nowhere = batch.place.new_zeros(len(inputs) - n)
    logits = network(inputs, torch.cat([batch.place, nowhere]))
    choice = logits["choice"][n:].view_as(lists.log_inclusion)
    labelled = _labelled_loss({head: logit[:n] for head, logit in logits.items()}, batch.labels, parts)
    return labelled + parts["choice"] * choice_loss(choice, lists.log_inclusion)


def _list_parts(lists: Lists | None, count: int, rng: np.random.Generator) -> Sequence[Tensor]:
    """Numbers of lists for each of `count` batches, so that an epoch sees all of them once."""
    order = np.arange(0) if lists is None else rng.permutation(len(lists))
    return torch.from_numpy(order).tensor_split(count)


def _with_lists(batch: Batch, lists: Lists, numbers: Tensor, team: Team) -> Batch:
    """A member's rows with its share of the batch's lists."""
    mine = team.share(numbers)
    shares = {**batch.shares, "choice": len(mine) / max(len(numbers), 1)}
    return replace(batch, shares=shares, lists=lists.some(mine))


def _labelled_loss(
    logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    return heads_loss({head: logit for head, logit in logits.items() if head in labels}, labels, weights)


def _optimizer(network: nn.Module, config: RankerConfig) -> torch.optim.Optimizer:
    tables = ("examination.weight", "selection.weight")
    of_places = [network.get_parameter(name) for name in tables]
    others = [weight for name, weight in network.named_parameters() if name not in tables]
    return torch.optim.AdamW(
        [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": of_places, "lr": config.examination_learning_rate, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )


def heads_in(rows: Rows) -> tuple[str, ...]:
    """The heads these rows can teach: those with at least two different labels."""
    return tuple(head for head in HEADS if len(np.unique(rows.labels[head][~rows.labels[head].isnan()])) > 1)


def inputs_of(train: RankingSet, config: RankerConfig) -> Standardiser:
    """How the network reads features: standardised, and those along which an outcome of `train` bends in pieces as well."""
    straight = fit_standardiser(train.features, tails=config.tails)
    rows = sampled(len(train))
    sample = np.asarray(train.features[rows])
    outcomes = {head: label[rows] for head, label in _labels(train).items()}
    read = straight.transform(sample)[:, : straight.n_features]
    pieces = fit_pieces(
        sample,
        read,
        outcomes,
        train.user_id[rows],
        pieces=config.pieces,
        bent=config.bent,
        least=config.least_bend,
    )
    return replace(straight, pieces=pieces)


def rows_of(
    data: RankingSet, inputs: Standardiser, config: RankerConfig, chosen: Int64 | None = None
) -> Rows:
    """What the network reads of a data set, or of the rows `chosen` from it."""
    numbers = np.arange(len(data)) if chosen is None else chosen
    return Rows(
        data.features,
        numbers,
        inputs,
        places(torch.from_numpy(data.position[numbers]), config.positions),
        {head: torch.from_numpy(label[numbers]) for head, label in _labels(data).items()},
    )


def _known(label: Tensor) -> int:
    return int((~label.isnan()).sum())


def _labels(data: RankingSet) -> dict[str, NDArray[np.float32]]:
    completion = np.where(data.play > 0, data.completion, np.float32("nan"))
    return {"play": data.play, "completion": completion, "retention": data.retention}


def _loss(network: nn.Module, rows: Rows, lists: Lists | None, weights: Mapping[str, float]) -> float:
    """The weighted sum of the heads'."""
    return sum(weights[head] * loss for head, loss in _losses(network, rows, lists, tuple(weights)).items())


def _losses(network: nn.Module, rows: Rows, lists: Lists | None, heads: Sequence[str]) -> dict[str, float]:
    """Each head's over all rows or lists, though no more than a batch is standardised at a time."""
    network.eval()
    with torch.inference_mode():
        logits = [network(batch.inputs, batch.place) for batch in rows.in_order(_ROWS_JUDGED)]
        whole = {head: torch.cat([some[head] for some in logits]) for head in heads}
        found = {
            head: _labelled_loss({head: logit}, rows.labels, {head: 1.0}).item()
            for head, logit in whole.items()
            if head in rows.labels
        }
        if lists is not None:
            found["choice"] = choice_loss(choice_logits(network, lists), lists.log_inclusion).item()
    return found


def choice_logits(network: nn.Module, lists: Lists) -> Tensor:
    """(L, W) logits of the choice head."""
    with torch.inference_mode():
        parts = [
            network(part.flatten(0, 1), torch.zeros(part.shape[0] * part.shape[1], dtype=torch.long))[
                "choice"
            ]
            for part in torch.split(lists.inputs, _LISTS_AT_ONCE)
        ]
    return torch.cat(parts).view_as(lists.log_inclusion)


def _fuse(network: nn.Module, lists: Lists, choices: ChoiceSet) -> Fusion:
    """The choice head against the retriever's score, over the candidates of the validation period."""
    logits = choice_logits(network, lists).numpy()
    return fit_fusion(np.where(choices.there, logits, np.float32("nan")), choices.retrieval)


def _lists_of(choices: ChoiceSet, inputs: Standardiser) -> Lists:
    count, width = choices.log_inclusion.shape
    flat = inputs.transform(choices.features.reshape(count * width, -1))
    return Lists(torch.from_numpy(flat).view(count, width, -1), torch.from_numpy(choices.log_inclusion))


def _calibrate(ranker: Ranker, validation: RankingSet) -> dict[str, Calibration]:
    """Each head fitted to its validation labels, at the positions they were seen at."""
    logits = ranker.logits(validation.features, validation.position)
    fitted: dict[str, Calibration] = {}
    for head, label in _labels(validation).items():
        known = ~np.isnan(label)
        if head in logits:
            fitted[head] = (
                fit_calibration(logits[head][known], label[known]) if known.any() else Calibration()
            )
    return fitted


def _check(train: RankingSet, validation: RankingSet, signature: Signature, choices: Choices | None) -> None:
    for name, data in (("training", train), ("validation", validation)):
        if data.features.shape[1:] != (signature.width,):
            raise MalformedData(
                f"{name} features have shape {data.features.shape}; the signature names {signature.width}."
            )
        if len(np.unique(data.play)) < 2:
            raise MalformedData(f"the {len(data)} {name} rows do not hold both plays and titles passed over.")
    if train.period.max() >= validation.period.min():
        raise MalformedData(
            f"training periods reach {train.period.max()}, validation starts at {validation.period.min()}: "
            "one time split parts them."
        )
    for name, lists in (("training", choices.train), ("validation", choices.validation)) if choices else ():
        if not len(lists) or lists.features.shape[2] != signature.width:
            raise MalformedData(
                f"{name} lists to choose from have shape {lists.features.shape}; at least one of {signature.width} features."
            )
