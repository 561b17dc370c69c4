"""Re-ranking: a page of good titles that are not all alike.

Both methods build the list greedily, each place going to the title with the highest (1 - w)·r - w·penalty,
where r is the title's score scaled to 0..1 among the candidates, w the diversity weight, and the penalty says
how much the title repeats what is already in the list, or in its last places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
    window: int | None = None,
) -> Reranked:
    """Order the best `size` of n candidates by score (n,) and variety of their unit vectors (n, D).

    `dpp`: greedy MAP of a determinantal point process (Chen et al., NeurIPS 2018, algorithm 1) with kernel
    L = (1 - ε) S + ε I, where S_ij = (1 + v_i · v_j) / 2 and ε = 0.001; the penalty is -log of the variance a
    title adds to the list, so the list maximises (1 - w) Σ r + w log det L. `mmr`: maximal marginal relevance
    (Carbonell & Goldstein, SIGIR 1998); the penalty is the largest S_ij with a title of the list.
    With a `window`, only what stands close is asked to differ: a title is held against the last `window` - 1 chosen,
    as Chen et al. have it in section 4.2 for long lists.
    With weight 0 the order is that of the scores. Ties go to the candidate that came first.

    Raises:
        MalformedData: shapes differ, a score is not finite, or vectors are not of unit length.
        ValueError: the weight is not in 0..1, or the window is less than 2.
    """
    _check(scores, vectors, size, diversity_weight, window)
    size = min(size, len(scores))
    relevance = (1 - diversity_weight) * _unit_range(scores)
    penalty = _penalty(method, vectors, size, window)
    order, penalties = np.empty(size, np.int64), np.empty(size, np.float32)
    for place in range(size):
        cost = diversity_weight * penalty.of_all()
        chosen = int((relevance - cost).argmax())
        order[place], penalties[place] = chosen, cost[chosen]
        relevance[chosen] = -np.inf  # it is taken
        penalty.add(chosen)
    return Reranked(order, penalties)


def with_genres(vectors: Float32, genres: Sequence[Sequence[str]], share: float) -> Float32:
    """Unit vectors (n, D + G) whose products are (1 - share) v_i·v_j + share g_i·g_j, for unit `vectors` (n, D).

    g_i is 1/√k in each of the k genres of title i. A title without genres is unlike every other in that part.
    """
    named = [[*of] or [f"none of {row}"] for row, of in enumerate(genres)]
    axes = {name: axis for axis, name in enumerate(sorted({name for of in named for name in of}))}
    units = np.zeros((len(named), len(axes)), np.float32)
    for row, of in enumerate(named):
        units[row, [axes[name] for name in of]] = 1 / math.sqrt(len(set(of)))
    return np.hstack([vectors * np.float32(math.sqrt(1 - share)), units * np.float32(math.sqrt(share))])


class _Penalty(Protocol):
    """What every candidate repeats of the list so far."""

    def of_all(self) -> NDArray[np.float64]:
        """(n,), for a candidate that is taken any finite number."""

    def add(self, chosen: int) -> None:
        """Put a candidate into the list."""


def _penalty(method: Method, vectors: Float32, size: int, window: int | None) -> _Penalty:
    seen = size if window is None else min(window - 1, size)
    similarity = _Similarity(vectors.astype(np.float64))
    if method == "mmr":
        return _Nearest(similarity, seen)
    return _Determinant(similarity, size) if seen >= size - 1 else _WindowDeterminant(similarity, seen)


class _Similarity:
    """Rows of S, half of 1 + cos."""

    def __init__(self, vectors: NDArray[np.float64]) -> None:
        self.vectors = vectors
        self.halves = vectors / 2

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, chosen: int) -> NDArray[np.float64]:
        row: NDArray[np.float64] = self.vectors @ self.halves[chosen]
        row += 0.5
        return row


class _Determinant:
    """-log d_i², d_i² being what title i adds to the determinant: rows of an incremental Cholesky factor."""

    def __init__(self, similarity: _Similarity, size: int) -> None:
        self.similarity = similarity
        self.variance = np.ones(len(similarity))  # d², and L_ii = 1
        self.rows = np.zeros((size, len(similarity)))
        self.count = 0

    def of_all(self) -> NDArray[np.float64]:
        return -np.log(self.variance)

    def add(self, chosen: int) -> None:
        filled, row = self.rows[: self.count], self.rows[self.count]
        np.multiply(self.similarity.to(chosen), 1 - _OWN, out=row)
        row -= filled[:, chosen] @ filled
        row /= math.sqrt(self.variance[chosen])
        self.variance -= row * row
        np.maximum(self.variance, _OWN, out=self.variance)  # no less, but for rounding
        self.count += 1


class _WindowDeterminant:
    """-log d_i², d_i² = L_ii - L_iW L_WW⁻¹ L_Wi being what title i adds to the last few titles W of the list.

    Chen et al. rotate a factor of L_WW when its oldest title leaves. Here the inverse is kept: then a title leaves or
    comes by a change of rank one, to it and, through one product with L_W, to all d² at once.
    """

    def __init__(self, similarity: _Similarity, seen: int) -> None:
        self.similarity = similarity
        self.variance = np.ones(len(similarity))  # d²
        self.rows = np.zeros((seen, len(similarity)))  # L_W, the oldest overwritten first
        self.inverse = np.zeros((seen, seen))  # of L_WW; 0 where a place is free
        self.count = 0

    def of_all(self) -> NDArray[np.float64]:
        return -np.log(np.maximum(self.variance, _OWN))

    def add(self, chosen: int) -> None:
        place = self.count % len(self.rows)
        if self.count >= len(self.rows):
            self._leave(place)
        row = (1 - _OWN) * self.similarity.to(chosen)
        row[chosen] += _OWN
        weights = self.inverse @ self.rows[:, chosen]
        new = row - weights @ self.rows  # what W does not say of it, with every candidate
        own = max(float(new[chosen]), _OWN)
        self.variance -= new * new / own
        weights[place] = -1
        self.inverse += np.multiply.outer(weights, weights / own)
        self.rows[place] = row
        self.count += 1

    def _leave(self, place: int) -> None:
        weights = self.inverse[place] / math.sqrt(self.inverse[place, place])
        told = weights @ self.rows
        self.variance += told * told
        self.inverse -= np.multiply.outer(weights, weights)
        self.inverse[place] = self.inverse[:, place] = 0


class _Nearest:
    """The largest similarity with one of the last few titles of the list; 0 while it is empty."""

    def __init__(self, similarity: _Similarity, seen: int) -> None:
        self.similarity = similarity
        self.rows = np.zeros((seen, len(similarity)))
        self.count = 0

    def of_all(self) -> NDArray[np.float64]:
        largest: NDArray[np.float64] = self.rows.max(axis=0)
        return largest

    def add(self, chosen: int) -> None:
        self.rows[self.count % len(self.rows)] = self.similarity.to(chosen)
        self.count += 1


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


def _check(
    scores: NDArray[np.floating], vectors: Float32, size: int, diversity_weight: float, window: int | None
) -> None:
    if not 0 <= diversity_weight <= 1:
        raise ValueError(f"diversity_weight is {diversity_weight}; it lies in 0..1.")
    if window is not None and window < 2:
        raise ValueError(
            f"window is {window}; it holds 2 titles at least. For no variety give a weight of 0."
        )
    if size < 1 or len(scores) == 0 or len(scores) != len(vectors):
        raise MalformedData(f"{size} of {len(scores)} scores and {len(vectors)} vectors cannot be ranked.")
    if not np.isfinite(scores).all():
        raise MalformedData(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite.")
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-3:
        raise MalformedData("vectors must be of unit length.")
