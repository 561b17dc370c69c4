"""Point-in-time training sets: each label joined to the features known at its time."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo.arithmetic import Ref, references
from feature_repo.compile import pair_sql
from feature_repo.compute import offline_path
from feature_repo.content import digest_of
from feature_repo.declarations import Declarations, Derived, Feature, FeatureService, FeatureTable, InSession
from feature_repo.past_sessions import Register, past_sessions
from feature_repo.point_in_time import History, engine, fetch, files_seen, find, quoted
from validations.expectations import DType

Float32 = NDArray[np.float32]

MOMENT = "event_timestamp"
"""The spine's column with the time of each label, and a computed table's with its `as_of`."""

_ROWS = 8_192  # joined or computed at a time; more of them cost fresh memory, fewer more calls
_NUMBERS = {DType.FLOAT, DType.DOUBLE, DType.BIGINT, DType.BOOLEAN}


class NoSnapshot(LookupError):
    """No computed table is old enough for some label: its features would be younger than it."""

    def __init__(self, table: str, earliest_label: datetime, earliest_snapshot: datetime | None) -> None:
        have = (
            f"the earliest snapshot is {earliest_snapshot}" if earliest_snapshot else "there is no snapshot"
        )
        super().__init__(
            f"table {table!r}: a label at {earliest_label} needs features known before it, but {have}."
        )


class NotForTraining(TypeError):
    """A feature that has no place in a float32 matrix, or no computation for the past."""

    def __init__(self, table: str, feature: Feature, reason: str) -> None:
        super().__init__(f"{table}:{feature.name} cannot be in a training set: {reason}.")


class NoEvents(TypeError):
    """A service reads sessions, and there is nothing to read them from."""

    def __init__(self, service: str) -> None:
        super().__init__(
            f"service {service!r} reads session features, which are computed from raw plays: pass events=lake.register."
        )


@dataclass(frozen=True)
class TrainingSet:
    """Labels and features row by row, in the order of the spine.

    `features` is float32 (N, F), NaN where unknown; `names` are `table:feature` in model order.
    """

    spine: pa.Table
    features: Float32
    names: tuple[str, ...]
    digests: tuple[str, ...]
    digest: str


def training_set(spine: pa.Table, service: FeatureService, declarations: Declarations, folder: Path,
                 as_ofs: Sequence[datetime], *, events: Register | None = None, threads: int = 2,
                 scratch: Path | None = None) -> TrainingSet:  # fmt: skip
    """Join each row of `spine` to its entities' newest rows at or before its `event_timestamp`.

    A snapshot holds what was known strictly before its `as_of`, so no feature is younger than its label. An
    entity that the newest snapshot lacks is looked up in older ones, as far back as its table's time to live;
    beyond that, and where it never was, its features are NaN. The same rows as Feast's `get_historical_features`.
    Session features are of the plays known strictly before the label.

    Args:
        spine: label rows with the entities' join keys and `event_timestamp` (without a zone it is UTC); other
            columns ride along.
        service: the features wanted; user × title ones are computed in SQL from the joined row.
        declarations: where the service's tables are declared.
        folder: the offline folder `feature_repo.compute` wrote to.
        as_ofs: the snapshots that may be used.
        events: registers the raw events; wanted for session features only.
        threads: DuckDB threads.
        scratch: a folder on whose disk the features lie, mapped into memory: rows are written as DuckDB hands them
            out and read as they are asked for, so that they may be more than fit. None keeps them in memory.

    Raises:
        NoSnapshot: a label is older than every snapshot.
        NotForTraining: a feature is no number, or is known at request time only.
        NoEvents: the service has session features, and `events` is not given.
        SpineLacks: a table's join key is no column of `spine`.
    """
    moments = sorted(as_ofs)
    _refuse_features(service)
    _refuse_labels_without_snapshot(spine, service, moments)
    matrix = _Matrix.blank(len(spine), service, declarations, scratch)
    with engine(threads) as connection:
        used: list[Path] = []
        found: dict[tuple[object, ...], str] = {}
        for table in matrix.stored:
            history = _history(table, folder, moments, spine)
            used += _join(connection, spine, history, table.names, matrix.blocks[table.name], found)
        past = _Past(connection, declarations, folder, moments, threads, used)
        sessions = [
            _fill_sessions(past, spine, service, t, matrix, events) for t in service.tables if t.of_sessions
        ]
        for table in service.tables:
            if not table.stored and not table.of_sessions:
                _cross(connection, table, matrix)
    digest = digest_of(spine, service.digests, folder, used, sessions)
    return TrainingSet(spine, matrix.wanted, tuple(service.digests), tuple(service.digests.values()), digest)


@dataclass(frozen=True)
class _Matrix:
    """What is being filled: the service's features, and beside them what only its user × title features read."""

    wanted: Float32  # (N, F) in model order
    blocks: Mapping[str, Float32]  # table → its columns, (N, its F), those of the service within `wanted`
    stored: tuple[FeatureTable, ...]

    @classmethod
    def blank(
        cls, rows: int, service: FeatureService, declarations: Declarations, scratch: Path | None
    ) -> _Matrix:
        wanted = _unknown(rows, len(service.digests), scratch)
        ends = list(accumulate(len(table.features) for table in service.tables))
        blocks = {
            table.name: wanted[:, end - len(table.features) : end]
            for table, end in zip(service.tables, ends, strict=True)
        }
        stored = _sources(service, declarations)
        for table in stored:
            if table.name not in blocks:
                blocks[table.name] = _unknown(rows, len(table.names), scratch)
        return cls(wanted, blocks, stored)

    def columns(self, read: Collection[str]) -> dict[str, Float32]:
        """`table:feature` → (N,), of the stored features that are `read`."""
        named = ((t, name, i) for t in self.stored for i, name in enumerate(t.names))
        return {f"{t.name}:{n}": self.blocks[t.name][:, i] for t, n, i in named if f"{t.name}:{n}" in read}


def _unknown(rows: int, width: int, scratch: Path | None) -> Float32:
    """(rows, width) of NaN, in memory or in a file of the folder `scratch`.

    The file has no name: it is gone when nothing holds the array any more, however the process ends.
    """
    if scratch is None or rows * width == 0:
        return np.full((rows, width), np.nan, dtype=np.float32)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as file:
        values: Float32 = np.asarray(np.memmap(file, np.float32, "w+", shape=(rows, width)))
    for start in range(0, rows, _ROWS):
        values[start : start + _ROWS] = np.nan
    return values


@dataclass(frozen=True)
class _Past:
    """Where the past is looked up; `used` gathers the files that were read."""

    connection: duckdb.DuckDBPyConnection
    declarations: Declarations
    folder: Path
    moments: Sequence[datetime]
    threads: int
    used: list[Path]

    def of_titles(self, asked: pa.Table, refs: Sequence[Ref]) -> Float32:
        """(n, F) stored features of titles, as a label at that moment sees them."""
        found = np.full((len(asked), len(refs)), np.nan, dtype=np.float32)
        for name in dict.fromkeys(ref.table for ref in refs):
            places = [i for i, ref in enumerate(refs) if ref.table == name]
            history = _history(self.declarations.table(name), self.folder, self.moments, asked)
            block = np.full((len(asked), len(places)), np.nan, dtype=np.float32)
            names = [refs[i].feature for i in places]
            self.used.extend(_join(self.connection, asked, history, names, block))
            found[:, places] = block
        return found


def _fill_sessions(past: _Past, spine: pa.Table, service: FeatureService, table: FeatureTable, matrix: _Matrix,
                   events: Register | None) -> str:  # fmt: skip
    """Write the session features to their block; a digest of what they were made of."""
    if events is None:
        raise NoEvents(service.name)
    computed = [f.computation for f in table.features if isinstance(f.computation, InSession)]
    values, digest = past_sessions(spine, computed, events, past.of_titles, past.threads)
    matrix.blocks[table.name][:] = values
    return digest


def _refuse_features(service: FeatureService) -> None:
    for table in service.tables:
        for feature in table.features:
            if feature.dtype not in _NUMBERS:
                raise NotForTraining(table.name, feature, f"its values are {feature.dtype.value}, no numbers")
            if not table.stored and not isinstance(feature.computation, Derived | InSession):
                raise NotForTraining(table.name, feature, "it is known at request time only")


def _refuse_labels_without_snapshot(
    spine: pa.Table, service: FeatureService, moments: Sequence[datetime]
) -> None:
    """A label before all snapshots would teach that nothing is ever known; so far back none was computed."""
    oldest = _instant(pc.min(spine[MOMENT]))
    if oldest is not None and (not moments or oldest < moments[0]):
        raise NoSnapshot(service.tables[0].name, oldest, moments[0] if moments else None)


def _instant(moment: pa.Scalar) -> datetime | None:
    found: datetime | None = moment.cast(pa.timestamp("us", moment.type.tz or "UTC"), safe=False).as_py()
    return found


def _sources(service: FeatureService, declarations: Declarations) -> tuple[FeatureTable, ...]:
    """The stored tables that the service reads, directly or through user × title features."""
    computed = [f.computation for table in service.tables if not table.stored for f in table.features]
    read = {ref.table for c in computed if isinstance(c, Derived) for ref in references(c.expression)}
    named = {table.name for table in service.tables} | read
    return tuple(table for table in declarations.stored if table.name in named)


def _history(table: FeatureTable, folder: Path, moments: Sequence[datetime], spine: pa.Table) -> History:
    """The table's snapshots that some label may see."""
    lifetime = timedelta(days=table.ttl_days) or None
    ends = pc.min_max(spine[MOMENT])
    oldest, newest = _instant(ends["min"]), _instant(ends["max"])
    seen = [
        moment for moment in moments
        if oldest and newest and moment <= newest and (lifetime is None or moment >= oldest - lifetime)
    ]  # fmt: skip
    return History(
        name=table.name,
        files=tuple(offline_path(folder, table.name, moment) for moment in seen),
        keys=((table.entity.join_key, table.entity.join_key),),
        event="event_timestamp",
        created="created_timestamp",
        lifetime=lifetime,
    )


def _join(connection: duckdb.DuckDBPyConnection, spine: pa.Table, history: History, names: Sequence[str],
          block: Float32, found: dict[tuple[object, ...], str] | None = None) -> list[Path]:  # fmt: skip
    """Write the rows that labels see to their places in `block`; the files they came from."""
    if not history.files:
        return []
    seen = find(connection, spine, MOMENT, history, found=found)
    columns = [f"CAST({quoted(name)} AS FLOAT)" for name in names]
    for rows, values in _batches(fetch(connection, seen, history, columns, rows=_ROWS)):
        block[rows] = values
    return [history.files[i] for i in files_seen(connection, seen)]


def _batches(batches: pa.RecordBatchReader) -> Iterator[tuple[NDArray[np.int64], Float32]]:
    """Each batch as (row ids, float32 (n, columns) with NaN for null)."""
    for batch in batches:
        values = np.empty((len(batch), batch.num_columns - 1), dtype=np.float32)
        for i in range(values.shape[1]):
            values[:, i] = batch.column(i + 1).to_numpy(zero_copy_only=False)
        yield batch.column(0).to_numpy(), values


def _cross(connection: duckdb.DuckDBPyConnection, table: FeatureTable, matrix: _Matrix) -> None:
    """Arithmetic over stored features, in SQL over the rows joined so far."""
    computations = [f.computation for f in table.features]
    read = {str(r) for c in computations if isinstance(c, Derived) for r in references(c.expression)}
    connection.register("joined", _as_arrow(matrix.columns(read)))
    sql = f"SELECT row_id, {', '.join(pair_sql(feature) for feature in table.features)} FROM joined"
    for rows, values in _batches(connection.sql(sql).to_arrow_reader(_ROWS)):
        matrix.blocks[table.name][rows] = values
    connection.unregister("joined")


def _as_arrow(columns: Mapping[str, Float32]) -> pa.RecordBatchReader:
    """Columns with NaN as null, and `row_id`, a batch at a time."""
    schema = pa.schema([("row_id", pa.int64()), *((name, pa.float32()) for name in columns)])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(next(iter(columns.values()))), _ROWS):
            part = [pa.array(column[start : start + _ROWS], from_pandas=True) for column in columns.values()]
            row_id = pa.array(np.arange(start, start + len(part[0])))
            yield pa.record_batch([row_id, *part], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def snapshot_matrix(path: Path, table: FeatureTable) -> tuple[NDArray[np.int64], Float32]:
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
