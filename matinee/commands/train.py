"""`matinee train`: one model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import typer

from matinee.context import Day
from matinee.progress import Stage
from matinee.session import AsOf, Source, opened, staged

app = typer.Typer(
    no_args_is_help=True, help="Train, test and register a model; the same inputs again are skipped."
)


@contextmanager
def _opened(source: str | None, as_of: datetime | None, name: str) -> Iterator[tuple[Day, Stage]]:
    """A day and a stage of it, in each of the processes that `torchrun` started; one of them speaks."""
    from models.parallel import process_group

    with (
        process_group() as team, opened(source, as_of) as day,
        staged(quiet=not team.leads) as stages, stages.stage(name) as stage,
    ):  # fmt: skip
        yield day, stage


@app.command()
def retriever(source: Source = None, as_of: AsOf = None) -> None:
    """Two towers and an exact index over the catalogue.

    By several processes: torchrun --nproc-per-node 2 -m matinee train retriever
    """
    from matinee import day as steps

    with _opened(source, as_of, "train retriever") as (day, stage):
        steps.train_retriever(day, stage)


@app.command()
def ranker(source: Source = None, as_of: AsOf = None, retriever: str = "retriever") -> None:
    """Heads for play, completion and retention, tested behind a retriever.

    By several processes: torchrun --nproc-per-node 2 -m matinee train ranker
    """
    from matinee import day as steps

    with _opened(source, as_of, "train ranker") as (day, stage):
        steps.train_ranker(day, stage, retriever)


@app.command()
def artwork(source: Source = None, as_of: AsOf = None) -> None:
    """The creative-quality model, and Thompson sampling with priors from it."""
    from matinee import day as steps

    with opened(source, as_of) as day, staged() as stages, stages.stage("train artwork") as stage:
        steps.train_artwork(day, stage)
