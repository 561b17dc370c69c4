"""Training of the ranking network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import Calibration, fit_calibration
from models.data import Float32, Int64, MalformedData, RankingSet
from models.determinism import deterministic
from models.devices import Hardware
from models.evaluate import evaluate_ranking
from models.fitting import Lesson, Notebook, Verdict, fit
from models.inputs import Standardiser, fit_standardiser
from models.losses import heads_loss
from models.network import RankerNetwork, places
from models.parallel import Team
from models.progress import Progress
from models.ranker import Ranker
from models.settings import RankerConfig
from models.signature import Signature

HEADS = ("play", "completion", "retention")
_ROWS_JUDGED = 4_096  # at once


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
    """Some rows: inputs (n, I), places (n,), labels (n,) by head, and each head's share of its batch's known labels."""

    inputs: Tensor
    place: Tensor
    labels: dict[str, Tensor]
    shares: dict[str, float] = field(default_factory=dict)


@deterministic()
def train_ranker(
    train: RankingSet,
    validation: RankingSet,
    config: RankerConfig,
    signature: Signature,
    progress: Progress = lambda _: None,
    *,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
) -> Ranker:
    """Train a ranker from `config.seed`; the caller's random state is left alone.

    It has a head for play, and one for completion (among plays) and for retention where `train` holds
    different labels of it. Every head is calibrated on `validation`.

    How far training has come is written to the file `checkpoint` after every epoch, and if that exists training goes
    on from there. Without `hardware` this process trains alone, on its processor.

    Raises:
        MalformedData: nothing to learn, or rows that do not fit the signature or the order of time.
        OtherRun, DamagedCheckpoint, Diverged: as `models.fitting.fit` says.
    """
    _check(train, validation, signature)
    hardware = hardware or Hardware()
    rng = np.random.default_rng(config.seed)
    chosen = None
    if len(train) > config.max_rows:
        chosen = np.sort(rng.choice(len(train), config.max_rows, replace=False))
    inputs = fit_standardiser(train.features)
    rows = rows_of(train, inputs, config, chosen)
    notebook = Notebook.at(checkpoint, config, hardware, signature, train, validation)
    with torch.random.fork_rng(devices=hardware.gpus):
        torch.manual_seed(config.seed)
        network = RankerNetwork(inputs.width, heads_in(rows), config)
        lesson = lesson_of(rows, rows_of(validation, inputs, config), network.heads, config)
        fit(network, lesson, config, hardware, progress, notebook)
    known = bool(rows.place.any())
    position = float(config.serving_position) if known else float("nan")
    ranker = Ranker(network, inputs, dict.fromkeys(network.heads, Calibration()), position, config, signature)
    ranker = replace(ranker, calibration=_calibrate(ranker, validation))
    return replace(ranker, metrics=evaluate_ranking(ranker, validation))


def lesson_of(train: Rows, validation: Rows, heads: Sequence[str], config: RankerConfig) -> Lesson[Batch]:
    """Multi-task learning by the sum of the heads' mean losses, in the loop of `models.fitting`.

    for each batch of rows (x, place, labels):
      1. score every head                        z = network(x, place)
      2. weigh each head's loss over its labels  L = Σ_k w_k · mean BCE(z_k, y_k)
    """
    weights = {head: float(getattr(config, f"{head}_weight")) for head in heads}

    def batches(rng: np.random.Generator, team: Team) -> Iterator[Batch]:
        for rows in torch.split(torch.from_numpy(rng.permutation(len(train))), config.rows_per_batch):
            yield train.share_of(rows, team)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        if not len(batch.place):  # fewer rows in the batch than members of the team
            return batch.inputs.new_zeros(())
        logits = network(batch.inputs, batch.place)  # 1
        parts = {head: weight * batch.shares[head] for head, weight in weights.items()}
        return heads_loss(logits, batch.labels, parts)  # 2

    def judge(network: nn.Module) -> Verdict:
        value = _loss(network, validation, weights)
        return Verdict(-value, {"loss": value})

    steps = -(-len(train) // config.rows_per_batch)
    return Lesson(partial(_optimizer, config=config), batches, steps, loss, judge)


def _optimizer(network: nn.Module, config: RankerConfig) -> torch.optim.Optimizer:
    examination = list(network.get_submodule("examination").parameters())
    others = [weight for name, weight in network.named_parameters() if not name.startswith("examination.")]
    return torch.optim.AdamW(
        [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": examination, "lr": config.examination_learning_rate, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )


def heads_in(rows: Rows) -> tuple[str, ...]:
    """The heads these rows can teach: those with at least two different labels."""
    return tuple(head for head in HEADS if len(np.unique(rows.labels[head][~rows.labels[head].isnan()])) > 1)


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


def _loss(network: nn.Module, rows: Rows, weights: dict[str, float]) -> float:
    """Over all rows, though no more than a batch is standardised at a time."""
    network.eval()
    with torch.inference_mode():
        logits = [network(batch.inputs, batch.place) for batch in rows.in_order(_ROWS_JUDGED)]
        whole = {head: torch.cat([some[head] for some in logits]) for head in weights}
        return heads_loss(whole, rows.labels, weights).item()


def _calibrate(ranker: Ranker, validation: RankingSet) -> dict[str, Calibration]:
    """Each head fitted to its validation labels, at the positions they were seen at."""
    logits = ranker.logits(validation.features, validation.position)
    fitted = {}
    for head, label in _labels(validation).items():
        known = ~np.isnan(label)
        if head in logits:
            fitted[head] = (
                fit_calibration(logits[head][known], label[known]) if known.any() else Calibration()
            )
    return fitted


def _check(train: RankingSet, validation: RankingSet, signature: Signature) -> None:
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
