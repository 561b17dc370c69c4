"""Loading a source of events into a lake: one function for the world, KuaiRand and MovieLens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import pyarrow as pa

from events.kuairand import FOLDER as KUAIRAND_FOLDER
from events.kuairand import kuairand
from events.lake import Ingest, Lake
from events.movielens import FOLDER as MOVIELENS_FOLDER
from events.movielens import movielens
from events.sources import SOURCES
from events.world import Day, World
from events.world_config import WorldConfig

Progress = Callable[[Ingest], None]
Rows = tuple[str, pa.Table, datetime]
"""A table's name, some of its rows, and when they were received."""

_DAYS_A_BATCH = 7
COLLECTED = {
    "kuairand": datetime(2022, 5, 9, tzinfo=UTC),
    "movielens": datetime(2018, 9, 26, tzinfo=UTC),
}
"""When the recorded sources were closed: no event of theirs can be younger."""


class DataFolderMissing(FileNotFoundError):
    """A recorded source was asked for where its files are not."""

    def __init__(self, source: str, folder: Path | None) -> None:
        where = "no data folder was given" if folder is None else f"there is no folder {folder}"
        super().__init__(
            f"source {source!r} needs its data, and {where}. Set MATINEE_DATA to the folder that "
            "holds kuairand-pure/ and ml-latest-small/; source 'world' needs none."
        )


def load(
    source: str,
    lake: Lake,
    data: Path | None = None,
    *,
    world: WorldConfig | None = None,
    progress: Progress | None = None,
) -> tuple[Ingest, ...]:
    """Append everything a source holds to `lake`, batch by batch; returns what became of each batch.

    Args:
        source: A name in `SOURCES`.
        lake: Where the rows go; loading twice adds nothing.
        data: The folder that holds the recorded data sets; the built-in world needs none.
        world: Settings of the built-in world, its defaults if not given.
        progress: Called after each batch.

    Raises:
        LookupError: No such source.
        DataFolderMissing: A recorded source without its files.
    """
    done = []
    for table, rows, received_at in batches(source, data, world=world):
        ingest = lake.append(table, rows, received_at=received_at)
        done.append(ingest)
        if progress is not None:
            progress(ingest)
    return tuple(done)


def batches(source: str, data: Path | None = None, *, world: WorldConfig | None = None) -> Iterator[Rows]:
    """The batches of a source in the order they are loaded; see `load` for the arguments and errors."""
    if source not in SOURCES:
        near = get_close_matches(source, SOURCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(SOURCES)}."
        raise LookupError(f"no source {source!r}.{hint}")
    if source == "world":
        return _of_world(world or WorldConfig())
    folder = {"kuairand": KUAIRAND_FOLDER, "movielens": MOVIELENS_FOLDER}[source]
    if data is None or not (data / folder).is_dir():
        raise DataFolderMissing(source, None if data is None else data / folder)
    adapter = {"kuairand": kuairand, "movielens": movielens}[source]
    return ((table, rows, COLLECTED[source]) for table, rows in adapter(data))


def _of_world(config: WorldConfig) -> Iterator[Rows]:
    """A week's events reach us up to days after it: a late report, or a long film that ran past midnight."""
    for days in _chunks(World(config).simulate(), _DAYS_A_BATCH):
        for table in days[0].tables:
            yield (
                table,
                pa.concat_tables([day.tables[table] for day in days]),
                days[-1].start + timedelta(days=5),
            )


def _chunks(days: Iterator[Day], size: int) -> Iterator[list[Day]]:
    while chunk := list(islice(days, size)):
        yield chunk
