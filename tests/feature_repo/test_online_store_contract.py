"""The same Feast calls against Feast's SQLite store and ours: the answers must be equal.

Where they are not, on purpose, see `test_online_store_differences`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from both_stores import (
    DEVICE,
    DUCKDB,
    HOUR,
    USER,
    a_store,
    both_of,
    error_of,
    key,
    now,
    read,
    rows,
    source,
    told,
    view,
    write,
)  # fmt: skip
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_source import PushMode
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from feature_repo.online_store import DuckDBOnlineStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Feast's SQLite store never closes its file
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FLOATS = ["floats:a", "floats:b", "floats:c"]
TYPES = {
    "int64": Int64, "int32": Int32, "double": Float64, "text": String, "raw": Bytes, "moment": UnixTimestamp,
    "float": Float32, "ids": Array(Int64), "texts": Array(String), "doubles": Array(Float64),
}  # fmt: skip


def definitions(folder):
    floats = view(folder, "floats", [USER], {"a": Float32, "b": Float32, "c": Float32})
    types = view(folder, "types", [USER], TYPES)
    by_both = view(folder, "by_both", [USER, DEVICE], {"a": Float32, "n": Int64})
    return [
        USER, DEVICE, floats, types, by_both,
        view(folder, "by_device", [DEVICE], {"a": Float32}),
        view(folder, "plays", [USER], {"title_id": Int64, "minutes": Float32}, pushed=True),
        FeatureService(name="some", features=[floats[["a", "c"]], types[["text"]]]),
        FeatureService(name="renamed", features=[floats.with_name("numbers"), by_both.with_join_key_map({"user_id": "viewer_id"})]),
    ]  # fmt: skip


@pytest.fixture
def both(tmp_path):
    return both_of(tmp_path, definitions)


def put(name, data):
    """Write rows as a store itself is given them."""

    def call(store):
        table = next(v for v in store.list_all_feature_views() if v.name == name)
        store._get_provider().online_store.online_write_batch(store.config, table, data, None)

    return call


def offline(both, name, frame):
    """Make `frame` the source of a view, on both sides."""
    for store in (both.ours, both.feasts):
        path = store.get_feature_view(name).batch_source.path
        frame.to_parquet(path, coerce_timestamps="us")


# Values, keys, rows.


def test_floats_come_back_with_nulls_and_missing_rows_told_apart(both):
    frame = rows(user_id=[1, 2], a=[1.5, 0.0], b=[None, -2.25], c=[None, 1e-30]).astype({"c": "float32"})
    both(write("floats", frame))
    found = both(read(FLOATS, [{"user_id": 2}, {"user_id": 1}, {"user_id": 3}, {"user_id": 2}]))
    assert [status for _, status, _ in found["b"]] == ["PRESENT", "PRESENT", "NOT_FOUND", "PRESENT"]


def test_values_of_a_data_frame_come_back(both):
    moment = now()
    frame = rows(
        user_id=[1, 2], int64=[2**62, -1], int32=[7, -7], double=[0.1, -1e300], text=["é\n", ""], raw=[b"\x00\xff", b""],
        moment=[moment, moment - HOUR], float=[0.5, -0.5], ids=[[3, 2, 1], [2**62]], texts=[["a", "b"], [""]],
        doubles=[[0.1], [1.0, 2.0]],
    )  # fmt: skip
    both(write("types", frame))
    found = both(read([f"types:{name}" for name in TYPES], [{"user_id": 1}, {"user_id": 2}, {"user_id": 9}]))
    assert set(found) == {"user_id", *TYPES}


def test_string_and_composite_keys_find_their_rows(both):
    both(write("by_device", rows(device_id=["tv", "phone"], a=[1.0, 2.0])))
    both(write("by_both", rows(user_id=[1, 1], device_id=["tv", "phone"], a=[3.0, 4.0], n=[5, 6])))
    keys = [{"user_id": 1, "device_id": d} for d in ("phone", "tv", "watch", "tv")]
    found = both(read(["by_both:a", "by_both:n"], keys))
    assert [value for value, _, _ in found["n"]] == ["int64_val: 6\n", "int64_val: 5\n", "", "int64_val: 5\n"]
    both(read(["by_device:a"], [{"device_id": d} for d in ("phone", "tv", "watch")]))


@pytest.mark.parametrize(("value_type", "dtype", "values"), [
    (ValueType.INT32, Int32, [1, -(2**31)]),
    (ValueType.BYTES, Bytes, [b"\x00", b"\xff"]),
    (ValueType.UNIX_TIMESTAMP, UnixTimestamp, [datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC)]),
])  # fmt: skip
def test_keys_of_other_types_find_their_rows(tmp_path, value_type, dtype, values):
    def objects(folder):
        entity = Entity(name="thing", join_keys=["thing_id"], value_type=value_type)
        fields = [Field(name="thing_id", dtype=dtype), Field(name="a", dtype=Float32)]
        return [
            entity,
            FeatureView(name="things", entities=[entity], schema=fields, source=source(folder, "things")),
        ]

    both = both_of(tmp_path, objects)
    both(write("things", rows(thing_id=values, a=[1.0, 2.0])))
    found = both(read(["things:a"], [{"thing_id": value} for value in reversed(values)]))
    assert [value for value, _, _ in found["a"]] == ["float_val: 2\n", "float_val: 1\n"]


def test_a_newer_row_replaces_an_older_one(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0])))
    later = rows(user_id=[1], a=[2.0], b=[None], c=[2.0]).astype({"b": "float32"})
    later["event_timestamp"] += HOUR
    both(write("floats", later))
    both(read(FLOATS, [{"user_id": 1}]))


def test_of_rows_of_equal_moments_the_one_written_last_counts(both):
    frame = rows(user_id=[1, 1], a=[1.0, 2.0], b=[1.0, 2.0], c=[1.0, 2.0])
    both(write("floats", frame))
    both(read(FLOATS, [{"user_id": 1}]))
    both(write("floats", frame.iloc[:1]))
    assert both(read(["floats:a"], [{"user_id": 1}]))["a"][0][0] == "float_val: 1\n"


def test_moments_without_a_zone_are_utc(both):
    values = {name: Value(float_val=1.0) for name in "abc"}
    naive = datetime(2026, 3, 2, 12)
    both(put("floats", [(key(user_id=1), values, naive, naive)]))
    found = both(read(["floats:a"], [{"user_id": 1}]))
    assert found["a"][0][2] == datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()


def test_a_feature_that_a_write_leaves_out_keeps_its_value(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    both(put("floats", [(key(user_id=1), {"b": Value(float_val=9.0)}, now() + HOUR, now())]))
    found = both(lambda store: store.get_online_features(FLOATS, [{"user_id": 1}]).to_dict())
    assert found == {"user_id": [1], "a": [1.0], "b": [9.0], "c": [3.0]}


def test_writing_no_rows_changes_nothing(both):
    both(put("floats", []))
    both(read(FLOATS, [{"user_id": 1}]))


# Requests.


def test_only_what_was_asked_for_is_returned(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    assert set(both(read(["floats:b"], [{"user_id": 1}]))) == {"user_id", "b"}


def test_nothing_is_found_in_views_without_rows(both):
    both(read([*FLOATS, "types:text", "types:ids", "types:int64"], [{"user_id": 1}]))


def test_keys_may_come_in_columns(both):
    both(write("floats", rows(user_id=[1, 2], a=[1.0, 2.0], b=[0.0, 0.0], c=[0.0, 0.0])))
    both(read(["floats:a"], {"user_id": [2, 1, 2]}))
    both(read(["floats:a"], {"user_id": [Value(int64_val=2), Value(int64_val=1)]}))


@pytest.mark.parametrize("full", [False, True])
def test_services_give_their_features_under_short_or_long_names(both, full):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    found = both(read("some", [{"user_id": 1}], full_feature_names=full))
    names = {"floats__a", "floats__c", "types__text"} if full else {"a", "c", "text"}
    assert set(found) == {"user_id", *names}


def test_views_and_keys_may_have_other_names_in_a_service(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    both(write("by_both", rows(user_id=[8], device_id=["tv"], a=[3.0], n=[5])))
    keys = [{"user_id": 1, "viewer_id": 8, "device_id": "tv"}]
    found = both(read("renamed", keys, full_feature_names=True))
    assert found["numbers__a"][0][0] == "float_val: 1\n"
    assert found["by_both__n"][0][0] == "int64_val: 5\n"


def test_the_answer_tells_the_versions_of_its_views_if_asked(both):
    def versions(store):
        response = store.get_online_features(
            ["floats:a", "types:text"], [{"user_id": 1}], include_feature_view_version_metadata=True
        )
        metadata = response.proto.metadata.feature_view_metadata
        return {found.name: found.version for found in metadata}

    assert set(both(versions)) == {"floats", "types"}


@pytest.mark.parametrize(("features", "keys"), [
    pytest.param(["floats:a"], [{"device_id": "tv"}], id="a key of another view"),
    pytest.param(["floats:a"], {"user_id": []}, id="no rows"),
    pytest.param(["floats:nothing"], [{"user_id": 1}], id="a feature that is not there"),
    pytest.param(["nothing:a"], [{"user_id": 1}], id="a view that is not there"),
    pytest.param(["floats:a", "by_device:a"], [{"user_id": 1, "device_id": "tv"}], id="two features of one name"),
    pytest.param(["floats:a"], [{"user_id": 1}, {"other": 2}], id="rows of different keys"),
    pytest.param(["floats:a"], {"user_id": [1, 2], "device_id": ["tv"]}, id="columns of different lengths"),
    pytest.param(["floats:a"], [], id="nothing at all"),
    pytest.param([], [{"user_id": 1}], id="no features"),
    pytest.param(["floats@v2:a"], [{"user_id": 1}], id="a version, where versions are off"),
])  # fmt: skip
def test_a_wrong_request_ends_in_the_same_error(both, features, keys):
    both(error_of(read(features, keys)))


def test_half_a_composite_key_finds_nothing(both):
    both(write("by_both", rows(user_id=[1], device_id=["tv"], a=[3.0], n=[5])))
    both(read(["by_both:a"], [{"user_id": 1}]))


def test_online_read_gives_values_in_the_order_of_the_keys(both):
    both(write("floats", rows(user_id=[1, 2], a=[1.0, 2.0], b=[3.0, 4.0], c=[5.0, 6.0])))

    def call(store):
        table, online = store.get_feature_view("floats"), store._get_provider().online_store
        keys = [key(user_id=i) for i in (2, 7, 1, 2)]
        found = online.online_read(store.config, table, keys, ["a", "b", "c"])
        return [(moment, values and {n: str(v) for n, v in values.items()}) for moment, values in found]

    assert [moment is None for moment, _ in both(call)] == [False, True, False, False]


# Writing: pushes, frames, materialization.


@pytest.mark.parametrize("to", [PushMode.ONLINE, PushMode.OFFLINE, PushMode.ONLINE_AND_OFFLINE])
def test_a_push_reaches_the_views_of_its_source(both, to):
    past = rows(user_id=[1], title_id=[5], minutes=[1.5])
    offline(both, "plays", past.assign(event_timestamp=past["event_timestamp"] - HOUR))
    frame = rows(user_id=[1, 2], title_id=[7, 8], minutes=[2.5, None])

    def push(store):
        store.push("plays_pushes", frame, to=to)
        return sorted(
            pq.read_table(store.get_feature_view("plays").batch_source.path)["title_id"].to_pylist()
        )

    assert both(push) == ([5] if to is PushMode.ONLINE else [5, 7, 8])
    found = both(read(["plays:title_id", "plays:minutes"], [{"user_id": 1}, {"user_id": 2}]))
    assert (found["title_id"][0][1] == "PRESENT") is (to is not PushMode.OFFLINE)


def test_a_push_may_be_awaited(tmp_path):
    both = both_of(tmp_path, definitions)
    frame = rows(user_id=[1], title_id=[7], minutes=[2.5])
    asyncio.run(both.ours.push_async("plays_pushes", frame))
    both.feasts.push("plays_pushes", frame)
    both(read(["plays:title_id", "plays:minutes"], [{"user_id": 1}]))


@pytest.mark.parametrize("given", ["df", "inputs"])
def test_rows_may_be_written_from_a_dictionary(both, given):
    columns = {name: column.tolist() for name, column in rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0]).items()}
    both(lambda store: store.write_to_online_store("floats", **{given: columns}))
    assert both(read(["floats:a"], [{"user_id": 1}]))["a"][0][0] == "float_val: 1\n"


@pytest.mark.filterwarnings("ignore:Cannot write dataframe with empty feature columns:UserWarning")
def test_a_frame_without_any_value_is_not_written(both):
    both(write("floats", rows(user_id=[1], a=[None], b=[None], c=[None])))
    assert both(read(["floats:a"], [{"user_id": 1}]))["a"][0][1] == "NOT_FOUND"


def test_what_feast_loses_before_a_store_is_asked_is_lost_on_both(both):
    """Of a frame whose columns are Arrow's and in several chunks, Feast itself hands over the first chunk only."""
    whole = pa.Table.from_pandas(rows(user_id=[1, 2], a=[1.0, 2.0], b=[0.0, 0.0], c=[0.0, 0.0]))
    chunked = pa.concat_tables([whole.slice(i, 1) for i in range(2)]).to_pandas(types_mapper=pd.ArrowDtype)
    both(write("floats", chunked))
    found = both(read(["floats:a"], [{"user_id": 1}, {"user_id": 2}]))
    assert [status for _, status, _ in found["a"]] == ["PRESENT", "NOT_FOUND"]


def test_the_async_calls_answer_as_the_others_do(both):
    frame = rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])
    asyncio.run(both.ours.write_to_online_store_async("floats", frame))
    both.feasts.write_to_online_store("floats", frame)
    found = told(asyncio.run(both.ours.get_online_features_async(FLOATS, [{"user_id": 1}])))
    assert found == both(read(FLOATS, [{"user_id": 1}]))
    table, online = both.ours.get_feature_view("floats"), both.ours._get_provider().online_store
    awaited = asyncio.run(online.online_read_async(both.ours.config, table, [key(user_id=1)]))
    assert awaited == online.online_read(both.ours.config, table, [key(user_id=1)])
    assert both.ours._get_provider().async_supported.online.read


def hourly(moment, /, **columns):
    """Rows an hour apart, the last at `moment`, each made an hour after it happened."""
    count = len(next(iter(columns.values())))
    events = [moment - HOUR * (count - 1 - i) for i in range(count)]
    frame = pd.DataFrame(
        {"event_timestamp": events, "created_timestamp": [e + HOUR for e in events]} | columns
    )
    return frame.astype({name: "float32" for name in "abc" if name in frame})


def test_materializing_brings_the_newest_row_of_each_key_in_the_interval(both):
    moment = now()
    offline(
        both,
        "floats",
        hourly(moment, user_id=[1, 1, 2], a=[1.0, 2.0, None], b=[3.0, 4.0, 5.0], c=[6.0, 7.0, 8.0]),
    )
    keys = [{"user_id": 1}, {"user_id": 2}]
    both(lambda store: store.materialize(moment - 4 * HOUR, moment - 2 * HOUR, feature_views=["floats"]))
    assert both(read(FLOATS, keys))["a"][0][0] == "float_val: 1\n"
    both(lambda store: store.materialize_incremental(moment, feature_views=["floats"]))
    assert [value for value, _, _ in both(read(FLOATS, keys))["a"]] == ["float_val: 2\n", ""]


def test_materializing_again_and_over_the_same_time_changes_nothing(both):
    moment = now()
    offline(both, "floats", hourly(moment, user_id=[1, 2, 1], a=[1.0, 2.0, 3.0], b=[1.0] * 3, c=[1.0] * 3))
    for hours in (4, 4, 2, 1):
        both(
            lambda store, hours=hours: store.materialize(
                moment - hours * HOUR, moment, feature_views=["floats"]
            )
        )
        found = both(read(FLOATS, [{"user_id": 1}, {"user_id": 2}]))
        assert [value for value, _, _ in found["a"]] == ["float_val: 3\n", "float_val: 2\n"]
    both(lambda store: store.materialize_incremental(moment + HOUR, feature_views=["floats"]))
    assert both(read(FLOATS, [{"user_id": 1}, {"user_id": 2}])) == found


def test_of_rows_of_one_moment_the_one_made_last_is_materialized(both):
    moment = now()
    frame = hourly(moment, user_id=[1, 1, 1], a=[1.0, 2.0, 3.0], b=[0.0] * 3, c=[0.0] * 3)
    frame["event_timestamp"] = moment
    frame["created_timestamp"] = [moment, moment + 2 * HOUR, moment + HOUR]
    offline(both, "floats", frame)
    both(lambda store: store.materialize(moment - HOUR, moment, feature_views=["floats"]))
    assert both(read(FLOATS, [{"user_id": 1}]))["a"][0][0] == "float_val: 2\n"


def test_every_kind_of_column_is_materialized(both):
    moment = now()
    frame = hourly(
        moment, user_id=[1, 2, 3], int64=[2**62, -1, 0], int32=[7, -7, 0], double=[0.1, -1e300, None], text=["é", "", None],
        raw=[b"\x00\xff", b"", None], moment=[moment, moment - HOUR, None], float=[0.5, -0.5, None],
        ids=[[3, 2, 1], [], None], texts=[["a", "b"], [], None], doubles=[[0.1], [], None],
    ).astype({"float": "float32", "int32": "int32"})  # fmt: skip
    offline(both, "types", frame)
    both(lambda store: store.materialize(moment - 4 * HOUR, moment, feature_views=["types"]))
    both(read([f"types:{name}" for name in TYPES], [{"user_id": i} for i in (1, 2, 3, 4)]))


def test_views_of_composite_keys_are_materialized(both):
    moment = now()
    offline(
        both,
        "by_both",
        hourly(moment, user_id=[1, 1, 1], device_id=["tv", "phone", "tv"], a=[1.0, 2.0, 3.0], n=[1, 2, 3]),
    )
    both(lambda store: store.materialize(moment - 4 * HOUR, moment, feature_views=["by_both"]))
    found = both(read(["by_both:a", "by_both:n"], [{"user_id": 1, "device_id": d} for d in ("tv", "phone")]))
    assert [value for value, _, _ in found["n"]] == ["int64_val: 3\n", "int64_val: 2\n"]


def test_columns_may_have_other_names_offline(tmp_path):
    def objects(folder):
        mapping = {"uid": "user_id", "raw_a": "a", "raw_n": "n", "at": "happened"}
        mapped = FileSource(
            name="mapped_source", path=str(folder / "mapped.parquet"), timestamp_field="happened",
            created_timestamp_column="created_timestamp", field_mapping=mapping,
        )  # fmt: skip
        return [USER, view(folder, "mapped", [USER], {"a": Float32, "n": String}, source=mapped)]

    both, moment = both_of(tmp_path, objects), now()
    frame = hourly(moment, uid=[1, 1], raw_a=[1.0, 2.0], raw_n=["x", "y"]).rename(
        columns={"event_timestamp": "at"}
    )
    offline(both, "mapped", frame.astype({"raw_a": "float32"}))
    both(lambda store: store.materialize(moment - 4 * HOUR, moment, feature_views=["mapped"]))
    assert both(read(["mapped:a", "mapped:n"], [{"user_id": 1}]))["a"][0][0] == "float_val: 2\n"


def test_a_source_may_lack_the_moment_rows_were_made(tmp_path):
    def objects(folder):
        bare = FileSource(name="bare", path=str(folder / "bare.parquet"), timestamp_field="event_timestamp")
        return [USER, view(folder, "bare", [USER], {"a": Float32}, source=bare)]

    both, moment = both_of(tmp_path, objects), now()
    offline(both, "bare", hourly(moment, user_id=[1, 1], a=[1.0, 2.0]).drop(columns="created_timestamp"))
    both(lambda store: store.materialize(moment - 4 * HOUR, moment, feature_views=["bare"]))
    assert both(read(["bare:a"], [{"user_id": 1}]))["a"][0][0] == "float_val: 2\n"


# Definitions that change.


def test_projects_in_one_file_do_not_see_each_other(tmp_path):
    folders = {
        "ours": {"type": DUCKDB, "path": "online.duckdb"},
        "feasts": {"type": "sqlite", "path": "online.db"},
    }
    found = []
    for folder, online in folders.items():
        one, other = (
            a_store(tmp_path / folder, online, definitions(tmp_path), project=name)
            for name in ("one", "other")
        )
        write("floats", rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0]))(one)
        found.append([read(["floats:a"], [{"user_id": 1}])(store) for store in (one, other)])
    assert [[status for _, status, _ in answer["a"]] for answer in found[0]] == [["PRESENT"], ["NOT_FOUND"]]
    assert [[value[:2] for value in answer["a"]] for answer in found[0]] == [
        [value[:2] for value in answer["a"]] for answer in found[1]
    ]


def test_a_view_that_is_applied_again_keeps_its_rows(both, tmp_path):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    both(lambda store: store.apply([USER, view(tmp_path, "floats", [USER], {"c": Float32, "b": Float32})]))
    found = both(read(["floats:b", "floats:c"], [{"user_id": 1}]))
    assert found["b"][0][0] == "float_val: 2\n"


def test_a_view_that_is_deleted_and_applied_anew_is_empty(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))

    def again(store):
        old = store.get_feature_view("floats")
        services = store.list_feature_services()
        store.apply([], objects_to_delete=[*services, old], partial=False)
        store.apply([USER, view(store.config.repo_path, "floats", [USER], {"a": Float32})])

    both(again)
    assert both(read(["floats:a"], [{"user_id": 1}]))["a"][0][1] == "NOT_FOUND"


def test_teardown_leaves_no_file(both):
    both(lambda store: store.teardown())
    assert not (both.ours.config.repo_path / "online.duckdb").exists()
    assert not (both.feasts.config.repo_path / "online.db").exists()


def test_each_version_of_a_view_has_rows_of_its_own(tmp_path):
    registry = {"enable_online_feature_view_versioning": True}

    def objects(folder):
        return [USER, view(folder, "floats", [USER], {"a": Float32})]

    both = both_of(tmp_path, objects, registry=registry)
    both(write("floats", rows(user_id=[1], a=[1.0])))
    both(
        lambda store: store.apply(
            [USER, view(store.config.repo_path, "floats", [USER], {"a": Float32, "b": Float32})]
        )
    )
    assert both(read(["floats:a"], [{"user_id": 1}]))["a"][0][1] == "NOT_FOUND"
    both(write("floats", rows(user_id=[1], a=[2.0], b=[3.0])))
    versions = both(lambda store: [v["version"] for v in store.list_feature_view_versions("floats")])
    assert len(versions) == 2
    old, new = sorted(versions)
    found = both(read([f"floats@{old}:a", f"floats@{new}:b"], [{"user_id": 1}]))
    assert (found["a"][0][0], found["b"][0][0]) == ("float_val: 1\n", "float_val: 3\n")
    long = both(read([f"floats@{old}:a", f"floats@{new}:a"], [{"user_id": 1}], full_feature_names=True))
    assert {n: v[0][0] for n, v in long.items() if n != "user_id"} == {
        f"floats@{old}__a": "float_val: 1\n", f"floats@{new}__a": "float_val: 2\n",
    }  # fmt: skip


# What neither does, and what only SQLite does.


@pytest.mark.parametrize("call", [
    pytest.param(lambda online, *a: online.retrieve_online_documents(*a, ["a"], [0.5], 3), id="by vector"),
    pytest.param(lambda online, *a: online.retrieve_online_documents_v2(*a, ["a"], [0.5], 3), id="by vector, second form"),
])  # fmt: skip
def test_search_by_similarity_is_said_not_to_be_supported(both, call):
    online, table = both.ours._get_provider().online_store, both.ours.get_feature_view("floats")
    with pytest.raises(NotImplementedError, match="DuckDBOnlineStore does not support online retrieval"):
        call(online, both.ours.config, table)


def test_feast_finds_the_store_by_its_dotted_path(both):
    assert isinstance(both.ours._get_provider().online_store, DuckDBOnlineStore)
    assert isinstance(both.feasts._get_provider().online_store, SqliteOnlineStore)
