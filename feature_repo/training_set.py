"""Point-in-time training sets: each label joined to the features known at its time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.arithmetic import references
from feature_repo.compile import pair_sql
from feature_repo.compute import offline_path, recorded_digest
from feature_repo.declarations import Declarations, Derived, FeatureService, FeatureTable


class NoSnapshot(LookupError):
    """No computed table is old enough for some label: its features would be younger than it."""

    def __init__(self, table: str, earliest_label: datetime, earliest_snapshot: datetime | None) -> None:
        have = (
            f"the earliest snapshot is {earliest_snapshot}" if earliest_snapshot else "there is no snapshot"
        )
        super().__init__(
            f"table {table!r}: a label at {earliest_label} needs features known before it, but {have}."
        )


@dataclass(frozen=True)
class TrainingSet:
    """Labels and features row by row, in the order of the spine.

    `features` is float32 (N, F), NaN where unknown; `names` are `table:feature` in model order.
    """

    spine: pa.Table
    features: NDArray[np.float32]
    names: tuple[str, ...]
    digests: tuple[str, ...]
    digest: str


def training_set(spine: pa.Table, service: FeatureService, declarations: Declarations, folder: Path,
                 as_ofs: Sequence[datetime], *, threads: int = 2) -> TrainingSet:  # fmt: skip
    """Join each row of `spine` to the newest snapshot at or before its `event_timestamp`.

    A snapshot holds what was known strictly before its `as_of`, so no feature is younger than its label.

    Args:
        spine: label rows with the entities' join keys and `event_timestamp` (UTC); other columns ride along.
        service: the features wanted; user × title ones are computed in SQL from the joined row.
        declarations: where the service's tables are declared.
        folder: the offline folder `feature_repo.compute` wrote to.
        as_ofs: the snapshots that may be used.
        threads: DuckDB threads.

    Raises:
        NoSnapshot: a label is older than every snapshot.
    """
    moments = sorted(as_ofs)
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("spine_rows", spine.append_column("row_id", pa.array(np.arange(len(spine)))))
        connection.execute(_matched(moments))
        _refuse_labels_without_snapshot(connection, service, moments)
        sql = _joined(service, declarations, folder, moments)
        return _collect(connection, sql, spine, service, _digest(spine, service, folder, moments))


def _matched(moments: Sequence[datetime]) -> str:
    """The spine with the `as_of` each row may see: an ASOF join on the narrow key, before any wide row."""
    values = ", ".join(f"(TIMESTAMPTZ '{m.astimezone(UTC).isoformat(sep=' ')}')" for m in moments)
    known = (
        f"(VALUES {values}) snapshot(as_of)"
        if moments
        else "(SELECT NULL::TIMESTAMPTZ AS as_of LIMIT 0) snapshot"
    )
    return f"""
        CREATE TEMP TABLE matched AS
        SELECT s.*, snapshot.as_of FROM spine_rows s ASOF LEFT JOIN {known} ON s.event_timestamp >= snapshot.as_of"""


def _refuse_labels_without_snapshot(connection: duckdb.DuckDBPyConnection, service: FeatureService,
                                    moments: Sequence[datetime]) -> None:  # fmt: skip
    ((oldest,),) = connection.execute(
        "SELECT min(event_timestamp) FROM matched WHERE as_of IS NULL"
    ).fetchall()
    if oldest is not None:
        raise NoSnapshot(service.tables[0].name, oldest, moments[0] if moments else None)


def _sources(service: FeatureService, declarations: Declarations) -> tuple[FeatureTable, ...]:
    """The stored tables that the service reads, directly or through user × title features."""
    computed = [f.computation for table in service.tables if not table.stored for f in table.features]
    read = {ref.table for c in computed if isinstance(c, Derived) for ref in references(c.expression)}
    named = {table.name for table in service.tables} | read
    return tuple(table for table in declarations.stored if table.name in named)


def _joined(
    service: FeatureService, declarations: Declarations, folder: Path, moments: Sequence[datetime]
) -> str:
    columns, joins = [], []
    for table in _sources(service, declarations):
        files = ", ".join(f"'{offline_path(folder, table.name, m)}'" for m in moments)
        key = table.entity.join_key
        joins.append(
            f'LEFT JOIN read_parquet([{files}]) "{table.name}" '
            f'ON "{table.name}".{key} = m.{key} AND "{table.name}".event_timestamp = m.as_of'
        )
        columns += [f'"{table.name}"."{name}" AS "{table.name}:{name}"' for name in table.names]
    wanted = [
        f'"{table.name}:{name}"' if table.stored else pair_sql(table[name])
        for table in service.tables for name in table.names
    ]  # fmt: skip
    return f"""
        WITH stored AS (SELECT m.row_id, {", ".join(columns)} FROM matched m {" ".join(joins)})
        SELECT row_id, {", ".join(wanted)} FROM stored"""


def _collect(connection: duckdb.DuckDBPyConnection, sql: str, spine: pa.Table, service: FeatureService,
             digest: str) -> TrainingSet:  # fmt: skip
    """Stream the joined rows into one matrix, each at its place in the spine."""
    names = tuple(service.digests)
    features = np.full((len(spine), len(names)), np.nan, dtype=np.float32)
    for batch in connection.sql(sql).to_arrow_reader(16_384):
        rows = batch.column(0).to_numpy()
        block = np.empty((len(rows), len(names)), dtype=np.float32)
        for i in range(len(names)):
            block[:, i] = batch.column(i + 1).to_numpy(zero_copy_only=False)
        features[rows] = block
    return TrainingSet(spine, features, names, tuple(service.digests.values()), digest)


def _digest(spine: pa.Table, service: FeatureService, folder: Path, moments: Sequence[datetime]) -> str:
    """sha256 over the spine's content, the features in order, and the digest of every snapshot used."""
    found = hashlib.sha256()
    for column in spine.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                found.update(buffer or b"")
    found.update(repr(list(service.digests.items())).encode())
    for moment in moments:
        for table in service.tables:
            if table.stored:
                found.update(repr(recorded_digest(offline_path(folder, table.name, moment))).encode())
    return found.hexdigest()[:16]


def snapshot_matrix(path: Path, table: FeatureTable) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A computed table as (entity ids ascending, float32 (n, F) with NaN for null)."""
    with duckdb.connect(config={"threads": 1}) as connection:
        rows = connection.sql(
            f"SELECT * FROM read_parquet('{path}') ORDER BY {table.entity.join_key}"
        ).to_arrow_table()
    columns: Mapping[str, pa.ChunkedArray] = {name: rows.column(name) for name in rows.column_names}
    values = np.empty((len(rows), len(table.names)), dtype=np.float32)
    for i, name in enumerate(table.names):
        values[:, i] = columns[name].to_numpy()
    return columns[table.entity.join_key].to_numpy(), values
