"""`matinee experiments`: check, start, stop, list, read out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.reading import SHIPPED
from matinee.context import present
from matinee.session import AsJson, AsOf, Source, console, errors, opened, print_json, print_table

app = typer.Typer(
    no_args_is_help=True, help="Experiments: declared in YAML, pinned when started, read out with a verdict."
)

Folder = Annotated[Path, typer.Option(help="Folder of experiment YAML.")]


@app.command()
def check(folder: Folder = SHIPPED, source: Source = None, as_json: AsJson = False) -> None:
    """Validate a folder of experiments; exit code 1 where something is wrong."""
    from matinee import experimenting

    with opened(source) as day:
        found = experimenting.problems(day, folder)
    if as_json:
        print_json([vars(problem) for problem in found])
    for problem in () if as_json else found:
        errors.print(str(problem), highlight=False)
    if found:
        raise typer.Exit(1)
    if not as_json:
        console.print(f"{folder}: nothing wrong", highlight=False)


@app.command()
def start(
    name: str, folder: Folder = SHIPPED, source: Source = None, as_of: AsOf = None, by: str = "cli"
) -> None:
    """Pin the model versions of an experiment's arms and make it live, from now or a simulated moment on."""
    from matinee import experimenting

    with opened(source) as day:
        live = experimenting.start_experiment(day, name, as_of or present(day), by, folder)
    for arm in live.named(name).arms:
        console.print(f"{name}/{arm.name}: {dict(arm.parameters)}", highlight=False)


@app.command()
def stop(name: str, source: Source = None, by: str = "cli", reason: str = "") -> None:
    """Take an experiment out of service; its read-outs stay in the ledger."""
    from matinee import experimenting

    with opened(source) as day:
        experimenting.stop_experiment(day, name, by, reason)
    console.print(f"{name} is stopped", highlight=False)


@app.command("list")
def list_(source: Source = None, as_json: AsJson = False) -> None:
    """Every run of every experiment with its arms."""
    with opened(source) as day:
        runs = day.registry.experiments()
    if as_json:
        print_json([vars(run) for run in runs])
        return
    rows = [
        [run.name, run.layer, run.state, ", ".join(arm.name for arm in run.arms), run.digest[:12]]
        for run in runs
    ]
    print_table("experiments", ("experiment", "layer", "state", "arms", "digest"), rows)


@app.command()
def readout(name: str, source: Source = None, as_of: AsOf = None, as_json: AsJson = False) -> None:
    """Health first, then the primary metric and the guardrails, then a verdict in a sentence."""
    from matinee import experimenting
    from matinee.show import print_readout

    with opened(source) as day:
        made = experimenting.readout(day, name, as_of or present(day))
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_readout(made)
