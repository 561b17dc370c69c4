"""Re-ranking: a page of good titles that are not all alike.

Both methods build the list greedily, each place going to the title with the highest (1 - w)·r - w·penalty,
where r is the title's score scaled to 0..1 among the candidates, w the diversity weight, and the penalty says
how much the title repeats what is already in the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.data import Float32, Int64, MalformedData

Method = Literal["dpp", "mmr"]
_OWN = 1e-3  # of a title's variance that nothing else explains, so that lists may outgrow the dimensions


@dataclass(frozen=True)
class Reranked:
    """`order` (size,) are places in the input, best first; `penalties` (size,) ≥ 0 what repetition cost each."""

    order: Int64
    penalties: Float32


def rerank(
    scores: NDArray[np.floating],
    vectors: Float32,
    size: int,
    diversity_weight: float,
    method: Method = "dpp",
) -> Reranked:
    """Order the best `size` of n candidates by score (n,) and variety of their unit vectors (n, D).

    `dpp`: greedy MAP of a determinantal point process (Chen et al., NeurIPS 2018, algorithm 1) with kernel
    L = (1 - ε) S + ε I, where S_ij = (1 + v_i · v_j) / 2 and ε = 0.001; the penalty is -log of the variance a
    title adds to the list, so the list maximises (1 - w) Σ r + w log det L. `mmr`: maximal marginal relevance
    (Carbonell & Goldstein, SIGIR 1998); the penalty is the largest S_ij with a title of the list.
    With weight 0 the order is that of the scores. Ties go to the candidate that came first.

    Raises:
        MalformedData: shapes differ, a score is not finite, or vectors are not of unit length.
        ValueError: the weight is not in 0..1.
    """
    _check(scores, vectors, size, diversity_weight)
    relevance = (1 - diversity_weight) * _unit_range(scores)
    penalty = _Determinant(vectors, size) if method == "dpp" else _Similarity(vectors)
    size = min(size, len(scores))
    order, penalties = np.empty(size, np.int64), np.empty(size, np.float32)
    open_to = np.ones(len(scores), dtype=np.bool_)
    for place in range(size):
        cost = diversity_weight * penalty.of_all()
        chosen = int(np.argmax(np.where(open_to, relevance - cost, -np.inf)))
        order[place], penalties[place] = chosen, cost[chosen]
        open_to[chosen] = False
        penalty.add(chosen)
    return Reranked(order, penalties)


class _Determinant:
    """-log d_i², d_i² being what title i adds to the determinant: rows of an incremental Cholesky factor."""

    def __init__(self, vectors: Float32, size: int) -> None:
        self.vectors = vectors.astype(np.float64)
        self.variance = np.ones(len(vectors))  # d², and L_ii = 1
        self.rows = np.zeros((min(size, len(vectors)), len(vectors)))
        self.count = 0

    def of_all(self) -> NDArray[np.float64]:
        return -np.log(self.variance)

    def add(self, chosen: int) -> None:
        similar = (1 - _OWN) * (1 + self.vectors @ self.vectors[chosen]) / 2
        filled = self.rows[: self.count]
        row = (similar - filled[:, chosen] @ filled) / np.sqrt(self.variance[chosen])
        self.rows[self.count] = row
        self.variance = np.maximum(self.variance - row**2, _OWN)  # no less, but for rounding
        self.count += 1


class _Similarity:
    """The largest similarity with a title of the list; 0 while it is empty."""

    def __init__(self, vectors: Float32) -> None:
        self.vectors = vectors.astype(np.float64)
        self.largest = np.zeros(len(vectors))

    def of_all(self) -> NDArray[np.float64]:
        return self.largest

    def add(self, chosen: int) -> None:
        self.largest = np.maximum(self.largest, (1 + self.vectors @ self.vectors[chosen]) / 2)


def intra_list_diversity(vectors: Float32) -> float:
    """Mean of 1 - cos over all pairs of a list's unit vectors (n, D), n ≥ 2 (Ziegler et al., WWW 2005)."""
    n = len(vectors)
    if n < 2:
        raise MalformedData(f"diversity of a list of {n}: it takes two titles to differ.")
    total = vectors.astype(np.float64).sum(axis=0)
    return float(1 - (total @ total - n) / (n * (n - 1)))


def _unit_range(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores scaled to 0..1; all 0 where they are all equal."""
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / (high - low) if high > low else np.zeros(len(scores))


def _check(scores: NDArray[np.floating], vectors: Float32, size: int, diversity_weight: float) -> None:
    if not 0 <= diversity_weight <= 1:
        raise ValueError(f"diversity_weight is {diversity_weight}; it lies in 0..1.")
    if size < 1 or len(scores) == 0 or len(scores) != len(vectors):
        raise MalformedData(f"{size} of {len(scores)} scores and {len(vectors)} vectors cannot be ranked.")
    if not np.isfinite(scores).all():
        raise MalformedData(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite.")
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-3:
        raise MalformedData("vectors must be of unit length.")
