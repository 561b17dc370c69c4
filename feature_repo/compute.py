"""Run planned steps: feature tables as Parquet files, only the columns that have to be computed computed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from events.sources import SOURCES, Source
from feature_repo.compile import compile_table
from feature_repo.known import statements
from feature_repo.planning import (
    Recorded,
    Step,
    needed,
    offline_path,
    plan,
    recorded,
    recorded_digest,
    stamp,
)

__all__ = ["Computed", "DifferentRows", "Recorded", "Register", "Step", "offline_path", "plan", "recorded",
           "recorded_digest", "run", "stamp"]  # fmt: skip

Register = Callable[[duckdb.DuckDBPyConnection], None]
"""Makes views of the raw event tables on a connection, as `Lake.register` does."""


class DifferentRows(RuntimeError):
    """New columns of a table came for other entities than its file holds, though both are of the same events."""

    def __init__(self, step: Step, computed: int, held: int, merged: int) -> None:
        super().__init__(
            f"{step.table.name} as of {stamp(step.as_of)}: {computed:,} entities computed, {held:,} in {step.path}, "
            f"{merged:,} in both. The file is not what it says it is: delete it, and it is computed whole."
        )


@dataclass(frozen=True)
class Computed:
    """What a step left behind."""

    step: Step
    rows: int
    seconds: float


def run(steps: Sequence[Step], source: str, register: Register, *, threads: int = 2,
        progress: Callable[[Step], None] = lambda _: None) -> tuple[Computed, ...]:  # fmt: skip
    """Take the steps that are not fresh, one `as_of` at a time, and write each file atomically.

    Raises:
        DifferentRows: a file that should be completed does not hold the entities that it should.
    """
    done = []
    stale = [step for step in steps if not step.fresh]
    for as_of in sorted({step.as_of for step in stale}):
        todo = [step for step in stale if step.as_of == as_of]
        with duckdb.connect(config={"threads": threads}) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
            register(connection)
            _fill(connection, SOURCES[source], as_of, todo)
            for step in todo:
                progress(step)
                done.append(_write(connection, step, SOURCES[source]))
    return tuple(done)


def _fill(
    connection: duckdb.DuckDBPyConnection, source: Source, as_of: datetime, steps: Sequence[Step]
) -> None:
    """Make those of the `known_*` tables that the steps read."""
    queries = [_query(step, source) for step in steps if step.compute]
    for name, sql in needed(statements(source, as_of), queries):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")


def _query(step: Step, source: Source) -> str:
    return compile_table(step.table, source, step.compute if step.keep else None)


def _write(connection: duckdb.DuckDBPyConnection, step: Step, source: Source) -> Computed:
    began = time.perf_counter()
    step.path.parent.mkdir(parents=True, exist_ok=True)
    partial = step.path.with_suffix(f".partial-{os.getpid()}")
    metadata = ", ".join(f"{key}: {_quoted(value)}" for key, value in step.recorded.to_metadata().items())
    connection.execute(
        f"COPY ({_rows(connection, step, source)}) TO {_quoted(str(partial))}"
        f" (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{metadata}}})"
    )
    rows = pq.read_metadata(partial).num_rows
    _refuse_different_rows(connection, step, rows, partial)
    partial.replace(step.path)
    return Computed(step, rows, time.perf_counter() - began)


def _rows(connection: duckdb.DuckDBPyConnection, step: Step, source: Source) -> str:
    """The query of the whole file: computed columns and kept ones, in declared order.

    Rows are as of the step, except where they are events (several an entity), which bring their own times.
    Parquet's columns are optional where DuckDB cannot tell that nothing is null, which differs between a query
    and a file: the empty second half makes all of them optional, so that equal rows give equal bytes.
    """
    moment = f"TIMESTAMPTZ '{step.as_of.astimezone(UTC).isoformat(sep=' ')}' AS"
    key, at = step.table.entity.join_key, moment if step.table.keep == 1 else ""
    parts = [f"read_parquet({_quoted(str(step.path))}) held"] if step.keep else []
    if step.compute:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE computed AS {_query(step, source)}")
        parts.insert(0, "computed")
    columns = ", ".join(
        f'held."{step.keep[name]}" AS "{name}"' if name in step.keep else f'computed."{name}"'
        for name in step.table.names
    )
    rows = f"SELECT {key}, {at} event_timestamp, {at} created_timestamp, {columns} FROM {parts[0]}"
    joined = f" JOIN {parts[1]} USING ({key})" if len(parts) > 1 else ""
    return f"{rows}{joined} UNION ALL {rows}{joined} WHERE false ORDER BY {', '.join((key, 'event_timestamp', *step.table.identified_by))}"


def _refuse_different_rows(
    connection: duckdb.DuckDBPyConnection, step: Step, merged: int, partial: Path
) -> None:
    if not (step.keep and step.compute):
        return
    ((computed,),) = connection.execute("SELECT count(*) FROM computed").fetchall()
    held = pq.read_metadata(step.path).num_rows
    if not computed == held == merged:
        partial.unlink()
        raise DifferentRows(step, computed, held, merged)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
