"""Measures of a ranking and of a probability. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.data import Int64

Floats = NDArray[np.floating]


class Undefined(ValueError):
    """A measure that the input does not determine, such as AUC with one class."""


def hits(ranked: Int64, relevant: Int64) -> NDArray[np.bool_]:
    """Which of the ranked titles (best first) are relevant."""
    return np.isin(ranked, relevant)


def recall_at(hit: NDArray[np.bool_], n_relevant: int, k: int) -> float:
    """Share of the n relevant titles that are among the first k."""
    _need(n_relevant > 0, "recall needs a relevant title.")
    return float(hit[:k].sum()) / n_relevant


def ndcg_at(hit: NDArray[np.bool_], n_relevant: int, k: int) -> float:
    """Discounted gain of the first k, over that of the best possible list (Järvelin & Kekäläinen 2002).

    A relevant title in place i (from 1) gains 1/log2(1 + i); the best list has min(n, k) of them in front.
    """
    _need(n_relevant > 0, "nDCG needs a relevant title.")
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = float(discount[: len(hit)] @ hit[:k])
    return gained / float(discount[:n_relevant].sum())


def reciprocal_rank(hit: NDArray[np.bool_]) -> float:
    """1 over the place (from 1) of the first relevant title; 0 where none is on the list (Voorhees 1999)."""
    places = np.flatnonzero(hit)
    return 1 / (1 + int(places[0])) if len(places) else 0.0


def gini_at(lists: Sequence[Int64], catalogue_size: int, k: int) -> float:
    """How unevenly the first k places are shared out: 0 when every title has as many, near 1 when one has all.

    G = Σ_i (2i - n - 1) x_i / (n Σ x) over the n titles of the catalogue, x ascending (Gini 1912; Fleder & Hosanagar 2009).
    """
    _need(catalogue_size > 0 and any(len(titles) for titles in lists), "a Gini coefficient of nothing shown.")
    _, shown = np.unique(np.concatenate([titles[:k] for titles in lists]), return_counts=True)
    counts = np.sort(np.concatenate([np.zeros(catalogue_size - len(shown)), shown]))
    rank = np.arange(1, catalogue_size + 1)
    return float((2 * rank - catalogue_size - 1) @ counts / (catalogue_size * counts.sum()))


def auc(label: Floats, score: Floats) -> float:
    """Chance that a random positive outscores a random negative, ties counting half (Mann & Whitney 1947).

    Raises:
        Undefined: there is only one class.
    """
    positive = np.asarray(label) > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    _need(n_positive > 0 and n_negative > 0, f"AUC of {n_positive} positives and {n_negative} negatives.")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def grouped_auc(label: Floats, score: Floats, group: Int64) -> float:
    """Mean AUC over groups that have both classes, each weighing as many rows as it has (Zhu et al. 2017).

    Raises:
        Undefined: no group has both classes.
    """
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=group[order][:1] - 1))
    values, weights = [], []
    for rows in np.split(order, starts[1:]):
        positives = int((label[rows] > 0.5).sum())
        if 0 < positives < len(rows):
            values.append(auc(label[rows], score[rows]))
            weights.append(len(rows))
    _need(bool(values), "no group has both a positive and a negative.")
    return float(np.average(values, weights=weights))


def expected_calibration_error(label: Floats, probability: Floats, bins: int = 15) -> float:
    """Mean distance between probability and frequency, over bins of equal count (Nguyen & O'Connor 2015)."""
    _need(len(label) > 0, "calibration of no rows.")
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(part) * abs(float(label[part].mean()) - float(probability[part].mean())) for part in parts]
    return float(sum(gaps) / len(order))


def log_loss(label: Floats, probability: Floats) -> float:
    """Mean cross-entropy in nats of labels in 0..1; a probability counts as at least 1e-7 from 0 and 1."""
    _need(len(label) > 0, "log loss of no rows.")
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))


def coverage_at(lists: Sequence[Int64], catalogue_size: int, k: int) -> float:
    """Share of the catalogue that is in at least one of the lists' first k places."""
    _need(catalogue_size > 0, "coverage of an empty catalogue.")
    shown = np.unique(np.concatenate([titles[:k] for titles in lists])) if lists else np.empty(0)
    return len(shown) / catalogue_size


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise Undefined(problem)
