"""Every type of value that Feast has, through Feast's SQLite store and ours."""

from __future__ import annotations

import decimal
import math
import uuid
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from both_stores import USER, both_of, key, now, read, rows, told, view, write
from feast import types
from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Set, Struct
from feast.value_type import ValueType

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Feast's SQLite store never closes its file
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MOMENT = now()
TIME_UUID = uuid.UUID("7c21800b-e7ad-11f1-8002-000000000001")
SCALARS: dict[Any, list[Any]] = {
    types.Bytes: [b"\x00\xff", b""],
    types.String: ["é\n", ""],
    types.Int32: [2**31 - 1, -(2**31)],
    types.Int64: [2**63 - 1, -(2**63)],
    types.Float64: [0.1, -1e300],
    types.Float32: [1.5, -0.25],
    types.Bool: [True, False],
    types.UnixTimestamp: [MOMENT, MOMENT - timedelta(days=1)],
    types.Uuid: [uuid.UUID(int=7), uuid.UUID(int=0)],
    types.TimeUuid: [TIME_UUID, TIME_UUID],
    types.Decimal: [decimal.Decimal("1.50"), decimal.Decimal("-0.001")],
    types.PdfBytes: [b"%PDF", b""],
    types.ImageBytes: [b"\x89PNG", b""],
    types.Map: [{"a": 1, "b": "x"}, {}],
    types.Json: ['{"a": [1, null]}', "[]"],
    types.ScalarMap: [{1: "a"}, {}],
    types.ZonedTimestamp: [MOMENT.astimezone(ZoneInfo("Europe/Paris")), MOMENT],
}
ALONE = {types.PdfBytes, types.ImageBytes, types.ScalarMap, types.ZonedTimestamp}
"""No lists of these, nor sets: Feast has no value type for them."""
NO_SETS = {types.Map, types.Json}

CASES: dict[Any, list[Any]] = {
    **SCALARS,
    **{Array(of): [values, []] for of, values in SCALARS.items() if of not in ALONE},
    **{Set(of): [set(values), set()] for of, values in SCALARS.items() if of not in ALONE | NO_SETS},
    Struct({"a": types.Int64, "b": types.String}): [{"a": 1, "b": "x"}, {"a": None, "b": None}],
    Array(Struct({"a": types.Int64})): [[{"a": 1}, {"a": 2}], []],
    Array(Array(types.Int64)): [[[1, 2], []], []],
    Set(Array(types.String)): [[["a"], ["b"]], []],
}
NAMES = {f"f{place}": (kind, values) for place, (kind, values) in enumerate(CASES.items())}


def one_of_each(folder):
    return [USER, view(folder, "types", [USER], {name: kind for name, (kind, _) in NAMES.items()})]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Row 1 and 2 hold values, row 3 nulls; row 4 is missing."""
    both = both_of(tmp_path_factory.mktemp("types"), one_of_each)
    columns = {
        name: python_values_to_proto_values([*values, None], kind.to_value_type())
        for name, (kind, values) in NAMES.items()
    }
    data = [
        (key(user_id=row + 1), {name: protos[row] for name, protos in columns.items()}, MOMENT, MOMENT)
        for row in range(3)
    ]

    def put(store):
        online, table = store._get_provider().online_store, store.get_feature_view("types")
        online.online_write_batch(store.config, table, data, None)

    both(put)
    return both


def answer(store):
    features = [f"types:{name}" for name in NAMES]
    return store.get_online_features(features, [{"user_id": user} for user in (1, 2, 3, 4)])


def test_the_cases_are_all_the_types_that_feast_has():
    covered = {kind.to_value_type() for kind in CASES}
    assert set(ValueType) - covered == {ValueType.UNKNOWN, ValueType.NULL}


@pytest.mark.parametrize("name", [pytest.param(name, id=str(kind)) for name, (kind, _) in NAMES.items()])
def test_values_nulls_and_missing_rows_of_each_type_come_back_as_they_do_from_sqlite(both, name):
    found = both(lambda store: told(answer(store))[name])
    assert [status for _, status, _ in found] == ["PRESENT", "PRESENT", "PRESENT", "NOT_FOUND"]
    assert found[0] != found[2] != found[1]  # a value is not a null, not even an empty one


def test_they_are_the_same_python_values_too(both):
    found = both(lambda store: answer(store).to_dict())
    for name, (kind, values) in NAMES.items():
        if kind not in {types.Json, Array(types.Json), Array(Array(types.Int64)), types.Float32}:
            assert found[name][:2] == values
        assert found[name][2:] == [None, None]


@pytest.mark.parametrize("name", [pytest.param(name, id=str(kind)) for name, (kind, _) in NAMES.items()])
def test_they_are_the_same_arrow_column_or_the_same_error(both, name):
    """Feast itself cannot make Arrow of JSON of several shapes, nor of maps whose keys are no text."""

    def column(store):
        users = [{"user_id": user} for user in (1, 2, 3, 4)]
        try:
            return store.get_online_features([f"types:{name}"], users).to_arrow(include_event_timestamps=True)
        except (pa.ArrowException, TypeError) as error:
            return type(error), str(error)

    both(column)


def test_they_are_the_same_data_frame(both):
    def plain(value):
        return sorted(map(repr, value)) if isinstance(value, set) else repr(value)

    def frame(store):
        found = answer(store).to_df(include_event_timestamps=True)
        return {n: (str(found[n].dtype), list(map(plain, found[n]))) for n in sorted(found.columns)}

    both(frame)


def special(folder):
    return [USER, view(folder, "special", [USER], {
        "single": types.Float32, "double": types.Float64,
        "singles": Array(types.Float32), "doubles": Array(types.Float64),
    }), view(folder, "packed", [USER], {"a": types.Float32, "b": types.Float32})]  # fmt: skip


def test_nan_infinity_and_negative_zero_are_values_and_stay_apart_from_null(tmp_path):
    both = both_of(tmp_path, special)
    odd = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, 3.4028234663852886e38]

    def put(store):
        online = store._get_provider().online_store
        mixed = [
            (key(user_id=i), {
                "single": Value(float_val=x), "double": Value(double_val=x),
                "singles": Value(float_list_val=FloatList(val=[x, 1.0])),
                "doubles": Value(double_list_val=DoubleList(val=[x, 1.0])),
            }, MOMENT, MOMENT)
            for i, x in enumerate(odd)
        ]  # fmt: skip
        packed = [
            (key(user_id=i), {"a": Value(float_val=x), "b": Value()}, MOMENT, MOMENT)
            for i, x in enumerate(odd)
        ]
        online.online_write_batch(store.config, store.get_feature_view("special"), mixed, None)
        online.online_write_batch(store.config, store.get_feature_view("packed"), packed, None)

    both(put)
    users = [{"user_id": i} for i in range(len(odd))]
    both(read([f"special:{n}" for n in ("single", "double", "singles", "doubles")], users))
    found = both(read(["packed:a", "packed:b"], users))
    assert [value for value, _, _ in found["a"]][:4] == [
        "float_val: nan\n", "float_val: inf\n", "float_val: -inf\n", "float_val: -0\n",
    ]  # fmt: skip
    assert {value for value, _, _ in found["b"]} == {""}


def test_a_column_that_is_null_throughout_is_null_on_the_way_through_a_data_frame(tmp_path):
    both = both_of(tmp_path, special)
    frame = rows(user_id=[1, 2], a=[None, None], b=[2.5, None]).astype({"a": "float32", "b": "float32"})
    both(write("packed", frame))

    def frame(store):
        users = [{"user_id": 1}, {"user_id": 2}]
        found = store.get_online_features(["packed:a", "packed:b"], users).to_df()
        return repr([found[name].tolist() for name in ("a", "b")])

    assert both(frame) == "[[None, None], [2.5, nan]]"
