"""Peers without a random number: popularity, neighbours, and EASE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender

from models.coplays import item_weights
from peers.plays import Float32, Int64, Plays, Scorer


@dataclass(frozen=True)
class Popularity:
    """The same list for everybody: plays of the last `days` days."""

    days: float
    random: bool = False

    @property
    def name(self) -> str:
        """Such as popularity 7d."""
        return f"popularity {self.days:g}d"

    @property
    def grid(self) -> tuple[Mapping[str, float], ...]:
        """Nothing to choose."""
        return ({},)

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Count."""
        counts = plays.counts(self.days)
        return lambda users: np.tile(counts, (len(users), 1))


@dataclass(frozen=True)
class ItemKnn:
    """Titles like those played, by cosine or BM25-weighed co-occurrence (`implicit`)."""

    name: str = "item-kNN"
    random: bool = False
    grid: tuple[Mapping[str, float], ...] = tuple(
        {"bm25": kind, "neighbours": k} for kind in (0, 1) for k in (100, 500)
    )

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Keep each title's nearest neighbours."""
        kind = BM25Recommender if settings["bm25"] else CosineRecommender
        model = kind(K=int(settings["neighbours"]) + 1, num_threads=1)
        matrix = plays.matrix()
        model.fit(matrix, show_progress=False)
        similarity = model.similarity.copy()
        similarity.setdiag(0)
        return lambda users: (matrix[users] @ similarity).toarray().astype(np.float32)


@dataclass(frozen=True)
class Ease:
    """EASE (Steck, WWW 2019): the closed form B = I - P / diag(P), P = (XᵀX + λI)⁻¹, its diagonal zero.

    Titles that fewer than two users have played have nothing to say; they are left out of the inverse.
    """

    name: str = "EASE"
    random: bool = False
    grid: tuple[Mapping[str, float], ...] = tuple({"ridge": ridge} for ridge in (50.0, 200.0, 500.0, 1500.0))

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Invert the Gram matrix."""
        matrix = plays.matrix()
        known = np.flatnonzero(np.asarray(matrix.sum(axis=0)).ravel() >= 2)
        weights = item_weights(matrix[:, known], settings["ridge"])

        def score(users: Int64) -> Float32:
            scores = np.full((len(users), plays.titles), np.float32(-1e9))
            scores[:, known] = matrix[users][:, known] @ weights
            scores[~np.asarray(matrix[users].sum(axis=1)).ravel().astype(bool)] = 0
            return scores

        return score
