"""How old each table of a view is, against what was promised for it; a comparison of two numbers a table and request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.snapshot import microseconds

if TYPE_CHECKING:
    from feature_repo.mapped import RecentTable
    from feature_repo.reader import View

_HOUR = 3_600_000_000  # µs


@dataclass(frozen=True)
class Promise:
    """The moment a table was computed for, and how old it may be when it is served."""

    as_of: int  # µs since 1970 UTC
    slo_hours: float


@dataclass(frozen=True)
class Freshness:
    """The newest moment that a table knows of, and how old that may be.

    A computed table knows what was known before its `as_of`, however new single rows of it are; a table of kept
    events knows as far as its newest event, wherever that came from.
    """

    table: str
    newest: int  # µs since 1970 UTC
    slo_hours: float

    def age_hours(self, now: datetime) -> float:
        """How old it is at `now`; below 0 for what is newer than the clock."""
        return (microseconds(now) - self.newest) / _HOUR

    def breached(self, now: datetime) -> bool:
        """Whether it is older than promised; as old as promised is not."""
        return microseconds(now) - self.newest > timedelta(hours=self.slo_hours) // timedelta(microseconds=1)


def promises_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, Promise]:
    """What a manifest promises of each table that has rows."""
    return {
        entry["name"]: Promise(
            microseconds(datetime.fromisoformat(entry["as_of"])), float(entry["slo_hours"])
        )
        for entry in entries
        if "file" in entry
    }


def freshness_of(view: View) -> tuple[Freshness, ...]:
    """Of each table of `view`, in the order of the manifest."""
    return tuple(
        Freshness(name, _newest(promise.as_of, view.recents.get(name)), promise.slo_hours)
        for name, promise in view.promises.items()
    )


def _newest(as_of: int, kept: RecentTable | None) -> int:
    if kept is None:
        return as_of
    moments = [kept.rows.moments, *(recent.moments for recent in kept.newer.values())]
    return max((int(m.max()) for m in moments if len(m)), default=as_of)
