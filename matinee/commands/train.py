"""`matinee train`: one model at a time."""

from __future__ import annotations

import typer

from matinee.session import AsOf, Source, opened, staged

app = typer.Typer(
    no_args_is_help=True, help="Train, test and register a model; the same inputs again are skipped."
)


@app.command()
def retriever(source: Source = None, as_of: AsOf = None) -> None:
    """Two towers and an exact index over the catalogue."""
    from matinee import day as steps

    with opened(source, as_of) as day, staged() as stages, stages.stage("train retriever") as stage:
        steps.train_retriever(day, stage)


@app.command()
def ranker(source: Source = None, as_of: AsOf = None, retriever: str = "retriever") -> None:
    """Heads for play, completion and retention, tested behind a retriever."""
    from matinee import day as steps

    with opened(source, as_of) as day, staged() as stages, stages.stage("train ranker") as stage:
        steps.train_ranker(day, stage, retriever)


@app.command()
def artwork(source: Source = None, as_of: AsOf = None) -> None:
    """The creative-quality model, and Thompson sampling with priors from it."""
    from matinee import day as steps

    with opened(source, as_of) as day, staged() as stages, stages.stage("train artwork") as stage:
        steps.train_artwork(day, stage)
