"""What models are trained on and what they answer: frozen values, NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class MalformedData(ValueError):
    """Arrays that do not fit together; the message names the one at fault."""


@dataclass(frozen=True)
class Histories:
    """Watched title ids of each of U users, newest last: user u's are `values[offsets[u]:offsets[u + 1]]`."""

    offsets: Int64
    values: Int64

    def __post_init__(self) -> None:
        ends = (int(self.offsets[0]), int(self.offsets[-1])) if len(self.offsets) else (-1, -1)
        if ends != (0, len(self.values)) or (np.diff(self.offsets) < 0).any():
            raise MalformedData(
                f"history offsets must rise from 0 to {len(self.values)}, the number of values; they run {ends}."
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, user: int) -> Int64:
        """The titles of the user in row `user`, newest last."""
        return self.values[self.offsets[user] : self.offsets[user + 1]]

    def between(self, start: int, stop: int) -> Histories:
        """The histories of the users in rows [start, stop)."""
        offsets = self.offsets[start : stop + 1]
        return Histories(offsets - offsets[0], self.values[offsets[0] : offsets[-1]])

    def owners(self) -> Int64:
        """The user's row of each value."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def last(self, length: int) -> Int64:
        """(U, length) title ids, newest last, the left filled with -1."""
        padded = np.full((len(self), length), -1, dtype=np.int64)
        from_end = np.repeat(self.offsets[1:], np.diff(self.offsets)) - np.arange(len(self.values))
        recent = from_end <= length
        padded[self.owners()[recent], length - from_end[recent]] = self.values[recent]
        return padded

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]]) -> Histories:
        """Histories from one list of title ids a user."""
        lengths = np.array([len(titles) for titles in lists], dtype=np.int64)
        values = np.array([title for titles in lists for title in titles], dtype=np.int64)
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), values)


@dataclass(frozen=True)
class RetrievalPeriod:
    """One label period: everything known at its start `as_of`, and the plays that followed.

    Shapes: `user_ids` (U,), `user_features` (U, Fu), `title_ids` (T,) the titles available, `title_features`
    (T, Ft), `play_user` and `play_title` (P,) rows into the users and titles. Null is NaN.
    """

    as_of: datetime
    user_ids: Int64
    user_features: Float32
    histories: Histories
    title_ids: Int64
    title_features: Float32
    play_user: Int64
    play_title: Int64

    def __post_init__(self) -> None:
        if self.as_of.tzinfo is None:
            raise MalformedData(f"as_of {self.as_of} has no time zone.")
        _same_length("user_ids", self.user_ids, user_features=self.user_features, histories=self.histories)
        _same_length("title_ids", self.title_ids, title_features=self.title_features)
        _same_length("play_user", self.play_user, play_title=self.play_title)
        _unique("user_ids", self.user_ids)
        _unique("title_ids", self.title_ids)
        _rows("play_user", self.play_user, len(self.user_ids))
        _rows("play_title", self.play_title, len(self.title_ids))


@dataclass(frozen=True)
class RankingSet:
    """One row per (user, title) shown. `features` is (N, F), NaN where null; all else is (N,).

    `play` is 0 or 1. `completion` (share watched, 0..1), `retention` (0 or 1) and `position` (0 is the first
    place) are NaN where unknown. `period` numbers the label period, in time order.
    """

    features: Float32
    play: Float32
    completion: Float32
    retention: Float32
    position: Float32
    user_id: Int64
    title_id: Int64
    period: Int64

    def __post_init__(self) -> None:
        _same_length(
            "features",
            self.features,
            play=self.play,
            completion=self.completion,
            retention=self.retention,
            position=self.position,
            user_id=self.user_id,
            title_id=self.title_id,
            period=self.period,
        )
        if np.isnan(self.play).any():
            raise MalformedData("play holds NaN: a row whose play is unknown cannot be a training row.")
        for name in ("play", "completion", "retention"):
            label = getattr(self, name)
            if ((label < 0) | (label > 1)).any():
                raise MalformedData(f"{name} leaves 0..1: it spans {np.nanmin(label)} to {np.nanmax(label)}.")

    def __len__(self) -> int:
        return len(self.play)

    def take(self, rows: Int64 | NDArray[np.bool_]) -> RankingSet:
        """Some of the rows, by number or mask."""
        return RankingSet(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Candidates:
    """Retrieved titles, best first; equal scores stand in order of title id."""

    title_ids: Int64
    scores: Float32


def _same_length(lead: str, leader: Any, **others: Any) -> None:
    for name, other in others.items():
        if len(other) != len(leader):
            raise MalformedData(f"{name} has {len(other)} rows, {lead} has {len(leader)}.")


def _unique(name: str, ids: Int64) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise MalformedData(f"{name} holds {values[counts > 1][:5].tolist()} more than once.")


def _rows(name: str, rows: Int64, n: int) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise MalformedData(f"{name} spans {rows.min()} to {rows.max()}; rows are 0 to {n - 1}.")
