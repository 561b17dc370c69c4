"""`matinee features`: declarations, computation, gate, online store, documentation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from feature_repo.declarations import Declarations, UnknownFeature
from feature_repo.docs import described
from matinee.commands import checks, streaming, verification
from matinee.session import (
    AsJson,
    AsOf,
    Source,
    console,
    opened,
    print_json,
    print_pairs,
    print_table,
    staged,
)

app = typer.Typer(
    no_args_is_help=True, help="Features: list, compute, validate, materialize, push, verify, document."
)
app.command()(checks.validate)
for command in (checks.drift, checks.gates, checks.quarantine):
    app.command()(command)
app.command()(streaming.push)
app.command()(verification.verify)
app.command()(verification.status)


def _listing(declarations: Declarations) -> dict[str, Any]:
    rows = [described(table, feature) for table in declarations.tables for feature in table.features]
    lacking = [
        {"feature": f"{table}:{feature.name}", "lacks": list(missing)}
        for table, feature, missing in declarations.unavailable
    ]
    counts = Counter(row["weight"] for row in rows)
    return {"source": declarations.source, "counts": dict(counts), "features": rows, "unavailable": lacking}


@app.command("list")
def list_(source: Source = None, as_json: AsJson = False, match: Annotated[str, typer.Option(help="Only names that contain this.")] = "") -> None:  # fmt: skip
    """Every feature declared for a source, and those that its events make impossible."""
    with opened(source) as day:
        listing = _listing(day.workspace.declarations)
    listing["features"] = [row for row in listing["features"] if match in row["feature"]]
    if as_json:
        print_json(listing)
        return
    columns = ("feature", "weight", "unit", "window_days", "digest", "description")
    print_table(
        f"features of {listing['source']}",
        columns,
        [[row[c] for c in columns] for row in listing["features"]],
    )
    counts = ", ".join(f"{n} {weight}" for weight, n in listing["counts"].items())
    console.print(f"{counts}; {len(listing['unavailable'])} unavailable for this source")


@app.command()
def describe(name: str, source: Source = None, as_json: AsJson = False) -> None:
    """One feature, by `table:feature` or by name: everything about it, with its computation."""
    with opened(source) as day:
        declarations = day.workspace.declarations
    every = [(t, f) for t in declarations.tables for f in t.features]
    shown = [described(t, f) for t, f in every if name in {f.name, f"{t.name}:{f.name}"}]
    if not shown:
        raise UnknownFeature(name, declarations.source, [f.name for _, f in every])
    if as_json:
        print_json(shown)
        return
    for one in shown:
        print_pairs(one)
        console.print()


@app.command()
def plan(source: Source = None, as_of: AsOf = None, as_json: AsJson = False,
         every: Annotated[bool, typer.Option("--all", help="Also what stands.")] = False) -> None:  # fmt: skip
    """What a day would compute, check, materialize, train and build, and why; nothing is run or written."""
    from matinee.recorded import plan_of

    with opened(source, as_of) as day:
        steps = plan_of(day).steps
    if as_json:
        print_json([{"step": str(s), "runs": s.runs, "reason": s.reason} for s in steps])
        return
    for step in steps:
        if step.runs or every:
            mark = "[green]+[/green]" if step.runs else "[dim]=[/dim]"
            console.print(f"{mark} {step}  [dim]{step.reason}[/dim]", highlight=False)
    runs = sum(step.runs for step in steps)
    console.print(f"{runs} of {len(steps)} steps to run, {len(steps) - runs} stand", highlight=False)


@app.command()
def apply(source: Source = None) -> None:
    """Write the declarations into the Feast registry and into the ledger."""
    from feature_repo.repository import apply as apply_to_feast
    from matinee.lineage import record_declarations

    with opened(source) as day:
        record_declarations(day.registry, day.workspace.declarations)
        applied = apply_to_feast(day.workspace.root, day.workspace.declarations)
    console.print(f"applied to Feast: {applied}", highlight=False)


@app.command()
def compute(source: Source = None, as_of: AsOf = None) -> None:
    """Compute the feature tables of every snapshot the day needs; unchanged ones are kept."""
    from matinee.day import compute_features

    with opened(source, as_of) as day, staged() as stages, stages.stage("compute features") as stage:
        compute_features(day, stage)


@app.command()
def materialize(source: Source = None, as_of: AsOf = None) -> None:
    """Bring the validated tables into the online store and publish a snapshot."""
    from matinee.day import publish

    with opened(source, as_of) as day, staged() as stages, stages.stage("materialize") as stage:
        publish(day, stage)


@app.command()
def docs(
    source: Source = None, to: Annotated[Path | None, typer.Option(help="Folder of the site.")] = None
) -> None:
    """Write a site of every feature: search, formula, SQL, distribution, freshness, models and arms that read it."""
    from matinee.documenting import write_docs

    with opened(source) as day:
        index = write_docs(day, to or day.workspace.root / "docs")
    console.print(f"open {index}", highlight=False)
