"""Feast's offline store over Parquet, with DuckDB: point-in-time joins that find rows first and read them last.

    offline_store: {type: feature_repo.offline_store.DuckDBOfflineStore}

It answers as Feast's own DuckDB store does where that is right. Where it is not: nothing that became known after a
label is seen by it, rows keep the order of the entity frame, features may be named `rn` or end in `_y`, timestamps
may be in nanoseconds, no entity frame is needed, and a view without entities can be materialized. Sources are local
Parquet: a file, a folder, or a pattern.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, OnDemandFeatureView
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores import duckdb as stock
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range

from feature_repo.feast_views import vectorised
from feature_repo.point_in_time import (
    History,
    columns_of,
    engine,
    find,
    find_newest,
    gather,
    quoted,
    read,
    select,
    within,
)

MOMENT = "event_timestamp"


class UnsupportedSource(TypeError):
    """A data source that is not Parquet on this machine."""

    def __init__(self, source: DataSource) -> None:
        super().__init__(
            f"data source {source.name!r} is a {type(source).__name__}, or is remote, or not Parquet: this offline "
            "store reads a FileSource of local Parquet. Copy the rows there, or use Feast's own store for them."
        )


class NameTaken(ValueError):
    """Two columns of an answer would have one name."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"more than one column would be named {', '.join(map(repr, names))}: ask with full_feature_names=True, or "
            "rename the entity frame's own columns."
        )


class NotAppendable(ValueError):
    """Rows were to be added to a source of many files."""

    def __init__(self, view: str, path: str) -> None:
        super().__init__(
            f"feature view {view!r} reads {path}, many files that are each written once: rows cannot be appended. "
            "Compute the table again, or give the view a source of one file."
        )


class DuckDBOfflineStoreConfig(stock.DuckDBOfflineStoreConfig):  # type: ignore[misc] # feast ships no types
    """Settings under `offline_store:`.

    `filter_by_created_timestamp` keeps what became known after a row's time out of it, as if every call asked for it.
    """

    type: Literal["feature_repo.offline_store.DuckDBOfflineStore"] = (
        "feature_repo.offline_store.DuckDBOfflineStore"
    )
    filter_by_created_timestamp: bool = True
    threads: int | None = None  # DuckDB's; None is one a core


class ArrowJob(IbisRetrievalJob):  # type: ignore[misc] # feast ships no types
    """An answer that is computed, as one Arrow table without chunks, when it is asked for."""

    def __init__(self, answer: Callable[[], pa.Table], config: RepoConfig, *,
                 on_demand: Sequence[OnDemandFeatureView] = (), full_feature_names: bool = False,
                 metadata: RetrievalMetadata | None = None) -> None:  # fmt: skip
        super().__init__(
            table=None,
            on_demand_feature_views=[vectorised(view) for view in on_demand],
            full_feature_names=full_feature_names,
            metadata=metadata,
            data_source_writer=stock._write_data_source,  # noqa: SLF001
            staging_location=config.offline_store.staging_location,
            staging_location_endpoint_override=config.offline_store.staging_location_endpoint_override,
            repo_path=str(config.repo_path),
        )
        self._answer = answer

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        # Feast's way to protobuf loses the rows of all chunks but one.
        return self._answer().combine_chunks()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        found: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return found

    def supports_remote_storage_export(self) -> bool:
        """No: an answer is an Arrow table of this process."""
        return False

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False,
                timeout: int | None = None) -> None:  # fmt: skip
        """Write the answer, on-demand features included, to where `storage` says."""
        self.table = ibis.memtable(self.to_arrow(timeout=timeout))
        super().persist(storage, allow_overwrite, timeout)


class DuckDBOfflineStore(stock.DuckDBOfflineStore):  # type: ignore[misc] # feast ships no types
    """Point-in-time joins and pulls of our own; monitoring is Feast's."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Features as of each row of `entity_df`, in its order, its other columns riding along.

        `entity_df` may be SQL for DuckDB. Without it, the rows are every entity and time that some view has in
        [start_date, end_date], oldest first; a key that a view has not is null in its rows.

        Raises:
            FeastEntityDFMissingColumnsError: a join key is no column of it.
            NameTaken: a feature would be named as another column is.
            UnsupportedSource: a view reads something other than local Parquet.
        """
        settings = config.offline_store
        views = [_Wanted.of(view, feature_refs, config, full_feature_names) for view in feature_views]
        known_only = filter_by_created_timestamp or settings.filter_by_created_timestamp
        with engine(settings.threads) as connection:
            if entity_df is None:
                start, end = compute_non_entity_date_range(feature_views, start_date, end_date)
                spine, moment = _every_row(connection, views, start, end), MOMENT
            else:
                spine, moment = _spine_of(connection, entity_df)
        _refuse(views, spine)
        ends = _ends(spine[moment]) if entity_df is not None else (start, end)
        return ArrowJob(
            lambda: _joined(spine, moment, views, settings.threads, known_only=known_only),
            config,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                feature_refs, [c for c in spine.column_names if c != moment], ends[0], ends[1]
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each entity's newest row in [start_date, end_date], by (event, created); of equal ones the last written."""
        keys = [key for key in join_key_columns if key != DUMMY_ENTITY_ID]
        times = [c for c in (timestamp_field, created_timestamp_column) if c]
        history = History(
            data_source.name, files_of(data_source, config), tuple((k, k) for k in keys), timestamp_field,
            created_timestamp_column or None, None,
        )  # fmt: skip
        columns = list(dict.fromkeys((*keys, *feature_name_columns, *times)))

        def latest() -> pa.Table:
            with engine(config.offline_store.threads) as connection:
                found = _newest(connection, history, columns, start_date, end_date)
            return found if keys else _with_dummy(found)

        return ArrowJob(latest, config)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row in [start_date, end_date], either end open when it is None, in the order of the files."""
        files = files_of(data_source, config)
        times = [c for c in (timestamp_field, created_timestamp_column) if c]
        keys = [key for key in join_key_columns if key != DUMMY_ENTITY_ID]
        columns = list(dict.fromkeys((*keys, *feature_name_columns, *times)))

        def everything() -> pa.Table:
            with engine(config.offline_store.threads) as connection:
                types = columns_of(connection, files)
                chosen = ", ".join(select({c: c for c in columns}, types, files))
                when = within(timestamp_field, types, start_date, end_date)
                sql = f"SELECT {chosen} FROM {read(files)} WHERE {when}"
                found = connection.sql(sql).to_arrow_table()
            return found if keys else _with_dummy(found)

        return ArrowJob(everything, config)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Columns and Arrow types of a source's first file; Feast itself can do without a pattern only."""
        schema = pq.read_schema(files_of(data_source, config)[0])
        return zip(schema.names, map(str, schema.types), strict=True)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the one file of a view's source; a reader finds it as it was before or after, not between.

        Raises:
            NotAppendable: the source is a folder or a pattern.
            ValueError: the columns are not the file's, in its order.
        """
        path = _local_path(feature_view.batch_source, config)
        if path.is_dir() or glob.has_magic(str(path)):
            raise NotAppendable(feature_view.name, str(path))
        held = pq.read_table(path, partitioning=None)
        if table.column_names != held.column_names:
            raise ValueError(
                f"{path} has the columns {', '.join(held.column_names)}; given, in this order: "
                f"{', '.join(table.column_names)}."
            )
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        pq.write_table(pa.concat_tables([held, table.cast(held.schema)]), partial)
        partial.replace(path)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """As Feast does, in a folder that need not be there yet."""
        if isinstance(logging_config.destination, FileLoggingDestination):
            with suppress(FileExistsError):
                Path(logging_config.destination.path).mkdir(parents=True)
        stock.DuckDBOfflineStore.write_logged_features(config, data, source, logging_config, registry)


@dataclass(frozen=True)
class _Wanted:
    """What is asked of one view: its history, and column of the source → column of the answer."""

    view: str
    history: History
    columns: Mapping[str, str]

    @classmethod
    def of(cls, view: FeatureView, refs: Sequence[str], config: RepoConfig, full_names: bool) -> _Wanted:
        if view.batch_source is None:
            raise ValueError(f"feature view {view.name!r} has no batch source to look its past up in.")
        projection, source = view.projection, view.batch_source
        stored = {new: old for old, new in source.field_mapping.items()}
        keys = {
            projection.join_key_map.get(e.name, e.name): stored.get(e.name, e.name)
            for e in view.entity_columns if e.name != DUMMY_ENTITY_ID
        }  # fmt: skip
        created = source.created_timestamp_column
        prefix = f"{projection.name_to_use()}:"
        names = [ref.removeprefix(prefix) for ref in refs if ref.startswith(prefix)]
        long = f"{projection.name_alias or view.name}__" if full_names else ""
        return cls(
            view.name,
            History(
                projection.name_to_use(), files_of(source, config), tuple(keys.items()),
                stored.get(source.timestamp_field, source.timestamp_field),
                stored.get(created, created) if created else None, view.ttl or None,
            ),
            {stored.get(name, name): long + name for name in names},
        )  # fmt: skip


def files_of(source: DataSource, config: RepoConfig) -> tuple[Path, ...]:
    """The Parquet files of a source, in the order of their names; a relative path is one in the repository.

    Raises:
        UnsupportedSource: it is something else.
        FileNotFoundError: there are none.
    """
    path = _local_path(source, config)
    if path.is_dir():
        found = sorted(path.rglob("*.parquet"))
    elif glob.has_magic(str(path)) and not path.exists():
        found = sorted(Path(path.anchor).glob(path.relative_to(path.anchor).as_posix()))
    else:
        found = [path]
    if not found or not found[0].exists():
        raise FileNotFoundError(f"data source {source.name!r} reads {path}, where there is no Parquet file.")
    return tuple(found)


def _local_path(source: DataSource | None, config: RepoConfig) -> Path:
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        raise UnsupportedSource(source)
    uri = urlparse(source.path)
    if uri.scheme not in ("", "file") or uri.netloc:
        raise UnsupportedSource(source)
    path = Path(unquote(uri.path) if uri.scheme else source.path)
    return path if path.is_absolute() or not config.repo_path else Path(config.repo_path) / path


def _spine_of(connection: duckdb.DuckDBPyConnection, given: pd.DataFrame | str) -> tuple[pa.Table, str]:
    """The entity frame and which of its columns is the time."""
    rows = connection.sql(given).to_arrow_table().to_pandas() if isinstance(given, str) else given
    moment = infer_event_timestamp_from_entity_df(dict(zip(rows.columns, rows.dtypes, strict=True)))
    times = rows[moment].infer_objects()
    if not pd.api.types.is_datetime64_any_dtype(times):
        rows = rows.assign(**{moment: pd.to_datetime(times, utc=True)})
    return pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None), moment


def _every_row(connection: duckdb.DuckDBPyConnection, views: Sequence[_Wanted], start: datetime,
               end: datetime) -> pa.Table:  # fmt: skip
    """Every entity and time that a view has in [start, end], oldest first."""
    kinds = [columns_of(connection, wanted.history.files) for wanted in views]
    fine = any("NS" in types[wanted.history.event] for wanted, types in zip(views, kinds, strict=True))
    clock = "TIMESTAMPTZ_NS" if fine else "TIMESTAMPTZ"
    parts = []
    for wanted, types in zip(views, kinds, strict=True):
        history = wanted.history
        keys = "".join(f"{quoted(theirs)} AS {quoted(ours)}, " for ours, theirs in history.keys)
        parts.append(
            f"SELECT {keys}CAST({quoted(history.event)} AS {clock}) AS {MOMENT} FROM {read(history.files)}"
            f" WHERE {within(history.event, types, start, end)}"
        )
    named = dict.fromkeys(quoted(ours) for wanted in views for ours, _ in wanted.history.keys)
    columns = ", ".join((*named, MOMENT))
    order = ", ".join((MOMENT, *named))
    union = " UNION BY NAME ".join(parts)
    return connection.sql(f"SELECT {columns} FROM ({union}) ORDER BY {order}").to_arrow_table()


def _refuse(views: Sequence[_Wanted], spine: pa.Table) -> None:
    expected = {ours for wanted in views for ours, _ in wanted.history.keys}
    if missing := expected - set(spine.column_names):
        raise FeastEntityDFMissingColumnsError(expected, missing)
    counts = Counter([*spine.column_names, *(name for wanted in views for name in wanted.columns.values())])
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise NameTaken(twice)


def _ends(moments: pa.ChunkedArray) -> tuple[datetime | None, datetime | None]:
    times = moments.cast(pa.timestamp("us", moments.type.tz or "UTC"), safe=False)
    ends = pc.min_max(times)
    return ends["min"].as_py(), ends["max"].as_py()


def _joined(spine: pa.Table, moment: str, views: Sequence[_Wanted], threads: int | None, *,
            known_only: bool) -> pa.Table:  # fmt: skip
    """The spine with the columns of every view beside it."""
    columns = {name: spine[name] for name in spine.column_names}
    seen_before: dict[tuple[object, ...], str] = {}
    with engine(threads) as connection:
        for wanted in views:
            types = columns_of(connection, wanted.history.files)
            chosen = select(wanted.columns, types, wanted.history.files)
            seen = find(connection, spine, moment, wanted.history, known_only=known_only, found=seen_before)
            names = list(wanted.columns.values())
            found = gather(connection, seen, wanted.history, chosen, names, len(spine))
            columns |= dict(zip(names, found.columns, strict=True))
    return pa.table(columns)


def _newest(connection: duckdb.DuckDBPyConnection, history: History, columns: Sequence[str], start: datetime,
            end: datetime) -> pa.Table:  # fmt: skip
    seen = find_newest(connection, history, start, end)
    chosen = select({c: c for c in columns}, columns_of(connection, history.files), history.files)
    ((count,),) = connection.sql(f"SELECT count(*) FROM {seen}").fetchall()
    return gather(connection, seen, history, chosen, columns, count)


def _with_dummy(rows: pa.Table) -> pa.Table:
    """With the one key that Feast gives to views without entities."""
    return rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * len(rows), pa.string()))
