"""Training of the ranking network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import Calibration, fit_calibration
from models.choice import ChoiceSet, Fusion, choice_loss, fit_fusion
from models.data import MalformedData, RankingSet
from models.determinism import deterministic
from models.evaluate import evaluate_ranking
from models.inputs import Standardiser, fit_standardiser
from models.losses import heads_loss
from models.network import RankerNetwork, places
from models.progress import Epoch, Progress
from models.ranker import Ranker
from models.settings import RankerConfig
from models.signature import Signature

HEADS = ("play", "completion", "retention")


@dataclass(frozen=True)
class Lists:
    """Lists to choose from as tensors: inputs (L, W, I) and log inclusions (L, W), the title played in column 0."""

    inputs: Tensor
    log_inclusion: Tensor

    def __len__(self) -> int:
        return len(self.log_inclusion)


@dataclass(frozen=True)
class Rows:
    """Ranking rows as tensors: inputs (N, I), places (N,), and labels (N,) by head, NaN where unknown.

    With them go `lists`, which teach the choice head; None without one.
    """

    inputs: Tensor
    place: Tensor
    labels: dict[str, Tensor]
    lists: Lists | None = None

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class Choices:
    """What teaches the choice head: sampled lists to train on, and of a later period every candidate that was retrieved."""

    train: ChoiceSet
    validation: ChoiceSet


@deterministic()
def train_ranker(
    train: RankingSet,
    validation: RankingSet,
    config: RankerConfig,
    signature: Signature,
    progress: Progress = lambda _: None,
    choices: Choices | None = None,
) -> Ranker:
    """Train a ranker from `config.seed`; the caller's random state is left alone.

    It has a head for play, and one for completion (among plays) and for retention where `train` holds
    different labels of it, and with `choices` one for what is chosen. Every head is calibrated on `validation`; the
    choice head is weighed against the retriever's score on `choices.validation`.

    Raises:
        MalformedData: nothing to learn, or rows that do not fit the signature or the order of time.
    """
    _check(train, validation, signature, choices)
    rng = np.random.default_rng(config.seed)
    if len(train) > config.max_rows:
        train = train.take(np.sort(rng.choice(len(train), config.max_rows, replace=False)))
    inputs = fit_standardiser(train.features)
    chosen = (choices.train, choices.validation) if choices else (None, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = RankerNetwork(inputs.width, (*heads_in(train), *(["choice"] if choices else [])), config)
        taught, held_out = (
            rows_of(data, inputs, config, lists)
            for data, lists in zip((train, validation), chosen, strict=True)
        )
        best = _fit(network, taught, held_out, config, progress)
    known = not np.isnan(train.position).all()
    position = float(config.serving_position) if known else float("nan")
    ranker = Ranker(best, inputs, dict.fromkeys(best.heads, Calibration()), position, config, signature)
    fusion = _fuse(best, held_out.lists, choices.validation) if choices and held_out.lists else None
    ranker = replace(ranker, calibration=_calibrate(ranker, validation), fusion=fusion)
    return replace(ranker, metrics=evaluate_ranking(ranker, validation))


def _fit(
    network: RankerNetwork, train: Rows, validation: Rows, config: RankerConfig, progress: Progress
) -> RankerNetwork:
    """Multi-task learning by the sum of the heads' mean losses; returns the best network by validation.

    for each batch of rows (x, place, labels) and of lists to choose from:
      1. score every head                        z = network(x, place)
      2. weigh each head's loss over its labels  L = Σ_k w_k · mean BCE(z_k, y_k) + w_o · mean choice loss(z_o)
      3. step on the clipped gradient            θ ← AdamW(θ, clip(∇L))
    until the validation loss has not fallen for `patience` epochs.
    """
    loss_weights = {head: float(getattr(config, f"{head}_weight")) for head in network.heads}
    optimizer = _optimizer(network, config)
    steps = -(-len(train) // config.rows_per_batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)
    best, best_loss, since_best = network, float("inf"), 0
    for number in range(1, config.epochs + 1):
        losses = []
        network.train()
        for rows in batches(train, config.rows_per_batch):
            loss = rows_loss(network, rows, loss_weights)  # 1, 2
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)  # 3
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        validation_loss = _loss(network, validation, loss_weights)
        since_best += 1
        if validation_loss < best_loss:
            best, best_loss, since_best = copy.deepcopy(network), validation_loss, 0
        progress(Epoch(number, config.epochs, float(np.mean(losses)), {"loss": validation_loss}))
        if since_best >= config.patience:
            break
    return best.eval()


def _optimizer(network: RankerNetwork, config: RankerConfig) -> torch.optim.Optimizer:
    examination = list(network.examination.parameters())
    others = [weight for name, weight in network.named_parameters() if not name.startswith("examination.")]
    return torch.optim.AdamW(
        [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": examination, "lr": config.examination_learning_rate, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )


def heads_in(data: RankingSet) -> tuple[str, ...]:
    """The heads these rows can teach: those with at least two different labels."""
    labels = _labels(data)
    return tuple(head for head in HEADS if len(np.unique(labels[head][~np.isnan(labels[head])])) > 1)


def rows_of(
    data: RankingSet, inputs: Standardiser, config: RankerConfig, choices: ChoiceSet | None = None
) -> Rows:
    """Standardised rows, and lists to choose from, as tensors."""
    return Rows(
        torch.from_numpy(inputs.transform(data.features)),
        places(torch.from_numpy(data.position), config.positions),
        {head: torch.from_numpy(label) for head, label in _labels(data).items()},
        None if choices is None else _lists_of(choices, inputs),
    )


def _lists_of(choices: ChoiceSet, inputs: Standardiser) -> Lists:
    count, width = choices.log_inclusion.shape
    flat = inputs.transform(choices.features.reshape(count * width, -1))
    return Lists(torch.from_numpy(flat).view(count, width, -1), torch.from_numpy(choices.log_inclusion))


def batches(train: Rows, size: int) -> Iterator[Rows]:
    """The rows in random order, `size` at a time, and as many lists with each as to see all of both once."""
    parts = torch.split(torch.randperm(len(train)), size)
    lists = train.lists
    shares = [None] * len(parts) if lists is None else torch.randperm(len(lists)).tensor_split(len(parts))
    for rows, share in zip(parts, shares, strict=True):
        labels = {head: label[rows] for head, label in train.labels.items()}
        some = None if lists is None else Lists(lists.inputs[share], lists.log_inclusion[share])
        yield Rows(train.inputs[rows], train.place[rows], labels, some)


def rows_loss(network: RankerNetwork, rows: Rows, weights: Mapping[str, float]) -> Tensor:
    """The heads' mean losses over some rows and lists, weighted and summed; rows and lists go through together."""
    lists = rows.lists
    if lists is None or not len(lists):
        return _labelled_loss(network(rows.inputs, rows.place), rows, weights)
    inputs = torch.cat([rows.inputs, lists.inputs.flatten(0, 1)])
    nowhere = rows.place.new_zeros(len(inputs) - len(rows))
    logits = network(inputs, torch.cat([rows.place, nowhere]))
    choice = logits["choice"][len(rows) :].view_as(lists.log_inclusion)
    labelled = _labelled_loss({head: logit[: len(rows)] for head, logit in logits.items()}, rows, weights)
    return labelled + weights["choice"] * choice_loss(choice, lists.log_inclusion)


def _labelled_loss(logits: Mapping[str, Tensor], rows: Rows, weights: Mapping[str, float]) -> Tensor:
    return heads_loss(
        {head: logit for head, logit in logits.items() if head in rows.labels}, rows.labels, weights
    )


def _labels(data: RankingSet) -> dict[str, NDArray[np.float32]]:
    completion = np.where(data.play > 0, data.completion, np.float32("nan"))
    return {"play": data.play, "completion": completion, "retention": data.retention}


_AT_ONCE = 256  # lists scored at once, so that temporaries stay small


def _loss(network: RankerNetwork, rows: Rows, weights: dict[str, float]) -> float:
    network.eval()
    with torch.inference_mode():
        loss = _labelled_loss(network(rows.inputs, rows.place), rows, weights).item()
        if rows.lists is not None:
            logits = choice_logits(network, rows.lists)
            loss += weights["choice"] * choice_loss(logits, rows.lists.log_inclusion).item()
    return loss


def choice_logits(network: RankerNetwork, lists: Lists) -> Tensor:
    """(L, W) logits of the choice head."""
    with torch.inference_mode():
        parts = [
            network(part.flatten(0, 1), torch.zeros(part.shape[0] * part.shape[1], dtype=torch.long))[
                "choice"
            ]
            for part in torch.split(lists.inputs, _AT_ONCE)
        ]
    return torch.cat(parts).view_as(lists.log_inclusion)


def _fuse(network: RankerNetwork, lists: Lists, choices: ChoiceSet) -> Fusion:
    """The choice head against the retriever's score, over the candidates of the validation period."""
    logits = choice_logits(network, lists).numpy()
    return fit_fusion(np.where(choices.there, logits, np.float32("nan")), choices.retrieval)


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
