"""Feast's view of the online store: a plug-in over the DuckDB record, for every Feast call and value type.

    online_store: {type: feature_repo.online_store.DuckDBOnlineStore, path: online/online.duckdb}

This is Feast's way in, for writing, exploring and checking. Serving reads published snapshots instead
(`feature_repo.reader`). Differs from Feast's own stores on purpose: a late row never overwrites a newer one,
and a row past its view's time to live is not found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import Array, Float32, Int64
from pydantic import Field, StrictStr

from feature_repo.materialize import take_in
from feature_repo.packed import pack, unpack
from feature_repo.record import (
    Kind,
    Layout,
    View,
    drop,
    ensure,
    layout_of,
    lookup,
    newest,
    opened,
    opened_to_read,
    upsert,
    views,
)

Values = dict[str, ValueProto]
Row = tuple[EntityKey, Values, datetime, datetime | None]
Found = tuple[datetime | None, Values | None]


class ViewNotApplied(LookupError):
    """A feature view without a table in the record."""

    def __init__(self, view: View, path: Path, known: Iterable[str]) -> None:
        super().__init__(
            f"feature view {view.key!r} has no table in {path}: run `feast apply`. It has: {', '.join(known) or 'none'}."
        )


class WrongValueType(TypeError):
    """A value of another type than the feature's."""

    def __init__(self, feature: str, kind: Kind, found: str) -> None:
        super().__init__(f"feature {feature!r} is kept as {kind.value}, but was given a {found}.")


class DuckDBOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc] # feast ships no types
    """Where the record is, and how its users behave."""

    type: Literal["feature_repo.online_store.DuckDBOnlineStore"] = (
        "feature_repo.online_store.DuckDBOnlineStore"
    )
    path: StrictStr = Field("data/online.duckdb", description="relative to the feature repository")
    lock_wait_seconds: float = Field(10.0, ge=0, description="how long to wait for another writing process")
    age_against: Literal["clock", "newest"] = Field(
        "clock",
        description="what a row's time to live is counted to: now, or the newest row of its view (replays of the past)",
    )


class DuckDBOnlineStore(OnlineStore):  # type: ignore[misc] # feast ships no types
    """Feast's online store over the DuckDB record."""

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes, each on a thread."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Take in rows, all of them or none; a feature that a row leaves out keeps the value it had."""
        view, layout = _view(config, table), layout_for(table)
        keys = [_key(config, key) for key, _, _, _ in data]
        with opened(_path(config), config.online_store.lock_wait_seconds) as connection:
            ensure(connection, view, layout)
            values = _completed(connection, view, layout, keys, [row[1] for row in data])
            if data:
                upsert(connection, view, _table(layout, keys, data, values))
        if progress is not None:
            progress(len(data))

    def write_arrow(self, config: RepoConfig, table: FeatureView, join_key: str, rows: pa.Table) -> None:
        """Take in rows of one INT64 key as Arrow, none of them by way of protobuf.

        `rows` has the join key, event_timestamp, created_timestamp and the view's features, none of which may
        be of a kind that is kept as a serialised value.
        """
        with opened(_path(config), config.online_store.lock_wait_seconds) as connection:
            take_in(connection, _view(config, table), layout_for(table), join_key, rows)

    def online_read(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:  # fmt: skip
        """One (event_timestamp, values) a key, in the order of the keys; (None, None) where there is no live row.

        Raises:
            ViewNotApplied: the view has no table.
            RecordBusy: another process is writing, and did not stop in time.
        """
        view, path = _view(config, table), _path(config)
        keys = [_key(config, key) for key in entity_keys]
        with opened_to_read(path, config.online_store.lock_wait_seconds) as connection:
            layout = layout_of(connection, view)
            if layout is None:
                raise ViewNotApplied(view, path, views(connection))
            rows = lookup(connection, view, keys)
            oldest = _oldest_live(config, table, connection, view)
        found: list[Found] = [(None, None)] * len(keys)
        values = _protos(layout, rows, requested_features)
        moments = rows["event_timestamp"].to_pylist()
        for place, moment, value in zip(rows["place"].to_pylist(), moments, values, strict=True):
            if oldest is None or moment >= oldest:
                found[place] = (moment, value)
        return found

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Give each view kept a table, and forget the others. Entities need nothing here."""
        del entities_to_delete, entities_to_keep, partial
        with opened(_path(config), config.online_store.lock_wait_seconds) as connection:
            for table in tables_to_delete:
                drop(connection, _view(config, table))
            for table in tables_to_keep:
                ensure(connection, _view(config, table), layout_for(table))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Forget the views; the file goes with the last of them."""
        del entities
        path = _path(config)
        with opened(path, config.online_store.lock_wait_seconds) as connection:
            for table in tables:
                drop(connection, _view(config, table))
            left = views(connection)
        if not left:
            path.unlink()

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As `online_write_batch`, without holding up the event loop."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    async def online_read_async(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:  # fmt: skip
        """As `online_read`, without holding up the event loop."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)


def layout_for(table: FeatureView) -> Layout:
    """How the record keeps a Feast view; the tag `digest` of a field says what the feature means."""
    kinds = {Float32: Kind.FLOAT, Array(Int64): Kind.BIGINTS}
    return Layout(
        tuple(field.name for field in table.features),
        tuple(kinds.get(field.dtype, Kind.PROTO) for field in table.features),
        tuple((field.tags or {}).get("digest", "") for field in table.features),
    )


def _view(config: RepoConfig, table: FeatureView) -> View:
    versioned = config.registry.enable_online_feature_view_versioning
    return View(config.project, compute_versioned_name(table, versioned))


def _path(config: RepoConfig) -> Path:
    root = Path(config.repo_path or ".")
    return root / str(config.online_store.path)


def _key(config: RepoConfig, key: EntityKey) -> bytes:
    return bytes(serialize_entity_key(key, config.entity_key_serialization_version))


def _oldest_live(
    config: RepoConfig, table: FeatureView, connection: duckdb.DuckDBPyConnection, view: View
) -> datetime | None:
    """Rows from before this moment are past their time to live; None where they live for ever."""
    if not table.ttl:
        return None
    against = newest(connection, view) if config.online_store.age_against == "newest" else datetime.now(UTC)
    return against - table.ttl if against is not None else None


def _completed(
    connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, keys: list[bytes], given: list[Values]
) -> list[Mapping[str, ValueProto]]:
    """Each row's values, what it leaves out filled from the row held."""
    short = [i for i, values in enumerate(given) if not values.keys() >= set(layout.features)]
    completed: list[Mapping[str, ValueProto]] = list(given)
    if short:
        rows = lookup(connection, view, [keys[i] for i in short])
        for place, held in zip(rows["place"].to_pylist(), _protos(layout, rows, None), strict=True):
            completed[short[place]] = held | given[short[place]]
    return completed


def _table(
    layout: Layout, keys: list[bytes], data: list[Row], values: list[Mapping[str, ValueProto]]
) -> pa.Table:
    moments = pa.timestamp("us", "UTC")
    return pa.table({
        "entity_key": pa.array(keys, pa.binary()),
        "entity_id": pa.array([_single_id(key) for key, _, _, _ in data], pa.int64()),
        "event_timestamp": pa.array([_aware(event) for _, _, event, _ in data], moments),
        "created_timestamp": pa.array([c and _aware(c) for _, _, _, c in data], moments),
        **_payload(layout, values),
    })  # fmt: skip


def _aware(moment: datetime) -> datetime:
    """Feast's contract: a moment without a zone is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _single_id(key: EntityKey) -> int | None:
    """The id of a key of one INT64, by which snapshots find rows."""
    if len(key.entity_values) == 1 and key.entity_values[0].WhichOneof("val") == "int64_val":
        return int(key.entity_values[0].int64_val)
    return None


def _payload(layout: Layout, values: list[Mapping[str, ValueProto]]) -> dict[str, pa.Array]:
    if layout.packed:
        shape = (len(values), len(layout.features))
        cells = [_float(name, row.get(name)) for row in values for name in layout.features]
        known = np.array([cell is not None for cell in cells]).reshape(shape)
        return {"vector": pack(np.array(cells, dtype=np.float32).reshape(shape), known)}
    return {
        f"f:{name}": _column(name, kind, [row.get(name) for row in values])
        for name, kind in zip(layout.features, layout.kinds, strict=True)
    }


def _column(name: str, kind: Kind, values: list[ValueProto | None]) -> pa.Array:
    match kind:
        case Kind.FLOAT:
            return pa.array([_float(name, value) for value in values], pa.float32())
        case Kind.BIGINTS:
            return pa.array([_bigints(name, value) for value in values], pa.list_(pa.int64()))
        case Kind.PROTO:
            return pa.array([value and value.SerializeToString() for value in values], pa.binary())


def _float(name: str, value: ValueProto | None) -> float | None:
    kind = value.WhichOneof("val") if value is not None else None
    if kind not in {None, "float_val", "null_val"}:
        raise WrongValueType(name, Kind.FLOAT, kind)
    return value.float_val if kind == "float_val" and value is not None else None


def _bigints(name: str, value: ValueProto | None) -> list[int] | None:
    kind = value.WhichOneof("val") if value is not None else None
    if kind not in {None, "int64_list_val", "null_val"}:
        raise WrongValueType(name, Kind.BIGINTS, kind)
    return list(value.int64_list_val.val) if kind == "int64_list_val" and value is not None else None


def _protos(layout: Layout, rows: pa.Table, wanted: list[str] | None) -> list[Values]:
    """The values of each row, of the features wanted only."""
    names = [name for name in layout.features if wanted is None or name in wanted]
    if layout.packed:
        values, known = unpack(rows["vector"])
        places = [layout.features.index(name) for name in names]
        columns = [_floats(values[:, place], known[:, place]) for place in places]
    else:
        kinds = dict(zip(layout.features, layout.kinds, strict=True))
        columns = [[_TO_PROTO[kinds[name]](cell) for cell in rows[f"f:{name}"].to_pylist()] for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _floats(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> list[ValueProto]:
    cells = zip(values.tolist(), known.tolist(), strict=True)
    return [ValueProto(float_val=value) if is_known else ValueProto() for value, is_known in cells]


_TO_PROTO: dict[Kind, Callable[[Any], ValueProto]] = {
    Kind.FLOAT: lambda cell: ValueProto() if cell is None else ValueProto(float_val=cell),
    Kind.BIGINTS: lambda cell: (
        ValueProto() if cell is None else ValueProto(int64_list_val=Int64List(val=cell))
    ),
    Kind.PROTO: lambda cell: ValueProto() if cell is None else ValueProto.FromString(cell),
}
