"""The gate in the pipeline: which computed files have passed, and what may go further."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from feature_repo.compute import offline_path
from feature_repo.contracts import contract
from feature_repo.declarations import Declarations, FeatureTable
from feature_repo.planning import SET_ASIDE
from registry import GateRecord, Registry
from validations.contracts import contract_digest
from validations.expectations import TableContract
from validations.gate import Reference, check, read_table
from validations.history import GateHistory
from validations.quarantine import (
    REASONS,
    ROW,
    SetAside,
    file_digest,
    read_quarantine,
    sift,
    write_quarantine,
)
from validations.report import GateReport


class GateFailed(RuntimeError):
    """Computed tables broke their contracts: nothing of them goes further."""

    def __init__(self, reports: tuple[GateReport, ...]) -> None:
        self.reports = reports
        lines = [
            line for report in reports for line in (report.summary, *(f"  {f}" for f in report.findings[:5]))
        ]
        super().__init__("\n".join(lines))


class NotValidated(RuntimeError):
    """A computed file has not passed the gate in the state it is in now."""

    def __init__(self, tables: Iterable[str], as_of: datetime) -> None:
        names = ", ".join(tables)
        super().__init__(
            f"{names} as of {as_of.isoformat()}: no passed gate report for the files as they are. Run "
            f"`matinee features validate --as-of {as_of.date()}` first; the previous snapshot stays live."
        )


@dataclass(frozen=True)
class _Inquiry:
    """What every look at one computed file has in common."""

    contract: TableContract
    as_of: datetime
    docs: Path | None
    reference: Reference | None
    at: datetime

    @property
    def bound(self) -> datetime:
        """Rows carry `as_of` itself: what lies after it is from the future."""
        return self.as_of + timedelta(microseconds=1)

    def of(self, path: Path, aside: SetAside | None) -> GateReport:
        """The verdict on a file, of which rows may have been set aside."""
        report = check(
            self.contract, path, as_of=self.bound, docs=self.docs, reference=self.reference, aside=aside, at=self.at
        )  # fmt: skip
        return replace(report, as_of=self.as_of)


@dataclass(frozen=True)
class Gatekeeper:
    """Checks computed files against their contracts and remembers, by content, which have passed."""

    folder: Path
    offline: Path
    declarations: Declarations
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def check(
        self, table: FeatureTable, as_of: datetime, *, docs: bool = False, reference: Reference | None = None
    ) -> GateReport | None:
        """Hold one computed file against its contract; None when these very bytes passed before.

        Where the table allows it, a few rows that break the contract are set aside: the file is replaced by one
        without them, which is what passes, and they are kept with their reasons at `quarantined(table, as_of)`.

        A pass stands: it is not taken back when another model becomes champion and so the reference changes.
        """
        path = offline_path(self.offline, table.name, as_of)
        seen = _digest(path)
        if self._passed().get(self._key(table, as_of)) == _fingerprint(table, seen):
            return None
        inquiry = _Inquiry(contract(table), as_of, self.docs if docs else None, reference, self.clock())
        before = read_quarantine(inquiry.contract, self.quarantined(table.name, as_of), path)
        report = inquiry.of(path, before)
        still = report.digest == seen  # else someone wrote the file while it was read
        if still and not report.passed and before is None:
            report = self._without_rows(table, inquiry, path) or report
        if still and report.passed and not report.quarantined:
            self.quarantined(table.name, as_of).unlink(missing_ok=True)  # of a file that is no longer there
        GateHistory(self.history).append(report)
        self._remember(table, as_of, report.digest if still and report.passed else None)
        return report

    def _without_rows(self, table: FeatureTable, inquiry: _Inquiry, path: Path) -> GateReport | None:
        """Set aside the rows at fault, if there are few enough and the rest passes; None changes nothing.

        What is checked are the bytes that replace the file. The rows are on disk before they leave it: a crash in
        between leaves both, and the next run comes to the same end.
        """
        whole = read_table(path)
        sifted = sift(inquiry.contract, whole, inquiry.bound)
        if sifted is None:
            return None
        rest = path.with_suffix(f".sifted-{os.getpid()}")
        told = {**(whole.schema.metadata or {}), SET_ASIDE.encode(): str(sifted.aside.rows.num_rows).encode()}
        try:
            pq.write_table(sifted.kept.replace_schema_metadata(told), rest)
            report = inquiry.of(rest, sifted.aside)
            if not report.passed:
                return inquiry.of(path, None)  # so that the page shows it whole
            write_quarantine(self.quarantined(table.name, inquiry.as_of), sifted.aside, report.digest)
            rest.replace(path)
        finally:
            rest.unlink(missing_ok=True)
        return report

    def quarantined(self, table: str, as_of: datetime) -> Path:
        """Where the rows that were set aside of one computed file are kept."""
        return offline_path(self.folder / "quarantine", table, as_of)

    def set_aside(self) -> Iterator[dict[str, Any]]:
        """Every row set aside of the files as they are now: table, as_of, key, row, reasons; by table and `as_of`."""
        for table in self.declarations.stored:
            expected = contract(table)
            for path in sorted((self.folder / "quarantine" / table.name).glob("as_of=*.parquet")):
                aside = read_quarantine(expected, path, self.offline / table.name / path.name)
                for row in aside.rows.to_pylist() if aside else ():
                    yield {
                        "table": table.name,
                        "as_of": _as_of(path),
                        "key": [row[name] for name in expected.key],
                        "row": row[ROW],
                        "reasons": row[REASONS],
                    }

    @property
    def history(self) -> Path:
        """Every verdict, a JSON line each."""
        return self.folder / "history"

    @property
    def docs(self) -> Path:
        """Data Docs; open `index.html`."""
        return self.folder / "docs"

    def has_passed(self, table: FeatureTable, as_of: datetime) -> bool:
        """Whether the computed file, byte for byte as it is now, has passed the contract as it is now."""
        digest = _digest(offline_path(self.offline, table.name, as_of))
        return bool(self._passed().get(self._key(table, as_of)) == _fingerprint(table, digest))

    def require(self, as_of: datetime) -> None:
        """Raise `NotValidated` unless every stored table of `as_of` passed, byte for byte as it is now."""
        missing = [t.name for t in self.declarations.stored if not self.has_passed(t, as_of)]
        if missing:
            raise NotValidated(missing, as_of)

    def _key(self, table: FeatureTable, as_of: datetime) -> str:
        return f"{table.name}@{as_of.isoformat()}"

    def _passed(self) -> dict[str, str]:
        path = self.folder / "passed.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _remember(self, table: FeatureTable, as_of: datetime, digest: str | None) -> None:
        """Which bytes of a table passed, or that none did."""
        known = self._passed()
        known.pop(self._key(table, as_of), None)
        if digest:
            known[self._key(table, as_of)] = _fingerprint(table, digest)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "passed.json.partial"
        partial.write_text(json.dumps(known, indent=1, sort_keys=True))
        partial.replace(self.folder / "passed.json")


def _digest(path: Path) -> str:
    return file_digest(path) if path.exists() else "absent"


def _fingerprint(table: FeatureTable, digest: str) -> str:
    """What a pass is of: a file's bytes, and what was expected of them."""
    return f"{digest[:32]}/{contract_digest(contract(table))[:32]}"


def _as_of(path: Path) -> datetime:
    """The moment that `offline_path` wrote into a file's name."""
    return datetime.strptime(path.name, "as_of=%Y-%m-%dT%H%M%SZ.parquet").replace(tzinfo=UTC)


def record_gate(registry: Registry, report: GateReport, as_of: datetime, source: str) -> None:
    """Put a gate's verdict into the ledger, where promotion looks for it."""
    findings = [finding.to_dict() for finding in report.findings]
    registry.record_gate(GateRecord(report.table, as_of, report.passed, findings, source=source))


def gate_note(reports: Sequence[GateReport]) -> str:
    """What a person should know of tables that passed, in a line."""
    said = [f"{sum(r.evaluated for r in reports):,} expectations on {len(reports)} tables met"]
    if warned := sum(finding.severity == "warning" for report in reports for finding in report.findings):
        said.append(f"{warned} warnings")
    if aside := sum(report.quarantined for report in reports):
        said.append(f"{aside:,} rows set aside")
    if not any(report.reference for report in reports):
        said.append("drift not measured, as no champion learned from earlier tables")
    return "; ".join(said)
