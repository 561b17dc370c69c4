"""`matinee features push`: plays as they happen."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.session import AsJson, Source, console, opened, print_json

if TYPE_CHECKING:
    import pyarrow as pa

    from matinee.pushing import Pushed

STANDARD_INPUT = Path("-")

File = Annotated[
    Path,
    typer.Argument(
        help="Plays: one JSON object a line, or Parquet if it ends in .parquet; - reads lines from standard input.",
        allow_dash=True,
    ),
]
Record = Annotated[
    bool,
    typer.Option(
        "--record", help="Append them to the raw events first, so that training and checks know them too."
    ),
]


def push(file: File, source: Source = None, record: Record = False, as_json: AsJson = False) -> None:
    """Push plays into the online store: the next page knows them. Bad rows are named, and then nothing is pushed."""
    from matinee.pushing import push_plays

    plays = _read(file)
    with opened(source) as day:
        pushed = push_plays(day.workspace, plays, received_at=datetime.now(UTC), record=record)
    if as_json:
        print_json(asdict(pushed))
    else:
        console.print(_told(pushed), highlight=False)


def _read(file: Path) -> pa.Table:
    import pyarrow.parquet as pq

    from matinee.pushing import plays_of_lines

    if file == STANDARD_INPUT:
        return plays_of_lines(sys.stdin)
    if file.suffix == ".parquet":
        return pq.read_table(file, partitioning=None)
    with file.open() as lines:
        return plays_of_lines(lines)


def _told(pushed: Pushed) -> str:
    said = f"{pushed.plays:,} plays of {pushed.users:,} users pushed"
    if pushed.recorded is None:
        return f"{said}; not recorded in the raw events (--record does)"
    return f"{said}; raw events: {pushed.recorded.accepted:,} new, {pushed.recorded.repeated:,} there before"
