"""From computed feature tables to what is served: Parquet → the record → a published snapshot, as Arrow throughout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.arithmetic import to_data
from feature_repo.declarations import Declarations, Derived, FeatureTable
from feature_repo.packed import columns_to_matrix, pack, unpack
from feature_repo.record import Kind, Layout, View, ensure, layout_of, newest, opened, rows_since, upsert
from feature_repo.snapshot import Contents, Described, Generation, Lists, Pairs, Service, Vectors, publish
from validations.expectations import DType

RECORD = "online.duckdb"
"""The record's file, under the online root."""

PROJECT = "matinee"
"""The Feast project, as `feature_store.yaml` names it: what is materialized under it plain Feast finds."""

LOCK_WAIT_S = 30.0
_KINDS = {DType.FLOAT: Kind.FLOAT, DType.BIGINTS: Kind.BIGINTS}


class NotMaterialized(LookupError):
    """A table that should be served has no row in the record."""

    def __init__(self, table: str, record: Path) -> None:
        super().__init__(f"feature table {table!r} has no rows in {record}: materialize it first.")


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

    The same inputs give the same generation. Rows older than what the record holds change nothing.

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
    with opened(online_root / RECORD, LOCK_WAIT_S) as connection:
        for table in declarations.stored:
            rows = pq.read_table(offline[table.name], partitioning=None)
            take_in(
                connection, View(project, table.name), layout_of_table(table), table.entity.join_key, rows
            )
    return publish_record(declarations, online_root, project, catalogue)


def take_in(
    connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, join_key: str, rows: pa.Table
) -> None:
    """Upsert a computed table: the join key (INT64), event_timestamp, created_timestamp and the features."""
    ensure(connection, view, layout)
    ids = np.asarray(rows[join_key].to_numpy(), dtype=np.int64)
    upsert(connection, view, pa.table({
        "entity_key": entity_keys(join_key, ids),
        "entity_id": pa.array(ids),
        "event_timestamp": rows["event_timestamp"].cast(_MOMENT),
        "created_timestamp": rows["created_timestamp"].cast(_MOMENT),
        **_payload(layout, rows),
    }))  # fmt: skip


def publish_record(
    declarations: Declarations, online_root: Path, project: str, catalogue: pa.Table
) -> Generation:
    """Publish a snapshot of what the record holds, less the rows past their table's time to live.

    The age of a row is counted from the newest row of all, which is also the snapshot's `as_of`.

    Raises:
        NotMaterialized: a table has no rows yet.
    """
    record = online_root / RECORD
    with opened(record, LOCK_WAIT_S) as connection:
        moments = {t.name: _newest(connection, View(project, t.name), t, record) for t in declarations.stored}
        as_of = max(moments.values())
        vectors = tuple(_vectors(connection, project, t, as_of) for t in declarations.stored if _is_packed(t))
        lists = tuple(_lists(connection, project, t, as_of) for t in declarations.stored if not _is_packed(t))
    pairs = tuple(_pairs(table) for table in declarations.tables if not table.stored)
    services = tuple(
        Service(s.name, tuple(t.name for t in s.tables), s.description) for s in declarations.services
    )
    return publish(
        online_root, Contents(declarations.source, as_of, vectors, lists, pairs, services, catalogue)
    )


def described(table: FeatureTable) -> Described:
    """What a snapshot says of a table."""
    digests = tuple(feature.digest for feature in table.features)
    return Described(table.name, table.entity.name, table.names, digests, table.ttl_days)


def layout_of_table(table: FeatureTable) -> Layout:
    """How the record keeps a declared table."""
    kinds = tuple(_KINDS.get(feature.dtype, Kind.PROTO) for feature in table.features)
    return Layout(table.names, kinds, tuple(feature.digest for feature in table.features))


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


def _is_packed(table: FeatureTable) -> bool:
    return layout_of_table(table).packed


def _payload(layout: Layout, rows: pa.Table) -> dict[str, pa.Array]:
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


def _since(table: FeatureTable, as_of: datetime) -> datetime:
    return as_of - timedelta(days=table.ttl_days)


def _vectors(
    connection: duckdb.DuckDBPyConnection, project: str, table: FeatureTable, as_of: datetime
) -> Vectors:
    rows = rows_since(connection, View(project, table.name), _since(table, as_of))
    return Vectors(described(table), _ids(rows), *unpack(rows["vector"]))


def _lists(
    connection: duckdb.DuckDBPyConnection, project: str, table: FeatureTable, as_of: datetime
) -> Lists:
    rows = rows_since(connection, View(project, table.name), _since(table, as_of))
    return Lists(described(table), _ids(rows), rows[f"f:{table.names[0]}"].combine_chunks())


def _ids(rows: pa.Table) -> NDArray[np.int64]:
    return np.asarray(rows["entity_id"].to_numpy(), dtype=np.int64)
