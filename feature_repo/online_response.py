"""An answer to `get_online_features` in columns: Feast's `OnlineResponse`, its protobuf built only if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse, _convert_uuids_for_arrow
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from numpy.typing import NDArray

from feature_repo.record import Kind
from feature_repo.values import cell_protos

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
FeatureVector = GetOnlineFeaturesResponse.FeatureVector
_MICROS = 1_000_000


@dataclass(frozen=True)
class Rows:
    """Which rows of one view a request found, and how old they are.

    A row past its view's time to live is expired: it keeps its moment, and its values are not told.
    """

    found: Bool  # (n,)
    expired: Bool  # (n,) of those found
    moments: Int64  # (n,) µs, 0 where not found

    @cached_property
    def live(self) -> Bool:
        """(n,) whose values are told."""
        return self.found & ~self.expired

    @cached_property
    def statuses(self) -> list[Any]:
        """A Feast `FieldStatus` a row; a null is PRESENT, as in Feast's own stores."""
        told = np.where(self.found, FieldStatus.PRESENT, FieldStatus.NOT_FOUND)
        return list(np.where(self.expired, FieldStatus.OUTSIDE_MAX_AGE, told).tolist())

    @cached_property
    def seconds(self) -> list[int]:
        """The moments, in whole seconds, as Feast tells them."""
        return list((self.moments // _MICROS).tolist())

    @cached_property
    def stamps(self) -> list[Timestamp]:
        """The moments as protobuf."""
        parts = (divmod(moment, _MICROS) for moment in self.moments.tolist())
        return [Timestamp(seconds=seconds, nanos=micros * 1000) for seconds, micros in parts]


@dataclass(frozen=True, eq=False)
class Floats:
    """Floats, null where not known; double precision only where an on-demand view made them."""

    values: NDArray[Any]  # (n,) float32 or float64
    known: Bool  # (n,)

    @property
    def python(self) -> list[float | None]:
        """None where null."""
        if self.known.all():
            return list(self.values.tolist())
        cells = self.values.astype(object)
        cells[~self.known] = None
        return list(cells.tolist())


@dataclass(frozen=True, eq=False)
class Cells:
    """Values as the record keeps them."""

    kind: Kind
    cells: pa.Array  # (n,)


@dataclass(frozen=True, eq=False)
class Protos:
    """Values that Feast has made already, or that nobody has."""

    values: Sequence[ValueProto]  # (n,)


@dataclass(frozen=True, eq=False)
class Column:
    """One named column of an answer; without `rows` it is PRESENT throughout and of no moment.

    A column is `unheld` if its view has the feature, but the record has not yet.
    """

    name: str
    data: Floats | Cells | Protos
    rows: Rows | None = None
    unheld: bool = False

    def __len__(self) -> int:
        match self.data:
            case Cells(_, items) | Floats(items, _) | Protos(items):
                return len(items)

    @property
    def seconds(self) -> list[int]:
        """The moment of each row, 0 where it has none."""
        return [0] * len(self) if self.rows is None else self.rows.seconds

    def python(self, value_type: ValueType | None) -> list[Any]:
        """What `to_dict` tells of it."""
        match self.data:
            case Floats():
                return self.data.python
            case Cells(kind, cells) if kind is not Kind.PROTO:
                return list(cells.to_pylist())
            case _:
                return [feast_value_type_to_python_type(value, value_type) for value in self.protos]

    @cached_property
    def protos(self) -> Sequence[ValueProto]:
        """As Feast's values."""
        match self.data:
            case Floats(floats):
                wrap = _single if floats.dtype == np.float32 else _double
                return [ValueProto() if value is None else wrap(value) for value in self.data.python]
            case Cells(kind, cells):
                return cell_protos(kind, cells.to_pylist())
            case Protos(values):
                return values

    def vector(self) -> FeatureVector:
        """As Feast sends it."""
        if self.rows is None:
            status, stamps = [FieldStatus.PRESENT] * len(self), [Timestamp()] * len(self)
        else:
            status, stamps = self.rows.statuses, self.rows.stamps
        if self.unheld:
            status = [FieldStatus.NOT_FOUND] * len(self)
        return FeatureVector(values=self.protos, statuses=status, event_timestamps=stamps)


class ColumnarResponse(OnlineResponse):  # type: ignore[misc] # feast ships no types
    """What Feast's own answer says, from columns. `proto` is built when it is first asked for, and is then the same.

    `versions` are those of the views that were read, where the request wanted to know them.
    """

    def __init__(
        self, columns: Sequence[Column], feature_types: Mapping[str, ValueType], versions: Mapping[str, int]
    ) -> None:
        self.columns, self.versions = tuple(columns), dict(versions)
        self._feature_types = dict(feature_types)

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:
        """As Feast sends it."""
        response = GetOnlineFeaturesResponse(results=[column.vector() for column in self.columns])
        response.metadata.feature_names.val.extend(column.name for column in self.columns)
        for name, version in self.versions.items():
            response.metadata.feature_view_metadata.add(name=name, version=version)
        return response

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Column → one value a row; with `name__ts`, in seconds, if wanted."""
        return self._told(self._python, include_event_timestamps)

    def to_df(self, include_event_timestamps: bool = False) -> pd.DataFrame:
        """One row a row; floats are float64 with NaN for null, a column without a value is of objects."""
        return pd.DataFrame(self._told(self._pandas, include_event_timestamps))

    def to_arrow(self, include_event_timestamps: bool = False) -> pa.Table:
        """One row a row; floats are float64, a column without a value is of type null."""
        others = {c.name: self._python(c) for c in self.columns if not isinstance(c.data, Floats)}
        told = pa.Table.from_pydict(_convert_uuids_for_arrow(others))

        def arrow(column: Column) -> Any:
            return _arrow(column.data) if isinstance(column.data, Floats) else told[column.name]

        return pa.table(self._told(arrow, include_event_timestamps))

    def _told(self, tell: Callable[[Column], Any], include_event_timestamps: bool) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for column in self.columns:
            told[column.name] = tell(column)
            if include_event_timestamps:
                told[column.name + TIMESTAMP_POSTFIX] = column.seconds
        return told

    def _python(self, column: Column) -> list[Any]:
        return column.python(self._feature_types.get(column.name))

    def _pandas(self, column: Column) -> Any:
        match column.data:
            case Floats(floats, known) if known.any():
                return np.where(known, floats, np.nan).astype(np.float64)
            case _:
                return self._python(column)


def _arrow(floats: Floats) -> pa.Array:
    if not floats.known.any():
        return pa.nulls(len(floats.known))
    return pa.array(np.asarray(floats.values, dtype=np.float64), mask=~floats.known)


def _single(value: float) -> ValueProto:
    return ValueProto(float_val=value)


def _double(value: float) -> ValueProto:
    return ValueProto(double_val=value)
