"""Compaction: one file that repeats the rows of many small parts, so that reading need not open them all.

A sidecar, `<root>/<table>/compact-<digest of part names>.parquet`, derived and safe to delete: the day
parts stay the record. A history of 4,000 days is otherwise 4,000 files to open for every query.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from events.digests import names_digest, short_name

MANY_PARTS = 200
"""Above this number of parts outside the compact file a new one is made."""

_COVERED = b"covered_parts"
_ROWS_PER_GROUP = 20_000  # ordered by event: a query for a week skips the other groups by their statistics
_KEPT = 2  # the one before the newest stays for readers who have just registered it


def to_read(table_folder: Path, parts: Sequence[Path]) -> list[Path]:
    """The fewest files that together hold exactly the rows of `parts`."""
    for compact in _newest_first(table_folder):
        covered = _covered(compact)
        if covered <= {short_name(part) for part in parts}:
            return [compact, *(part for part in parts if short_name(part) not in covered)]
    return list(parts)


def compact(table_folder: Path, parts: Sequence[Path]) -> None:
    """Write a compact file of `parts` if too many of them lie outside the present one."""
    sources = to_read(table_folder, parts)
    if len(sources) <= MANY_PARTS:
        return
    path = table_folder / f"compact-{names_digest(parts)}.parquet"
    unfinished = table_folder / f".{path.name}.{os.getpid()}.tmp"
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        files = [str(source) for source in sources]
        ordered = "SELECT * FROM read_parquet($1, hive_partitioning = false) ORDER BY event_timestamp"
        rows = con.sql(ordered, params=[files]).to_arrow_table()
    covered = json.dumps([short_name(part) for part in parts]).encode()
    rows = rows.replace_schema_metadata({_COVERED: covered})
    pq.write_table(rows, unfinished, compression="zstd", row_group_size=_ROWS_PER_GROUP)
    unfinished.replace(path)
    for old in _newest_first(table_folder)[_KEPT:]:
        old.unlink()


def _newest_first(table_folder: Path) -> list[Path]:
    return sorted(
        table_folder.glob("compact-*.parquet"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )


def _covered(compact: Path) -> set[str]:
    metadata = pq.read_schema(compact).metadata or {}
    return set(json.loads(metadata[_COVERED]))
