"""What every command shares: options, an opened workspace, and output for people or for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from events.sources import SOURCES
from matinee.context import Day, latest
from matinee.progress import Stages
from matinee.settings import Settings
from matinee.workspace import Workspace

WIDTH = 130
"""Columns where output goes to a file or a pipe; a terminal has its own."""

console = Console(width=None if sys.stdout.isatty() else WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)


def _sources(incomplete: str) -> list[str]:
    return [name for name in SOURCES if name.startswith(incomplete)]


def moment_of(text: str) -> datetime:
    """An ISO date or time, UTC where it has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date. Write 2026-02-05, or 2026-02-05T06:00:00Z.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Source = Annotated[
    str | None,
    typer.Option("--source", "-s", help=f"Source of events: {', '.join(SOURCES)}.", autocompletion=_sources),
]
AsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of", parser=moment_of, metavar="DATE", help="Exclusive upper bound of what may be known (UTC)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@contextmanager
def opened(
    source: str | None = None, as_of: datetime | None = None, settings: Settings | None = None
) -> Iterator[Day]:
    """The workspace of a source with its ledger open, as of a day (the source's latest if none is given).

    `settings` stand in for those of the environment.
    """
    if settings is None:
        settings = Settings() if source is None else Settings(source=source)
    workspace = Workspace.of(settings)
    with workspace.registry() as registry:
        yield Day(settings, workspace, registry, as_of or latest(settings, workspace))


@contextmanager
def staged(*, quiet: bool = False) -> Iterator[Stages]:
    """Stages on the console, with a live bar where it is a terminal; `quiet` says nothing."""
    with Stages(Console(quiet=True) if quiet else console) as stages:
        yield stages


def print_json(value: object) -> None:
    """A value as JSON on standard output, alone."""
    typer.echo(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset | set | tuple):
        return sorted(value) if isinstance(value, frozenset | set) else list(value)
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for a person; numbers stand right."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for position, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def print_pairs(values: Mapping[str, object]) -> None:
    """Name and value, a line each."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        console.print(f"[bold]{name:<{width}}[/bold]  {value}", highlight=False)
