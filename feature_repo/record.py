"""The record of the online store: one DuckDB file, one table a feature view, the newest rows of each entity.

The file is open only for the length of a call, since DuckDB lets one process write and shuts all others out
meanwhile. Of two rows of an entity the one with the newer (event, created) timestamps stays; late rows never
overwrite newer ones.

Writes are numbered, and every row carries the number of the write that brought it. Once a write is committed its rows
go to the delta log, where readers find them; only then does the call return. What a crash keeps from the log the next
writer adds, since the record can tell which rows came after any write (`feature_repo.deltas`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo import deltas
from feature_repo.deltas import Entry, Part, meaning_of
from feature_repo.snapshot import covers

logger = logging.getLogger(__name__)

BULK_VALUES = 1_000_000
"""A write of more values than this is not logged: its rows wait for the next snapshot."""

_RETRY_S = 0.02
_HELD = "(held.event_timestamp, coalesce(held.created_timestamp, TIMESTAMPTZ '-infinity'))"
_one_at_a_time = threading.RLock()  # within this process; DuckDB's file lock sees to the others


class RecordBusy(TimeoutError):
    """Another process, or another thread of this one, has the record open and did not let go in time."""

    def __init__(self, path: Path, waited_s: float, reason: str) -> None:
        super().__init__(
            f"{path} is being written by someone else; gave up after {waited_s:g} s and wrote nothing. Try again when"
            f" they are done, or allow a longer wait (`lock_wait_seconds` in feature_store.yaml). DuckDB: {reason}"
        )


class RecordUnreadable(OSError):
    """The file is not a DuckDB database, or a damaged one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be read as the online record; published snapshots still serve, with what was written since."
            f" To start a new record move the file (and {path.name}.wal, if there is one) away and run `matinee features"
            f" materialize`. DuckDB: {reason}"
        )


class RecordUnwritable(OSError):
    """A write that could not be put on disk, as when that is full."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: the write was not taken in, and nothing of it is kept. {reason}")


class NotLogged(OSError):
    """A write that is in the record, but not where readers see it."""

    def __init__(self, path: Path, sequence: int, reason: str) -> None:
        super().__init__(
            f"write {sequence} is kept in {path}, but its delta log could not be written ({reason}): readers see it once"
            " another write, or a snapshot, has succeeded."
        )


class Shape(StrEnum):
    """How a snapshot holds a view."""

    VECTORS = "vectors"
    LISTS = "lists"
    RECENT = "recent"


class Kind(StrEnum):
    """How the values of one feature are kept; each value is DuckDB's name of the type."""

    FLOAT = "FLOAT"
    BIGINT = "BIGINT"
    BIGINTS = "BIGINT[]"
    PROTO = "BLOB"  # any other Feast type, as its serialised Value


@dataclass(frozen=True)
class Layout:
    """The columns of one view: all-FLOAT views are one packed vector, others have a column a feature.

    `digests` say what each feature means; an empty one leaves it open. Of each entity the `keep` newest rows stay;
    where that is more than one, rows of equal event_timestamp and values are one row, first heard of when the
    earliest of them was.
    """

    features: tuple[str, ...]
    kinds: tuple[Kind, ...]
    digests: tuple[str, ...]
    keep: int = 1

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"a layout keeps at least one row of an entity, not {self.keep}.")

    @property
    def packed(self) -> bool:
        """Whether a row is one `FLOAT[n]`."""
        return set(self.kinds) == {Kind.FLOAT}

    @property
    def shape(self) -> Shape | None:
        """How a snapshot holds such a view; None where it cannot."""
        if self.keep > 1:
            return Shape.RECENT if set(self.kinds) == {Kind.BIGINT} else None
        if self.packed:
            return Shape.VECTORS
        return Shape.LISTS if self.kinds == (Kind.BIGINTS,) else None

    @property
    def meaning(self) -> str:
        """What the delta log knows it by."""
        return meaning_of(self.features, self.digests)

    @property
    def payload(self) -> dict[str, str]:
        """Column → type of what a row holds beside its key and timestamps."""
        if self.packed:
            return {"vector": f"FLOAT[{len(self.features)}]"}
        return {f"f:{name}": kind.value for name, kind in zip(self.features, self.kinds, strict=True)}

    def to_json(self) -> str:
        """As it is kept beside the data."""
        return json.dumps({
            "features": self.features, "kinds": self.kinds, "digests": self.digests, "keep": self.keep,
        })  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The layout that `to_json` wrote."""
        data = json.loads(text)
        kinds = tuple(Kind(kind) for kind in data["kinds"])
        return cls(tuple(data["features"]), kinds, tuple(data["digests"]), data.get("keep", 1))


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

    @classmethod
    def of(cls, key: str) -> View:
        """The view of that key."""
        return cls(*key.split("/", 1))


@contextmanager
def opened(
    path: Path, wait_s: float, *, clock: Callable[[], float] = time.monotonic, bulk: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with an open transaction, committed when the block ends well and rolled back otherwise.

    What the block upserts is one write: readers see all of it or nothing. When this returns it is on disk, and in the
    delta log under the folder of `path`; a write in `bulk`, or of more than `BULK_VALUES` values, is noted there and
    waits for the next snapshot. Nothing is logged before the first snapshot of that folder is made.

    Raises:
        RecordBusy: another process held the file for longer than `wait_s`.
        RecordUnreadable: the file is no DuckDB database, or damaged.
        RecordUnwritable: the write could not be put on disk; nothing of it is kept.
        NotLogged: the write is kept, but readers do not see it yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, wait_s), _named(path), _connected(path, wait_s, clock, read_only=False) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        _prepare(connection)
        _mend(connection, path)
        connection.execute("BEGIN")
        try:
            yield connection
            _close_write(connection, bulk=bulk)
        except BaseException:
            with suppress(duckdb.Error):  # a damaged file cannot even do that, and the first error says why
                connection.execute("ROLLBACK")
            raise
        try:
            connection.execute("COMMIT")
        except duckdb.Error as problem:
            raise RecordUnwritable(path, str(problem)) from problem
        _log(connection, path, [key for key, _ in _touched(connection)])


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
    with _alone(path, wait_s), _named(path), _connected(path, wait_s, clock, read_only=True) as connection:
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
        f" created_timestamp TIMESTAMPTZ, written BIGINT NOT NULL, {columns})"
    )
    if before is not None:
        kept = ", ".join(_carried_over(before, layout))
        fewer = f" QUALIFY {_place_of_row(before)} <= {layout.keep}" if layout.keep < before.keep else ""
        connection.execute(
            f"INSERT INTO {fresh} SELECT entity_key, entity_id, event_timestamp, created_timestamp, written, {kept}"
            f" FROM {view.table}{fewer}"
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
    connection.execute("DELETE FROM computed WHERE view = ?", [view.key])


def upsert(connection: duckdb.DuckDBPyConnection, view: View, rows: pa.Table) -> None:
    """Take in `rows`: entity_key, entity_id, event_timestamp, created_timestamp and the payload columns.

    Of several rows of one entity the newest counts, of equally new ones the last; the layout's `keep` newest where
    that is more than one.

    Raises:
        LookupError: the view has no table (see `ensure`).
    """
    layout = layout_of(connection, view)
    if layout is None:
        raise LookupError(
            f"view {view.key!r} has no table in the record. It has: {', '.join(views(connection))}."
        )
    numbered = rows.append_column("seq", pa.array(range(rows.num_rows), pa.int64()))
    connection.register("incoming", numbered)
    number = newest_write(connection) + 1
    if layout.keep == 1:
        _replace_older(connection, view, rows.column_names, number)
    else:
        _merge_recent(connection, view, layout, number)
    connection.unregister("incoming")
    values = rows.num_rows * len(layout.features)
    connection.execute("INSERT INTO touched VALUES (?, ?)", [view.key, values])


def _replace_older(
    connection: duckdb.DuckDBPyConnection, view: View, names: Sequence[str], number: int
) -> None:
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE winners AS
        SELECT entity_key, event_timestamp, coalesce(created_timestamp, TIMESTAMPTZ '-infinity') AS created, seq
        FROM incoming
        QUALIFY row_number() OVER (PARTITION BY entity_key ORDER BY event_timestamp DESC, created DESC, seq DESC) = 1""")
    connection.execute(f"""
        DELETE FROM {view.table} AS held USING winners
        WHERE held.entity_key = winners.entity_key AND {_HELD} <= (winners.event_timestamp, winners.created)""")
    columns = ", ".join(f"incoming.{_quoted(name)}" for name in names)
    connection.execute(f"""
        INSERT INTO {view.table} BY NAME
        SELECT {columns}, {number} AS written FROM incoming JOIN winners USING (seq)
        WHERE NOT EXISTS (FROM {view.table} AS held WHERE held.entity_key = incoming.entity_key)""")
    connection.execute("DROP TABLE winners")


def _merge_recent(connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, number: int) -> None:
    """An entity's rows are written anew whenever one comes, so that `written` tells which entities changed."""
    payload = ", ".join(_quoted(name) for name in layout.payload)
    columns = f"entity_key, entity_id, event_timestamp, created_timestamp, {payload}"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE merged AS
        SELECT * FROM (
            SELECT entity_key, any_value(entity_id) AS entity_id, event_timestamp,
                   min(created_timestamp) AS created_timestamp, {payload}
            FROM (SELECT {columns} FROM {view.table} WHERE entity_key IN (SELECT entity_key FROM incoming)
                  UNION ALL SELECT {columns} FROM incoming)
            GROUP BY entity_key, event_timestamp, {payload})
        QUALIFY {_place_of_row(layout)} <= {layout.keep}""")
    connection.execute(f"DELETE FROM {view.table} WHERE entity_key IN (SELECT entity_key FROM incoming)")
    connection.execute(f"INSERT INTO {view.table} BY NAME SELECT *, {number} AS written FROM merged")
    connection.execute("DROP TABLE merged")


def mark_computed(connection: duckdb.DuckDBPyConnection, view: View, as_of: datetime) -> None:
    """Note that the view was computed for `as_of`, which rows that are streamed to it do not move."""
    connection.execute(
        "INSERT INTO computed VALUES ($view, $as_of) ON CONFLICT DO UPDATE SET as_of = greatest(as_of, $as_of)",
        {"view": view.key, "as_of": as_of},
    )


def lookup(connection: duckdb.DuckDBPyConnection, view: View, keys: Sequence[bytes]) -> pa.Table:
    """The newest rows of `keys`, with `place`, the position of each row's key in `keys`."""
    layout = layout_of(connection, view)
    newest_only = f" QUALIFY {_place_of_row(layout, 'place')} = 1" if layout and layout.keep > 1 else ""
    wanted = pa.table(
        {"place": pa.array(range(len(keys)), pa.int64()), "wanted_key": pa.array(keys, pa.binary())}
    )
    connection.register("wanted", wanted)
    found = connection.sql(
        "SELECT wanted.place, held.* EXCLUDE (written)"
        f" FROM wanted JOIN {view.table} AS held ON held.entity_key = wanted.wanted_key{newest_only}"
    ).to_arrow_table()
    connection.unregister("wanted")
    return found


def newest(connection: duckdb.DuckDBPyConnection, view: View) -> datetime | None:
    """The newest moment the view was computed for; where it never was, its newest event_timestamp, None without rows.

    Streamed rows come after what was computed and would make all of it look old.
    """
    found = connection.sql(
        f"SELECT coalesce((SELECT as_of FROM computed WHERE view = $view),"
        f" (SELECT max(event_timestamp) FROM {view.table})) AS newest",
        params={"view": view.key},
    ).to_arrow_table()
    moment: datetime | None = found["newest"][0].as_py()
    return moment


def newest_write(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the last write, 0 before the first."""
    return int(connection.sql("SELECT coalesce(max(sequence), 0) FROM writes").fetchall()[0][0])


def rows_since(connection: duckdb.DuckDBPyConnection, view: View, since: datetime) -> pa.Table:
    """Rows of single INT64 keys whose event_timestamp is `since` or later, by ascending `entity_id` and then time."""
    layout = layout_of(connection, view)
    ties = f", {_ties(layout)}" if layout and layout.keep > 1 else ""
    return connection.sql(
        f"SELECT * EXCLUDE (entity_key, written) FROM {view.table}"
        f" WHERE event_timestamp >= $since AND entity_id IS NOT NULL ORDER BY entity_id, event_timestamp{ties}",
        params={"since": since},
    ).to_arrow_table()


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """The tables beside those of the views; those of a record from before writes were numbered get numbers."""
    connection.execute("CREATE TEMP TABLE touched (view VARCHAR, n_values BIGINT)")
    there = connection.sql(
        "SELECT 1 FROM duckdb_tables() WHERE table_name = 'writes' AND NOT temporary"
    ).fetchall()
    if there:
        return
    connection.execute("BEGIN")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS layouts (view VARCHAR PRIMARY KEY, layout VARCHAR NOT NULL)"
    )
    connection.execute("CREATE TABLE writes (sequence BIGINT NOT NULL, bulk BOOLEAN NOT NULL)")
    connection.execute("CREATE TABLE computed (view VARCHAR PRIMARY KEY, as_of TIMESTAMPTZ NOT NULL)")
    for key in views(connection):
        table = View.of(key).table
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS written BIGINT DEFAULT 0")
        connection.execute(
            f"INSERT INTO computed SELECT ?, max(event_timestamp) FROM {table} HAVING count(*) > 0", [key]
        )
    connection.execute("COMMIT")


def _touched(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """(view, values) of this write."""
    return connection.sql("SELECT view, sum(n_values) FROM touched GROUP BY view ORDER BY view").fetchall()


def _close_write(connection: duckdb.DuckDBPyConnection, *, bulk: bool) -> None:
    """Number the write, if anything was upserted; of earlier numbers only those of bulk writes are still of use."""
    values = sum(n for _, n in _touched(connection))
    if not values:
        return
    number = newest_write(connection) + 1
    connection.execute("DELETE FROM writes WHERE NOT bulk")
    connection.execute("INSERT INTO writes VALUES (?, ?)", [number, bulk or values > BULK_VALUES])


def _mend(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring log and record to the same write: append what the log lacks, and never use a number twice."""
    root = path.parent
    if not deltas.started(root):
        return
    committed, covered = newest_write(connection), covers(root)
    reached = deltas.reached(root)
    ahead = max(reached or 0, *covered, 0)
    if ahead > committed:  # the record was replaced by a new or an older one
        connection.execute("INSERT INTO writes VALUES (?, false)", [ahead])
        committed = ahead
    after = reached if reached is not None else min(covered, default=committed)
    if after < committed:
        logger.warning("delta log under %s lacks writes %d to %d: adding them", root, after + 1, committed)
        _append(connection, path, after, committed, views(connection))


def _log(connection: duckdb.DuckDBPyConnection, path: Path, keys: Sequence[str]) -> None:
    if keys and deltas.started(path.parent):
        committed = newest_write(connection)
        _append(connection, path, committed - 1, committed, keys)
        _shorten(connection, path, committed)


def _shorten(connection: duckdb.DuckDBPyConnection, path: Path, sequence: int) -> None:
    """Between two snapshots an entity may be written many times: keep in a long log what it is now.

    Not across a bulk write: it replaced rows in the record that readers are to see until the snapshot that holds it.
    The write has been acknowledged in the log by now, so that a failure here loses nothing.
    """
    ((bulk,),) = connection.sql("SELECT coalesce(max(sequence), 0) FROM writes WHERE bulk").fetchall()
    after = max(bulk, min(covers(path.parent), default=0))
    if len(deltas.segments_from(path.parent, after)) <= deltas.MANY_SEGMENTS:
        return
    try:
        deltas.make_anew(path.parent, Entry(after, sequence, _parts(connection, views(connection), after)))
    except OSError:
        logger.exception("the delta log under %s stays as long as it is", path.parent)


def _append(
    connection: duckdb.DuckDBPyConnection, path: Path, after: int, sequence: int, keys: Sequence[str]
) -> None:
    parts = _parts(connection, keys, after)
    try:
        deltas.append(path.parent, Entry(after, sequence, parts), min(covers(path.parent), default=0))
    except OSError as problem:
        raise NotLogged(path, sequence, str(problem)) from problem
    for part in parts:
        for _, count in part.held_back:
            logger.info("%d rows of %s wait for a snapshot to be served", count, part.view)


def _parts(connection: duckdb.DuckDBPyConnection, keys: Sequence[str], after: int) -> tuple[Part, ...]:
    return tuple(part for key in keys if (part := _part(connection, View.of(key), after)) is not None)


def _part(connection: duckdb.DuckDBPyConnection, view: View, after: int) -> Part | None:
    """What writes later than `after` brought to a view; None where snapshots do not hold such a view, or nothing came."""
    layout = layout_of(connection, view)
    if layout is None or layout.shape is None:
        return None
    bulk = "written IN (SELECT sequence FROM writes WHERE bulk)"
    came = f"FROM {view.table} WHERE written > {after} AND entity_id IS NOT NULL"
    ties = f", {_ties(layout)}" if layout.keep > 1 else ""
    rows = connection.sql(
        f"SELECT * EXCLUDE (entity_key, written) {came} AND NOT {bulk} ORDER BY entity_id, event_timestamp{ties}"
    ).to_arrow_table()
    held_back = connection.sql(
        f"SELECT written, count(*) {came} AND {bulk} GROUP BY written ORDER BY written"
    ).fetchall()
    return Part(view.key, layout.meaning, rows, tuple(held_back)) if rows.num_rows or held_back else None


def _ties(layout: Layout) -> str:
    """SQL that puts rows of one entity and event_timestamp in an order, ascending.

    Not by created_timestamp, which may become an earlier one: which rows stay would depend on the order they came in.
    """
    return ", ".join(_quoted(name) for name in layout.payload)


def _place_of_row(layout: Layout, entity: str = "entity_key") -> str:
    """SQL: 1 for the newest row of each entity, 2 for the next."""
    ties = ", ".join(f"{_quoted(name)} DESC" for name in layout.payload)
    return f"row_number() OVER (PARTITION BY {entity} ORDER BY event_timestamp DESC, {ties})"


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
def _alone(path: Path, wait_s: float) -> Iterator[None]:
    """One thread of this process at a time."""
    if not _one_at_a_time.acquire(timeout=wait_s):
        raise RecordBusy(path, wait_s, "another thread of this process has it open")
    try:
        yield
    finally:
        _one_at_a_time.release()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Damage that DuckDB finds names the file. It comes as a bare `Error` or as trouble with the system."""
    try:
        yield
    except duckdb.Error as problem:
        if type(problem) is duckdb.Error or isinstance(
            problem, (duckdb.OperationalError, duckdb.InternalError)
        ):
            raise RecordUnreadable(path, str(problem)) from problem
        raise


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
                raise
            if clock() >= deadline:
                raise RecordBusy(path, wait_s, str(problem)) from problem
            time.sleep(_RETRY_S)
        else:
            break
    with connection:
        yield connection


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
