"""Training of the ranking network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
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
from models.network import RankerNetwork
from models.parallel import Team
from models.pieces import fit_pieces, sampled
from models.progress import Epoch, Progress
from models.ranker import Ranker
from models.ranking_batches import Batch, Lists, Rows, labels_of, lists_of, ranking_batches, rows_of
from models.settings import RankerConfig
from models.shadows import READINGS, bends_heeded, heeded, of_inputs, told
from models.signature import Signature

HEADS = ("play", "completion", "retention")
_ROWS_JUDGED = 4_096  # at once
_ROWS_ASKED = 4_096  # what features say to them
_LISTS_AT_ONCE = 256  # so that temporaries stay small


@dataclass(frozen=True)
class Choices:
    """What teaches the choice head: sampled lists to train on, and of a later period every candidate that was retrieved."""

    train: ChoiceSet
    validation: ChoiceSet


@dataclass(frozen=True)
class Study:
    """All that a network learns from; without `validation` the last epoch is the best."""

    train: Rows
    taught: Lists | None
    heads: tuple[str, ...]
    config: RankerConfig
    validation: Rows | None = None
    held_out: Lists | None = None

    def learnt(
        self, hardware: Hardware, progress: Progress, notebook: Notebook | None
    ) -> tuple[Study, RankerNetwork]:
        """A trained network, and the study with the inputs it reads.

        Where heads have bodies of their own, but for `choice`, which reads all alike, each heeds features by how much more they
        say than shadows; and no feature is read in pieces but where some head heeds these.
        """
        plain = self.made()
        weight = self.config.shadow_weight if plain.parted else 0.0
        trainings = 2 if weight else 1

        def trained(study: Study, network: RankerNetwork, number: int) -> RankerNetwork:
            tell = partial(_counted_through, progress, number, trainings)
            fit(network, study.lesson, self.config, hardware, tell, notebook and notebook.of(number))
            return network

        if not weight:
            return self, trained(self, plain, 0)
        beside = self.shadowed(np.random.default_rng([self.config.seed, 0, 0]))
        said = beside.told(trained(beside, beside.made(), 0))
        shares = {head: heeded(told, weight) for head, told in said.items()}
        study = self.in_pieces(bends_heeded(shares.values()))
        network, readings = study.made(), study.train.readings
        network.heed({head: torch.from_numpy(of_inputs(share, readings)) for head, share in shares.items()})
        trained(study, network, 1).settle()
        return study, network

    def in_pieces(self, columns: Int64) -> Study:
        """The same with no other features read in pieces than these."""
        inputs, left = self.train.inputs.in_pieces(columns)
        return replace(
            self,
            train=replace(self.train, inputs=inputs),
            taught=None if self.taught is None else self.taught.reading(left),
            validation=None if self.validation is None else replace(self.validation, inputs=inputs),
            held_out=None if self.held_out is None else self.held_out.reading(left),
        )

    def made(self) -> RankerNetwork:
        """One that has learnt nothing, the same every time."""
        torch.manual_seed(self.config.seed)
        return RankerNetwork(len(self.train.readings), self.heads, self.config)

    @property
    def lesson(self) -> Lesson[Batch]:
        """What the loop of `models.fitting` needs."""
        return lesson_of(self.train, self.validation, self.heads, self.config, self.taught, self.held_out)

    def shadowed(self, rng: np.random.Generator) -> Study:
        """The outcomes of rows, with features and a shadow of each; nothing of a later period is asked."""
        heads = tuple(head for head in self.heads if head != "choice")
        return Study(self.train.shadowed(rng), None, heads, self.config)

    def told(self, network: RankerNetwork) -> dict[str, Float32]:
        """How much each reading of each feature says to each head, then what its shadow does: (2, R, F), by evenly spaced rows."""
        rows = self.train.some(torch.arange(len(self.train))[:: -(-len(self.train) // _ROWS_ASKED)])
        shape = (2, READINGS, self.train.inputs.n_features)
        said = told(network, rows.inputs, rows.place, self.train.readings, int(np.prod(shape)))
        return {head: deviations.reshape(shape) for head, deviations in said.items()}


def _counted_through(progress: Progress, number: int, trainings: int, epoch: Epoch) -> None:
    """Report an epoch of a training, epochs counted through all trainings."""
    progress(replace(epoch, number=number * epoch.of + epoch.number, of=trainings * epoch.of))


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
        (lists_of(choices.train, inputs), lists_of(choices.validation, inputs)) if choices else (None, None)
    )
    notebook = Notebook.at(checkpoint, config, hardware, signature, train, validation, choices)
    with torch.random.fork_rng(devices=hardware.gpus):
        heads = (*heads_in(rows), *(["choice"] if choices else []))
        judged = rows_of(validation, inputs, config)
        study = Study(rows, taught, heads, config, judged, held_out)
        study, network = study.learnt(hardware, progress, notebook)
    known = bool(rows.place.any())
    position = float(config.serving_position) if known else float("nan")
    calibration = dict.fromkeys(network.heads, Calibration())
    ranker = Ranker(network, study.train.inputs, calibration, position, config, signature)
    fusion = _fuse(network, study.held_out, choices.validation) if choices and study.held_out else None
    ranker = replace(ranker, calibration=_calibrate(ranker, validation), fusion=fusion)
    return replace(ranker, metrics=evaluate_ranking(ranker, validation))


def lesson_of(
    train: Rows,
    validation: Rows | None,
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
        return ranking_batches(train, taught, config.rows_per_batch, rng, team)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        if not len(batch.place):  # fewer rows in the batch than members of the team
            return batch.inputs.new_zeros(())
        return batch_loss(network, batch, weights)  # 1, 2

    steps = -(-len(train) // config.rows_per_batch)
    judge = partial(_judged, rows=validation, lists=held_out, weights=weights) if validation else None
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
    outcomes = {head: label[rows] for head, label in labels_of(train).items()}
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


def _judged(network: nn.Module, rows: Rows, lists: Lists | None, weights: Mapping[str, float]) -> Verdict:
    """The weighted sum of heads' losses over all rows and lists, though no more than a batch is standardised at a time."""
    network.eval()
    with torch.inference_mode():
        logits = [network(batch.inputs, batch.place) for batch in rows.in_order(_ROWS_JUDGED)]
        whole = {head: torch.cat([some[head] for some in logits]) for head in logits[0]}
        loss = _labelled_loss(whole, rows.labels, weights).item()
        if lists is not None:
            loss += weights["choice"] * choice_loss(choice_logits(network, lists), lists.log_inclusion).item()
    return Verdict(-loss, {"loss": loss})


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


def _calibrate(ranker: Ranker, validation: RankingSet) -> dict[str, Calibration]:
    """Each head fitted to its validation labels, at the positions they were seen at."""
    logits = ranker.logits(validation.features, validation.position)
    fitted: dict[str, Calibration] = {}
    for head, label in labels_of(validation).items():
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
