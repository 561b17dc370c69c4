"""Rows of the record held in memory for Feast's reads, for as long as the record stays as it was.

Opening DuckDB costs more than the read it is for, and a connection kept open would shut writers out. So a view
that is read twice from one state of the record is copied whole, and answered from that copy until the file changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.packed import Float32, Known, unpack
from feature_repo.record import Kind, Layout, View, layout_of, lookup, newest, opened_to_read, views

Int64 = NDArray[np.int64]

ABSENT = -1
_SETTLED_NS = 50_000_000  # far above the tick of any file system's clock
_CELL_BYTES = {
    Kind.FLOAT: 5,
    Kind.BIGINT: 9,
    Kind.BIGINTS: 128,
    Kind.PROTO: 64,
}  # guesses but for FLOAT; only to refuse the huge


class ViewNotApplied(LookupError):
    """A feature view without a table in the record."""

    def __init__(self, view: View, path: Path, known: Sequence[str]) -> None:
        super().__init__(
            f"feature view {view.key!r} has no table in {path}: run `feast apply`. It has: {', '.join(known) or 'none'}."
        )


@dataclass(frozen=True)
class Keys:
    """The keys of one request, in the order of its rows, repetitions and all.

    `ids` are given where every key is one INT64; `serialised` are Feast's entity keys.
    """

    ids: Int64 | None
    serialised: Callable[[], Sequence[bytes]]


@dataclass(frozen=True)
class Held:
    """Rows of one view: all of them, or those that one request asked for."""

    layout: Layout
    rows: pa.Table  # as in the record, chunks combined
    newest: datetime | None  # of the whole view, None where it is empty or was not asked for

    @cached_property
    def floats(self) -> tuple[Float32, Known]:
        """(n, F) values and what is known of them, of a packed view."""
        return unpack(self.rows["vector"])

    @cached_property
    def moments(self) -> Int64:
        """(n,) event timestamps in µs."""
        return np.asarray(self.rows["event_timestamp"].cast(pa.int64()).to_numpy(), dtype=np.int64)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Feature → its column."""
        return {name: place for place, name in enumerate(self.layout.features)}

    def find(self, keys: Keys) -> Int64:
        """(n,) the row of each key, ABSENT where it has none."""
        if keys.ids is not None and self._by_id is not None:
            ids, order = self._by_id
            if not len(ids):
                return np.full(len(keys.ids), ABSENT, dtype=np.int64)
            near = np.minimum(np.searchsorted(ids, keys.ids), len(ids) - 1)
            return np.where(ids[near] == keys.ids, order[near], ABSENT)
        return np.array([self._by_key.get(key, ABSENT) for key in keys.serialised()], dtype=np.int64)

    @cached_property
    def _by_id(self) -> tuple[Int64, Int64] | None:
        column = self.rows["entity_id"]
        if column.null_count:
            return None
        ids = np.asarray(column.to_numpy(), dtype=np.int64)
        order = np.argsort(ids)
        return ids[order], order

    @cached_property
    def _by_key(self) -> Mapping[bytes, int]:
        return {key: row for row, key in enumerate(self.rows["entity_key"].to_pylist())}


State = tuple[int, ...]


def state_of(path: Path, now_ns: int) -> State | None:
    """What tells one state of the record from the next; None while it is too young to tell.

    Looks at the file and its write-ahead log without opening them: to close a file would give up every lock that
    this process holds on it, DuckDB's among them. Two writes within one tick of the file system's clock would look
    alike, so a file written to just now has no state yet.
    """
    state: list[int] = []
    for file in (path, path.with_name(f"{path.name}.wal")):
        try:
            found = file.stat()
        except FileNotFoundError:
            state.append(0)
            continue
        if now_ns - found.st_mtime_ns < _SETTLED_NS:
            return None
        state += [found.st_ino, found.st_size, found.st_mtime_ns]
    return tuple(state)


class Memory:
    """The views held by one process, each as of the state of the record in which it was read."""

    def __init__(self, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._held: dict[tuple[Path, View], tuple[State, Held | None]] = {}

    def read(
        self, path: Path, view: View, keys: Keys, *, wait_s: float, limit_bytes: float, want_newest: bool
    ) -> Held:
        """The rows of `keys`, and maybe others.

        Raises:
            ViewNotApplied: the view has no table.
            FileNotFoundError: there is no record.
            RecordBusy: another process is writing, and did not stop in time.
        """
        before, known = state_of(path, self._clock()), self._held.get((path, view))
        again = before is not None and known is not None and known[0] == before
        if again and known is not None and known[1] is not None:
            return known[1]
        with opened_to_read(path, wait_s) as connection:
            held = _whole(connection, path, view, limit_bytes) if again else None
            found = held or _asked_for(connection, path, view, keys.serialised(), want_newest=want_newest)
            state = state_of(path, self._clock())  # no other process writes while we have it open
        with self._lock:
            if state is not None:
                self._held[path, view] = (state, held if state == before else None)
        return found

    def forget(self, path: Path) -> None:
        """Let go of every view of the record at `path`."""
        with self._lock:
            self._held = {key: kept for key, kept in self._held.items() if key[0] != path}


def _layout(connection: duckdb.DuckDBPyConnection, path: Path, view: View) -> Layout:
    layout = layout_of(connection, view)
    if layout is None:
        raise ViewNotApplied(view, path, views(connection))
    return layout


def _asked_for(
    connection: duckdb.DuckDBPyConnection, path: Path, view: View, keys: Sequence[bytes], *, want_newest: bool
) -> Held:
    layout = _layout(connection, path, view)
    rows = lookup(connection, view, list(dict.fromkeys(keys))).drop_columns("place")
    return Held(layout, rows.combine_chunks(), newest(connection, view) if want_newest else None)


def _whole(connection: duckdb.DuckDBPyConnection, path: Path, view: View, limit_bytes: float) -> Held | None:
    """Every row of the view, None where that would be more than `limit_bytes`."""
    layout = _layout(connection, path, view)
    counted = connection.sql(f"SELECT count(*) FROM {view.table}").fetchall()
    row_bytes = 64 + sum(_CELL_BYTES[kind] for kind in layout.kinds)
    if counted[0][0] * row_bytes > limit_bytes:
        return None
    found = connection.sql(f"SELECT DISTINCT entity_key FROM {view.table}").to_arrow_table()
    return _asked_for(connection, path, view, found["entity_key"].to_pylist(), want_newest=True)
