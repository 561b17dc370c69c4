"""Every verdict the gate ever gave, one JSON line each, in a folder DuckDB can read and is asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from validations.report import GateReport

_COLUMNS = """{
    "table": 'VARCHAR', as_of: 'TIMESTAMPTZ', "at": 'TIMESTAMPTZ', passed: 'BOOLEAN', rows: 'BIGINT',
    quarantined: 'BIGINT', evaluated: 'BIGINT', elapsed_seconds: 'DOUBLE', contract_digest: 'VARCHAR',
    digest: 'VARCHAR', reference: 'VARCHAR', null_shares: 'MAP(VARCHAR, DOUBLE)',
    findings: 'STRUCT("column" VARCHAR, expectation VARCHAR, observed VARCHAR, severity VARCHAR, unexpected_count BIGINT)[]'
}"""

LONGEST_LINE = 256 * 2**20
"""Bytes of one report that SQL reads at most; 1,650 findings with ten rows each take about one million."""


@dataclass(frozen=True)
class Run:
    """One run of the gate, as a line of a listing. `at` is None for runs of before reports said when."""

    table: str
    as_of: datetime
    at: datetime | None
    passed: bool
    rows: int
    quarantined: int
    errors: int
    warnings: int
    infos: int
    seconds: float
    reference: str
    digest: str
    contract_digest: str


@dataclass(frozen=True)
class ColumnTrend:
    """How one column of a table fared over the runs: shares of nulls (0..1), and in how many runs it was found at fault."""

    column: str
    runs: int
    found: int
    errors: int
    null_first: float | None
    null_last: float | None
    null_most: float | None


@dataclass(frozen=True)
class GateHistory:
    """Reports appended to `<folder>/<table>.jsonl`; nothing is ever rewritten.

    In SQL: `SELECT "table", as_of, passed, len(findings) FROM read_json('<folder>/*.jsonl')`.
    A run that a listing selects meets every condition given.
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

    def runs(
        self, table: str | None = None, *, failed: bool = False, since: datetime | None = None
    ) -> tuple[Run, ...]:
        """The runs in the order they came: of one table, failed ones, or those since a moment."""
        return tuple(
            Run(*row)
            for row in self._select(
                """
                SELECT "table", as_of, "at", passed, rows, coalesce(quarantined, 0),
                       len(list_filter(findings, lambda f: f.severity = 'error')),
                       len(list_filter(findings, lambda f: f.severity = 'warning')),
                       len(list_filter(findings, lambda f: f.severity = 'info')),
                       elapsed_seconds, coalesce(reference, ''), coalesce(digest, ''), contract_digest
                FROM runs
                WHERE ("table" = $table OR $table IS NULL) AND NOT ($failed AND passed)
                  AND ("at" >= $since OR $since IS NULL)
                ORDER BY "at" NULLS FIRST, "table", line
                """,
                {"table": table, "failed": failed, "since": since},
            )
        )

    def trend(self, table: str, *, since: datetime | None = None) -> tuple[ColumnTrend, ...]:
        """Every column the runs of a table looked at or found fault with, the most troubled first."""
        return tuple(
            ColumnTrend(*row)
            for row in self._select(
                """
                WITH chosen AS (
                    SELECT * FROM runs WHERE "table" = $table AND ("at" >= $since OR $since IS NULL)),
                nulls AS (
                    SELECT u.e.key AS "column", count(*) AS runs, arg_min(u.e.value, line) AS first,
                           arg_max(u.e.value, line) AS last, max(u.e.value) AS most
                    FROM chosen, unnest(map_entries(null_shares)) AS u(e) GROUP BY 1),
                faults AS (
                    SELECT u.f."column" AS "column", count(DISTINCT line) AS found,
                           count(DISTINCT line) FILTER (u.f.severity = 'error') AS errors
                    FROM chosen, unnest(findings) AS u(f) GROUP BY 1)
                SELECT coalesce(n."column", f."column"), coalesce(n.runs, 0), coalesce(f.found, 0),
                       coalesce(f.errors, 0), n.first, n.last, n.most
                FROM nulls n FULL JOIN faults f ON n."column" = f."column"
                ORDER BY coalesce(f.errors, 0) DESC, coalesce(f.found, 0) DESC,
                         abs(n.last - n.first) DESC NULLS LAST, 1
                """,
                {"table": table, "since": since},
            )
        )

    def _select(self, query: str, values: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Rows of a query over `runs`, whose `line` is the place of a report in its table's file."""
        files = [str(file) for file in sorted(self.folder.glob("*.jsonl"))]
        if not files:
            return []
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(
                f"CREATE TEMP TABLE runs AS SELECT *, row_number() OVER () AS line FROM read_json($files, "
                f"format = 'newline_delimited', maximum_object_size = {LONGEST_LINE}, columns = {_COLUMNS})",
                {"files": files},
            )
            return connection.execute(query, values).fetchall()

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.jsonl"


def _read(file: Path) -> Iterator[GateReport]:
    if not file.exists():
        return
    with file.open("rb") as lines:  # bytes: a line ends at \n alone, whatever a value contains
        for line in lines:
            yield GateReport.from_dict(json.loads(line))
