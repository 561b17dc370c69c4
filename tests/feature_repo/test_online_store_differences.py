"""Where our online store answers otherwise than Feast's SQLite store, on purpose: each difference, on both sides.

1. A late row never overwrites a newer one. (SQLite: what is written last is what is read.)
2. A row past its view's time to live is not told. (Feast's stores ignore it online.)
3. A view without entities can be written, materialized and read. (Feast writes its row where no read looks.)
4. Materializing loses no row of an Arrow table in several chunks. (Feast's way to protobuf takes the first.)
5. NaN in a Parquet file stays NaN. (Feast's local engine makes it null.)
6. A feature that was never given of a row that is there is null. (SQLite: not found.)
7. A value of another type than its feature's is refused. (SQLite takes it.)
8. Features come in the order in which they were asked for. (Feast's: in that of this process's hashes.)
9. A service to be precomputed needs no precomputing. (Feast: only on Redis, and an error where a vector is missing.)
10. `online_read` gives only the features asked for, and there are awaitable calls. (SQLite: all, and none.)
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from both_stores import HOUR, USER, both_of, key, now, our_store, read, rows, told, view, write
from feast import FeatureService, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int64, String
from feast.utils import _convert_arrow_to_proto

from feature_repo.engine import record_rows
from feature_repo.held import ViewNotApplied
from feature_repo.record import Kind
from feature_repo.values import NOBODY, WrongValueType

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Feast's SQLite store never closes its file
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MANY = [f"f{i:02d}" for i in range(30)]


def definitions(folder):
    return [
        USER,
        view(folder, "floats", [USER], {"a": Float32, "b": Float32}),
        view(folder, "numbers", [USER], {"n": Int64, "ids": Array(Int64), "name": String}),
        view(folder, "short_lived", [USER], {"a": Float32}, ttl=HOUR),
        view(folder, "of_all", [], {"total": Float32, "name": String}),
        view(folder, "many", [USER], dict.fromkeys(MANY, Float32)),
        FeatureService(name="ready", features=[view(folder, "floats", [USER], {"a": Float32, "b": Float32})], precompute_online=True),
    ]  # fmt: skip


@pytest.fixture
def both(tmp_path):
    return both_of(tmp_path, definitions)


def values(store, *features, users=(1,)):
    found = store.get_online_features(list(features), [{"user_id": user} for user in users]).to_dict()
    return [found[feature.split(":")[1]] for feature in features]


def statuses(store, feature, users=(1,)):
    found = told(store.get_online_features([feature], [{"user_id": user} for user in users]))
    return [status for _, status, _ in found[feature.split(":")[1]]]


# 1. Late rows.


@pytest.mark.parametrize("late", ["event_timestamp", "created_timestamp"])
def test_a_late_row_never_overwrites_a_newer_one(both, late):
    held = rows(user_id=[1], a=[1.0], b=[1.0])
    held["event_timestamp"] -= 5 * HOUR  # so that event and created cannot be taken for each other
    for store in (both.ours, both.feasts):
        write("floats", held)(store)
        write("floats", held.assign(a=[9.0], **{late: held[late] - HOUR}))(store)
    assert values(both.ours, "floats:a") == [[1.0]]
    assert values(both.feasts, "floats:a") == [[9.0]]


def test_a_row_of_the_same_moment_that_was_made_later_is_a_correction(both):
    held = rows(user_id=[1], a=[1.0], b=[1.0])
    both(write("floats", held))
    both(write("floats", held.assign(a=[9.0], created_timestamp=held["created_timestamp"] + HOUR)))
    assert both(lambda store: values(store, "floats:a")) == [[9.0]]


def test_what_is_materialized_is_as_new_as_its_file_says(both):
    held = rows(user_id=[1], a=[1.0], b=[1.0]).astype({"a": "float32", "b": "float32"})
    moment = held["event_timestamp"][0]
    late = held.assign(a=[9.0], created_timestamp=held["created_timestamp"] - HOUR)
    for store in (both.ours, both.feasts):
        held.to_parquet(store.get_feature_view("floats").batch_source.path, coerce_timestamps="us")
        store.materialize(moment - HOUR, moment + HOUR, feature_views=["floats"])
        write("floats", late)(store)
    assert (values(both.ours, "floats:a"), values(both.feasts, "floats:a")) == ([[1.0]], [[9.0]])


def test_of_one_batch_the_newest_row_of_a_key_counts_and_of_equals_the_last(both):
    batch = rows(user_id=[1, 1, 2, 2], a=[1.0, 2.0, 3.0, 4.0], b=[0.0] * 4)
    batch.loc[0, "event_timestamp"] += HOUR
    for store in (both.ours, both.feasts):
        write("floats", batch)(store)
    assert values(both.ours, "floats:a", users=(1, 2)) == [[1.0, 4.0]]
    assert values(both.feasts, "floats:a", users=(1, 2)) == [[2.0, 4.0]]


# 2. Time to live.


@pytest.mark.parametrize(("age", "found", "status"), [
    (timedelta(minutes=59), 1.0, "PRESENT"),
    (timedelta(minutes=61), None, "OUTSIDE_MAX_AGE"),
])  # fmt: skip
def test_a_row_past_its_time_to_live_is_not_told(both, age, found, status):
    old = rows(user_id=[1], a=[1.0])
    old["event_timestamp"] -= age
    for store in (both.ours, both.feasts):
        write("short_lived", old)(store)
    assert (values(both.ours, "short_lived:a"), statuses(both.ours, "short_lived:a")) == ([[found]], [status])
    assert (values(both.feasts, "short_lived:a"), statuses(both.feasts, "short_lived:a")) == (
        [[1.0]],
        ["PRESENT"],
    )
    online = both.ours._get_provider().online_store
    table = both.ours.get_feature_view("short_lived")
    assert (online.online_read(both.ours.config, table, [key(user_id=1)])[0] == (None, None)) is (
        found is None
    )


def test_a_replay_of_the_past_counts_age_to_the_newest_row(tmp_path):
    (tmp_path / "ours").mkdir()
    store = our_store(tmp_path, definitions(tmp_path), online={"age_against": "newest"})
    past = rows(user_id=[1, 2, 3], a=[1.0, 2.0, 3.0])
    newest = datetime(2018, 9, 1, tzinfo=UTC)
    past["event_timestamp"] = [newest - HOUR - timedelta(seconds=1), newest, newest - HOUR]
    write("short_lived", past)(store)
    for _ in range(3):  # looked up, then held whole
        assert values(store, "short_lived:a", users=(1, 2, 3)) == [[None, 2.0, 3.0]]
        told_of = statuses(store, "short_lived:a", users=(1, 2, 3, 4))
        assert told_of == ["OUTSIDE_MAX_AGE", "PRESENT", "PRESENT", "NOT_FOUND"]
    table, online = store.get_feature_view("short_lived"), store._get_provider().online_store
    found = online.online_read(store.config, table, [key(user_id=user) for user in (1, 2, 3)])
    assert [moment for moment, _ in found] == [None, newest, newest - HOUR]


# 3. Views without entities.


def test_a_view_without_entities_is_written_and_read(both):
    for store in (both.ours, both.feasts):
        write("of_all", rows(total=[7.0], name=["all"]))(store)
        write("floats", rows(user_id=[1], a=[1.0], b=[2.0]))(store)
    keys = [{"user_id": 1}, {"user_id": 2}]
    found = read(["of_all:total", "of_all:name", "floats:a"], keys)(both.ours)
    assert [value for value, _, _ in found["total"]] == ["float_val: 7\n"] * 2
    assert set(found) == {"user_id", "total", "name", "a"}
    assert statuses(both.feasts, "of_all:total") == ["NOT_FOUND"]
    assert EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")]) == NOBODY


def test_a_view_without_entities_is_materialized(both):
    moment = now()
    frame = rows(total=[1.0, 2.0, 3.0], name=["x", "y", "z"]).astype({"total": "float32"})
    frame["event_timestamp"] = [moment - 2 * HOUR, moment, moment - HOUR]
    for store in (both.ours, both.feasts):
        frame.to_parquet(store.get_feature_view("of_all").batch_source.path, coerce_timestamps="us")
    both.ours.materialize(moment - 4 * HOUR, moment, feature_views=["of_all"])
    found = both.ours.get_online_features(["of_all:total", "of_all:name"], [{"__dummy_id": ""}]).to_dict()
    assert found == {"total": [2.0], "name": ["y"]}
    with pytest.raises(ValueError, match="__dummy_id"):
        both.feasts.materialize(moment - 4 * HOUR, moment, feature_views=["of_all"])


# 4. and 5. Chunks and NaN.


def test_no_row_is_lost_of_a_table_in_chunks(both):
    table = both.ours.get_feature_view("numbers")
    frame = rows(user_id=[1, 2, 3], n=[1, 2, 3], ids=[[1], [], [3]], name=["x", "y", "z"])
    whole = pa.Table.from_pandas(frame)
    chunked = pa.concat_tables([whole.slice(i, 1) for i in range(3)])
    assert record_rows(table, chunked).to_pylist() == record_rows(table, whole).to_pylist()
    assert len(record_rows(table, chunked)) == 3
    assert len(_convert_arrow_to_proto(chunked, table, {"user_id": ValueType.INT64})) == 1


def test_nan_in_a_parquet_file_stays_nan(both):
    moment = now()
    floats = pa.array([np.nan, None], pa.float32(), from_pandas=False)
    stamp = pa.array([moment] * 2, pa.timestamp("us", "UTC"))
    table = pa.table(
        {"event_timestamp": stamp, "created_timestamp": stamp, "user_id": [1, 2], "a": floats, "b": floats}
    )
    for store in (both.ours, both.feasts):
        pq.write_table(table, store.get_feature_view("floats").batch_source.path)
        store.materialize(moment - HOUR, moment, feature_views=["floats"])
    assert repr(values(both.ours, "floats:a", users=(1, 2))) == "[[nan, None]]"
    assert repr(values(both.feasts, "floats:a", users=(1, 2))) == "[[None, None]]"


# 6. and 7. What was never given, and what does not fit.


def put(store, name, data):
    online = store._get_provider().online_store
    online.online_write_batch(store.config, store.get_feature_view(name), data, None)


def test_a_feature_never_given_of_a_row_that_is_there_is_null(both):
    for store in (both.ours, both.feasts):
        put(store, "floats", [(key(user_id=1), {"a": Value(float_val=1.0)}, now(), now())])
        assert values(store, "floats:a", "floats:b") == [[1.0], [None]]
    assert (statuses(both.ours, "floats:b"), statuses(both.feasts, "floats:b")) == (
        ["PRESENT"],
        ["NOT_FOUND"],
    )


def test_a_feature_that_a_view_gained_is_null_until_it_is_written(both):
    for store in (both.ours, both.feasts):
        write("floats", rows(user_id=[1], a=[1.0], b=[2.0]))(store)
        wider = {"c": Float32, "b": Float32, "a": String}
        store.apply([USER, view(store.config.repo_path, "floats", [USER], wider)])
    assert values(both.ours, "floats:a", "floats:b", "floats:c") == [
        [None],
        [2.0],
        [None],
    ]  # of another type, so it is gone
    assert values(both.feasts, "floats:a", "floats:b", "floats:c") == [[1.0], [2.0], [None]]
    assert (statuses(both.ours, "floats:c"), statuses(both.feasts, "floats:c")) == (
        ["PRESENT"],
        ["NOT_FOUND"],
    )


@pytest.mark.parametrize(("name", "feature", "kind"), [
    ("floats", "a", Kind.FLOAT), ("numbers", "n", Kind.BIGINT), ("numbers", "ids", Kind.BIGINTS),
])  # fmt: skip
def test_a_value_of_another_type_is_refused_and_nothing_of_its_batch_is_kept(both, name, feature, kind):
    good = {"a": Value(float_val=1), "n": Value(int64_val=1), "ids": Value()}[feature]
    data = [(key(user_id=i), {feature: v}, now(), now()) for i, v in ((1, good), (2, Value(string_val="1")))]
    with pytest.raises(WrongValueType) as refused:
        put(both.ours, name, data)
    assert str(refused.value) == f"feature {feature!r} is kept as {kind.value}, but was given a string_val."
    put(both.feasts, name, data)
    assert statuses(both.ours, f"{name}:{feature}", users=(1, 2)) == ["NOT_FOUND", "NOT_FOUND"]
    assert values(both.feasts, f"{name}:{feature}", users=(2,)) == [["1"]]


def test_reading_a_view_that_was_never_applied_says_so(both, tmp_path):
    unapplied = view(tmp_path, "unapplied", [USER], {"a": Float32})
    with pytest.raises(
        ViewNotApplied, match=r"'test/unapplied' has no table .*run `feast apply`. It has: .*test/floats"
    ):
        both.ours._get_provider().online_store.online_read(both.ours.config, unapplied, [key(user_id=1)])


# 8. Order.


def test_features_come_in_the_order_in_which_they_were_asked_for(both):
    frame = rows(user_id=[1], **{name: [float(i)] for i, name in enumerate(MANY)})
    both(write("many", frame))
    asked = [*MANY[10:], *reversed(MANY[:10])]
    features = [f"many:{name}" for name in asked]
    found = both.ours.get_online_features([*features[:15], "numbers:n", *features[15:]], [{"user_id": 1}])
    expected = ["user_id", *asked[:15], "n", *asked[15:]]
    assert list(found.to_dict()) == list(found.proto.metadata.feature_names.val) == expected
    assert list(found.to_df().columns) == found.to_arrow().column_names == expected
    long = both.ours.get_online_features(features, [{"user_id": 1}], full_feature_names=True)
    assert list(long.to_dict()) == ["user_id", *(f"many__{name}" for name in asked)]


# 9. Precomputed services.


def test_a_service_to_be_precomputed_is_answered_from_the_rows_as_they_are(both):
    for store in (both.ours, both.feasts):
        write("floats", rows(user_id=[1], a=[1.0], b=[2.0]))(store)
    found = read("ready", [{"user_id": 1}, {"user_id": 9}])(both.ours)
    assert [status for _, status, _ in found["a"]] == ["PRESENT", "NOT_FOUND"]
    with pytest.raises(RuntimeError, match="pre-computed vectors could not be read"):
        read("ready", [{"user_id": 1}])(both.feasts)


# 10. More than SQLite can.


def test_online_read_gives_only_the_features_asked_for(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0])))

    def names(store):
        table, online = store.get_feature_view("floats"), store._get_provider().online_store
        return set(online.online_read(store.config, table, [key(user_id=1)], ["b"])[0][1])

    assert (names(both.ours), names(both.feasts)) == ({"b"}, {"a", "b"})


def test_what_is_awaited_is_answered(both):
    write("floats", rows(user_id=[1], a=[1.0], b=[2.0]))(both.ours)
    found = asyncio.run(both.ours.get_online_features_async(["floats:b"], [{"user_id": 1}]))
    assert found.to_dict() == {"user_id": [1], "b": [2.0]}
    with pytest.raises(NotImplementedError):
        asyncio.run(both.feasts.get_online_features_async(["floats:b"], [{"user_id": 1}]))
