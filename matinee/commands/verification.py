"""`matinee features verify` and `status`: is what is served what is computed, and as new as promised?"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.session import (
    AsJson,
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
    from matinee.freshness import Status
    from matinee.verifying import Verdict


class Clock(StrEnum):
    """Which time it is."""

    REPLAY = "replay"
    NOW = "now"


Moment = Annotated[
    datetime | None, typer.Option(parser=moment_of, metavar="TIME", help="ISO date or time (UTC).")
]
WhichClock = Annotated[
    Clock,
    typer.Option(
        "--clock", help="replay: the day's as_of, as replayed sources live in the past; now: the wall clock."
    ),
]


def verify(source: Source = None,
           limit: Annotated[int, typer.Option(min=1, help="Logged requests to compute again, the newest first.")] = 500,
           since: Moment = None,
           generation: Annotated[str, typer.Option(help="Of which snapshot; the one that is live if left out, or all.")] = "",
           stored: Annotated[bool, typer.Option("--stored", help="Compare with the computed files as they lie there; nothing is recorded.")] = False,
           record: Annotated[bool, typer.Option(help="Tell the ledger, on which champions depend.")] = True,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Compute again, from raw events, what served requests were given; exit code 1 where it is not the same.

    A share of the requests logs the vectors that the models were given. Their values are compared bit for bit. While
    the newest verdict names a feature, no model that reads it becomes champion.
    """
    from matinee.lineage import record_declarations
    from matinee.progress import Stages
    from matinee.verifying import Wanted, verify_day

    with opened(source) as day:
        with Stages(errors) if as_json else staged() as stages, stages.stage("verify") as stage:
            verdicts = verify_day(day, Wanted(limit, since, generation), stage, stored=stored)
        if record and not stored:
            record_declarations(day.registry, day.workspace.declarations)
            for verdict in verdicts:
                day.registry.record_consistency(verdict.to_record())
    if as_json:
        print_json([verdict.to_dict() for verdict in verdicts])
    else:
        for verdict in verdicts:
            _print(verdict)
    raise typer.Exit(0 if all(verdict.passed for verdict in verdicts) else 1)


def _print(verdict: Verdict) -> None:
    passed = (
        "[green]served as computed[/green]"
        if verdict.passed
        else f"[red]{len(verdict.findings)} features served otherwise than computed[/red]"
    )
    within = f", user × title within {verdict.tolerance:g}" if verdict.tolerance else ", bit for bit"
    flight = f"; {verdict.in_flight:,} values explained by pushes under way" if verdict.in_flight else ""
    console.print(
        f"[bold]{verdict.service.name}[/bold] of {verdict.source}: {passed}: {verdict.compared:,} values of "
        f"{verdict.requests:,} requests up to {verdict.newest_request:%Y-%m-%d %H:%M:%S}{within}{flight}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for finding in verdict.findings[:_FINDINGS]:
        console.print(f"  {finding}", highlight=False, markup=False, soft_wrap=True)
        for example in finding.examples:
            console.print(f"    {example}", highlight=False, markup=False, soft_wrap=True)
    if len(verdict.findings) > _FINDINGS:
        console.print(f"  and {len(verdict.findings) - _FINDINGS} more; see --json", highlight=False)


_FINDINGS = 20
"""Features that are listed for a person."""


def status(source: Source = None, at: Moment = None, clock: WhichClock = Clock.REPLAY,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Age, coverage, deltas and gate of every table that is live; exit code 1 where one is older than promised."""
    from matinee.freshness import status_of

    with opened(source) as day:
        moment = at or (datetime.now(UTC) if clock is Clock.NOW else day.as_of)
        found = status_of(day, moment)
    against = "the time given" if at else "the wall clock" if clock is Clock.NOW else "the day's as_of"
    if as_json:
        tables = [{**vars(table), "coverage": table.coverage} for table in found.tables]
        print_json({**vars(found), "against": against, "tables": tables, "breached": list(found.breached)})
    else:
        _print_status(found, against)
    raise typer.Exit(1 if found.breached else 0)


def _print_status(found: Status, against: str) -> None:
    console.print(
        f"{found.source}: generation {found.generation}, write {found.sequence:,} ({found.writes:,} since the "
        f"snapshot); ages at {found.at:%Y-%m-%d %H:%M} UTC, {against}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if found.fault:
        console.print(f"[red]{found.fault}[/red]", highlight=False)
    gates = {True: "passed", False: "failed", None: "no report"}
    rows = [
        [
            t.table, f"{t.age_hours:.1f} h", f"{t.slo_hours:g} h", "breached" if t.breached else "met",
            "" if t.coverage is None else f"{t.entities:,} of {t.entities_known:,} ({t.coverage:.1%})",
            f"{t.newest_row:%Y-%m-%d %H:%M:%S}" if t.newest_row else "", t.waiting, gates[t.gate],
        ]
        for t in found.tables
    ]  # fmt: skip
    columns = ("table", "age", "SLO", "freshness", "coverage", "newest row", "waiting", "gate")
    print_table("", columns, rows)
