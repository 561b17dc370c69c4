"""Parts: immutable Parquet files named by the digest of their content, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_DAY = "day="
_WORTH_A_DICTIONARY = 500  # rows


def write_part(table: pa.Table, folder: Path, digest: str) -> Path:
    """Write `table` as `folder`/part-`digest`.parquet, unless it is there: renamed into place, never torn."""
    path = folder / f"part-{digest}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{os.getpid()}.tmp"
    repetitive = table.num_rows > _WORTH_A_DICTIONARY
    pq.write_table(table, unfinished, compression="zstd", use_dictionary=repetitive)
    unfinished.replace(path)
    return path


def by_day(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each UTC day of `event_timestamp`; `table` must be ordered by that column."""
    days = pc.floor_temporal(table["event_timestamp"], unit="day").cast(pa.int64()).to_numpy()
    starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        day = datetime.fromtimestamp(int(days[start]) / 1e6, tz=UTC).date()
        yield day, table.slice(start, end - start)


def day_folder(table_folder: Path, day: date) -> Path:
    """The partition that holds one day."""
    return table_folder / f"{_DAY}{day.isoformat()}"


def parts(table_folder: Path, before: datetime | None = None) -> list[Path]:
    """Every part, oldest day first; with `before`, only of days that begin before it."""
    if not table_folder.is_dir():
        return []
    with os.scandir(table_folder) as entries:
        days = sorted(entry.name for entry in entries if entry.name.startswith(_DAY))
    if before is not None:
        days = [day for day in days if _begins(day) < before]
    return [part for day in days for part in sorted((table_folder / day).glob("part-*.parquet"))]


def _begins(folder: str) -> datetime:
    return datetime.fromisoformat(folder.removeprefix(_DAY)).replace(tzinfo=UTC)
