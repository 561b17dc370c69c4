"""The gate: a table goes further only if it is what its contract says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from validations.checks import describe
from validations.contracts import contract_digest
from validations.docs import GREAT_EXPECTATIONS, write_page
from validations.drift import Drift, comparable_columns, drift_findings, drifts, limits_of
from validations.expectations import TableContract
from validations.inspection import inspection_from_json, require_distinct_columns
from validations.quarantine import SetAside, file_digest
from validations.report import Finding, GateReport
from validations.run import run_suite


class GateBroken(RuntimeError):
    """An expectation could not be evaluated: the table has neither passed nor failed."""

    def __init__(self, table: str, expectation: str, reason: str) -> None:
        super().__init__(f"gate of {table!r} could not evaluate {expectation}: {reason}")


@dataclass(frozen=True)
class Reference:
    """What drift is measured from: an earlier table of the same contract, and what people should call it."""

    name: str
    data: Path | pa.Table


def check(
    contract: TableContract,
    data: Path | pa.Table,
    *,
    as_of: datetime,
    docs: Path | None = None,
    reference: Reference | None = None,
    aside: SetAside | None = None,
    at: datetime | None = None,
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
        reference: columns that drifted from it are findings, of the severity that the contract declares.
        aside: `data` is what is left of a larger table, and this is what was taken out; it is told as warnings.
        at: when this is, for the report.

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
    site = docs / GREAT_EXPECTATIONS if docs else None
    results = _results(contract, run_suite(contract, table, as_of.astimezone(UTC), site))
    inspection = inspection_from_json(results["expect_cells_to_meet_contract"]["details"]["inspection"])
    findings = (
        *_row_count(contract, results["expect_table_row_count_to_be_between"]["observed_value"]),
        *_columns(contract, results["expect_table_columns_to_match_set"].get("details", {})),
        *inspection.findings,
        *_drifted(contract, table, reference),
        *(aside.findings if aside else ()),
    )
    report = GateReport(
        table=contract.table,
        as_of=as_of.astimezone(UTC),
        contract_digest=contract_digest(contract),
        rows=table.num_rows,
        passed=all(finding.severity != "error" for finding in findings),
        findings=findings,
        elapsed_seconds=time.perf_counter() - started,
        evaluated=2 + inspection.evaluated,
        at=at,
        digest="" if isinstance(data, pa.Table) or data.is_dir() else file_digest(data),
        reference=reference.name if reference else "",
        quarantined=aside.rows.num_rows if aside else 0,
        null_shares={profile.name: profile.null_share for profile in inspection.profiles},
    )
    if docs:
        write_page(docs, contract, report, inspection, table)
    return report


def _drifted(contract: TableContract, table: pa.Table, reference: Reference | None) -> Iterator[Finding]:
    """Findings of drift, for the columns besides the key that are numbers in both tables."""
    if reference is None:
        return
    if isinstance(reference.data, Path) and not reference.data.exists():
        yield Finding(
            "(drift)", f"a file of {reference.name}", "none: drift was not measured", severity="warning"
        )
    else:
        yield from drift_findings(drift_from(contract, table, reference), limits_of(contract))


def drift_from(contract: TableContract, table: pa.Table, reference: Reference) -> tuple[Drift, ...]:
    """How far each column has moved, in the contract's order; nothing where either table has no rows."""
    data = reference.data
    before = data if isinstance(data, pa.Table) else read_table(data)
    if not before.num_rows or not table.num_rows:
        return ()  # the number of rows is a finding of its own
    return drifts(before, table, comparable_columns(contract, before, table), limits_of(contract))


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
