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
_SAMPLED_ROWS = 256
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
    newest: datetime | None  # of the whole view, None where it is empty

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


@dataclass(frozen=True)
class Wanted:
    """What a request wants of one view."""

    view: View
    keys: Keys


@dataclass(frozen=True)
class _Version:
    """What tells one state of a view from the next: its layout, how many rows it has, and the last write to them.

    Of a record that was made anew in the place of another the numbers may be the same, but not the `sample` of rows.
    """

    layout: Layout
    rows: int
    written: int
    sample: int
    newest: datetime | None


@dataclass(frozen=True)
class _Kept:
    """What is known of a view as of a state of the record: its version, and its rows once they were worth holding."""

    state: State | None
    version: _Version
    held: Held | None


class Memory:
    """The views held by one process.

    While the record stays as it was they are answered from here. When it has changed, it is opened once for all views
    of a request, and those that were not written to are kept.
    """

    def __init__(self, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._kept: dict[tuple[Path, View], _Kept] = {}

    def read(self, path: Path, wanted: Sequence[Wanted], *, wait_s: float, limit_bytes: float) -> list[Held]:
        """Of each view wanted the rows of its keys, and maybe others.

        Raises:
            ViewNotApplied: a view has no table.
            FileNotFoundError: there is no record.
            RecordBusy: another process is writing, and did not stop in time.
        """
        state = state_of(path, self._clock())
        kept = [self._kept.get((path, each.view)) for each in wanted]
        found = [k.held for k in kept if k is not None and k.held is not None and k.state == state]
        if state is not None and len(found) == len(wanted):
            return found
        with opened_to_read(path, wait_s) as connection:
            read = [
                _read(connection, path, each, before, limit_bytes)
                for each, before in zip(wanted, kept, strict=True)
            ]
            state = state_of(path, self._clock())  # no other process writes while we have it open
        with self._lock:
            for each, (version, held, _) in zip(wanted, read, strict=True):
                self._kept[path, each.view] = _Kept(state, version, held)
        return [asked_for for _, _, asked_for in read]

    def forget(self, path: Path) -> None:
        """Let go of every view of the record at `path`."""
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] != path}


def _read(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    wanted: Wanted,
    before: _Kept | None,
    limit_bytes: float,
) -> tuple[_Version, Held | None, Held]:
    """The view's version, all its rows if they are worth holding, and those asked for at least.

    A view that is read twice in one version is worth it, unless it is larger than `limit_bytes`.
    """
    version = _version(connection, path, wanted.view)
    if before is None or before.version != version:
        return version, None, _rows(connection, wanted.view, version, wanted.keys.serialised())
    row_bytes = 64 + sum(_CELL_BYTES[kind] for kind in version.layout.kinds)
    if before.held is None and version.rows * row_bytes > limit_bytes:
        return version, None, _rows(connection, wanted.view, version, wanted.keys.serialised())
    held = before.held or _rows(connection, wanted.view, version, _all_keys(connection, wanted.view))
    return version, held, held


def _version(connection: duckdb.DuckDBPyConnection, path: Path, view: View) -> _Version:
    layout = layout_of(connection, view)
    if layout is None:
        raise ViewNotApplied(view, path, views(connection))
    counted = connection.sql(f"SELECT count(*), coalesce(max(written), 0) FROM {view.table}").fetchall()
    rows, written = counted[0]
    sampled = connection.sql(
        f"SELECT coalesce(bit_xor(hash(row)), 0) FROM (FROM {view.table} WHERE hash(entity_key) % $every = 0) AS row",
        params={"every": rows // _SAMPLED_ROWS + 1},
    ).fetchall()
    return _Version(layout, rows, written, sampled[0][0], newest(connection, view))


def _rows(
    connection: duckdb.DuckDBPyConnection, view: View, version: _Version, keys: Sequence[bytes]
) -> Held:
    found = lookup(connection, view, list(dict.fromkeys(keys))).drop_columns("place")
    return Held(version.layout, found.combine_chunks(), version.newest)


def _all_keys(connection: duckdb.DuckDBPyConnection, view: View) -> Sequence[bytes]:
    found = connection.sql(f"SELECT DISTINCT entity_key FROM {view.table}").to_arrow_table()
    return list(found["entity_key"].to_pylist())
