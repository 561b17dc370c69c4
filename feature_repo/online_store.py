"""Feast's view of the online store: a plug-in over the DuckDB record, for every Feast call and value type.

    online_store: {type: feature_repo.online_store.DuckDBOnlineStore, path: online/online.duckdb}

This is Feast's way in, for writing, exploring and checking. Serving reads published snapshots instead
(`feature_repo.reader`). What differs from Feast's own stores on purpose is listed in decision 0010.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from feast import Entity, FeatureService, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field, StrictStr

from feature_repo.feast_seam import EntityRows, asked
from feature_repo.held import Held, Keys, Memory, ViewNotApplied, Wanted
from feature_repo.online_features import Source, answer
from feature_repo.record import Layout, View, drop, ensure, lookup, mark_computed, opened, upsert, views
from feature_repo.values import NOBODY, Row, Values, layout_for, protos_of_rows, rows_table

__all__ = ["DuckDBOnlineStore", "DuckDBOnlineStoreConfig", "ViewNotApplied"]

Found = tuple[datetime | None, Values | None]
_MEGABYTE = 2**20


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
    hold_megabytes: float = Field(
        512.0, ge=0, description="a view up to this size is held in memory between two writes; 0 holds none"
    )


class DuckDBOnlineStore(OnlineStore):  # type: ignore[misc] # feast ships no types
    """Feast's online store over the DuckDB record."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock, self._memory = clock, Memory()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes, each on a thread."""
        return SupportedAsyncMethods(read=True, write=True)

    def get_online_features(
        self, config: RepoConfig, features: list[str] | FeatureService, entity_rows: EntityRows, registry: BaseRegistry,
        project: str, full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """What Feast would answer over `online_read`, in columns, its protobuf built only if asked for.

        Columns come in the order in which they were asked for, expired rows are OUTSIDE_MAX_AGE, and a service that
        is to be precomputed is answered as any other: from the rows as they are now.

        Raises:
            As `online_read` does, and whatever Feast raises for a request that it cannot resolve.
        """
        request = asked(registry, project, features, entity_rows, full_feature_names=full_feature_names)
        source = Source(
            lambda reads: self._held(config, reads),
            lambda table, held: self._oldest_live(config, table, held),
        )
        return answer(
            source, request, full_feature_names=full_feature_names, versions=include_feature_view_version_metadata
        )  # fmt: skip

    async def get_online_features_async(
        self, config: RepoConfig, features: list[str] | FeatureService, entity_rows: EntityRows, registry: BaseRegistry,
        project: str, full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """As `get_online_features`, without holding up the event loop."""
        return await asyncio.to_thread(
            self.get_online_features, config, features, entity_rows, registry, project, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

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
                upsert(connection, view, rows_table(layout, keys, data, values))
        if progress is not None:
            progress(len(data))

    def write_arrow(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> None:
        """Take in computed rows as `record.upsert` takes them, all of them or none.

        They wait for the next snapshot to be served: a materialization is not a push.
        """
        view = _view(config, table)
        with opened(_path(config), config.online_store.lock_wait_seconds, bulk=True) as connection:
            ensure(connection, view, layout_for(table))
            if rows.num_rows:
                mark_computed(connection, view, pc.max(rows["event_timestamp"]).as_py())
                upsert(connection, view, rows)

    def online_read(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:  # fmt: skip
        """One (event_timestamp, values) a key, in the order of the keys; (None, None) where there is no live row.

        Raises:
            ViewNotApplied: the view has no table.
            FileNotFoundError: there is no record.
            RecordBusy: another process is writing, and did not stop in time.
        """
        serialised = [_key(config, key) for key in entity_keys]
        keys = Keys(None, lambda: serialised)
        held = self._held(config, [(table, keys)])[0]
        oldest, places = self._oldest_live(config, table, held), held.find(keys)
        there = sorted(set(places[places >= 0].tolist()))
        rows = held.rows.take(pa.array(there, pa.int64()))
        moments = rows["event_timestamp"].to_pylist()
        values = protos_of_rows(held.layout, rows, requested_features)
        live = {
            place: (moment, found)
            for place, moment, found in zip(there, moments, values, strict=True)
            if oldest is None or moment >= oldest
        }
        return [live.get(place, (None, None)) for place in places.tolist()]

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
        self._memory.forget(path)
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

    def _is_versioned_read_supported(self) -> bool:
        """Feast asks by a list of its own stores; each version of a view has a table of its own here too."""
        return True

    def _held(self, config: RepoConfig, reads: Sequence[tuple[FeatureView, Keys]]) -> list[Held]:
        online = config.online_store
        return self._memory.read(
            _path(config), [Wanted(_view(config, table), keys) for table, keys in reads],
            wait_s=online.lock_wait_seconds, limit_bytes=online.hold_megabytes * _MEGABYTE,
        )  # fmt: skip

    def _oldest_live(self, config: RepoConfig, table: FeatureView, held: Held) -> datetime | None:
        """Rows from before this moment are past their time to live; None where they live for ever."""
        ttl = _ttl(table)
        if not ttl:
            return None
        against = held.newest if config.online_store.age_against == "newest" else self._clock()
        return against - ttl if against is not None else None


def _ttl(table: FeatureView) -> Any:
    """An on-demand view has no time to live."""
    return getattr(table, "ttl", None)


def _view(config: RepoConfig, table: FeatureView) -> View:
    versioned = config.registry.enable_online_feature_view_versioning
    return View(config.project, compute_versioned_name(table, versioned))


def _path(config: RepoConfig) -> Path:
    root = Path(config.repo_path or ".")
    return root / str(config.online_store.path)


def _key(config: RepoConfig, key: EntityKey) -> bytes:
    """Feast writes the row of a view without entities under no key at all, and looks for it under another."""
    key = key if key.join_keys else NOBODY
    return bytes(serialize_entity_key(key, config.entity_key_serialization_version))


def _completed(
    connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, keys: list[bytes], given: list[Values]
) -> list[Mapping[str, ValueProto]]:
    """Each row's values, what it leaves out filled from the row held."""
    short = [i for i, values in enumerate(given) if not values.keys() >= set(layout.features)]
    completed: list[Mapping[str, ValueProto]] = list(given)
    if short:
        rows = lookup(connection, view, [keys[i] for i in short])
        for place, held in zip(rows["place"].to_pylist(), protos_of_rows(layout, rows, None), strict=True):
            completed[short[place]] = held | given[short[place]]
    return completed
