"""Feast's compute engine for the DuckDB record: `feast materialize` as Arrow from Parquet to the record.

    batch_engine: {type: feature_repo.engine.DuckDBEngine}

Feast's local engine turns every value into a protobuf on the way. This one hands the offline store's Arrow table
over as it is, and leaves to the local engine whatever that does not fit.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.types import Int64

from feature_repo.online_store import DuckDBOnlineStore, layout_for
from feature_repo.record import Kind


class DuckDBEngineConfig(LocalComputeEngineConfig):  # type: ignore[misc] # feast ships no types
    """What the local engine has to set, for the views that are left to it."""

    type: Literal["feature_repo.engine.DuckDBEngine"] = "feature_repo.engine.DuckDBEngine"


class DuckDBEngine(LocalComputeEngine):  # type: ignore[misc] # feast ships no types
    """Materializes plain views of one INT64 key as Arrow, all others as the local engine does."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        if not (isinstance(self.online_store, DuckDBOnlineStore) and stays_arrow(view)):
            return super()._materialize_one(registry, task, **kwargs)
        source, join_key = view.batch_source, view.entity_columns[0].name
        rows: pa.Table = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=[join_key],
            feature_name_columns=[field.name for field in view.features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=source.created_timestamp_column,
            start_date=task.start_time,
            end_date=task.end_time,
        ).to_arrow()
        self.online_store.write_arrow(self.repo_config, view, join_key, _with_moments(rows, view))
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)


def stays_arrow(view: FeatureView) -> bool:
    """Whether a view's rows can be kept as the offline store gives them."""
    return (
        type(view) is FeatureView
        and bool(view.batch_source)
        and not view.batch_source.field_mapping
        and [column.dtype for column in view.entity_columns] == [Int64]
        and view.online
        and not view.offline
        and not view.enable_validation
        and Kind.PROTO not in layout_for(view).kinds
    )


def _with_moments(rows: pa.Table, view: FeatureView) -> pa.Table:
    """The two timestamps under the names the record gives them; without a created one it is unknown."""
    source = view.batch_source
    created = source.created_timestamp_column
    unknown = pa.nulls(rows.num_rows, pa.timestamp("us", "UTC"))
    columns = {name: rows[name] for name in rows.column_names}
    columns["event_timestamp"] = rows[source.timestamp_field]
    columns["created_timestamp"] = rows[created] if created else unknown
    return pa.table(columns)
