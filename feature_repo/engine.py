"""Feast's compute engine for the DuckDB record: `feast materialize` as Arrow from Parquet to the record.

    batch_engine: {type: feature_repo.engine.DuckDBEngine}

Feast's local engine turns every value into a protobuf on the way, and cannot materialize a view without entities. This
one hands the offline store's columns over whole, and leaves to the local engine what it does besides: transformations,
aggregations, validation, writing back offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.types import Int64

from feature_repo.materialize import entity_keys
from feature_repo.online_store import DuckDBOnlineStore
from feature_repo.values import MOMENT, NOBODY, layout_for, payload_of_columns, single_id


class DuckDBEngineConfig(LocalComputeEngineConfig):  # type: ignore[misc] # feast ships no types
    """What the local engine has to set, for the views that are left to it."""

    type: Literal["feature_repo.engine.DuckDBEngine"] = "feature_repo.engine.DuckDBEngine"


class DuckDBEngine(LocalComputeEngine):  # type: ignore[misc] # feast ships no types
    """Materializes plain views as Arrow, all others as the local engine does."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        if not (isinstance(self.online_store, DuckDBOnlineStore) and stays_arrow(view)):
            return super()._materialize_one(registry, task, **kwargs)
        self.online_store.write_arrow(self.repo_config, view, record_rows(view, self._pulled(task)))
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)

    def _pulled(self, task: MaterializationTask) -> pa.Table:
        """The newest offline row of each key between the task's moments, or all, under the names of the view."""
        view, source = task.feature_view, task.feature_view.batch_source
        newest_only = layout_for(view).keep == 1
        store = self.offline_store
        pull = store.pull_latest_from_table_or_query if newest_only else store.pull_all_from_table_or_query
        raw = {mapped: name for name, mapped in (source.field_mapping or {}).items()}
        pulled = pull(
            config=self.repo_config,
            data_source=source,
            join_key_columns=[raw.get(name, name) for name in join_keys(view)],
            feature_name_columns=[raw.get(field.name, field.name) for field in view.features],
            timestamp_field=raw.get(source.timestamp_field, source.timestamp_field),
            created_timestamp_column=raw.get(
                source.created_timestamp_column, source.created_timestamp_column
            ),
            start_date=task.start_time,
            end_date=task.end_time,
        ).to_arrow()
        mapping = source.field_mapping or {}
        return pulled.rename_columns([mapping.get(name, name) for name in pulled.column_names])


def stays_arrow(view: FeatureView) -> bool:
    """Whether a view's rows can be kept as the offline store gives them."""
    return (
        type(view) is FeatureView
        and bool(view.batch_source)
        and view.online
        and not view.offline
        and not view.enable_validation
        and bool(view.features)
    )


def join_keys(view: FeatureView) -> list[str]:
    """The columns of the view's key; none for a view without entities."""
    return [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


def record_rows(view: FeatureView, columns: pa.Table) -> pa.Table:
    """Offline columns under the names of the view, as `record.upsert` takes them."""
    source, layout = view.batch_source, layout_for(view)
    created = source.created_timestamp_column
    unknown = pa.nulls(columns.num_rows, MOMENT)
    return pa.table({
        **_keys(view, columns),
        "event_timestamp": columns[source.timestamp_field].cast(MOMENT),
        "created_timestamp": columns[created].cast(MOMENT) if created else unknown,
        **payload_of_columns(view, layout, columns),
    })  # fmt: skip


def _keys(view: FeatureView, columns: pa.Table) -> dict[str, pa.Array]:
    names = join_keys(view)
    if [column.dtype for column in view.entity_columns] == [Int64]:
        ids = np.asarray(columns[names[0]].to_numpy(), dtype=np.int64)
        return {"entity_key": entity_keys(names[0], ids), "entity_id": pa.array(ids)}
    keys = _entity_keys(view, columns)
    serialised = [serialize_entity_key(key, 3) for key in keys]
    return {
        "entity_key": pa.array(serialised, pa.binary()),
        "entity_id": pa.array([single_id(key) for key in keys], pa.int64()),
    }


def _entity_keys(view: FeatureView, columns: pa.Table) -> Sequence[EntityKey]:
    if not join_keys(view):
        return [NOBODY] * columns.num_rows
    names = [column.name for column in view.entity_columns]
    values = [
        python_values_to_proto_values(
            columns[column.name].combine_chunks().to_numpy(zero_copy_only=False), column.dtype.to_value_type()
        )
        for column in view.entity_columns
    ]
    return [EntityKey(join_keys=names, entity_values=key) for key in zip(*values, strict=True)]
