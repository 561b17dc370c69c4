"""`get_online_features` in columns: Feast resolves the request, we read the record and answer without a protobuf a cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

from feature_repo.feast_seam import (
    Asked,
    column_of,
    count_read,
    entity_keys_of,
    key_columns,
    metrics_wanted,
    parts_of,
    transformed_by_feast,
    value_types,
)
from feature_repo.feast_views import vectorised
from feature_repo.held import ABSENT, Held, Keys
from feature_repo.materialize import entity_keys
from feature_repo.online_response import Cells, Column, ColumnarResponse, Floats, Protos, Rows
from feature_repo.record import Kind

Int64 = NDArray[np.int64]
KEY_VERSION = 3
"""Of Feast's entity keys; the only one that it still writes."""


@dataclass(frozen=True)
class Source:
    """What an answer is read from: of each view the rows of its keys, and since when they are live."""

    read: Callable[[Sequence[tuple[FeatureView, Keys]]], Sequence[Held]]
    oldest_live: Callable[[FeatureView, Held], datetime | None]


def answer(source: Source, request: Asked, *, full_feature_names: bool, versions: bool) -> ColumnarResponse:
    """The answer to a request that Feast has resolved."""
    began = time.monotonic()
    columns: list[Column] = _given(request)
    keys = [keys_of(request, table) for table, _ in request.views]
    held = source.read([(table, own) for (table, _), own in zip(request.views, keys, strict=True)])
    read = [
        _of_view(table, names, rows, own, source.oldest_live(table, rows), full_feature_names)
        for (table, names), rows, own in zip(request.views, held, keys, strict=True)
    ]
    columns += [column for part in read for column in part]
    if metrics_wanted():
        count_read(time.monotonic() - began, _statuses(request, read))
    types = value_types(request)
    if request.on_demand:
        columns = _with_on_demand(columns, request, types, full_feature_names=full_feature_names)
    wanted = _in_order(columns, request, full_feature_names=full_feature_names)
    return ColumnarResponse(wanted, types, _versions(request) if versions else {})


def _in_order(columns: Sequence[Column], request: Asked, *, full_feature_names: bool) -> list[Column]:
    """The columns asked for, keys first; Feast leaves the order of features to the hashes of this process."""
    names = [column_of(reference, full_feature_names=full_feature_names) for reference in request.references]
    order = {name: place for place, name in enumerate(names)}
    wanted = [c for c in columns if c.name in request.wanted and c.name != DUMMY_ENTITY_ID]
    return sorted(wanted, key=lambda column: order.get(column.name, -1))


def keys_of(request: Asked, table: FeatureView) -> Keys:
    """The view's key in each row of a request.

    Raises:
        KeyError: no join key of the view was given.
    """
    ids = _ids(request, table)
    if ids is not None:
        name, numbers = ids
        return Keys(numbers, lambda: entity_keys(name, numbers).to_pylist())
    serialised = [serialize_entity_key(key, KEY_VERSION) for key in entity_keys_of(request, table)]
    return Keys(None, lambda: serialised)


def _ids(request: Asked, table: FeatureView) -> tuple[str, Int64] | None:
    """The join key and its values, of a view whose one key is given as INT64."""
    columns = key_columns(request, table)
    if len(columns) != 1 or len(table.entity_columns) != 1:
        return None
    name, values = next(iter(columns.items()))
    if not values or any(value.WhichOneof("val") != "int64_val" for value in values):
        return None
    return name, np.array([value.int64_val for value in values], dtype=np.int64)


def _given(request: Asked) -> list[Column]:
    names = request.given.metadata.feature_names.val
    return [Column(n, Protos(vector.values)) for n, vector in zip(names, request.given.results, strict=True)]


def _of_view(
    table: FeatureView, names: Sequence[str], held: Held, keys: Keys, oldest: datetime | None, full_feature_names: bool
) -> list[Column]:  # fmt: skip
    places = held.find(keys)
    rows = _rows(held, places, oldest)
    prefix = f"{table.projection.name_to_use()}__" if full_feature_names else ""
    if held.layout.packed:
        return _packed_columns(held, places, rows, names, prefix)
    return [_cells(held, places, rows, name, prefix) for name in names]


def _rows(held: Held, places: Int64, oldest: datetime | None) -> Rows:
    found = places != ABSENT
    moments = np.zeros(len(places), dtype=np.int64)
    moments[found] = held.moments[places[found]]
    expired = np.zeros(len(places), dtype=np.bool_)
    if oldest is not None:
        expired = found & (moments < pa.scalar(oldest, pa.timestamp("us", "UTC")).value)
    return Rows(found, expired, moments)


def _packed_columns(held: Held, places: Int64, rows: Rows, names: Sequence[str], prefix: str) -> list[Column]:
    values, known = held.floats
    shape = (len(held.layout.features), len(places))
    columns, is_known = np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=np.bool_)
    live = places[rows.live]
    columns[:, rows.live], is_known[:, rows.live] = values[live].T, known[live].T
    return [
        _unheld(prefix + name, rows)
        if (place := held.places.get(name)) is None
        else Column(prefix + name, Floats(columns[place], is_known[place]), rows)
        for name in names
    ]


def _cells(held: Held, places: Int64, rows: Rows, name: str, prefix: str) -> Column:
    place = held.places.get(name)
    if place is None:
        return _unheld(prefix + name, rows)
    cells = held.rows[f"f:{name}"].take(pa.array(places, mask=~rows.live)).combine_chunks()
    kind = held.layout.kinds[place]
    if kind is not Kind.FLOAT:
        return Column(prefix + name, Cells(kind, cells), rows)
    return Column(prefix + name, Floats(cells.to_numpy(zero_copy_only=False), _is_known(cells)), rows)


def _is_known(cells: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(cells.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


def _unheld(name: str, rows: Rows) -> Column:
    return Column(name, Protos([ValueProto()] * len(rows.found)), rows, unheld=True)


def _statuses(request: Asked, read: Sequence[Sequence[Column]]) -> list[tuple[str, int, int]]:
    told = []
    for (table, _), columns in zip(request.views, read, strict=True):
        present = sum(int(c.rows.live.sum()) for c in columns if c.rows is not None and not c.unheld)
        told.append((table.name, present, sum(map(len, columns)) - present))
    return told


def _versions(request: Asked) -> dict[str, int]:
    """View → version of its definition, 0 where it has none."""
    return {
        table.projection.name_alias or table.projection.name: getattr(table, "current_version_number", 0) or 0
        for table, _ in reversed(request.views)
    }


def _with_on_demand(
    columns: list[Column], request: Asked, types: dict[str, ValueType], *, full_feature_names: bool
) -> list[Column]:
    """The columns and those of on-demand views; where we do not know how, all by Feast's own doing."""
    if metrics_wanted() or not all(_is_plain(view) for view in request.on_demand):
        proto = ColumnarResponse(columns, types, {}).proto
        transformed_by_feast(proto, request, types, full_feature_names=full_feature_names)
        names, vectors = proto.metadata.feature_names.val, proto.results
        made = zip(names[len(columns) :], vectors[len(columns) :], strict=True)
        return columns + [Column(name, Protos(vector.values)) for name, vector in made]
    inputs = _Inputs(columns, types, full_feature_names)
    by_name = {_name(view): view for view in request.on_demand}
    for name in dict.fromkeys(view for view, _ in map(parts_of, request.references) if view in by_name):
        if not by_name[name].write_to_online_store:
            inputs.columns += _transformed(by_name[name], name, inputs, request)
    return inputs.columns


def _is_plain(view: OnDemandFeatureView) -> bool:
    return view.write_to_online_store or (not view.aggregations and view.mode in {"python", "pandas"})


class _Inputs:
    """What on-demand views are given, in the form of their mode: told once, from the columns there are by then."""

    def __init__(self, columns: list[Column], types: dict[str, ValueType], full_feature_names: bool) -> None:
        self.columns, self.long, self._types = columns, full_feature_names, types
        self._lists: dict[str, list[Any]] | None = None
        self._table: pa.Table | None = None

    def lists(self) -> dict[str, list[Any]]:
        if self._lists is None:
            self._lists = ColumnarResponse(self.columns, self._types, {}).to_dict()
        return self._lists

    def table(self) -> pa.Table:
        if self._table is None:
            self._table = ColumnarResponse(self.columns, self._types, {}).to_arrow()
        return self._table

    def floats(self, view: OnDemandFeatureView) -> pa.Table | None:
        """float32, NaN where unknown: what the view reads, under both names, the kind asked for first.

        None where it reads something else than floats.
        """
        held = {column.name: column.data for column in self.columns}
        short, long = {}, {}
        for projection in view.source_feature_view_projections.values():
            for feature in projection.features:
                name = f"{projection.name}__{feature.name}"
                data = held.get(name if self.long else feature.name)
                if not isinstance(data, Floats):
                    return None
                long[name] = short[feature.name] = pa.array(data.values)
        first, second = (long, short) if self.long else (short, long)
        return pa.table(first | {name: column for name, column in second.items() if name not in first})


def _transformed(view: OnDemandFeatureView, name: str, inputs: _Inputs, request: Asked) -> list[Column]:
    made = _in_columns(view, inputs)
    if made is None:
        made = _as_feast_does(view, inputs, _hidden(view, request))
    names = made.column_names if isinstance(made, pa.Table) else list(made)
    prefix = f"{view.projection.name_to_use()}__" if inputs.long else ""
    wanted = {prefix + feature for of, feature in map(parts_of, request.references) if of == name}
    types = {f.name: f.dtype.to_value_type() for f in view.schema}
    return [_made(n, made[n], types.get(n, ValueType.UNKNOWN)) for n in names if n in wanted]


def _as_feast_does(view: OnDemandFeatureView, inputs: _Inputs, hidden: set[str]) -> pa.Table | dict[str, Any]:
    if view.mode == "python":
        given = {name: values for name, values in inputs.lists().items() if name not in hidden}
        made: dict[str, Any] = view.transform_dict(given)
        return made
    table = inputs.table()
    return view.transform_arrow(
        table.select([name for name in table.column_names if name not in hidden]), inputs.long
    )


def _in_columns(view: OnDemandFeatureView, inputs: _Inputs) -> pa.Table | None:
    """What one of our own views makes of whole columns; None of another's view, and where it reads other than floats."""
    transformation = _whole_columns(_Text(str(view.feature_transformation.udf_string), view))
    table = inputs.floats(view) if transformation is not None else None
    return None if transformation is None or table is None else transformation.transform_arrow(table, [])


@dataclass(frozen=True)
class _Text:
    """The source of a view's function, which is all that counts of it here."""

    source: str
    view: OnDemandFeatureView = field(compare=False)


@lru_cache(maxsize=64)
def _whole_columns(text: _Text) -> Any | None:
    quick = vectorised(text.view)
    return None if quick is text.view else quick.feature_transformation


def _name(view: OnDemandFeatureView) -> str:
    alias = view.projection.name_alias if view.projection else None
    return str(alias or view.name)


def _hidden(view: OnDemandFeatureView, request: Asked) -> set[str]:
    """Columns of views that this one does not declare: Feast keeps them from its function."""
    declared = {projection.name for projection in view.source_feature_view_projections.values()}
    on_demand = {_name(other) for other in request.on_demand}
    hidden = {p for p in map(parts_of, request.references) if p[0] not in on_demand | declared}
    hidden |= {
        (projection.name, feature.name)
        for other in request.on_demand
        for projection in other.source_feature_view_projections.values()
        if projection.name not in declared
        for feature in projection.features
    }
    return {name for of, feature in hidden for name in (feature, f"{of}__{feature}")}


def _made(name: str, values: Any, value_type: ValueType) -> Column:
    """A column that a function made, as Feast converts it; of floats without a protobuf each."""
    floats = _floats(values, value_type)
    if floats is not None:
        return Column(name, Floats(floats, ~np.isnan(floats)))
    if isinstance(values, pa.ChunkedArray):
        values = values.to_numpy()
    listed = values if isinstance(values, list | np.ndarray) else [values]
    protos: list[ValueProto] = python_values_to_proto_values(listed, value_type)
    return Column(name, Protos(protos))


def _floats(values: Any, value_type: ValueType) -> NDArray[Any] | None:
    """(n,) as Feast would keep them, NaN where null, if it would keep them as floats."""
    if value_type not in {ValueType.FLOAT, ValueType.DOUBLE, ValueType.UNKNOWN}:
        return None
    if isinstance(values, pa.ChunkedArray):
        if values.type not in {pa.float64(), pa.float32()}:
            return None
        found = np.asarray(values.to_numpy())
    elif isinstance(values, list) and set(map(type, values)) <= {float, type(None)}:
        found = np.array(values, dtype=np.float64)
    else:
        return None
    wanted = np.float32 if value_type is ValueType.FLOAT else np.float64
    if found.dtype == wanted:
        return found
    with np.errstate(over="ignore"):
        return found.astype(wanted)
