"""The lake: raw events as append-only Parquet, a folder a day; rows that break a rule go to quarantine.

`<root>/<table>/day=YYYY-MM-DD/part-<content digest>.parquet`, and beside it
`<quarantine>/<table>/part-<content digest>.parquet` with the rows as they came and a `reason`.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from events.checks import arrow_schema, required
from events.compaction import compact, to_read
from events.digests import content_digest, names_digest
from events.parts import by_day, day_folder, parts, write_part
from events.schema import TABLES
from events.sifting import sift
from validations.expectations import TableContract


class UnknownTable(LookupError):
    """There is no such event table."""

    def __init__(self, table: str) -> None:
        near = get_close_matches(table, TABLES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(TABLES)}."
        super().__init__(f"no event table {table!r}.{hint}")


class UnknownColumn(LookupError):
    """A batch has a column that its table has not."""

    def __init__(self, column: str, table: str, known: Collection[str]) -> None:
        near = get_close_matches(column, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It has: {', '.join(sorted(known))}."
        super().__init__(f"event table {table!r} has no column {column!r}.{hint}")


class MissingColumn(LookupError):
    """A batch lacks columns that may not be null."""

    def __init__(self, missing: Collection[str], table: str, needed: Collection[str]) -> None:
        super().__init__(
            f"a batch for {table!r} lacks {', '.join(missing)}. It needs at least: {', '.join(needed)}."
        )


class RowsRefused(ValueError):
    """Rows of a batch break a rule, and the batch is wanted whole. `refusals` are (line, reason), lines from 1."""

    def __init__(self, table: str, refusals: Sequence[tuple[int, str]]) -> None:
        self.refusals = tuple(refusals)
        shown = "".join(f"\n  line {line}: {reason}" for line, reason in self.refusals[:20])
        more = f"\n  and {len(self.refusals) - 20} more" if len(self.refusals) > 20 else ""
        super().__init__(f"nothing of this batch was taken, for these {table}:{shown}{more}")


@dataclass(frozen=True)
class Ingest:
    """What became of one batch: every row of it is in exactly one of the three counts.

    `repeated` rows were in the lake already, equal in every column: nothing was written for them.
    `reasons` counts the quarantined rows by the rule they broke ("position: out of range"); a row that
    broke two rules counts under both.
    """

    table: str
    accepted: int
    quarantined: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0


@dataclass(frozen=True)
class TableSummary:
    """One event table of a lake at a glance; the events' ends are null while it is empty."""

    table: str
    rows: int
    days: int
    parts: int
    first_event: datetime | None
    last_event: datetime | None
    bytes: int
    quarantined: int


@dataclass(frozen=True)
class Lake:
    """Raw events under `root`, refused rows under `quarantine`."""

    root: Path
    quarantine: Path

    def append(self, table: str, rows: pa.Table, *, received_at: datetime) -> Ingest:
        """Add the rows that keep the table's contract; quarantine the others, each with its reason.

        A row equal to one that is there already is counted and not written again, so a batch can be
        appended twice, or again after a crash half-way. Optional columns may be left out and become null.

        Raises:
            UnknownTable, UnknownColumn, MissingColumn: The batch cannot be meant for this table.
            ValueError: `received_at` has no time zone.
        """
        contract = _contract(table)
        _check_columns(contract, rows)
        if received_at.tzinfo is None:
            raise ValueError(f"received_at={received_at} has no time zone; times are UTC here.")
        with self._locked(table):
            sifted = sift(contract, rows, self._files(table), received_at)
            for day, slice_ in by_day(sifted.accepted) if sifted.accepted.num_rows else ():
                write_part(slice_, day_folder(self.root / table, day), content_digest(slice_))
            compact(self.root / table, parts(self.root / table))
            self._quarantine(table, sifted.refused, received_at)
        reasons = Counter(label for labels in sifted.refused["rules"].to_pylist() for label in labels)
        return Ingest(
            table, sifted.accepted.num_rows, sifted.refused.num_rows, dict(reasons), sifted.repeated
        )

    def checked(self, table: str, rows: pa.Table, *, received_at: datetime) -> pa.Table:
        """The batch in the table's own types, if `append` would quarantine nothing of it; nothing is written.

        Raises:
            RowsRefused: with every row that breaks a rule or contradicts the lake.
            UnknownTable, UnknownColumn, MissingColumn: as `append`.
        """
        contract = _contract(table)
        _check_columns(contract, rows)
        numbered = rows.append_column("line", pa.array(np.arange(1, rows.num_rows + 1)))
        refused = sift(contract, numbered, self._files(table), received_at).refused
        if refused.num_rows:
            lines, reasons = (refused[column].to_pylist() for column in ("line", "reason"))
            raise RowsRefused(table, list(zip(lines, reasons, strict=True)))
        return sift(contract, rows, (), received_at).accepted

    def register(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make one view per event table on `con`, named as the table, empty where no events are."""
        con.execute("SET TimeZone = 'UTC'")
        for table, contract in TABLES.items():
            con.execute(f"CREATE OR REPLACE VIEW {table} AS {_select(contract, self._files(table))}")

    def describe(self) -> tuple[TableSummary, ...]:
        """Rows, days and bytes of every table, in the schema's order."""
        return tuple(self._summary(table) for table in TABLES)

    def digest(self, table: str, before: datetime | None = None) -> str:
        """A digest of the table's parts, of days that begin before `before`: equal means nothing changed.

        It reads names, not rows. An event that reaches us late changes the digest of its day.
        """
        _contract(table)
        return names_digest(parts(self.root / table, before))

    def _files(self, table: str) -> list[Path]:
        """The files to read: the day parts, many small ones by their compact file."""
        return to_read(self.root / table, parts(self.root / table))

    def _quarantine(self, table: str, refused: pa.Table, received_at: datetime) -> None:
        if not refused.num_rows:
            return
        stamp = pa.array([received_at] * refused.num_rows, pa.timestamp("us", "UTC"))
        digest = content_digest(refused)  # without the stamp: the same rows twice are one part
        write_part(refused.append_column("received_at", stamp), self.quarantine / table, digest)

    @contextmanager
    def _locked(self, table: str) -> Iterator[None]:
        """One writer of a table at a time: a key is looked for and then written."""
        (self.root / table).mkdir(parents=True, exist_ok=True)
        with (self.root / table / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _summary(self, table: str) -> TableSummary:
        paths = parts(self.root / table)
        ends = [_ends(path) for path in to_read(self.root / table, paths)]
        refused = (self.quarantine / table).glob("part-*.parquet")
        return TableSummary(
            table=table,
            rows=sum(rows for rows, _, _ in ends),
            days=len({path.parent for path in paths}),
            parts=len(paths),
            first_event=min((first for _, first, _ in ends), default=None),
            last_event=max((last for _, _, last in ends), default=None),
            bytes=sum(path.stat().st_size for path in paths),
            quarantined=sum(pq.read_metadata(path).num_rows for path in refused),
        )


def _ends(path: Path) -> tuple[int, datetime, datetime]:
    """Rows, first and last event of a part, from its footer alone."""
    footer = pq.read_metadata(path)
    leaf = footer.schema.names.index("event_timestamp")
    groups = [footer.row_group(index).column(leaf).statistics for index in range(footer.num_row_groups)]
    first, last = min(group.min for group in groups), max(group.max for group in groups)
    return footer.num_rows, first.astimezone(UTC), last.astimezone(UTC)


def _contract(table: str) -> TableContract:
    if table not in TABLES:
        raise UnknownTable(table)
    return TABLES[table]


def _check_columns(contract: TableContract, rows: pa.Table) -> None:
    known = [column.name for column in contract.columns]
    for name in rows.column_names:
        if name not in known:
            raise UnknownColumn(name, contract.table, known)
    if missing := [name for name in required(contract) if name not in rows.column_names]:
        raise MissingColumn(missing, contract.table, required(contract))


def _select(contract: TableContract, paths: list[Path]) -> str:
    if not paths:
        typed = ", ".join(f'NULL::{column.dtype} AS "{column.name}"' for column in contract.columns)
        return f"SELECT {typed} WHERE false"
    names = ", ".join(f'"{field.name}"' for field in arrow_schema(contract))
    files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"SELECT {names} FROM read_parquet([{files}], hive_partitioning = false)"
