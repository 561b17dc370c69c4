"""What each family of features is worth to a ranker: how much worse it gets when their values go to the wrong rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.data import Float32, Int64, RankingSet
from models.metrics import log_loss
from models.ranker import Ranker

MAX_ROWS, REPEATS = 4_000, 2
"""Rows that are scored, and shufflings of each family: what bounds the cost."""


@dataclass(frozen=True)
class Importance:
    """What shuffling one family costs one head: the rise of its log loss in nats, mean over shufflings, and its range.

    Below 0 the shuffled values served better, which by chance happens to a family that is worth nothing.
    """

    family: str
    head: str
    rise: float
    least: float
    most: float


def families(features: Sequence[str]) -> dict[str, Int64]:
    """The columns of each family: the features of one table, by the name before the colon.

    >>> {name: columns.tolist() for name, columns in families(["user:age", "title:age", "user:plan"]).items()}
    {'user': [0, 2], 'title': [1]}
    """
    found: dict[str, list[int]] = {}
    for column, name in enumerate(features):
        found.setdefault(name.partition(":")[0], []).append(column)
    return {family: np.array(columns, dtype=np.int64) for family, columns in found.items()}


def permutation_importance(
    ranker: Ranker, rows: RankingSet, seed: int, *, max_rows: int = MAX_ROWS, repeats: int = REPEATS
) -> tuple[Importance, ...]:
    """Of every family and head (Breiman 2001; Fisher et al. 2019), in order of family, then head.

    A family's columns are shuffled together, so what holds between them stays. Of more than `max_rows` rows evenly spaced
    ones are scored: (families · repeats + 1) · max_rows rows in all. A head without labels here has none.

    Raises:
        ValueError: fewer than two rows, which no shuffling changes.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows cannot be shuffled.")
    rows = rows.take(np.arange(0, len(rows), -(-len(rows) // max_rows)))
    rng = np.random.default_rng(seed)
    before, found = _losses(ranker, rows, rows.features), []
    for family, columns in families(ranker.signature.features).items():
        rises = []
        for _ in range(repeats):
            shuffled = rows.features.copy()
            shuffled[:, columns] = rows.features[rng.permutation(len(rows))][:, columns]
            after = _losses(ranker, rows, shuffled)
            rises.append([after[head] - before[head] for head in before])
        for head, rise in zip(before, np.array(rises).T, strict=True):
            found.append(Importance(family, head, float(rise.mean()), float(rise.min()), float(rise.max())))
    return tuple(found)


def as_numbers(importances: Sequence[Importance]) -> Mapping[str, float]:
    """`importance_<head>_<family>` → the rise in nats."""
    return {f"importance_{one.head}_{one.family}": one.rise for one in importances}


def _losses(ranker: Ranker, rows: RankingSet, features: Float32) -> dict[str, float]:
    """Log loss by head, over the rows whose label is known."""
    scores = ranker.score(features, rows.position)
    labels = {
        "play": rows.play,
        "completion": np.where(rows.play > 0, rows.completion, np.float32("nan")),
        "retention": rows.retention,
    }
    found = {}
    for head, label in labels.items():
        score, known = getattr(scores, head), ~np.isnan(label)
        if score is not None and known.any():
            found[head] = log_loss(label[known], score[known])
    return found
