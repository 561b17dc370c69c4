"""`matinee features`: what is asked of computed features before they go live, and what came of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.session import (
    AsJson,
    AsOf,
    Source,
    console,
    errors,
    moment_of,
    opened,
    print_json,
    print_table,
    staged,
)

if TYPE_CHECKING:
    from rich.console import Console

    from validations.report import GateReport

Table = Annotated[str | None, typer.Option("--table", help="Of this feature table alone.")]
Since = Annotated[
    datetime | None,
    typer.Option(parser=moment_of, metavar="TIME", help="Runs at or after this moment (UTC)."),
]
Rows = Annotated[int, typer.Option(min=1, help="Lines to print.")]


def validate(source: Source = None, as_of: AsOf = None, as_json: AsJson = False) -> None:
    """Put the computed tables through the gate; exit code 1, with findings, where one fails."""
    from matinee.day import validate as validate_day
    from matinee.gatekeeping import GateFailed

    with opened(source, as_of) as day:
        try:
            with staged() as stages, stages.stage("gate") as stage:
                reports = validate_day(day, stage, [day.as_of])
        except GateFailed as failure:
            if as_json:
                print_json([report.to_dict() for report in failure.reports])
            for report in failure.reports:
                _tell(report, errors)
            errors.print(f"Data Docs: {day.gatekeeper.docs / 'index.html'}", highlight=False)
            raise typer.Exit(1) from None
    if as_json:
        print_json([report.to_dict() for report in reports])
        return
    for report in reports:
        if report.findings:
            _tell(report, console)
    console.print(f"Data Docs: {day.gatekeeper.docs / 'index.html'}", highlight=False)


COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}
SHOWN = 20
"""Findings of one table that are printed; the page and `--json` have all of them."""


def _tell(report: GateReport, to: Console) -> None:
    """The verdict on a table and its findings, the worst first, with the rows they are in."""
    colour = "red" if not report.passed else "yellow" if report.warned else "green"
    to.print(f"[{colour}]{report.summary}[/{colour}]")
    for finding in report.worst_first[:SHOWN]:
        to.print(
            f"  [{COLOURS[finding.severity]}]{finding.severity}[/{COLOURS[finding.severity]}] {finding}",
            highlight=False,
        )
        rows = "; ".join(
            f"row {s.row} ({', '.join(map(str, s.key))}): {'null' if s.value is None else s.value}"
            for s in finding.sample
        )
        if rows:
            to.print(f"    {rows}", highlight=False, markup=False)
    if len(report.findings) > SHOWN:
        to.print(f"  … and {len(report.findings) - SHOWN} more findings", highlight=False)


def drift(source: Source = None, as_of: AsOf = None, table: Table = None, rows: Rows = 30,
          as_json: AsJson = False) -> None:  # fmt: skip
    """How far each feature has moved from what the champions learned from: PSI, KS, share of nulls; worst first."""
    from matinee.drifting import moved

    with opened(source, as_of) as day:
        found = [one for one in moved(day) if table in {None, one.feature.partition(":")[0]}]
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    lines = [
        [
            one.feature,
            one.severity or "",
            one.drift.psi,
            one.drift.ks,
            *one.drift.null_share,
            *one.drift.median,
        ]
        for one in found[:rows]
    ]
    columns = ("feature", "severity", "PSI", "KS", "null then", "null now", "median then", "median now")
    print_table(f"drift as of {day.as_of:%Y-%m-%d}", columns, lines)
    for reference in dict.fromkeys(one.reference for one in found):
        console.print(f"from {reference}", highlight=False)


def gates(source: Source = None, table: Table = None,
          failed: Annotated[bool, typer.Option("--failed", help="Only runs that did not pass.")] = False,
          since: Since = None,
          trend: Annotated[bool, typer.Option("--trend", help="Of one --table: each column's nulls and findings over the runs.")] = False,
          rows: Rows = 30, as_json: AsJson = False) -> None:  # fmt: skip
    """Every run of the gate: when, of what, what came of it, how long it took, measured from what."""
    from validations.history import GateHistory

    if trend and table is None:
        raise typer.BadParameter("--trend is of one table: name it with --table.")
    with opened(source) as day:
        history = GateHistory(day.gatekeeper.history)
    if trend and table is not None:
        columns = [asdict(one) for one in history.trend(table, since=since)]
        if as_json:
            print_json(columns)
        else:
            print_table(f"columns of {table}", _TREND, [list(one.values()) for one in columns[:rows]])
        return
    runs = history.runs(table, failed=failed, since=since)
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    lines = [
        [f"{run.at:%m-%d %H:%M:%S}" if run.at else "", run.table, f"{run.as_of:%Y-%m-%d}",
         "passed" if run.passed else "failed", run.rows, run.quarantined, run.errors, run.warnings,
         round(run.seconds, 2), "measured" if run.reference else "", run.digest[:8]]
        for run in runs[-rows:]
    ]  # fmt: skip
    print_table(f"{len(runs):,} runs of the gate, the newest last", _RUNS, lines)


_RUNS = (
    "at",
    "table",
    "as of",
    "verdict",
    "rows",
    "aside",
    "errors",
    "warnings",
    "seconds",
    "file",
    "drift from",
)
_TREND = ("column", "runs", "found", "errors", "null first", "null last", "null most")


def quarantine(source: Source = None, table: Table = None, as_of: AsOf = None, rows: Rows = 50,
               as_json: AsJson = False) -> None:  # fmt: skip
    """The rows that the gate set aside, each with what it did not meet; they are in no snapshot."""
    with opened(source) as day:
        found = [
            one
            for one in day.gatekeeper.set_aside()
            if table in {None, one["table"]} and as_of in {None, one["as_of"]}
        ]
    if as_json:
        print_json(found)
        return
    lines = [
        [one["table"], f"{one['as_of']:%Y-%m-%d %H:%M}", ", ".join(map(str, one["key"])), one["row"],
         "; ".join(f"{r['column']}: expected {r['expectation']}, found {'null' if r['value'] is None else r['value']}"
                   for r in one["reasons"])]
        for one in found[:rows]
    ]  # fmt: skip
    print_table(f"{len(found):,} rows set aside", ("table", "as of", "key", "row", "reasons"), lines)
