"""From computed feature tables to what is served: Parquet → the record → a published snapshot, as Arrow throughout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo import deltas, session, snapshot
from feature_repo.arithmetic import to_data
from feature_repo.declarations import Declarations, Derived, FeatureTable, InSession
from feature_repo.overlay import integers, recent_of
from feature_repo.packed import columns_to_matrix, pack, unpack
from feature_repo.record import (
    Kind,
    Layout,
    Shape,
    View,
    ensure,
    layout_of,
    mark_computed,
    newest,
    newest_write,
    opened,
    rows_since,
    upsert,
)
from feature_repo.snapshot import (
    Contents,
    Described,
    Generation,
    Lists,
    Pairs,
    Recents,
    Service,
    Sessions,
    Vectors,
    publish_made,
)
from feature_repo.taken import has_taken, remember
from validations.expectations import DType

RECORD = "online.duckdb"
"""The record's file, under the online root."""

PROJECT = snapshot.PROJECT
"""The Feast project: what is materialized under it plain Feast finds."""

STRETCH_VALUES = 2_000_000
"""Values that are packed at a time: 8 MB."""

COLUMNS_AT_ONCE = 32
"""Columns of a Parquet file that are decoded at a time."""

LOCK_WAIT_S = 30.0
_KINDS = {DType.FLOAT: Kind.FLOAT, DType.BIGINT: Kind.BIGINT, DType.BIGINTS: Kind.BIGINTS}


class NotMaterialized(LookupError):
    """A table that should be served has no row in the record."""

    def __init__(self, table: str, record: Path) -> None:
        super().__init__(f"feature table {table!r} has no rows in {record}: materialize it first.")


class NotServable(TypeError):
    """A table of a shape that no snapshot holds."""

    def __init__(self, table: str, layout: Layout) -> None:
        kinds = ", ".join(sorted({kind.value for kind in layout.kinds}))
        super().__init__(
            f"feature table {table!r} keeps {layout.keep} rows of {kinds}. A snapshot holds one row of FLOAT features, one"
            " row of a single BIGINT[] feature, or several rows of BIGINT features."
        )


class MissingTable(LookupError):
    """A stored table for which no Parquet file was given."""

    def __init__(self, table: str, given: Iterable[str]) -> None:
        super().__init__(f"no offline file for feature table {table!r}. Given: {', '.join(sorted(given))}.")


def materialize(
    declarations: Declarations,
    offline: Mapping[str, Path],
    online_root: Path,
    project: str,
    catalogue: pa.Table,
) -> Generation:
    """Take the Parquet file of each stored table into the record, then publish a snapshot of it.

    A file that the record took in before is not read again. The same inputs give the same generation. Rows older than what the record holds change nothing.

    Args:
        declarations: what is served.
        offline: stored table → its Parquet file, as `compute` wrote it.
        online_root: where the record and the snapshots live.
        project: the Feast project, `PROJECT` where plain Feast is to find the same rows.
        catalogue: see `snapshot.CATALOGUE_SCHEMA`.

    Raises:
        MissingTable: a stored table has no file.
        RecordBusy: another process is writing the record.
    """
    for table in declarations.stored:
        if table.name not in offline:
            raise MissingTable(table.name, offline)
    with opened(online_root / RECORD, LOCK_WAIT_S, bulk=True) as connection:
        for table in declarations.stored:
            view, layout, path = View(project, table.name), layout_of_table(table), offline[table.name]
            if not has_taken(connection, view, layout, path):
                _take_in_file(connection, view, layout, table.entity.join_key, path)
                remember(connection, view, path)
    return publish_record(declarations, online_root, project, catalogue)


def take_in(
    connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, join_key: str, rows: pa.Table
) -> None:
    """Upsert a computed table: the join key (INT64), event_timestamp, created_timestamp and the features.

    Its newest event_timestamp is the moment it was computed for. A stretch of rows at a time is packed, so that no
    second copy of the whole is made.
    """
    ensure(connection, view, layout)
    if not rows.num_rows:
        return
    mark_computed(connection, view, pc.max(rows["event_timestamp"]).as_py())
    length = stretch(layout)
    for start in range(0, rows.num_rows, length):
        upsert(connection, view, _incoming(layout, join_key, rows.slice(start, length)))


def stretch(layout: Layout) -> int:
    """How many rows are packed at a time."""
    return max(1, STRETCH_VALUES // max(1, len(layout.features)))


def _take_in_file(
    connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, join_key: str, path: Path
) -> None:
    """As `take_in`, a row group at a time, and of that a few columns at a time: each decoder holds megabytes."""
    ensure(connection, view, layout)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            if not layout.packed:
                take_in(connection, view, layout, join_key, file.read_row_group(group))
                continue
            keys = file.read_row_group(group, columns=[join_key, "event_timestamp", "created_timestamp"])
            if keys.num_rows:
                vectors = _packed(file, group, layout.features)
                take_in(connection, view, layout, join_key, keys.append_column("vector", vectors))


def _packed(file: pq.ParquetFile, group: int, names: Sequence[str]) -> pa.FixedSizeListArray:
    shape = (file.metadata.row_group(group).num_rows, len(names))
    values, known = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    for start in range(0, len(names), COLUMNS_AT_ONCE):
        some = slice(start, start + COLUMNS_AT_ONCE)
        columns = file.read_row_group(group, columns=list(names[some]))
        values[:, some], known[:, some] = columns_to_matrix(columns, names[some])
    return pack(values, known)


def push(table: FeatureTable, rows: pa.Table, online_root: Path, project: str) -> None:
    """Add rows to a table between two computations of it: on disk when this returns, and seen by readers' next refresh.

    `rows` are as in `take_in`; whatever else they have is left out. So many that they are more than
    `record.BULK_VALUES` values wait for the next snapshot.

    Raises:
        RecordBusy: another process is writing the record.
    """
    view, layout = View(project, table.name), layout_of_table(table)
    with opened(online_root / RECORD, LOCK_WAIT_S) as connection:
        ensure(connection, view, layout)
        if rows.num_rows:
            upsert(connection, view, _incoming(layout, table.entity.join_key, rows))


def _incoming(layout: Layout, join_key: str, rows: pa.Table) -> pa.Table:
    ids = np.asarray(rows[join_key].to_numpy(), dtype=np.int64)
    return pa.table({
        "entity_key": entity_keys(join_key, ids),
        "entity_id": pa.array(ids),
        "event_timestamp": rows["event_timestamp"].cast(_MOMENT),
        "created_timestamp": rows["created_timestamp"].cast(_MOMENT),
        **_payload(layout, rows),
    })  # fmt: skip


def publish_record(
    declarations: Declarations, online_root: Path, project: str, catalogue: pa.Table
) -> Generation:
    """Publish a snapshot of what the record holds, less the rows past their table's time to live.

    The age of a row is counted from the snapshot's `as_of`, the newest moment that a table which keeps one row was
    computed for. Rows that were pushed since are in it and do not move it. What is written while the snapshot is made
    is in the delta log that readers lay over it.

    Raises:
        NotMaterialized: a table has no rows yet.
        NotServable: a snapshot cannot hold a table.
    """
    deltas.start(online_root)
    return publish_made(
        online_root, lambda: _contents(declarations, online_root / RECORD, project, catalogue)
    )


def _contents(declarations: Declarations, record: Path, project: str, catalogue: pa.Table) -> Contents:
    tables: dict[Shape, list[FeatureTable]] = {shape: [] for shape in Shape}
    for table in declarations.stored:
        tables[_shape(table)].append(table)
    with opened(record, LOCK_WAIT_S) as connection:
        moments = {t.name: _newest(connection, View(project, t.name), t, record) for t in declarations.stored}
        as_of = max(moments[table.name] for table in declarations.stored if table.keep == 1)
        read = partial(_read, connection, project, as_of)
        of = {table.name: described(table, moments[table.name]) for table in declarations.stored}
        vectors = tuple(_vectors(of[table.name], read(table)) for table in tables[Shape.VECTORS])
        lists = tuple(_lists(of[table.name], read(table)) for table in tables[Shape.LISTS])
        recents = tuple(_recents(of[table.name], read(table)) for table in tables[Shape.RECENT])
        sequence = newest_write(connection)
    evaluated = [table for table in declarations.tables if not table.stored]
    pairs = tuple(_pairs(table) for table in evaluated if not table.of_sessions)
    sessions = tuple(_sessions(table) for table in evaluated if table.of_sessions)
    services = tuple(
        Service(s.name, tuple(t.name for t in s.tables), s.description) for s in declarations.services
    )
    return Contents(
        declarations.source,
        as_of,
        vectors,
        lists,
        pairs,
        services,
        catalogue,
        recents,
        sessions,
        project,
        sequence,
    )


def described(table: FeatureTable, as_of: datetime | None = None) -> Described:
    """What a snapshot says of a table that was computed for `as_of`."""
    digests = tuple(feature.digest for feature in table.features)
    return Described(
        table.name,
        table.entity.name,
        table.names,
        digests,
        table.ttl_days,
        table.keep,
        table.slo_hours,
        as_of,
    )


def layout_of_table(table: FeatureTable) -> Layout:
    """How the record keeps a declared table."""
    kinds = tuple(_KINDS.get(feature.dtype, Kind.PROTO) for feature in table.features)
    return Layout(table.names, kinds, tuple(feature.digest for feature in table.features), table.keep)


def entity_keys(join_key: str, ids: NDArray[np.int64]) -> pa.Array:
    """Feast's serialised entity keys (version 3) of single INT64 keys, all at once.

    Layout, little-endian: number of keys, then for each its type, length and name, then for each value its type, length and
    bytes (`feast.infra.key_encoding_utils.serialize_entity_key`).
    """
    name = join_key.encode()
    head = np.array([1, _STRING, len(name)], "<u4").tobytes() + name + np.array([_INT64, 8], "<u4").tobytes()
    keys = np.empty((len(ids), len(head) + 8), dtype=np.uint8)
    keys[:, : len(head)] = np.frombuffer(head, np.uint8)
    keys[:, len(head) :] = ids.astype("<i8").view(np.uint8).reshape(-1, 8)
    fixed = pa.Array.from_buffers(pa.binary(keys.shape[1]), len(ids), [None, pa.py_buffer(keys)])
    return fixed.cast(pa.binary())


_MOMENT = pa.timestamp("us", "UTC")
_STRING, _INT64 = 2, 4  # feast.protos.feast.types.Value_pb2.ValueType


def _shape(table: FeatureTable) -> Shape:
    layout = layout_of_table(table)
    if layout.shape is None:
        raise NotServable(table.name, layout)
    return layout.shape


def _payload(layout: Layout, rows: pa.Table) -> dict[str, pa.Array]:
    if layout.packed and "vector" in rows.column_names:
        return {"vector": rows["vector"]}
    if layout.packed:
        return {"vector": pack(*columns_to_matrix(rows, layout.features))}
    return {f"f:{name}": rows[name] for name in layout.features}


def _newest(connection: duckdb.DuckDBPyConnection, view: View, table: FeatureTable, record: Path) -> datetime:
    moment = newest(connection, view) if layout_of(connection, view) == layout_of_table(table) else None
    if moment is None:
        raise NotMaterialized(table.name, record)
    return moment


def _pairs(table: FeatureTable) -> Pairs:
    computations = (feature.computation for feature in table.features)
    expressions = tuple(to_data(c.expression) for c in computations if isinstance(c, Derived))
    return Pairs(described(table), expressions)


def _sessions(table: FeatureTable) -> Sessions:
    computed = [f.computation for f in table.features if isinstance(f.computation, InSession)]
    readings = tuple(session.to_data(c.reading) for c in computed)
    return Sessions(described(table), readings, max(c.newest for c in computed))


def _read(
    connection: duckdb.DuckDBPyConnection, project: str, as_of: datetime, table: FeatureTable
) -> pa.Table:
    """The rows of a table that are within their time to live."""
    return rows_since(connection, View(project, table.name), as_of - timedelta(days=table.ttl_days))


def _vectors(of: Described, rows: pa.Table) -> Vectors:
    moments = integers(rows["event_timestamp"])
    return Vectors(of, integers(rows["entity_id"]), *unpack(rows["vector"]), moments)


def _lists(of: Described, rows: pa.Table) -> Lists:
    items, moments = rows[f"f:{of.features[0]}"].combine_chunks(), integers(rows["event_timestamp"])
    return Lists(of, integers(rows["entity_id"]), items, moments)


def _recents(of: Described, rows: pa.Table) -> Recents:
    kept = recent_of(rows, of.features)
    columns = tuple(kept.columns.values())
    return Recents(of, integers(rows["entity_id"]), kept.moments, kept.created, columns)
