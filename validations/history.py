"""Every verdict the gate ever gave, one JSON line each, in a folder DuckDB can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from validations.report import GateReport


@dataclass(frozen=True)
class GateHistory:
    """Reports appended to `<folder>/<table>.jsonl`; nothing is ever rewritten.

    In SQL: `SELECT "table", as_of, passed, len(findings) FROM read_json('<folder>/*.jsonl')`.
    """

    folder: Path

    def append(self, report: GateReport) -> None:
        """Add a report, in one write, so that concurrent readers see whole lines."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
        with self._file(report.table).open("ab") as file:
            file.write(line.encode())

    def latest(self, table: str) -> GateReport | None:
        """The report appended last for this table, or None if there is none."""
        reports = list(_read(self._file(table)))
        return reports[-1] if reports else None

    def all(self) -> tuple[GateReport, ...]:
        """Every report, table by table in the order of names, each table's in the order they came."""
        return tuple(report for file in sorted(self.folder.glob("*.jsonl")) for report in _read(file))

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.jsonl"


def _read(file: Path) -> Iterator[GateReport]:
    if not file.exists():
        return
    with file.open("rb") as lines:  # bytes: a line ends at \n alone, whatever a value contains
        for line in lines:
            yield GateReport.from_dict(json.loads(line))
