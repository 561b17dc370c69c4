"""The gate in the pipeline: which computed files have passed, and what may go further."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from feature_repo.compute import offline_path
from feature_repo.contracts import contract
from feature_repo.declarations import Declarations, FeatureTable
from registry import GateRecord, Registry
from validations.contracts import contract_digest
from validations.gate import check
from validations.history import GateHistory
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
class Gatekeeper:
    """Checks computed files against their contracts and remembers, by content, which have passed."""

    folder: Path
    offline: Path
    declarations: Declarations

    def check(self, table: FeatureTable, as_of: datetime, *, docs: bool = False) -> GateReport | None:
        """Hold one computed file against its contract; None when these very bytes passed before."""
        path = offline_path(self.offline, table.name, as_of)
        passed = self._passed()
        if passed.get(self._key(table, as_of)) == self._fingerprint(table, path):
            return None
        # Rows carry `as_of` itself: what lies after it is from the future.
        report = check(
            contract(table), path, as_of=as_of + timedelta(microseconds=1), docs=self.docs if docs else None
        )
        GateHistory(self.folder / "history").append(report)
        self._remember(table, as_of, path, passed=report.passed)
        return report

    @property
    def docs(self) -> Path:
        """Data Docs; open `index.html`."""
        return self.folder / "docs"

    def has_passed(self, table: FeatureTable, as_of: datetime) -> bool:
        """Whether the computed file, byte for byte as it is now, has passed the contract as it is now."""
        path = offline_path(self.offline, table.name, as_of)
        return self._passed().get(self._key(table, as_of)) == self._fingerprint(table, path)

    def require(self, as_of: datetime) -> None:
        """Raise `NotValidated` unless every stored table of `as_of` passed, byte for byte as it is now."""
        passed = self._passed()
        missing = [
            t.name for t in self.declarations.stored
            if passed.get(self._key(t, as_of)) != self._fingerprint(t, offline_path(self.offline, t.name, as_of))
        ]  # fmt: skip
        if missing:
            raise NotValidated(missing, as_of)

    def _key(self, table: FeatureTable, as_of: datetime) -> str:
        return f"{table.name}@{as_of.isoformat()}"

    def _fingerprint(self, table: FeatureTable, path: Path) -> str:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"
        return f"{content[:32]}/{contract_digest(contract(table))[:32]}"

    def _passed(self) -> dict[str, str]:
        path = self.folder / "passed.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _remember(self, table: FeatureTable, as_of: datetime, path: Path, *, passed: bool) -> None:
        known = self._passed()
        known.pop(self._key(table, as_of), None)
        if passed:
            known[self._key(table, as_of)] = self._fingerprint(table, path)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "passed.json.partial"
        partial.write_text(json.dumps(known, indent=1, sort_keys=True))
        partial.replace(self.folder / "passed.json")


def record_gate(registry: Registry, report: GateReport, as_of: datetime, source: str) -> None:
    """Put a gate's verdict into the ledger, where promotion looks for it."""
    findings = [finding.to_dict() for finding in report.findings]
    registry.record_gate(GateRecord(report.table, as_of, report.passed, findings, source=source))
