"""The gate: a table goes further only if it is what its contract says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from validations.checks import describe
from validations.contracts import contract_digest
from validations.drift import drift_findings, drifts, has_numbers
from validations.expectations import DriftLimits, TableContract
from validations.inspection import require_distinct_columns
from validations.report import Finding, GateReport
from validations.run import run_suite


class GateBroken(RuntimeError):
    """An expectation could not be evaluated: the table has neither passed nor failed."""

    def __init__(self, table: str, expectation: str, reason: str) -> None:
        super().__init__(f"gate of {table!r} could not evaluate {expectation}: {reason}")


def check(
    contract: TableContract,
    data: Path | pa.Table,
    *,
    as_of: datetime,
    docs: Path | None = None,
    reference: Path | pa.Table | None = None,
    limits: DriftLimits | None = None,
) -> GateReport:
    """Hold a table against its contract and say what does not meet it.

    Besides what the contract declares, every float must be finite, keys are never null and unique
    together, and no `not_after` timestamp lies at or after `as_of`. `as_of` itself already counts as
    the future, so a snapshot whose rows carry their own `as_of` must not list that column there.

    Args:
        contract: what the table must be.
        data: an Arrow table, or a Parquet file or folder of them.
        as_of: exclusive upper bound of what may be known, with a time zone.
        docs: a folder for Data Docs (open `index.html`); runs add up there. None writes none.
        reference: an earlier table of this contract; columns that drifted from it are warned of, in
            the report alone. A warning does not stop a table.
        limits: how far a column may drift.

    Raises:
        ValueError: if `as_of` has no time zone.
        AmbiguousColumns: if two columns have one name.
        GateBroken: if an expectation could not be evaluated.
    """
    if as_of.tzinfo is None:
        raise ValueError(f"as_of {as_of.isoformat()} has no time zone; give it in UTC.")
    started = time.perf_counter()
    table = data if isinstance(data, pa.Table) else read_table(data)
    require_distinct_columns(contract.table, table)
    results = _results(contract, run_suite(contract, table, as_of.astimezone(UTC), docs))
    cells = results["expect_cells_to_meet_contract"]["details"]
    findings = (
        *_row_count(contract, results["expect_table_row_count_to_be_between"]["observed_value"]),
        *_columns(contract, results["expect_table_columns_to_match_set"].get("details", {})),
        *map(Finding.from_dict, cells["findings"]),
        *_drifted(contract, table, reference, limits or DriftLimits()),
    )
    return GateReport(
        table=contract.table,
        as_of=as_of.astimezone(UTC),
        contract_digest=contract_digest(contract),
        rows=table.num_rows,
        passed=all(finding.severity != "error" for finding in findings),
        findings=findings,
        elapsed_seconds=time.perf_counter() - started,
        evaluated=2 + cells["evaluated"],
    )


def _drifted(
    contract: TableContract, table: pa.Table, reference: Path | pa.Table | None, limits: DriftLimits
) -> Iterator[Finding]:
    """Warnings of drift, for the columns besides the key that are numbers in both tables."""
    if reference is None:
        return
    before = reference if isinstance(reference, pa.Table) else read_table(reference)
    if not before.num_rows or not table.num_rows:
        return  # the number of rows is a finding of its own
    names = [column.name for column in contract.columns if column.name not in contract.key]
    comparable = [name for name in names if has_numbers(before, name) and has_numbers(table, name)]
    yield from drift_findings(drifts(before, table, comparable, limits), limits)


def read_table(path: Path) -> pa.Table:
    """A Parquet file, or a folder of them as one table; folder names add no columns."""
    return pq.read_table(path, partitioning=None)


def _results(contract: TableContract, outcome: Any) -> dict[str, Mapping[str, Any]]:
    """What each expectation observed, by its type; Great Expectations keeps exceptions as results."""
    for result in outcome.results:
        kind, info = result.expectation_config.type, result.exception_info
        raised = [info] if "raised_exception" in info else list(info.values())
        reasons = [one["exception_message"] for one in raised if one["raised_exception"]]
        if reasons:
            raise GateBroken(contract.table, kind, "; ".join(reasons))
    return {result.expectation_config.type: result.result for result in outcome.results}


def _row_count(contract: TableContract, rows: int) -> Iterator[Finding]:
    low, high = contract.row_count.low, contract.row_count.high
    if (low is not None and rows < low) or (high is not None and rows > high):
        yield Finding("(rows)", describe(contract.row_count), observed=f"{rows:,} rows")


def _columns(contract: TableContract, details: Mapping[str, Any]) -> Iterator[Finding]:
    """Missing columns in the contract's order, then those nobody declared, by name."""
    mismatched = details.get("mismatched", {})
    missing = set(mismatched.get("missing", ()))
    for column in contract.columns:
        if column.name in missing:
            yield Finding(column.name, f"a {column.dtype} column", observed="no such column")
    for name in mismatched.get("unexpected", ()):
        yield Finding(name, "only declared columns", observed="a column the contract does not know")
