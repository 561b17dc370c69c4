"""The page core without its frame: what it knows of a user once, and any number of pages that weights make of it.

A change of weights moves neither candidates nor heads. So they are computed once for each user, by the functions that
the served page uses, and a hundred variants cost a hundred re-rankings. A test holds these pages against served ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from models.data import Float32, Int64
from models.diversity import rerank, with_genres
from models.objective import HeadScores, ObjectiveWeights, objective
from serving.live import Live
from serving.plan import Plan
from serving.selection import within

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Shelf:
    """One user's candidates (n,), what the ranker says of each, their unit vectors (n, D) and their genres."""

    user_id: int
    title_ids: Int64
    heads: HeadScores
    vectors: Float32
    genres: tuple[tuple[str, ...], ...]

    def page(self, weights: ObjectiveWeights, size: int) -> Int64:
        """The titles (≤ size,) of the page that these weights make, in order."""
        values = objective(self.heads, weights)
        share = weights.diversity_genres
        vectors = with_genres(self.vectors, self.genres, share) if share else self.vectors
        made = rerank(values, vectors, size, weights.diversity, window=weights.diversity_window)
        return self.title_ids[made.order]


@dataclass(frozen=True)
class Shelves:
    """The shelves of some users at one moment."""

    at: datetime
    shelves: tuple[Shelf, ...]

    @property
    def user_ids(self) -> Int64:
        """(U,) whose they are."""
        return np.array([shelf.user_id for shelf in self.shelves], dtype=np.int64)

    def pages(self, weights: ObjectiveWeights, size: int) -> Int64:
        """(U, size) titles of everybody's page under the same weights, -1 where a page is shorter."""
        titles = np.full((len(self.shelves), size), -1, dtype=np.int64)
        for row, shelf in enumerate(self.shelves):
            made = shelf.page(weights, size)
            titles[row, : len(made)] = made
        return titles


def shelves(live: Live, plan: Plan, users: Sequence[int], at: datetime) -> Shelves:
    """What the page core knows of each of `users` at `at`; one of whom nothing is known is left out.

    `plan` names the model versions; its weights are not looked at.
    """
    known = [user for user in users if live.reader.knows_user(user)]
    return Shelves(at, tuple(_shelf(live, plan, user, at) for user in known))


def _shelf(live: Live, plan: Plan, user_id: int, at: datetime) -> Shelf:
    retriever, watched = live.retriever(plan), live.reader.history(user_id)
    features = live.reader.vector("retrieval_user", user_id)
    found = retriever.candidates(features, watched, live.manifest.defaults.n_candidates, exclude=watched)
    found = within(found, live.available)
    matrix = live.reader.matrix("ranking", user_id, found.title_ids, at=at)
    heads = live.ranker(plan).score(matrix, found.title_ids, found.scores)
    genres = tuple(live.reader.catalogue.genres(title) for title in found.title_ids.tolist())
    return Shelf(user_id, found.title_ids, heads, retriever.title_vectors(found.title_ids), genres)
