"""What a peer learns from: who had played what, known at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Plays:
    """Plays in order of time as rows of users (U) and titles (T), and how many days before `as_of` each was."""

    user: Int64
    title: Int64
    days_ago: NDArray[np.float64]
    users: int
    titles: int

    def matrix(self) -> sp.csr_matrix:
        """(U, T), 1 where a user has played a title."""
        ones = np.ones(len(self.user), dtype=np.float32)
        found = sp.csr_matrix((ones, (self.user, self.title)), shape=(self.users, self.titles))
        found.data[:] = 1
        return found

    def counts(self, days: float) -> Float32:
        """(T,) plays of the last `days` days."""
        recent = self.days_ago < days
        return np.bincount(self.title[recent], minlength=self.titles).astype(np.float32)

    def first_plays(self) -> Plays:
        """Each pair once, at its first play."""
        _, rows = np.unique(self.user * self.titles + self.title, return_index=True)
        rows = np.sort(rows)
        return Plays(self.user[rows], self.title[rows], self.days_ago[rows], self.users, self.titles)


Scorer = Callable[[Int64], Float32]
"""Rows of users (B,) → scores (B, T). A row of equal scores says that it knows nothing of a user."""


class Peer(Protocol):
    """One kind of recommender."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def grid(self) -> tuple[Mapping[str, float], ...]:
        """The settings that validation chooses among."""

    @property
    def random(self) -> bool:
        """Whether another seed gives another model."""

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Learn from plays."""
