"""Rows that break their contract, set aside with reasons, so that a few of them need not stop a whole table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from validations.checks import OfType, Rule, describe
from validations.expectations import NullShare, TableContract
from validations.inspection import (
    Cells,
    Offence,
    cells_of,
    count,
    named_by_key,
    require_distinct_columns,
    shared_keys,
    suspects,
    uniqueness,
)
from validations.report import SAMPLE_SIZE, Finding, Sample

ROW, REASONS = "_row", "_reasons"
_PASSED = b"matinee_passed"
REASON = pa.struct([("column", pa.string()), ("expectation", pa.string()), ("value", pa.string())])


@dataclass(frozen=True)
class Reason:
    """What one row does not meet; `value` is the cell as text, None where it is null."""

    column: str
    expectation: str
    value: str | None


@dataclass(frozen=True)
class SetAside:
    """Rows taken out of a table, as they were, with `_row` (where each stood) and `_reasons`."""

    rows: pa.Table
    findings: tuple[Finding, ...]  # warnings: what they were taken out for, by column and expectation


@dataclass(frozen=True)
class Sifted:
    """A table without the rows set aside, and those rows."""

    kept: pa.Table
    aside: SetAside


def sift(contract: TableContract, table: pa.Table, as_of: datetime) -> Sifted | None:
    """Set aside the rows of `table` that break the contract, where it allows that and they are few enough.

    A row is at fault where a cell of it is: out of its range or set, not finite, from the future, null where null
    is never allowed, or where it shares its key (then every row that does: which of them is right is unknown). A
    wrong type, a missing column or too many nulls are the table's fault, and none of its rows'.

    Returns:
        None where the contract declares no quarantine, no row is at fault, or more rows are than it allows.
    """
    require_distinct_columns(contract.table, table)
    if contract.quarantine is None or not table.num_rows:
        return None
    most = contract.quarantine.at_most * table.num_rows
    with cells_of(contract, table) as cells:
        offences = [one for one in suspects(cells, contract, as_of) if at_fault(one.check.rule)]
        counts = count(cells, offences) if offences else ()
        duplicates, _ = shared_keys(cells, contract)
        if max((*counts, len(duplicates))) > most:
            return None
        found = [one for one, times in zip(offences, counts, strict=True) if times]
        reasons = _reasons(cells, contract, found, duplicates)
        if not reasons or len(reasons) > most:
            return None
    return _parted(contract, table, reasons)


def write_quarantine(path: Path, aside: SetAside, passed: str) -> None:
    """Keep the rows set aside, with the digest of the file that is left without them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".partial-{os.getpid()}")
    told = {**(aside.rows.schema.metadata or {}), _PASSED: passed.encode()}
    pq.write_table(aside.rows.replace_schema_metadata(told), partial)
    partial.replace(path)


def read_quarantine(contract: TableContract, path: Path, of: Path) -> SetAside | None:
    """What was set aside of the file `of`; None where nothing was, or where it has been replaced since."""
    if not path.exists() or not of.exists():
        return None
    rows = pq.read_table(path, partitioning=None)
    if rows.schema.metadata[_PASSED].decode() != file_digest(of):
        return None
    return _told(contract, rows, rows.num_rows + pq.read_metadata(of).num_rows)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes (64 hex digits)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_fault(rule: Rule) -> bool:
    """Whether it is a row's own fault that it breaks this rule."""
    match rule:
        case OfType():
            return False
        case NullShare(at_most):
            return at_most == 0
        case _:
            return True


def _reasons(
    cells: Cells, contract: TableContract, offences: list[Offence], duplicates: list[int]
) -> Mapping[int, list[Reason]]:
    """Row → everything it breaks, rows ascending."""
    found: dict[int, list[Reason]] = {}
    for one in offences:
        cells.connection.register("narrow", cells.table.select(["row_number", one.column.cell]))
        query = f"SELECT row_number, CAST({one.column.cell} AS VARCHAR) FROM narrow WHERE {one.predicate}"
        for row, value in cells.connection.execute(query).fetchall():
            reason = Reason(one.check.column, describe(one.check.rule), value)
            found.setdefault(row, []).append(reason)
    keys = named_by_key(cells, duplicates)
    for row in duplicates:
        reason = Reason(", ".join(contract.key), uniqueness(contract), ", ".join(map(str, keys[row])))
        found.setdefault(row, []).append(reason)
    return dict(sorted(found.items()))


def _parted(contract: TableContract, table: pa.Table, reasons: Mapping[int, list[Reason]]) -> Sifted:
    rows = np.fromiter(reasons, dtype=np.int64, count=len(reasons))
    keep = np.ones(table.num_rows, dtype=bool)
    keep[rows] = False
    why = pa.array([[vars(reason) for reason in broken] for broken in reasons.values()], pa.list_(REASON))
    aside = table.take(pa.array(rows)).append_column(ROW, pa.array(rows)).append_column(REASONS, why)
    return Sifted(table.filter(pa.array(keep)), _told(contract, aside, table.num_rows))


def _told(contract: TableContract, aside: pa.Table, of: int) -> SetAside:
    """The rows with a warning for each column and expectation that they were taken out for, of `of` rows."""
    keys = [aside[name].to_pylist() for name in contract.key if name in aside.column_names]
    by_rule: dict[tuple[str, str], list[Sample]] = {}
    for row, broken, *key in zip(aside[ROW].to_pylist(), aside[REASONS].to_pylist(), *keys, strict=True):
        named = tuple(part if part is None or isinstance(part, int) else str(part) for part in key)
        for reason in broken:
            sample = Sample(row, named, reason["value"])
            by_rule.setdefault((reason["column"], reason["expectation"]), []).append(sample)
    findings = (
        Finding(
            column,
            expectation=expectation,
            observed=f"{len(found):,} of {of:,} rows set aside",
            severity="warning",
            unexpected_count=len(found),
            unexpected_share=len(found) / of,
            sample=tuple(found[:SAMPLE_SIZE]),
        )
        for (column, expectation), found in by_rule.items()
    )
    return SetAside(aside, tuple(findings))
