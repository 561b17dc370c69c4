"""Feast's values in the record: which kind each feature type is kept as, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.field import Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Float32, Int64
from feast.value_type import ValueType

from feature_repo.packed import columns_to_matrix, pack, unpack
from feature_repo.record import Kind, Layout

Values = dict[str, ValueProto]
Row = tuple[EntityKey, Values, datetime, datetime | None]

MOMENT = pa.timestamp("us", "UTC")
NOBODY = EntityKey(join_keys=[DUMMY_ENTITY_ID], entity_values=[ValueProto(string_val=DUMMY_ENTITY_VAL)])
"""The key of the one row of a view without entities."""

KEEP_TAG = "keep"
"""Tag of a feature view: how many of an entity's newest rows are kept; one where it is not set."""


class WrongValueType(TypeError):
    """A value of another type than the feature's."""

    def __init__(self, feature: str, kind: Kind, found: str) -> None:
        super().__init__(f"feature {feature!r} is kept as {kind.value}, but was given a {found}.")


def layout_for(table: FeatureView) -> Layout:
    """How the record keeps a Feast view; the tag `digest` of a field says what the feature means."""
    fields = table.features
    return Layout(
        tuple(field.name for field in fields),
        tuple(kind_of(field) for field in fields),
        tuple((field.tags or {}).get("digest", "") for field in fields),
        int((table.tags or {}).get(KEEP_TAG, 1)),
    )


def kind_of(field: Field) -> Kind:
    """A kind of its own for Float32, Int64 and Array(Int64), else the value as Feast serialises it."""
    return {Float32: Kind.FLOAT, Int64: Kind.BIGINT, Array(Int64): Kind.BIGINTS}.get(field.dtype, Kind.PROTO)


def single_id(key: EntityKey) -> int | None:
    """The id of a key of one INT64, by which snapshots find rows."""
    if len(key.entity_values) == 1 and key.entity_values[0].WhichOneof("val") == "int64_val":
        return int(key.entity_values[0].int64_val)
    return None


def rows_table(
    layout: Layout, keys: Sequence[bytes], data: Sequence[Row], values: Sequence[Mapping[str, ValueProto]]
) -> pa.Table:
    """Rows as Feast hands them over, as `record.upsert` takes them."""
    return pa.table({
        "entity_key": pa.array(keys, pa.binary()),
        "entity_id": pa.array([single_id(key) for key, _, _, _ in data], pa.int64()),
        "event_timestamp": pa.array([_aware(event) for _, _, event, _ in data], MOMENT),
        "created_timestamp": pa.array([c and _aware(c) for _, _, _, c in data], MOMENT),
        **_payload(layout, values),
    })  # fmt: skip


def payload_of_columns(table: FeatureView, layout: Layout, columns: pa.Table) -> dict[str, pa.Array]:
    """The payload of offline columns that have the view's feature names.

    Floats and lists of ids stay as they are, NaN apart from null; all else is converted as Feast converts it.

    Raises:
        Whatever Feast raises for a value that is none of its type.
    """
    types = {field.name: field.dtype.to_value_type() for field in table.features}
    found = {
        name: _offline_column(kind, types[name], columns[name].combine_chunks())
        for name, kind in zip(layout.features, layout.kinds, strict=True)
    }
    if layout.packed:
        return {"vector": pack(*columns_to_matrix(pa.table(found), layout.features))}
    return {f"f:{name}": column for name, column in found.items()}


def protos_of_rows(layout: Layout, rows: pa.Table, wanted: Sequence[str] | None) -> list[Values]:
    """The values of each row of the record, of the features wanted only."""
    names = [name for name in layout.features if wanted is None or name in wanted]
    columns = [protos_of_column(layout, rows, name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def protos_of_column(layout: Layout, rows: pa.Table, name: str) -> list[ValueProto]:
    """The values of one feature, empty where null."""
    place = layout.features.index(name)
    if layout.packed:
        values, known = unpack(rows["vector"])
        return float_protos(values[:, place], known[:, place])
    return cell_protos(layout.kinds[place], rows[f"f:{name}"].to_pylist())


def float_protos(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> list[ValueProto]:
    """(n,) floats as Feast values, empty where not known."""
    cells = zip(values.tolist(), known.tolist(), strict=True)
    return [ValueProto(float_val=value) if is_known else ValueProto() for value, is_known in cells]


def cell_protos(kind: Kind, cells: Sequence[Any]) -> list[ValueProto]:
    """Cells of a column of `kind` as Feast values, empty where None."""
    return [ValueProto() if cell is None else _proto(kind, cell) for cell in cells]


def _proto(kind: Kind, cell: Any) -> ValueProto:
    if kind is Kind.FLOAT:
        return ValueProto(float_val=cell)
    if kind is Kind.BIGINT:
        return ValueProto(int64_val=cell)
    if kind is Kind.BIGINTS:
        return ValueProto(int64_list_val=Int64List(val=cell))
    proto = ValueProto()
    proto.ParseFromString(cell)
    return proto


def _aware(moment: datetime) -> datetime:
    """Feast's contract: a moment without a zone is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _payload(layout: Layout, values: Sequence[Mapping[str, ValueProto]]) -> dict[str, pa.Array]:
    if layout.packed:
        shape = (len(values), len(layout.features))
        _, field, read = _PLAIN[Kind.FLOAT]
        cells = [
            _cell(name, Kind.FLOAT, field, read, row.get(name)) for row in values for name in layout.features
        ]
        known = np.array([cell is not None for cell in cells]).reshape(shape)
        return {"vector": pack(np.array(cells, dtype=np.float32).reshape(shape), known)}
    return {
        f"f:{name}": _column(name, kind, [row.get(name) for row in values])
        for name, kind in zip(layout.features, layout.kinds, strict=True)
    }


def _offline_column(kind: Kind, value_type: ValueType, column: pa.Array) -> pa.Array:
    if kind is Kind.FLOAT:
        return column.cast(pa.float32(), safe=False)
    if kind is Kind.BIGINT and pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if kind is Kind.BIGINTS and pa.types.is_list(column.type) and not column.flatten().null_count:
        return column.cast(pa.list_(pa.int64()))
    protos = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
    return _column("", kind, protos)


def _column(name: str, kind: Kind, values: Sequence[ValueProto | None]) -> pa.Array:
    if kind is Kind.PROTO:
        return pa.array([None if v is None else v.SerializeToString() for v in values], pa.binary())
    arrow, field, read = _PLAIN[kind]
    return pa.array([_cell(name, kind, field, read, value) for value in values], arrow)


def _cell(
    name: str, kind: Kind, field: str, read: Callable[[ValueProto], Any], value: ValueProto | None
) -> Any:
    found = value.WhichOneof("val") if value is not None else None
    if value is None or found in {None, "null_val"}:
        return None
    if found != field:
        raise WrongValueType(name, kind, str(found))
    return read(value)


_PLAIN: dict[Kind, tuple[pa.DataType, str, Callable[[ValueProto], Any]]] = {
    Kind.FLOAT: (pa.float32(), "float_val", lambda value: value.float_val),
    Kind.BIGINT: (pa.int64(), "int64_val", lambda value: value.int64_val),
    Kind.BIGINTS: (pa.list_(pa.int64()), "int64_list_val", lambda value: list(value.int64_list_val.val)),
}
