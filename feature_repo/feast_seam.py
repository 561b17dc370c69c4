"""The private parts of Feast that our reads rest on, each named once, so that another Feast is noticed in one place.

Feast resolves a request (features, views, entities, on-demand views) in functions that are not public. We use them as
they are, and replace what follows: the read and the answer. `changes()` tells where they differ from those of
the Feast that this was written for.
"""

# ruff: noqa: SLF001 - what is private in Feast is this module's business
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, metrics, utils
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.value_type import ValueType

EntityRows = list[dict[str, Any]] | Mapping[str, Any]

SEAM: dict[str, tuple[Callable[..., Any], str]] = {
    "utils._get_cached_request_context": (
        utils._get_cached_request_context, "registry project features full_feature_names"),
    "utils._prepare_entities_to_read_from_online_store": (
        utils._prepare_entities_to_read_from_online_store,
        "registry project features entity_values full_feature_names native_entity_values"),
    "utils._get_table_entity_values": (
        utils._get_table_entity_values, "table entity_name_to_join_key_map join_key_proto_values"),
    "utils._get_unique_entities": (
        utils._get_unique_entities, "table join_key_values entity_name_to_join_key_map"),
    "utils._get_entity_key_protos": (utils._get_entity_key_protos, "entity_rows"),
    "utils._augment_response_with_on_demand_transforms": (
        utils._augment_response_with_on_demand_transforms,
        "online_features_response feature_refs requested_on_demand_feature_views full_feature_names feature_types"),
    "utils._drop_unneeded_columns": (
        utils._drop_unneeded_columns, "online_features_response requested_result_row_names"),
    "utils._parse_feature_ref": (utils._parse_feature_ref, "ref"),
    "OnlineStore._build_feature_types": (OnlineStore._build_feature_types, "grouped_refs"),
    "OnlineStore._is_versioned_read_supported": (OnlineStore._is_versioned_read_supported, "self"),
    "OnlineStore.get_online_features": (
        OnlineStore.get_online_features,
        "self config features entity_rows registry project full_feature_names include_feature_view_version_metadata"),
    "OnlineStore.get_online_features_async": (
        OnlineStore.get_online_features_async,
        "self config features entity_rows registry project full_feature_names include_feature_view_version_metadata"),
    "OnlineResponse.__init__": (OnlineResponse.__init__, "self online_response_proto feature_types"),
    "metrics.track_online_store_read": (metrics.track_online_store_read, "duration_seconds"),
    "metrics.track_feature_statuses": (
        metrics.track_feature_statuses, "feature_view_name present_count not_found_count"),
}  # fmt: skip
"""Name → what it is now, and the parameters it had in Feast 0.67."""


@dataclass(frozen=True)
class Asked:
    """A request as Feast resolves it."""

    join_key_values: Mapping[str, list[ValueProto]]
    views: Sequence[tuple[FeatureView, list[str]]]  # each with the features wanted of it
    join_keys: Mapping[str, str]  # entity → join key
    on_demand: Sequence[OnDemandFeatureView]
    references: list[str]  # view:feature, as asked for
    wanted: frozenset[str]  # names of columns that the answer has
    given: GetOnlineFeaturesResponse  # join keys and request data


def changes(seam: Mapping[str, tuple[Callable[..., Any], str]]) -> list[str]:
    """Where the seam's functions take other parameters than they did."""
    found = {name: " ".join(inspect.signature(function).parameters) for name, (function, _) in seam.items()}
    return [
        f"feast.{name} now takes ({found[name]}), and took ({expected}) in Feast 0.67: see feature_repo/feast_seam.py"
        for name, (_, expected) in seam.items()
        if found[name] != expected
    ]


def asked(
    registry: BaseRegistry, project: str, features: list[str] | FeatureService, entity_rows: EntityRows,
    *, full_feature_names: bool,
) -> Asked:  # fmt: skip
    """Feast's own reading of a request.

    Raises:
        Whatever Feast raises for views, features, entities or request data that are not there.
    """
    values, views, join_keys, on_demand, references, wanted, given = (
        utils._prepare_entities_to_read_from_online_store(
            registry=registry,
            project=project,
            features=features,
            entity_values=_by_column(entity_rows),
            full_feature_names=full_feature_names,
            native_entity_values=True,
        )
    )
    return Asked(values, views, join_keys, on_demand, references, frozenset(wanted), given)


def key_columns(request: Asked, table: FeatureView) -> dict[str, list[ValueProto]]:
    """Join key of the view → its value in each row."""
    found: dict[str, list[ValueProto]] = utils._get_table_entity_values(
        table, request.join_keys, request.join_key_values
    )
    return found


def entity_keys_of(request: Asked, table: FeatureView) -> list[EntityKey]:
    """The view's entity key of each row.

    Raises:
        KeyError: no join key of the view was given.
    """
    unique, rows, count = utils._get_unique_entities(table, request.join_key_values, request.join_keys)
    found: list[EntityKey] = [EntityKey()] * count
    for key, places in zip(utils._get_entity_key_protos(unique), rows, strict=True):
        for place in places:
            found[place] = key
    return found


def value_types(request: Asked) -> dict[str, ValueType]:
    """Column → type, of what is read from views."""
    found: dict[str, ValueType] = OnlineStore._build_feature_types(request.views)
    return found


@lru_cache(maxsize=1 << 16)
def column_of(reference: str, *, full_feature_names: bool) -> str:
    """The column that `view:feature` or `view@v2:feature` is answered in."""
    view, version, feature = utils._parse_feature_ref(reference)
    if not full_feature_names:
        return str(feature)
    return f"{view}__{feature}" if version is None else f"{view}@v{version}__{feature}"


@lru_cache(maxsize=1 << 16)
def parts_of(reference: str) -> tuple[str, str]:
    """View (without a version) and feature of `view:feature`."""
    view, _, feature = utils._parse_feature_ref(reference)
    return view, feature


def transformed_by_feast(
    response: GetOnlineFeaturesResponse,
    request: Asked,
    types: dict[str, ValueType],
    *,
    full_feature_names: bool,
) -> None:
    """Add on-demand features to the protobuf, all by Feast's own doing."""
    utils._augment_response_with_on_demand_transforms(
        response, request.references, request.on_demand, full_feature_names, feature_types=types
    )


def count_read(seconds: float, statuses: Iterable[tuple[str, int, int]]) -> None:
    """Tell Feast's metrics of a read: how long it took and, by view, how many values were there and how many not."""
    metrics.track_online_store_read(seconds)
    for view, present, missing in statuses:
        metrics.track_feature_statuses(view, present, missing)


def metrics_wanted() -> bool:
    """Whether Feast's metrics count reads and on-demand transformations in this process."""
    return bool(metrics._config.online_features)


def warm(
    store: FeatureStore, features: list[str] | FeatureService, *, full_feature_names: bool = False
) -> None:
    """Resolve a request ahead of time: at hundreds of features, the first after a registry refresh costs 0.1 s and more."""
    utils._get_cached_request_context(store.registry, store.project, features, full_feature_names)


def _by_column(entity_rows: EntityRows) -> Mapping[str, Any]:
    if not isinstance(entity_rows, list):
        return entity_rows
    columns: dict[str, list[Any]] = {key: [] for key in entity_rows[0]}
    for row in entity_rows:
        for key, value in row.items():
            if key not in columns:
                raise ValueError("All entity_rows must have the same keys.")
            columns[key].append(value)
    return columns
