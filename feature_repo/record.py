"""The record of the online store: one DuckDB file, one table a feature view, the newest row of each entity.

The file is open only for the length of a call, since DuckDB lets one process write and shuts all others out
meanwhile. Of two rows of an entity the one with the newer (event, created) timestamps stays; late rows never
overwrite newer ones.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import duckdb
import pyarrow as pa

_RETRY_S = 0.02
_HELD = "(held.event_timestamp, coalesce(held.created_timestamp, TIMESTAMPTZ '-infinity'))"
_one_at_a_time = threading.RLock()  # within this process; DuckDB's file lock sees to the others


class RecordBusy(TimeoutError):
    """Another process has the record open for writing and did not let go in time."""

    def __init__(self, path: Path, waited_s: float, reason: str) -> None:
        super().__init__(
            f"{path} is being written by another process; gave up after {waited_s:g} s. DuckDB: {reason}"
        )


class RecordUnreadable(OSError):
    """The file is not a DuckDB database, or a damaged one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be opened as the online record; published snapshots still serve. DuckDB: {reason}"
        )


class Kind(StrEnum):
    """How the values of one feature are kept; each value is DuckDB's name of the type."""

    FLOAT = "FLOAT"
    BIGINTS = "BIGINT[]"
    PROTO = "BLOB"  # any other Feast type, as its serialised Value


@dataclass(frozen=True)
class Layout:
    """The columns of one view: all-FLOAT views are one packed vector, others have a column a feature.

    `digests` say what each feature means; an empty one leaves it open.
    """

    features: tuple[str, ...]
    kinds: tuple[Kind, ...]
    digests: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether a row is one `FLOAT[n]`."""
        return set(self.kinds) == {Kind.FLOAT}

    @property
    def payload(self) -> dict[str, str]:
        """Column → type of what a row holds beside its key and timestamps."""
        if self.packed:
            return {"vector": f"FLOAT[{len(self.features)}]"}
        return {f"f:{name}": kind.value for name, kind in zip(self.features, self.kinds, strict=True)}

    def to_json(self) -> str:
        """As it is kept beside the data."""
        return json.dumps({"features": self.features, "kinds": self.kinds, "digests": self.digests})

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The layout that `to_json` wrote."""
        data = json.loads(text)
        return cls(tuple(data["features"]), tuple(Kind(k) for k in data["kinds"]), tuple(data["digests"]))


@dataclass(frozen=True)
class View:
    """The table of one feature view of one project."""

    project: str
    name: str

    @property
    def table(self) -> str:
        """Its quoted name; a project's name has no slash, so no two views share one."""
        return _quoted(f"{self.project}/{self.name}")

    @property
    def key(self) -> str:
        """What its layout is kept under."""
        return f"{self.project}/{self.name}"


@contextmanager
def opened(
    path: Path, wait_s: float, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with an open transaction, committed when the block ends well and rolled back otherwise.

    Raises:
        RecordBusy: another process held the file for longer than `wait_s`.
        RecordUnreadable: the file is no DuckDB database, or damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time, _connected(path, wait_s, clock, read_only=False) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS layouts (view VARCHAR PRIMARY KEY, layout VARCHAR NOT NULL)"
        )
        connection.execute("BEGIN")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


@contextmanager
def opened_to_read(
    path: Path, wait_s: float, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that only reads; any number of processes may have one at a time. Raises as `opened` does.

    Raises:
        FileNotFoundError: there is no record yet.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there is no online record at {path}: nothing has been applied or written yet."
        )
    with _one_at_a_time, _connected(path, wait_s, clock, read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def layout_of(connection: duckdb.DuckDBPyConnection, view: View) -> Layout | None:
    """The layout the view's table has, or None where there is no such table."""
    found = connection.execute("SELECT layout FROM layouts WHERE view = ?", [view.key]).fetchall()
    return Layout.from_json(found[0][0]) if found else None


def ensure(connection: duckdb.DuckDBPyConnection, view: View, layout: Layout) -> None:
    """Give the view a table of this layout, keeping of an older one what still means the same.

    A value stays when its feature has the same name, kind and digest; all others become null.
    """
    before = layout_of(connection, view)
    if before == layout:
        return
    fresh = _quoted(f"{view.key}.new")
    columns = ", ".join(f"{_quoted(name)} {kind}" for name, kind in layout.payload.items())
    connection.execute(
        f"CREATE TABLE {fresh} (entity_key BLOB NOT NULL, entity_id BIGINT, event_timestamp TIMESTAMPTZ NOT NULL,"
        f" created_timestamp TIMESTAMPTZ, {columns})"
    )
    if before is not None:
        kept = ", ".join(_carried_over(before, layout))
        connection.execute(
            f"INSERT INTO {fresh} SELECT entity_key, entity_id, event_timestamp, created_timestamp, {kept} FROM {view.table}"
        )
        connection.execute(f"DROP TABLE {view.table}")
    connection.execute(f"ALTER TABLE {fresh} RENAME TO {view.table}")
    connection.execute("INSERT OR REPLACE INTO layouts VALUES (?, ?)", [view.key, layout.to_json()])


def views(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Keys of the views that have a table."""
    return tuple(key for (key,) in connection.execute("SELECT view FROM layouts ORDER BY view").fetchall())


def drop(connection: duckdb.DuckDBPyConnection, view: View) -> None:
    """Forget the view and its rows."""
    connection.execute(f"DROP TABLE IF EXISTS {view.table}")
    connection.execute("DELETE FROM layouts WHERE view = ?", [view.key])


def upsert(connection: duckdb.DuckDBPyConnection, view: View, rows: pa.Table) -> None:
    """Take in `rows`: entity_key, entity_id, event_timestamp, created_timestamp and the payload columns.

    Of several rows of one entity the newest counts, of equally new ones the last.
    """
    numbered = rows.append_column("seq", pa.array(range(rows.num_rows), pa.int64()))
    connection.register("incoming", numbered)
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE winners AS
        SELECT entity_key, event_timestamp, coalesce(created_timestamp, TIMESTAMPTZ '-infinity') AS created, seq
        FROM incoming
        QUALIFY row_number() OVER (PARTITION BY entity_key ORDER BY event_timestamp DESC, created DESC, seq DESC) = 1""")
    connection.execute(f"""
        DELETE FROM {view.table} AS held USING winners
        WHERE held.entity_key = winners.entity_key AND {_HELD} <= (winners.event_timestamp, winners.created)""")
    columns = ", ".join(f"incoming.{_quoted(name)}" for name in rows.column_names)
    connection.execute(f"""
        INSERT INTO {view.table} BY NAME
        SELECT {columns} FROM incoming JOIN winners USING (seq)
        WHERE NOT EXISTS (FROM {view.table} AS held WHERE held.entity_key = incoming.entity_key)""")
    connection.execute("DROP TABLE winners")
    connection.unregister("incoming")


def lookup(connection: duckdb.DuckDBPyConnection, view: View, keys: Sequence[bytes]) -> pa.Table:
    """The rows of `keys`, with `place`, the position of each row's key in `keys`."""
    wanted = pa.table(
        {"place": pa.array(range(len(keys)), pa.int64()), "wanted_key": pa.array(keys, pa.binary())}
    )
    connection.register("wanted", wanted)
    found = connection.sql(
        f"SELECT wanted.place, held.* FROM wanted JOIN {view.table} AS held ON held.entity_key = wanted.wanted_key"
    ).to_arrow_table()
    connection.unregister("wanted")
    return found


def newest(connection: duckdb.DuckDBPyConnection, view: View) -> datetime | None:
    """The newest event_timestamp of the view, None where it has no rows."""
    found = connection.sql(f"SELECT max(event_timestamp) AS newest FROM {view.table}").to_arrow_table()
    moment: datetime | None = found["newest"][0].as_py()
    return moment


def rows_since(connection: duckdb.DuckDBPyConnection, view: View, since: datetime) -> pa.Table:
    """Rows of single INT64 keys whose event_timestamp is `since` or later, ascending by `entity_id`."""
    return connection.sql(
        f"SELECT * EXCLUDE (entity_key) FROM {view.table}"
        " WHERE event_timestamp >= $since AND entity_id IS NOT NULL ORDER BY entity_id",
        params={"since": since},
    ).to_arrow_table()


def _carried_over(before: Layout, after: Layout) -> Iterator[str]:
    """SQL of each payload column of `after` in terms of `before`'s."""
    held = dict(zip(before.features, zip(before.kinds, before.digests, strict=True), strict=True))
    same = [
        held.get(name) == (kind, digest)
        for name, kind, digest in zip(after.features, after.kinds, after.digests, strict=True)
    ]
    parts = [
        _value_of(before, name) if is_same else "NULL"
        for name, is_same in zip(after.features, same, strict=True)
    ]
    if after.packed:
        yield f"CAST(list_value({', '.join(parts)}) AS FLOAT[{len(parts)}])"
    else:
        yield from parts


def _value_of(layout: Layout, name: str) -> str:
    return f"vector[{layout.features.index(name) + 1}]" if layout.packed else _quoted(f"f:{name}")


@contextmanager
def _connected(
    path: Path, wait_s: float, clock: Callable[[], float], *, read_only: bool
) -> Iterator[duckdb.DuckDBPyConnection]:
    deadline = clock() + wait_s
    while True:
        try:
            connection = duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException as problem:
            if "lock" not in str(problem):
                raise RecordUnreadable(path, str(problem)) from problem
            if clock() >= deadline:
                raise RecordBusy(path, wait_s, str(problem)) from problem
            time.sleep(_RETRY_S)
        else:
            break
    with connection:
        yield connection


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
