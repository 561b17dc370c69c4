"""Is what is served as new as promised? Age, coverage, delta position and gate of every table that is live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from feature_repo.freshness import Freshness, freshness_of
from feature_repo.mapped import RecentTable, VectorTable
from feature_repo.overlay import StoredTable
from feature_repo.reader import OnlineReader, View
from feature_repo.snapshot import UNKNOWN
from matinee.context import Day
from matinee.desk import literal
from registry import GateRecord

Int64 = NDArray[np.int64]
_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TableStatus:
    """One table of the live snapshot. `gate` is None where the gate said nothing about it.

    `entities` have a row, of `entities_known` that the events tell of; `waiting` rows came in bulk and are served
    from the next generation on.
    """

    table: str
    entity: str
    newest: datetime
    age_hours: float
    slo_hours: float
    breached: bool
    entities: int
    entities_known: int
    newest_row: datetime | None
    gate: bool | None
    waiting: int

    @property
    def coverage(self) -> float | None:
        """Share of the known entities that have a row; None where none is known."""
        return self.entities / self.entities_known if self.entities_known else None


@dataclass(frozen=True)
class Status:
    """What is live, looked at from `at`; `writes` have been laid over the snapshot, the last one being `sequence`."""

    source: str
    at: datetime
    generation: str
    as_of: datetime
    sequence: int
    writes: int
    fault: str
    tables: tuple[TableStatus, ...]

    @property
    def breached(self) -> tuple[str, ...]:
        """The tables older than promised."""
        return tuple(table.table for table in self.tables if table.breached)


def status_of(day: Day, at: datetime) -> Status:
    """The tables that a process would serve now, and how old they are at `at`.

    Raises:
        NothingPublished: nothing is live.
        CorruptSnapshot: no generation is whole.
    """
    reader = OnlineReader.open(day.workspace.online)
    view = reader.view
    known, gates = _known(day, view), day.registry.gates(view.source, view.as_of)
    fresh = freshness_of(view)
    return Status(
        source=view.source,
        at=at,
        generation=view.generation,
        as_of=view.as_of,
        sequence=reader.sequence,
        writes=reader.sequence - view.pointed.sequence,
        fault="" if reader.fault is None else str(reader.fault),
        tables=tuple(_status(view, one, at, known, gates) for one in fresh),
    )


def _status(
    view: View, fresh: Freshness, at: datetime, known: Mapping[str, int], gates: Mapping[str, GateRecord]
) -> TableStatus:
    stored = view.stored[fresh.table]
    ids, newest_row = _rows(stored)
    report = gates.get(fresh.table)
    return TableStatus(
        table=fresh.table,
        entity=stored.entity,
        newest=_moment(fresh.newest),
        age_hours=round(fresh.age_hours(at), 3),
        slo_hours=fresh.slo_hours,
        breached=fresh.breached(at),
        entities=len(ids),
        entities_known=known.get(stored.entity, 0),
        newest_row=None if newest_row == UNKNOWN else _moment(newest_row),
        gate=None if report is None else report.passed,
        waiting=view.waiting.get(fresh.table, 0),
    )


def _rows(stored: StoredTable) -> tuple[Int64, int]:
    """The entities with a row, and the moment of the newest row."""
    if isinstance(stored, VectorTable):
        moments = [stored.base.moments, stored.newer.moments]
        return stored.ids, _newest(moments)
    pushed = np.array(sorted(stored.newer), dtype=np.int64)
    ids = np.union1d(np.unique(stored.ids), pushed)
    if isinstance(stored, RecentTable):
        return ids, _newest([stored.rows.moments, *(recent.moments for recent in stored.newer.values())])
    later = np.array([listed.moment for listed in stored.newer.values()], dtype=np.int64)
    return ids, _newest([stored.moments, later])


def _newest(moments: list[Int64]) -> int:
    return max((int(m.max()) for m in moments if len(m)), default=UNKNOWN)


def _known(day: Day, view: View) -> dict[str, int]:
    """Entities that the events, or the catalogue, tell of as of the snapshot."""
    moment = literal(view.as_of)
    with day.desk.events() as connection:
        ((users,),) = connection.sql(
            "SELECT count(DISTINCT user_id) FROM users"
            f" WHERE event_timestamp < {moment} AND created_timestamp < {moment}"
        ).fetchall()
        ((artworks,),) = connection.sql(
            "SELECT count(DISTINCT artwork_id) FROM artworks"
            f" WHERE event_timestamp < {moment} AND created_timestamp < {moment}"
        ).fetchall()
    return {"user": users, "title": len(view.catalogue.title_ids), "artwork": artworks}


def _moment(microseconds: int) -> datetime:
    return _ZERO + timedelta(microseconds=microseconds)
