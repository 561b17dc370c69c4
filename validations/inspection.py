"""A table held against its contract: a first pass profiles every column, a second counts offenders.

The first learns counts, minima and maxima, which clear most checks of a healthy table at a cost
that hardly depends on how many there are. Only what they leave under suspicion is counted cell by cell.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from validations.checks import Check, Column, OfType, Profile, checks, cleared, describe, observe, offends
from validations.expectations import NUMBERS, DType, TableContract
from validations.report import SAMPLE_SIZE, Finding, Sample

FIRST_ROWS = 4096
"""Where samples of what offends are looked for first."""

AT_ONCE = 64
"""Aggregates in one query."""

_WHOLE_NUMBERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})


class AmbiguousColumns(ValueError):
    """A table has several columns of one name, so that no statement about them means anything."""

    def __init__(self, table: str, names: Sequence[str]) -> None:
        super().__init__(f"table {table!r} has several columns called {', '.join(map(repr, names))}.")


@dataclass(frozen=True)
class Inspection:
    """Everything learned of a table's cells: what offends, and what each column looks like."""

    evaluated: int
    findings: tuple[Finding, ...]
    profiles: tuple[Profile, ...]


def inspection_to_json(inspection: Inspection) -> str:
    """The inspection as JSON text, NaN and infinities as Python writes them; `inspection_from_json` reads it."""
    return json.dumps(
        {
            "evaluated": inspection.evaluated,
            "findings": [finding.to_dict() for finding in inspection.findings],
            "profiles": [vars(profile) for profile in inspection.profiles],
        },
        ensure_ascii=False,
    )


def inspection_from_json(text: str) -> Inspection:
    """Rebuild what `inspection_to_json` wrote."""
    values = json.loads(text)
    return Inspection(
        values["evaluated"],
        tuple(map(Finding.from_dict, values["findings"])),
        tuple(Profile(**{**one, "dtype": DType(one["dtype"])}) for one in values["profiles"]),
    )


@dataclass(frozen=True)
class Offence:
    """A check that its column's profile could not clear, and the SQL that is true for what it forbids."""

    check: Check
    column: Column
    predicate: str


@dataclass(frozen=True)
class Cells:
    """The table inside DuckDB, its columns called c0, c1, … so that no name needs quoting."""

    connection: duckdb.DuckDBPyConnection
    table: pa.Table
    columns: Mapping[str, Column]  # the declared ones that are there
    key: tuple[Column, ...]  # as much of the key as is there

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return int(self.table.num_rows)

    def answer(self, asked: Sequence[tuple[Column, str]], rows: slice = slice(None)) -> tuple[Any, ...]:
        """Each expression over its column (and `row_number`), aggregated over some or all rows of the table.

        A few at a time, of a table that has no other columns: DuckDB's plan costs by the square of what it holds,
        and 550 aggregates in one query took twice as long as these.
        """
        answers: list[Any] = []
        for first in range(0, len(asked), AT_ONCE):
            some = asked[first : first + AT_ONCE]
            names = ["row_number", *dict.fromkeys(column.cell for column, _ in some)]
            self.connection.register("looked_at", self.table.select(names)[rows])
            query = f"SELECT {', '.join(expression for _, expression in some)} FROM looked_at"
            (row,) = self.connection.execute(query).fetchall()
            answers.extend(row)
        return tuple(answers)


def inspect(contract: TableContract, table: pa.Table, as_of: datetime) -> Inspection:
    """Hold every cell of `table` against `contract`; missing and extra columns are not looked at.

    Args:
        contract: what is expected.
        table: the data; it is read in place.
        as_of: exclusive upper bound of the contract's `not_after` columns, with a time zone.

    Raises:
        AmbiguousColumns: if two columns of the table have one name.
    """
    require_distinct_columns(contract.table, table)
    with cells_of(contract, table) as cells:
        profiles = _profile(cells)
        due = [check for check in checks(contract, as_of) if check.column in cells.columns]
        findings = (*_violations(cells, due, profiles), *_duplicates(cells, contract))
        evaluated = len(due) + (1 if len(cells.key) == len(contract.key) else 0)
        return Inspection(evaluated, findings, tuple(profiles.values()))


def require_distinct_columns(name: str, table: pa.Table) -> None:
    """Raise `AmbiguousColumns` if two columns of the table called `name` have one name."""
    twice = sorted(column for column, times in Counter(table.column_names).items() if times > 1)
    if twice:
        raise AmbiguousColumns(name, twice)


@contextmanager
def cells_of(contract: TableContract, table: pa.Table) -> Iterator[Cells]:
    """The table inside DuckDB for as long as it takes to ask about it; it is read in place."""
    numbered = table.rename_columns([f"c{i}" for i in range(table.num_columns)])
    numbered = numbered.append_column("row_number", pa.array(np.arange(table.num_rows, dtype=np.int64)))
    place = {name: i for i, name in enumerate(table.column_names)}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cells", numbered)
        types = [row[1] for row in connection.execute("DESCRIBE cells").fetchall()]
        columns = {
            column.name: Column(column, found=types[place[column.name]], cell=f"c{place[column.name]}")
            for column in contract.columns
            if column.name in place
        }
        key = tuple(columns[name] for name in contract.key if name in columns)
        yield Cells(connection, numbered, columns, key)


def suspects(cells: Cells, contract: TableContract, as_of: datetime) -> list[Offence]:
    """The checks that the columns' profiles do not clear."""
    profiles = _profile(cells)
    due = [check for check in checks(contract, as_of) if check.column in cells.columns]
    return _suspects(cells, due, profiles)


def _suspects(cells: Cells, due: Sequence[Check], profiles: Mapping[str, Profile]) -> list[Offence]:
    return [
        Offence(check, cells.columns[check.column], offends(check.rule, cells.columns[check.column]))
        for check in due
        if not cleared(check.rule, profiles[check.column])
    ]


def _profile(cells: Cells) -> dict[str, Profile]:
    """Counts, minima and maxima of every column, in one query."""
    asked = [
        (column, expression)
        for column in cells.columns.values()
        for expression in (f"count({column.cell})", *_extremes(column))
    ]
    answers = iter(cells.answer(asked))
    return {
        name: Profile(
            name,
            dtype=column.contract.dtype,
            found=column.found,
            rows=cells.rows,
            nulls=cells.rows - next(answers),
            low=next(answers),
            high=next(answers),
        )
        for name, column in cells.columns.items()
    }


def _extremes(column: Column) -> tuple[str, str]:
    match column.contract.dtype:
        case DType.TIMESTAMP:
            return f"epoch_us(min({column.value}))", f"epoch_us(max({column.value}))"
        case dtype if dtype in NUMBERS:
            return f"min({column.value})", f"max({column.value})"
        case _:
            return "NULL", "NULL"


def count(cells: Cells, offences: Sequence[Offence]) -> tuple[int, ...]:
    """How many cells each of them forbids, in one query."""
    return cells.answer([(one.column, f"coalesce(count_if({one.predicate}), 0)") for one in offences])


def _violations(cells: Cells, due: Sequence[Check], profiles: Mapping[str, Profile]) -> list[Finding]:
    """Count what the profiles could not clear, in one query; what then offends becomes a finding."""
    offences = _suspects(cells, due, profiles)
    if not offences:
        return []
    counts = count(cells, offences)
    # A wrong type is wrong even if every cell could be cast.
    found = [
        (one, count)
        for one, count in zip(offences, counts, strict=True)
        if count or isinstance(one.check.rule, OfType)
    ]
    samples = _samples(cells, [one for one, _ in found])
    return [
        Finding(
            one.check.column,
            expectation=describe(one.check.rule),
            observed=observe(one.check.rule, profiles[one.check.column], count),
            unexpected_count=count,
            unexpected_share=_share(count, cells.rows),
            sample=sample,
        )
        for (one, count), sample in zip(found, samples, strict=True)
    ]


def _duplicates(cells: Cells, contract: TableContract) -> list[Finding]:
    """The finding that several rows share a key, if they do; a key with a null in it equals no other."""
    rows, keys = shared_keys(cells, contract)
    if not rows:
        return []
    named = named_by_key(cells, rows[:SAMPLE_SIZE])
    texts = texts_of(cells, cells.key, [rows[:SAMPLE_SIZE]] * len(cells.key))
    return [
        Finding(
            ", ".join(contract.key),
            expectation=uniqueness(contract),
            observed=f"{len(rows):,} of {cells.rows:,} rows share {keys:,} keys",
            unexpected_count=len(rows),
            unexpected_share=_share(len(rows), cells.rows),
            sample=tuple(
                Sample(row, named[row], ", ".join(map(str, shown)))
                for row, *shown in zip(rows[:SAMPLE_SIZE], *texts, strict=True)
            ),
        )
    ]


def uniqueness(contract: TableContract) -> str:
    """What is expected of a key, in words."""
    return "unique together" if len(contract.key) > 1 else "unique"


def shared_keys(cells: Cells, contract: TableContract) -> tuple[list[int], int]:
    """The rows whose key is not theirs alone, ascending, and how many keys they share.

    Asked of the key's columns alone: DuckDB's plan of a scan costs by the columns it could read.
    """
    if len(cells.key) < len(contract.key) or not cells.key:
        return [], 0
    names = ["row_number", *dict.fromkeys(column.cell for column in cells.key)]
    cells.connection.register("narrow", cells.table.select(names))
    key = ", ".join(column.cell for column in cells.key)
    complete = " AND ".join(f"{column.cell} IS NOT NULL" for column in cells.key)
    shared = f"SELECT {key} FROM narrow WHERE {complete} GROUP BY ALL HAVING count(*) > 1"
    ((keys,),) = cells.connection.execute(f"SELECT count(*) FROM ({shared})").fetchall()
    if not keys:
        return [], 0
    found = cells.connection.execute(
        f"SELECT row_number FROM narrow WHERE ({key}) IN ({shared}) ORDER BY row_number"
    ).fetchall()
    return [row for (row,) in found], keys


def _samples(cells: Cells, offences: Sequence[Offence]) -> list[tuple[Sample, ...]]:
    """For each, the first rows it forbids, in the table's order, with what offends in them.

    However many there are, they are found together: most within the first rows, the rest in one more pass.
    """
    rows: list[list[int]] = [[] for _ in offences]
    for part in (slice(0, FIRST_ROWS), slice(FIRST_ROWS, None)):
        lacking = [i for i, found in enumerate(rows) if len(found) < SAMPLE_SIZE]
        if lacking and cells.table[part].num_rows:
            first = [(offences[i].column, _first_rows(offences[i].predicate)) for i in lacking]
            for i, more in zip(lacking, cells.answer(first, part), strict=True):
                rows[i] = [*rows[i], *(more or ())][:SAMPLE_SIZE]
    keys = named_by_key(cells, sorted({row for found in rows for row in found}))
    texts = texts_of(cells, [one.column for one in offences], rows)
    return [
        tuple(Sample(row, keys[row], text) for row, text in zip(found, values, strict=True))
        for found, values in zip(rows, texts, strict=True)
    ]


def _first_rows(predicate: str) -> str:
    """SQL of the first rows for which it is true. Not by FILTER: 550 filtered aggregates took half a minute."""
    return f"min(CASE WHEN {predicate} THEN row_number END, {SAMPLE_SIZE})"


def named_by_key(cells: Cells, rows: Sequence[int]) -> dict[int, tuple[int | str | None, ...]]:
    """Row → its key: whole numbers as they are, anything else as text."""
    shown = [
        column.cell if column.found in _WHOLE_NUMBERS else f"CAST({column.cell} AS VARCHAR)"
        for column in cells.key
    ]
    names = ["row_number", *dict.fromkeys(column.cell for column in cells.key)]
    cells.connection.register("named", cells.table.select(names).take(pa.array(rows, pa.int64())))
    found = cells.connection.execute(f"SELECT {', '.join(('row_number', *shown))} FROM named").fetchall()
    return {row: tuple(key) for row, *key in found}


def texts_of(
    cells: Cells, columns: Sequence[Column], rows: Sequence[Sequence[int]]
) -> list[list[str | None]]:
    """The cells of each column in its rows, as text; one query for each type of column there is."""
    texts: list[list[str | None]] = [[] for _ in columns]
    by_type: dict[pa.DataType, list[int]] = {}
    for i, column in enumerate(columns):
        by_type.setdefault(cells.table.schema.field(column.cell).type, []).append(i)
    for dtype, members in by_type.items():
        taken = [cells.table[columns[i].cell].take(pa.array(rows[i], pa.int64())) for i in members]
        pieces = [chunk for column in taken for chunk in column.chunks]
        cells.connection.register("taken", pa.table({"cell": pa.chunked_array(pieces, dtype)}))
        shown = cells.connection.execute("SELECT CAST(cell AS VARCHAR) FROM taken").fetchall()
        values = iter(text for (text,) in shown)
        for i in members:
            texts[i] = list(islice(values, len(rows[i])))
    return texts


def _share(count: int, rows: int) -> float | None:
    return count / rows if rows else None
