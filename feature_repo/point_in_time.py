"""Which row of a feature table each label may see, found on narrow columns; only then are wide rows read.

Of the rows of its entity, a label at t sees the newest by (event, created) among those that had happened by t,
were known by t, and had not outlived their table. Of rows equal in both, the one written last counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

PLACE = "place of the row"
"""The column that says where a row lies: file × 2⁴⁰ + row of that file."""

ROW = "row of the spine"
"""The column that says which label a row belongs to."""

_FILE = 1 << 40
_OWN = ("file_index", "file_row_number")  # what DuckDB calls them; a column of that name would hide them


class SpineLacks(LookupError):
    """The labels have no column that a table is joined on."""

    def __init__(self, column: str, needed_by: str, has: Sequence[str]) -> None:
        super().__init__(f"{needed_by} is joined on {column!r}, but the spine has only: {', '.join(has)}.")


class ColumnMissing(LookupError):
    """A file lacks a column, or has one whose name DuckDB keeps for itself."""

    def __init__(self, what: str, files: Sequence[Path]) -> None:
        super().__init__(f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {what}.")


@dataclass(frozen=True)
class History:
    """The rows of one feature table through time, in Parquet files whose order counts.

    `keys` are pairs of a spine's column and this table's. Without `created` rows are known when they happen; a
    null one is never known. Without `lifetime` rows do not expire; with it they live until event + lifetime, that
    moment included.
    """

    name: str
    files: tuple[Path, ...]
    keys: tuple[tuple[str, str], ...]
    event: str
    created: str | None
    lifetime: timedelta | None

    @property
    def relation(self) -> str:
        """SQL of all its rows and columns, and `PLACE`."""
        return read_places(self.files, range(len(self.files)))


@contextmanager
def engine(threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that reads times without a zone as UTC and keeps the order of files."""
    with duckdb.connect(config={} if threads is None else {"threads": threads}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def read(files: Sequence[Path]) -> str:
    """SQL that reads `files`, one after the other."""
    return f"read_parquet([{', '.join(_text(str(path)) for path in files)}])"


def read_places(files: Sequence[Path], numbers: Sequence[int]) -> str:
    """SQL that reads `files`, which are those of these `numbers`, with the `PLACE` of each row."""
    number = f"list_extract({list(numbers)}, CAST(file_index AS BIGINT) + 1)"
    return f'(SELECT {number} * {_FILE} + file_row_number AS "{PLACE}", * FROM {read(files)})'


def columns_of(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> dict[str, str]:
    """Column → DuckDB's name of its type.

    Raises:
        ColumnMissing: a column has a name that would hide where rows lie.
    """
    found = connection.sql(f"DESCRIBE FROM {read(files)}").fetchall()
    types = {name: kind for name, kind, *_ in found}
    for taken in _OWN:
        if taken in types:
            raise ColumnMissing(f"a column may not be named {taken!r}, as DuckDB numbers rows by it", files)
    return types


def find(connection: duckdb.DuckDBPyConnection, spine: pa.Table, moment: str, history: History, *,
         known_only: bool = True, found: dict[tuple[object, ...], str] | None = None) -> str:  # fmt: skip
    """Make a table of `row_id`, `place` and `event` for the rows of `spine` that see a row of `history`.

    Args:
        connection: where the table is made; it lives as long.
        spine: labels; those with a null key or moment see nothing.
        moment: the column with the time of each label, an instant; without a zone it is UTC.
        history: what is looked at.
        known_only: leave out rows whose `created` is later than the label, or null.
        found: what was found for this very spine; histories with the same keys and times in the same places, as
            tables of one entity computed together have, are then looked up once.

    Returns:
        The name of that table, to be read by `fetch`.

    Raises:
        SpineLacks: a column to join on is not there.
        ColumnMissing: a file lacks a key or a time.
    """
    types = columns_of(connection, history.files)
    for ours, _ in history.keys:
        if ours not in spine.column_names:
            raise SpineLacks(ours, history.name, spine.column_names)
    _refuse_missing(history, types)
    clock = _Clock.of_columns(types, history, str(spine[moment].type))
    connection.execute(f"CREATE OR REPLACE TEMP TABLE happened AS {_happened(history, clock)}")
    same = (history.keys, history.lifetime, known_only, clock, *_fingerprint(connection))
    if found is not None and same in found:
        return found[same]
    labels = {f"k{i}": spine[ours] for i, (ours, _) in enumerate(history.keys)}
    labels |= {"row_id": pa.array(np.arange(len(spine))), "moment": spine[moment]}
    connection.register("labels", pa.table(labels))
    name = f'"seen {history.name}"'
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} AS {_seen(history, clock, known_only=known_only)}"
    )
    connection.unregister("labels")
    if found is not None:
        found[same] = name
    return name


def fetch(connection: duckdb.DuckDBPyConnection, seen: str, history: History, columns: Sequence[str], *,
          rows: int = 16_384) -> pa.RecordBatchReader:  # fmt: skip
    """Batches of first the row id, then the `columns` (SQL over the history's), of the rows found, in any order."""
    used = files_seen(connection, seen)
    files = [history.files[i] for i in used]
    relation = read_places(files, used) if used else f"(FROM {history.relation} LIMIT 0)"
    wide = f'SELECT "{PLACE}", {", ".join(columns)} FROM {relation}'
    joined = f'SELECT s.row_id AS "{ROW}", h.* EXCLUDE ("{PLACE}") FROM ({wide}) h JOIN {seen} s ON h."{PLACE}" = s.place'
    return connection.sql(joined).to_arrow_reader(rows)


def gather(connection: duckdb.DuckDBPyConnection, seen: str, history: History, columns: Sequence[str],
           names: Sequence[str], count: int) -> pa.Table:  # fmt: skip
    """The `columns` under their `names` for row ids 0 … `count` - 1 in that order, null where nothing was found."""
    found = fetch(connection, seen, history, columns).read_all().combine_chunks()
    place = np.full(count, -1)
    place[found.column(0).to_numpy()] = np.arange(len(found))
    values = found.select(range(1, found.num_columns)).rename_columns(list(names))
    if np.array_equal(place, np.arange(count)):  # as they came, as when all of a file is asked for
        return values
    return values.take(pa.array(place, mask=place < 0))


def files_seen(connection: duckdb.DuckDBPyConnection, seen: str) -> list[int]:
    """Which of a history's files hold a row that is seen, ascending."""
    found = connection.sql(f"SELECT DISTINCT place // {_FILE} AS file FROM {seen} ORDER BY file").fetchall()
    return [file for (file,) in found]


def find_newest(
    connection: duckdb.DuckDBPyConnection, history: History, start: datetime, end: datetime
) -> str:
    """Make a table of the `place` of each entity's newest row in [start, end], and `row_id` in the order of the files.

    Raises:
        ColumnMissing: a file lacks a key or a time.
    """
    types = columns_of(connection, history.files)
    _refuse_missing(history, types)
    clock = _Clock.of_columns(types, history)
    keys = ", ".join(quoted(theirs) for _, theirs in history.keys) or "NULL"
    created = f", {clock.read(history.created)} DESC NULLS LAST" if history.created else ""
    name = f'"newest {history.name}"'
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name} AS
        SELECT row_number() OVER (ORDER BY place) - 1 AS row_id, place FROM (
            SELECT "{PLACE}" AS place FROM {history.relation}
            WHERE {within(history.event, types, start, end)}
            QUALIFY 1 = row_number() OVER (
                PARTITION BY {keys} ORDER BY {clock.read(history.event)} DESC{created}, "{PLACE}" DESC))""")
    return name


def within(column: str, types: Mapping[str, str], start: datetime | None, end: datetime | None) -> str:
    """SQL that holds for rows whose time in `column` lies in [start, end]; None leaves an end open."""
    clock = _Clock("NS" in types[column])
    bounds = ((">=", start), ("<=", end))
    parts = [f"{clock.read(column)} {sign} {clock.of(_literal(at))}" for sign, at in bounds if at is not None]
    return " AND ".join(parts) or "true"


def select(columns: Mapping[str, str], types: Mapping[str, str], files: Sequence[Path]) -> list[str]:
    """SQL of source column → its name in the answer; nanoseconds become the microseconds all others understand.

    Raises:
        ColumnMissing: the files have no such column.
    """
    for column in columns:
        if column not in types:
            raise ColumnMissing(f"no column {column!r}; there are {', '.join(types)}", files)
    coarser = {"TIMESTAMPTZ_NS": "TIMESTAMPTZ", "TIMESTAMP_NS": "TIMESTAMP"}
    return [
        f"CAST({quoted(c)} AS {coarser[types[c]]}) AS {quoted(name)}" if types[c] in coarser
        else f"{quoted(c)} AS {quoted(name)}"
        for c, name in columns.items()
    ]  # fmt: skip


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class _Clock:
    """Times as whole numbers, µs or, where some column is finer, ns since 1970: what orders and joins them fast."""

    nanoseconds: bool

    @classmethod
    def of_columns(cls, types: Mapping[str, str], history: History, moment: str = "") -> _Clock:
        times = [types[column] for column in (history.event, history.created) if column]
        return cls(any("NS" in kind for kind in times) or moment.startswith("timestamp[ns"))

    def of(self, instant: str) -> str:
        if self.nanoseconds:
            return f"epoch_ns(CAST({instant} AS TIMESTAMP_NS))"
        return f"epoch_us(CAST({instant} AS TIMESTAMPTZ))"

    def read(self, column: str) -> str:
        return self.of(quoted(column))

    def ticks(self, span: timedelta) -> int:
        return span // timedelta(microseconds=1) * (1000 if self.nanoseconds else 1)


def _refuse_missing(history: History, types: Mapping[str, str]) -> None:
    for _, theirs in history.keys:
        if theirs not in types:
            raise ColumnMissing(f"no column {theirs!r} to join on", history.files)
    for column in (history.event, history.created):
        if column and column not in types:
            raise ColumnMissing(f"no column {column!r} that says when a row is from", history.files)


def _literal(at: datetime) -> str:
    return f"TIMESTAMPTZ '{(at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat(sep=' ')}'"


def _happened(history: History, clock: _Clock) -> str:
    """The narrow columns of a history: keys, when it happened, when it was known, where it lies."""
    keys = "".join(f"{quoted(theirs)} AS k{i}, " for i, (_, theirs) in enumerate(history.keys))
    learned = clock.read(history.created) if history.created else "CAST(NULL AS BIGINT)"
    return f"""
        SELECT {keys}{clock.read(history.event)} AS event, {learned} AS learned, "{PLACE}" AS place
        FROM {history.relation}"""


def _fingerprint(connection: duckdb.DuckDBPyConnection) -> tuple[int, int | None]:
    """What two tables `happened` share if, and but for one chance in 2⁶⁴ only if, they hold the same rows."""
    ((rows, hashes),) = connection.sql("SELECT count(*), sum(hash(h)) FROM happened h").fetchall()
    return rows, hashes


def _seen(history: History, clock: _Clock, *, known_only: bool) -> str:
    """The join: an ASOF on the moment a row became known, over rows that were news when they did.

    A row that became known when a newer one of its entity already was can never be the newest, nor inside its
    lifetime when that one is not. What is left is in the order of both times at once.
    """
    keys = range(len(history.keys))
    group = f"PARTITION BY {', '.join(f'k{i}' for i in keys)} " if keys else ""
    by_learned = known_only and history.created is not None
    known = "greatest(event, learned)" if by_learned else "event"
    equal = "".join(f"l.k{i} = n.k{i} AND " for i in keys)
    alive = f" WHERE n.event >= l.moment - {clock.ticks(history.lifetime)}" if history.lifetime else ""
    return f"""
        WITH ranked AS (
            SELECT *, {known} AS known,
              row_number() OVER ({group}ORDER BY event, learned NULLS FIRST, place) AS rank
            FROM happened WHERE event IS NOT NULL{" AND learned IS NOT NULL" if by_learned else ""}),
        news AS (
            SELECT * FROM ranked
            WINDOW known_first AS ({group}ORDER BY known, rank)
            QUALIFY rank = max(rank) OVER known_first AND lead(known) OVER known_first IS DISTINCT FROM known)
        SELECT l.row_id, n.place, n.event
        FROM (SELECT * REPLACE ({clock.of("moment")} AS moment) FROM labels) l
        ASOF JOIN news n ON {equal}l.moment >= n.known{alive}"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
