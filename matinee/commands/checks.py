"""`matinee features`: what is asked of computed and served features before and after they go live."""

from __future__ import annotations

import typer

from matinee.session import AsJson, AsOf, Source, console, errors, opened, print_json, staged


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
                errors.print(f"[red]{report.summary}[/red]")
                for finding in report.findings:
                    errors.print(f"  {finding}", highlight=False)
                    rows = "; ".join(
                        f"row {s.row} ({', '.join(map(str, s.key))}): {'null' if s.value is None else s.value}"
                        for s in finding.sample
                    )
                    if rows:
                        errors.print(f"    {rows}", highlight=False, markup=False)
            errors.print(f"Data Docs: {day.gatekeeper.docs / 'index.html'}", highlight=False)
            raise typer.Exit(1) from None
    if as_json:
        print_json([report.to_dict() for report in reports])
    else:
        console.print(f"Data Docs: {day.gatekeeper.docs / 'index.html'}", highlight=False)
