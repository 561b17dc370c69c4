"""Rows that break their contract, set aside with reasons, so that a few of them need not stop a whole table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

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
REASON = pa.struct([("column", pa.string()), ("expectation", pa.string()), ("value", pa.string())])


@dataclass(frozen=True)
class Reason:
    """What one row does not meet; `value` is the cell as text, None where it is null."""

    column: str
    expectation: str
    value: str | None


@dataclass(frozen=True)
class Sifted:
    """A table without the rows set aside, and those rows with `_row` (where each stood) and `_reasons`."""

    kept: pa.Table
    aside: pa.Table
    findings: tuple[Finding, ...]  # warnings: what was set aside, by column and expectation


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
        findings = tuple(_findings(cells, reasons))
    return _parted(table, reasons, findings)


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


def _findings(cells: Cells, reasons: Mapping[int, list[Reason]]) -> Iterator[Finding]:
    """A warning for each column and expectation that rows were set aside for."""
    by_rule: dict[tuple[str, str], list[tuple[int, str | None]]] = {}
    for row, broken in reasons.items():
        for reason in broken:
            by_rule.setdefault((reason.column, reason.expectation), []).append((row, reason.value))
    keys = named_by_key(cells, list(reasons))
    for (column, expectation), found in by_rule.items():
        yield Finding(
            column,
            expectation=expectation,
            observed=f"{len(found):,} of {cells.rows:,} rows set aside",
            severity="warning",
            unexpected_count=len(found),
            unexpected_share=len(found) / cells.rows,
            sample=tuple(Sample(row, keys[row], value) for row, value in found[:SAMPLE_SIZE]),
        )


def _parted(table: pa.Table, reasons: Mapping[int, list[Reason]], findings: tuple[Finding, ...]) -> Sifted:
    rows = np.fromiter(reasons, dtype=np.int64, count=len(reasons))
    keep = np.ones(table.num_rows, dtype=bool)
    keep[rows] = False
    told = pa.array([[vars(reason) for reason in broken] for broken in reasons.values()], pa.list_(REASON))
    aside = table.take(pa.array(rows)).append_column(ROW, pa.array(rows)).append_column(REASONS, told)
    return Sifted(table.filter(pa.array(keep)), aside, findings)
