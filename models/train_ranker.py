"""Training of the ranking network."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import Calibration, fit_calibration
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
class Rows:
    """Ranking rows as tensors: inputs (N, I), places (N,), and labels (N,) by head, NaN where unknown."""

    inputs: Tensor
    place: Tensor
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.place)


@deterministic()
def train_ranker(
    train: RankingSet,
    validation: RankingSet,
    config: RankerConfig,
    signature: Signature,
    progress: Progress = lambda _: None,
) -> Ranker:
    """Train a ranker from `config.seed`; the caller's random state is left alone.

    It has a head for play, and one for completion (among plays) and for retention where `train` holds
    different labels of it. Every head is calibrated on `validation`.

    Raises:
        MalformedData: nothing to learn, or rows that do not fit the signature or the order of time.
    """
    _check(train, validation, signature)
    rng = np.random.default_rng(config.seed)
    if len(train) > config.max_rows:
        train = train.take(np.sort(rng.choice(len(train), config.max_rows, replace=False)))
    inputs = fit_standardiser(train.features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = RankerNetwork(inputs.width, heads_in(train), config)
        best = _fit(
            network, rows_of(train, inputs, config), rows_of(validation, inputs, config), config, progress
        )
    known = not np.isnan(train.position).all()
    position = float(config.serving_position) if known else float("nan")
    ranker = Ranker(best, inputs, dict.fromkeys(best.heads, Calibration()), position, config, signature)
    ranker = replace(ranker, calibration=_calibrate(ranker, validation))
    return replace(ranker, metrics=evaluate_ranking(ranker, validation))


def _fit(
    network: RankerNetwork, train: Rows, validation: Rows, config: RankerConfig, progress: Progress
) -> RankerNetwork:
    """Multi-task learning by the sum of the heads' mean losses; returns the best network by validation.

    for each batch of rows (x, place, labels):
      1. score every head                        z = network(x, place)
      2. weigh each head's loss over its labels  L = Σ_k w_k · mean BCE(z_k, y_k)
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
        for rows in torch.split(torch.randperm(len(train)), config.rows_per_batch):
            logits = network(train.inputs[rows], train.place[rows])  # 1
            labels = {head: label[rows] for head, label in train.labels.items()}
            loss = heads_loss(logits, labels, loss_weights)  # 2
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


def rows_of(data: RankingSet, inputs: Standardiser, config: RankerConfig) -> Rows:
    """Standardised rows as tensors."""
    return Rows(
        torch.from_numpy(inputs.transform(data.features)),
        places(torch.from_numpy(data.position), config.positions),
        {head: torch.from_numpy(label) for head, label in _labels(data).items()},
    )


def _labels(data: RankingSet) -> dict[str, NDArray[np.float32]]:
    completion = np.where(data.play > 0, data.completion, np.float32("nan"))
    return {"play": data.play, "completion": completion, "retention": data.retention}


def _loss(network: RankerNetwork, rows: Rows, weights: dict[str, float]) -> float:
    network.eval()
    with torch.inference_mode():
        return heads_loss(network(rows.inputs, rows.place), rows.labels, weights).item()


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
