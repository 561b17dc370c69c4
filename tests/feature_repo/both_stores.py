"""Two Feast stores with the same definitions, one on Feast's SQLite store and one on ours, to be asked the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Int64, String

HOUR = timedelta(hours=1)
DUCKDB = "feature_repo.online_store.DuckDBOnlineStore"
ENGINE = "feature_repo.engine.DuckDBEngine"

USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
DEVICE = Entity(name="device", join_keys=["device_id"], value_type=ValueType.STRING)
IDS = {"user_id": Int64, "device_id": String, "title_id": Int64}


def now() -> datetime:
    """Feast's stores know no other clock than the machine's; whole seconds are all that SQLite keeps of a moment."""
    return datetime.now(UTC).replace(microsecond=0)


def source(folder: Path, name: str, **more: Any) -> FileSource:
    return FileSource(
        name=f"{name}_source", path=str(folder / f"{name}.parquet"),
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp", **more,
    )  # fmt: skip


def view(
    folder: Path, name: str, entities: list[Entity], types: dict[str, Any], *, ttl: timedelta | None = None,
    pushed: bool = False, **more: Any,
) -> FeatureView:  # fmt: skip
    keys = [Field(name=e.join_key, dtype=IDS[e.join_key]) for e in entities]
    batch = more.pop("source", None) or source(folder, name)
    return FeatureView(
        name=name, entities=entities, ttl=ttl,
        schema=[*keys, *(Field(name=n, dtype=t) for n, t in types.items())],
        source=PushSource(name=f"{name}_pushes", batch_source=batch) if pushed else batch,
        **more,
    )  # fmt: skip


def a_store(
    folder: Path, online: dict[str, Any], objects: Sequence[Any], *, project: str = "test",
    registry: dict[str, Any] | None = None, **more: Any,
) -> FeatureStore:  # fmt: skip
    folder.mkdir(exist_ok=True)
    settings = {"registry_type": "file", "path": str(folder / "registry.db"), **(registry or {})}
    config = RepoConfig(
        project=project, provider="local", registry=settings, online_store=online, offline_store={"type": "duckdb"},
        entity_key_serialization_version=3, repo_path=folder, **more,
    )  # fmt: skip
    store = FeatureStore(config=config)
    if objects:
        store.apply(list(objects))
    return store


def our_store(folder: Path, objects: Sequence[Any], **more: Any) -> FeatureStore:
    online = {"type": DUCKDB, "path": "online.duckdb", "lock_wait_seconds": 0.2, **more.pop("online", {})}
    return a_store(folder / "ours", online, objects, batch_engine={"type": ENGINE}, **more)


@dataclass(frozen=True)
class Both:
    """Feast on ours and on SQLite."""

    ours: FeatureStore
    feasts: FeatureStore

    def __call__(self, call: Callable[[FeatureStore], Any]) -> Any:
        """What both say; they must say the same."""
        mine, theirs = call(self.ours), call(self.feasts)
        assert mine == theirs
        return mine


def both_of(folder: Path, objects: Callable[[Path], Sequence[Any]], **more: Any) -> Both:
    """Each side has a folder of its own for its files; `objects` makes what is applied to it."""
    (folder / "ours").mkdir()
    (folder / "feasts").mkdir()
    ours = our_store(folder, objects(folder / "ours"), **more)
    feasts = a_store(folder / "feasts", {"type": "sqlite", "path": "online.db"}, objects(folder / "feasts"), **more)  # fmt: skip
    return Both(ours, feasts)


def rows(**columns: list[Any]) -> pd.DataFrame:
    count, moment = len(next(iter(columns.values()))), now()
    return pd.DataFrame(
        {"event_timestamp": [moment] * count, "created_timestamp": [moment] * count} | columns
    )


def told(response: Any) -> dict[str, Any]:
    """Column → each row's value as text, status, and second."""
    proto = response.proto
    return {
        name: [
            (str(value), FieldStatus.Name(status), moment.seconds)
            for value, status, moment in zip(column.values, column.statuses, column.event_timestamps, strict=True)
        ]
        for name, column in zip(proto.metadata.feature_names.val, proto.results, strict=True)
    }  # fmt: skip


def read(features: Any, entity_rows: Any, **more: Any) -> Callable[[FeatureStore], dict[str, Any]]:
    """Ask for features, by their references or the name of a service."""

    def call(store: FeatureStore) -> dict[str, Any]:
        wanted = store.get_feature_service(features) if isinstance(features, str) else features
        return told(store.get_online_features(wanted, entity_rows, **more))

    return call


def write(name: str, frame: pd.DataFrame) -> Callable[[FeatureStore], None]:
    return lambda store: store.write_to_online_store(name, frame)


def key(**values: Any) -> EntityKey:
    made = [Value(int64_val=v) if isinstance(v, int) else Value(string_val=v) for v in values.values()]
    return EntityKey(join_keys=list(values), entity_values=made)


def error_of(call: Callable[[FeatureStore], Any]) -> Callable[[FeatureStore], tuple[type, str]]:
    """The kind and the words of the error that a call ends in."""

    def caught(store: FeatureStore) -> tuple[type, str]:
        try:
            found = call(store)
        except Exception as error:  # noqa: BLE001 - which one is what is compared
            return type(error), str(error)
        raise AssertionError(f"no error, but {found}")

    return caught
