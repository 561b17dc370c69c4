"""`matinee`: the command line."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated

# Read by libraries when they are imported. No telemetry, no usage reports.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
# Threads that wait for each other sleep: spinning, two of them take several times as long where others want the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.markup import escape

from matinee.commands import bento, events, experiments, features, models, registry, simulate, train
from matinee.session import AsJson, AsOf, Source, console, errors, opened, print_json, staged

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A declarative feature store and model registry for a two-stage recommender.",
)
app.add_typer(events.app, name="events")
app.add_typer(features.app, name="features")
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.add_typer(registry.app, name="registry")
app.add_typer(bento.app, name="bento")
app.add_typer(experiments.app, name="experiments")
app.command("simulate")(simulate.simulate)


@app.command()
def day(source: Source = None, as_of: AsOf = None) -> None:
    """Run a day's pipeline, from events to a built Bento; what has not changed is skipped."""
    from matinee.day import run_day
    from matinee.deployment import build_bento
    from matinee.report import print_metrics

    with opened(source, as_of) as made:
        with staged() as stages:
            versions = run_day(made, stages)
            with stages.stage("build Bento") as stage:
                build_bento(made, "homepage", stage)
        print_metrics(versions)


@app.command()
def evaluate(ref: Annotated[str, typer.Argument(help="A version of a retriever, such as retriever@champion.")] = "retriever",
             source: Source = None, as_of: AsOf = None, as_json: AsJson = False) -> None:  # fmt: skip
    """A version beside popularity on the newest period it did not learn from: slices, intervals, paired tests."""
    from matinee.evaluating import evaluate_version
    from matinee.show import print_evaluation

    with opened(source, as_of) as made:
        found = evaluate_version(made, ref)
    if as_json:
        print_json(found.to_dict())
    else:
        print_evaluation(found)


@app.command()
def demo() -> None:
    """The main job end to end on the built-in world: events, features, models, Bento, experiment, read-out."""
    from matinee.demo import run_demo

    run_demo()


@app.command()
def recommend(user: int, source: Source = None, size: int = 40, rows: Annotated[int, typer.Option(help="Titles to print.")] = 10,
              timings: Annotated[bool, typer.Option("--timings", help="Time of each stage, over many requests.")] = False,
              explain: Annotated[bool, typer.Option("--explain", help="Why each title stands where it does.")] = False,
              as_json: AsJson = False) -> None:  # fmt: skip
    """One user's page from the built Bento's models, in this process."""
    from matinee.recommending import known_users, looker, time_pages
    from matinee.show import print_explanation, print_page, print_timings

    if explain:
        with opened(source) as made, looker(made) as look:
            told = look.explained(user, min(rows, size))
        if as_json:
            print_json(told.model_dump(mode="json"))
        else:
            print_explanation(told)
        return
    with opened(source) as made, looker(made) as look:
        page = look.page(user, size)
        measured = time_pages(look, known_users(made)[:220], size) if timings else None
    if as_json:
        print_json({**page.model_dump(mode="json"), **({"timings": asdict(measured)} if measured else {})})
        return
    print_page(page, rows)
    if measured:
        print_timings(measured)


PACKAGES = (
    "matinee",
    "serving",
    "models",
    "experiments",
    "feature_repo",
    "registry",
    "events",
    "validations",
)


def main() -> None:
    """Run the command line; an error of ours is a message and exit code 1, anything else a traceback."""
    try:
        app()
    except Exception as error:
        if type(error).__module__.split(".")[0] not in PACKAGES:
            raise
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)


__all__ = ["app", "console", "main"]
