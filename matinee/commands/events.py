"""`matinee events`: bring raw events in and look at them."""

from __future__ import annotations

from dataclasses import asdict

import typer

from matinee.session import AsJson, Source, opened, print_json, print_table, staged

app = typer.Typer(
    no_args_is_help=True,
    help="Raw events: import a real data set, simulate the built-in world, describe the lake.",
)


@app.command("import")
def import_(source: Source = None) -> None:
    """Import a source's events into its lake; rows that break the contract go to quarantine with a reason."""
    from matinee.day import import_events

    with (
        opened(source) as day,
        staged() as stages,
        stages.stage(f"import {day.workspace.source.name}") as stage,
    ):
        import_events(day, stage)


@app.command()
def simulate() -> None:
    """Simulate the built-in world (docs/world.md): real films, everything else simulated."""
    from matinee.day import import_events

    with opened("world") as day, staged() as stages, stages.stage("simulate the world") as stage:
        import_events(day, stage)


@app.command()
def describe(source: Source = None, as_json: AsJson = False) -> None:
    """Rows, days, bytes and quarantined rows of every event table."""
    with opened(source) as day:
        summaries = [asdict(summary) for summary in day.workspace.lake.describe()]
    if as_json:
        print_json(summaries)
        return
    columns = ("table", "rows", "days", "first_event", "last_event", "bytes", "quarantined")
    print_table(
        f"events of {day.workspace.source.name}", columns, [[s[c] for c in columns] for s in summaries]
    )
