"""Plan and compute feature tables for an `as_of`: a list of steps first, then Parquet files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from events.sources import SOURCES
from feature_repo.compile import compile_table
from feature_repo.declarations import Declarations, FeatureTable
from feature_repo.known import known_at

Register = Callable[[duckdb.DuckDBPyConnection], None]
"""Makes views of the raw event tables on a connection, as `Lake.register` does."""


@dataclass(frozen=True)
class Step:
    """One feature table for one `as_of`; `fresh` when its file already holds exactly this."""

    table: FeatureTable
    as_of: datetime
    path: Path
    digest: str
    fresh: bool

    def __str__(self) -> str:
        verb = "keep" if self.fresh else "compute"
        return f"{verb} {self.table.name} as of {stamp(self.as_of)} ({len(self.table.features)} features)"


@dataclass(frozen=True)
class Computed:
    """What a step left behind."""

    step: Step
    rows: int
    seconds: float


def stamp(as_of: datetime) -> str:
    """An `as_of` as it is written in paths.

    >>> stamp(datetime(2026, 2, 5, tzinfo=UTC))
    '2026-02-05T000000Z'
    """
    return as_of.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def offline_path(folder: Path, table: str, as_of: datetime) -> Path:
    """Where the table computed for `as_of` is kept."""
    return folder / table / f"as_of={stamp(as_of)}.parquet"


def plan(declarations: Declarations, as_ofs: Iterable[datetime], events_digest: Callable[[datetime], str],
         folder: Path, tables: Sequence[str] | None = None) -> tuple[Step, ...]:  # fmt: skip
    """The steps that bring `folder` up to date; nothing is run.

    A step's digest covers its table's digest, the `as_of` and the events before it, so the same inputs
    give the same plan and what has not changed is kept.
    """
    wanted = [t for t in declarations.stored if tables is None or t.name in tables]
    steps = []
    for as_of in as_ofs:
        events = events_digest(as_of)
        for table in wanted:
            path = offline_path(folder, table.name, as_of)
            text = "|".join((declarations.source, table.digest, stamp(as_of), events))
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            steps.append(Step(table, as_of, path, digest, fresh=recorded_digest(path) == digest))
    return tuple(steps)


def recorded_digest(path: Path) -> str | None:
    """The digest of the step that wrote this file, or None where there is no such file."""
    if not path.exists():
        return None
    metadata = pq.read_schema(path).metadata or {}
    found: bytes | None = metadata.get(b"matinee_digest")
    return found.decode() if found else None


def run(steps: Sequence[Step], source: str, register: Register, *, threads: int = 2,
        progress: Callable[[Step], None] = lambda _: None) -> tuple[Computed, ...]:  # fmt: skip
    """Compute what is not fresh, one `as_of` at a time, and write each file atomically."""
    done = []
    stale = [step for step in steps if not step.fresh]
    for as_of in sorted({step.as_of for step in stale}):
        with duckdb.connect(config={"threads": threads}) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
            register(connection)
            known_at(connection, SOURCES[source], as_of)
            for step in stale:
                if step.as_of == as_of:
                    progress(step)
                    done.append(_write(connection, step, source))
    return tuple(done)


def _write(connection: duckdb.DuckDBPyConnection, step: Step, source: str) -> Computed:
    began = time.perf_counter()
    step.path.parent.mkdir(parents=True, exist_ok=True)
    moment = f"TIMESTAMPTZ '{step.as_of.astimezone(UTC).isoformat(sep=' ')}'"
    key = step.table.entity.join_key
    select = f"""
        SELECT {key}, {moment} AS event_timestamp, {moment} AS created_timestamp, * EXCLUDE ({key})
        FROM ({compile_table(step.table, SOURCES[source])}) ORDER BY {key}"""
    partial = step.path.with_suffix(f".partial-{os.getpid()}")
    connection.execute(
        f"COPY ({select}) TO '{partial}' (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{matinee_digest: '{step.digest}'}})"
    )
    partial.replace(step.path)
    return Computed(step, pq.read_metadata(step.path).num_rows, time.perf_counter() - began)
