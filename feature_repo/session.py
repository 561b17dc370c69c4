"""Session features: what a user's newest plays say at the moment of a request.

Each is a small value with two interpreters that agree bit for bit: NumPy over the plays an online reader holds, and SQL over
raw plays for training sets. A play counts at a moment only if it happened and was known strictly before it; of those the
`newest` count, by (event_timestamp, play_id). All moments are whole microseconds since 1970, UTC.

This module imports neither DuckDB nor Ibis nor Feast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.arithmetic import Ref

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

MINUTE = 60_000_000
"""Microseconds."""

KEPT_IN = "recent_plays"
"""The feature table whose kept rows are a user's newest plays."""


@dataclass(frozen=True)
class MinutesSincePlay:
    """Minutes since the last play; null if that is more than `within` minutes ago."""

    within: int

    def __str__(self) -> str:
        return f"minutes since the last play, if at most {self.within}"


@dataclass(frozen=True)
class PlaysInSession:
    """Plays back from the last one for as long as they lie at most `gap` minutes apart; 0 if the last is older than that."""

    gap: int

    def __str__(self) -> str:
        return f"plays in a row, each at most {self.gap} minutes before the next or before the moment"


@dataclass(frozen=True)
class OfLastTitle:
    """A stored feature of the title played last; null if that was more than `within` minutes ago."""

    feature: Ref
    within: int

    def __str__(self) -> str:
        return f"{self.feature} of the title played last, if at most {self.within} minutes ago"


Reading = MinutesSincePlay | PlaysInSession | OfLastTitle


@dataclass(frozen=True)
class Plays:
    """Plays of one user, in any order: when each happened, when it became known, which it is, and of which title."""

    moments: Int64  # (k,) µs
    created: Int64  # (k,) µs
    play_ids: Int64  # (k,)
    title_ids: Int64  # (k,)


NO_PLAYS = Plays(*(np.empty(0, dtype=np.int64) for _ in range(4)))


@dataclass(frozen=True)
class Session:
    """Known plays at one moment, the newest last: their ages in µs, and the last one's title."""

    ages: Int64  # (k,) descending, all above 0
    last_title: int | None

    @classmethod
    def at(cls, moment: int, plays: Plays, newest: int) -> Session:
        """What of `plays` counts at `moment` (µs)."""
        known = (plays.moments < moment) & (plays.created < moment)
        moments, ids, titles = plays.moments[known], plays.play_ids[known], plays.title_ids[known]
        order = np.lexsort((ids, moments))[-newest:]
        return cls(moment - moments[order], int(titles[order[-1]]) if len(order) else None)

    def last_within(self, minutes: int) -> bool:
        """Whether there is a last play, at most so long ago."""
        return len(self.ages) > 0 and bool(self.ages[-1] <= minutes * MINUTE)


def evaluate(
    readings: Sequence[Reading], session: Session, stored: Callable[[Ref, int], np.float32]
) -> Float32:
    """(F,) the readings of one session, NaN where null; `stored` gives a title's stored feature, NaN where null."""
    return np.array([_value(reading, session, stored) for reading in readings], dtype=np.float32)


def _value(reading: Reading, session: Session, stored: Callable[[Ref, int], np.float32]) -> float:
    match reading:
        case MinutesSincePlay(within):
            return float(session.ages[-1] / MINUTE) if session.last_within(within) else np.nan
        case PlaysInSession(gap):
            return float(_in_a_row(session.ages, gap)) if session.last_within(gap) else 0.0
        case OfLastTitle(feature, within):
            if session.last_title is None or not session.last_within(within):
                return np.nan
            return float(stored(feature, session.last_title))
    raise TypeError(f"{reading!r} has no NumPy form.")


def _in_a_row(ages: Int64, gap: int) -> int:
    """How many of the newest plays follow each other within `gap` minutes; `ages` descend."""
    breaks = np.flatnonzero(-np.diff(ages) > gap * MINUTE)
    return len(ages) - (int(breaks[-1]) + 1 if len(breaks) else 0)


def to_data(reading: Reading) -> list[Any]:
    """The reading as a list that JSON can hold; `from_data` reads it back."""
    match reading:
        case MinutesSincePlay(within):
            return ["minutes_since_play", within]
        case PlaysInSession(gap):
            return ["plays_in_session", gap]
        case OfLastTitle(feature, within):
            return ["of_last_title", feature.table, feature.feature, within]
    raise TypeError(f"{reading!r} has no form as data.")


def from_data(data: Sequence[Any]) -> Reading:
    """The reading that `to_data` wrote.

    Raises:
        ValueError: the data is no reading.
    """
    match data:
        case ["minutes_since_play", int(within)]:
            return MinutesSincePlay(within)
        case ["plays_in_session", int(gap)]:
            return PlaysInSession(gap)
        case ["of_last_title", str(table), str(feature), int(within)]:
            return OfLastTitle(Ref(table, feature), within)
    raise ValueError(f"{data!r} is no reading of a session.")


def reach(readings: Iterable[Reading], newest: int) -> int:
    """Minutes before a moment beyond which no play can change any of the readings there."""
    return max(
        reading.gap * newest if isinstance(reading, PlaysInSession) else reading.within
        for reading in readings
    )


def sessions_sql(readings: Sequence[Reading], newest: int) -> str:
    """What `reading_sql` reads, one row a (user_id, moment) of the table `moments` at which anything counts.

    Columns: `age` (µs) and `title_id` of the last play, and `in_a_row_<gap>` for each gap asked for.
    """
    gaps = sorted({reading.gap for reading in readings if isinstance(reading, PlaysInSession)})
    runs = "".join(f", coalesce(min(place) FILTER (gap > {gap * MINUTE}), count(*) + 1) - 1 AS in_a_row_{gap}" for gap in gaps)  # fmt: skip
    return f"""
        WITH counting AS (
            SELECT m.user_id, m.moment, p.title_id, epoch_us(m.moment) - epoch_us(p.event_timestamp) AS age,
                   row_number() OVER (PARTITION BY m.user_id, m.moment ORDER BY p.event_timestamp DESC, p.play_id DESC) AS place
            FROM moments m JOIN plays p ON p.user_id = m.user_id AND p.event_timestamp < m.moment AND p.created_timestamp < m.moment
             AND p.event_timestamp >= m.moment - INTERVAL {reach(readings, newest)} MINUTE
            QUALIFY place <= {newest}),
        apart AS (
            SELECT *, age - lag(age, 1, 0) OVER (PARTITION BY user_id, moment ORDER BY place) AS gap FROM counting)
        SELECT user_id, moment, min(age) AS age, arg_min(title_id, place) AS title_id{runs}
        FROM apart GROUP BY user_id, moment"""


def reading_sql(reading: Reading, session: str, stored: Callable[[Ref], str]) -> str:
    """The reading over a row of `sessions_sql`, null-safe; `stored` says how a feature of the last title is written."""
    match reading:
        case MinutesSincePlay(within):
            return f"CASE WHEN {session}.age <= {within * MINUTE} THEN {session}.age / CAST('{MINUTE}' AS DOUBLE) END"
        case PlaysInSession(gap):
            return f"coalesce({session}.in_a_row_{gap}, 0)"
        case OfLastTitle(feature, within):
            return f"CASE WHEN {session}.age <= {within * MINUTE} THEN {stored(feature)} END"
    raise TypeError(f"{reading!r} has no SQL form.")
