"""The same Feast calls against Feast's SQLite store and ours: the answers must be equal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from feature_repo.materialize import entity_keys
from feature_repo.online_store import DuckDBOnlineStore, ViewNotApplied
from feature_repo.values import WrongValueType
from feature_repo.record import RecordBusy, View, layout_of, opened, views

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Feast's SQLite store never closes its file
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOW = datetime.now(UTC).replace(microsecond=0)  # Feast's stores know no other clock
HOUR = timedelta(hours=1)
DUCKDB = "feature_repo.online_store.DuckDBOnlineStore"

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
device = Entity(name="device", join_keys=["device_id"], value_type=ValueType.STRING)
IDS = {"user_id": Int64, "device_id": String}
TYPES = {
    "int64": Int64, "int32": Int32, "double": Float64, "flag": Bool, "text": String, "raw": Bytes, "moment": UnixTimestamp,
    "float": Float32, "ids": Array(Int64), "texts": Array(String), "doubles": Array(Float64),
}  # fmt: skip


def view(
    folder: Path, name: str, entities: list[Entity], types: dict, ttl: timedelta | None = None
) -> FeatureView:
    keys = [Field(name=e.join_key, dtype=IDS[e.join_key]) for e in entities]
    return FeatureView(
        name=name,
        entities=entities,
        ttl=ttl,
        schema=[*keys, *(Field(name=n, dtype=t) for n, t in types.items())],
        source=FileSource(
            name=f"{name}_source", path=str(folder / f"{name}.parquet"),
            timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
        ),
    )  # fmt: skip


def definitions(folder: Path) -> list:
    return [
        user,
        device,
        view(folder, "floats", [user], {"a": Float32, "b": Float32, "c": Float32}),
        view(folder, "types", [user], TYPES),
        view(folder, "by_device", [device], {"a": Float32}),
        view(folder, "by_both", [user, device], {"a": Float32, "n": Int64}),
        view(folder, "short_lived", [user], {"a": Float32}, ttl=HOUR),
    ]


def a_store(folder: Path, online: dict, project: str = "test", **more: object) -> FeatureStore:
    config = RepoConfig(
        project=project, provider="local", registry=str(folder / "registry.db"), online_store=online,
        offline_store={"type": "duckdb"}, entity_key_serialization_version=3, repo_path=folder, **more,
    )  # fmt: skip
    return FeatureStore(config=config)


@pytest.fixture
def ours(tmp_path) -> FeatureStore:
    (tmp_path / "ours").mkdir()
    store = a_store(tmp_path / "ours", {"type": DUCKDB, "path": "online.duckdb", "lock_wait_seconds": 0.2})
    store.apply(definitions(tmp_path))
    return store


@pytest.fixture
def feasts(tmp_path) -> FeatureStore:
    (tmp_path / "feasts").mkdir()
    store = a_store(tmp_path / "feasts", {"type": "sqlite", "path": "online.db"})
    store.apply(definitions(tmp_path))
    return store


@pytest.fixture
def both(ours, feasts) -> Callable:
    def compare(call: Callable[[FeatureStore], object]) -> object:
        mine, theirs = call(ours), call(feasts)
        assert mine == theirs
        return mine

    return compare


def rows(**columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    stamps = {"event_timestamp": [NOW] * count, "created_timestamp": [NOW] * count}
    return pd.DataFrame(stamps | columns)


def read(features: list[str], entity_rows: list[dict]) -> Callable[[FeatureStore], dict]:
    def call(store: FeatureStore) -> dict:
        response = store.get_online_features(features, entity_rows).proto
        names = response.metadata.feature_names.val
        return {
            name: ([str(value) for value in column.values], list(column.statuses))  # noqa: PD011 - protobuf, not pandas
            for name, column in zip(names, response.results, strict=True)
        }

    return call


def write(name: str, frame: pd.DataFrame) -> Callable[[FeatureStore], None]:
    return lambda store: store.write_to_online_store(name, frame)


FLOATS = ["floats:a", "floats:b", "floats:c"]


def test_floats_come_back_with_nulls_and_missing_rows_told_apart(both):
    both(
        write(
            "floats",
            rows(user_id=[1, 2], a=[1.5, 0.0], b=[None, -2.25], c=[None, 1e-30]).astype({"c": "float32"}),
        )
    )
    both(read(FLOATS, [{"user_id": 2}, {"user_id": 1}, {"user_id": 3}, {"user_id": 2}]))


def test_every_kind_of_value_comes_back(both):
    frame = rows(
        user_id=[1, 2],
        int64=[2**62, -1],
        int32=[7, -7],
        double=[0.1, -1e300],
        flag=[True, False],
        text=["é\n", ""],
        raw=[b"\x00\xff", b""],
        moment=[NOW, NOW - HOUR],
        float=[0.5, -0.5],
        ids=[[3, 2, 1], [2**62]],
        texts=[["a", "b"], [""]],
        doubles=[[0.1], [1.0, 2.0]],
    )
    both(write("types", frame))
    found = both(read([f"types:{name}" for name in TYPES], [{"user_id": 1}, {"user_id": 2}, {"user_id": 9}]))
    assert set(found) == {"user_id", *TYPES}


def test_string_and_composite_keys_find_their_rows(both):
    both(write("by_device", rows(device_id=["tv", "phone"], a=[1.0, 2.0])))
    both(write("by_both", rows(user_id=[1, 1], device_id=["tv", "phone"], a=[3.0, 4.0], n=[5, 6])))
    keys = [{"user_id": 1, "device_id": d} for d in ("phone", "tv", "watch")]
    both(read(["by_device:a"], [{"device_id": d} for d in ("phone", "tv", "watch")]))
    both(read(["by_both:a", "by_both:n"], keys))


def test_a_newer_row_replaces_an_older_one_feature_by_feature(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0])))
    later = rows(user_id=[1], a=[2.0], b=[2.0], c=[2.0])
    later["event_timestamp"] += HOUR
    both(write("floats", later))
    both(read(FLOATS, [{"user_id": 1}]))


def test_what_a_view_was_not_asked_for_is_not_returned(both):
    both(write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    found = both(read(["floats:b"], [{"user_id": 1}]))
    assert set(found) == {"user_id", "b"}


def test_nothing_is_found_in_a_view_without_rows(both):
    both(read(FLOATS, [{"user_id": 1}]))


def test_materialize_and_materialize_incremental_bring_the_newest_row_of_each_key(both, tmp_path):
    frame = rows(user_id=[1, 1, 2], a=[1.0, 2.0, None], b=[3.0, 4.0, 5.0], c=[6.0, 7.0, 8.0])
    frame["event_timestamp"] = [NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - HOUR]
    typed = frame.astype(dict.fromkeys("abc", "float32"))
    typed.to_parquet(tmp_path / "floats.parquet", coerce_timestamps="us")

    def materialize(store: FeatureStore) -> None:
        store.materialize(NOW - 4 * HOUR, NOW - 2 * HOUR, feature_views=["floats"])

    both(materialize)
    both(read(FLOATS, [{"user_id": 1}, {"user_id": 2}]))
    both(lambda store: store.materialize_incremental(NOW, feature_views=["floats"]))
    both(read(FLOATS, [{"user_id": 1}, {"user_id": 2}]))


def test_the_async_calls_answer_as_the_others_do(ours):
    asyncio.run(ours.write_to_online_store_async("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0])))
    found = asyncio.run(ours.get_online_features_async(FLOATS, [{"user_id": 1}])).to_dict()
    assert found == {"user_id": [1], "a": [1.0], "b": [2.0], "c": [3.0]}


def test_projects_in_one_file_do_not_see_each_other(ours, tmp_path):
    other = a_store(tmp_path / "ours", {"type": DUCKDB, "path": "online.duckdb"}, project="other")
    other.apply(definitions(tmp_path))
    write("floats", rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0]))(ours)
    assert other.get_online_features(["floats:a"], [{"user_id": 1}]).to_dict()["a"] == [None]


# Where ours differs from Feast's, on purpose.


@pytest.mark.parametrize("late", ["event_timestamp", "created_timestamp"])
def test_a_late_row_never_overwrites_a_newer_one(ours, late):
    held = rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0])
    held["event_timestamp"] -= 5 * HOUR  # so that event and created cannot be taken for each other
    write("floats", held)(ours)
    write("floats", held.assign(a=[9.0], **{late: held[late] - HOUR}))(ours)
    assert ours.get_online_features(["floats:a"], [{"user_id": 1}]).to_dict()["a"] == [1.0]


def test_a_row_of_the_same_moment_that_was_made_later_is_a_correction(ours):
    held = rows(user_id=[1], a=[1.0], b=[1.0], c=[1.0])
    write("floats", held)(ours)
    write("floats", held.assign(a=[9.0], created_timestamp=held["created_timestamp"] + HOUR))(ours)
    assert ours.get_online_features(["floats:a"], [{"user_id": 1}]).to_dict()["a"] == [9.0]


def test_of_one_batch_the_newest_row_of_a_key_counts_and_of_equals_the_last(ours):
    batch = rows(user_id=[1, 1, 2, 2], a=[1.0, 2.0, 3.0, 4.0], b=[0.0] * 4, c=[0.0] * 4)
    batch.loc[0, "event_timestamp"] += HOUR
    write("floats", batch)(ours)
    found = ours.get_online_features(["floats:a"], [{"user_id": 1}, {"user_id": 2}]).to_dict()
    assert found["a"] == [1.0, 4.0]


@pytest.mark.parametrize(("age", "found"), [(timedelta(minutes=30), 1.0), (timedelta(minutes=90), None)])
def test_a_row_past_its_time_to_live_is_not_found(ours, age, found):
    old = rows(user_id=[1], a=[1.0])
    old["event_timestamp"] -= age
    write("short_lived", old)(ours)
    assert ours.get_online_features(["short_lived:a"], [{"user_id": 1}]).to_dict()["a"] == [found]


def test_a_replay_of_the_past_counts_age_to_the_newest_row(tmp_path):
    store = a_store(tmp_path, {"type": DUCKDB, "path": "online.duckdb", "age_against": "newest"})
    store.apply(definitions(tmp_path))
    past = rows(user_id=[1, 2], a=[1.0, 2.0])
    past["event_timestamp"] = [datetime(2018, 9, 1, tzinfo=UTC), datetime(2018, 9, 1, 2, tzinfo=UTC)]
    write("short_lived", past)(store)
    found = store.get_online_features(["short_lived:a"], [{"user_id": 1}, {"user_id": 2}]).to_dict()
    assert found["a"] == [None, 2.0]


def test_a_feature_that_a_row_leaves_out_keeps_its_value(ours):
    write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0]))(ours)
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    online, table = ours._get_provider().online_store, ours.get_feature_view("floats")
    online.online_write_batch(ours.config, table, [(key, {"b": Value(float_val=9.0)}, NOW + HOUR, NOW)], None)
    found = ours.get_online_features(FLOATS, [{"user_id": 1}]).to_dict()
    assert (found["a"], found["b"], found["c"]) == ([1.0], [9.0], [3.0])


def test_a_value_of_another_type_is_refused_and_nothing_of_its_batch_is_kept(ours):
    online, table = ours._get_provider().online_store, ours.get_feature_view("floats")
    keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=i)]) for i in (1, 2)]
    good, bad = {n: Value(float_val=1) for n in "abc"}, {n: Value(string_val="1") for n in "abc"}
    data = [(key, values, NOW, NOW) for key, values in zip(keys, (good, bad), strict=True)]
    with pytest.raises(WrongValueType, match=r"feature '[abc]' is kept as FLOAT, but was given a string_val"):
        online.online_write_batch(ours.config, table, data, None)
    assert ours.get_online_features(["floats:a"], [{"user_id": 1}]).to_dict()["a"] == [None]


def test_reading_a_view_that_was_never_applied_says_so(ours, tmp_path):
    unapplied = view(tmp_path, "unapplied", [user], {"a": Float32})
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    with pytest.raises(
        ViewNotApplied, match=r"'test/unapplied' has no table .*run `feast apply`. It has: .*test/floats"
    ):
        ours._get_provider().online_store.online_read(ours.config, unapplied, [key])


def test_applying_a_changed_view_keeps_what_still_means_the_same(ours, tmp_path):
    write("floats", rows(user_id=[1], a=[1.0], b=[2.0], c=[3.0]))(ours)
    ours.apply([user, view(tmp_path, "floats", [user], {"c": Float32, "d": Float32, "a": Float64})])
    found = ours.get_online_features(["floats:a", "floats:c", "floats:d"], [{"user_id": 1}]).to_dict()
    assert (found["a"], found["c"], found["d"]) == ([None], [3.0], [None])


def test_a_view_deleted_from_the_registry_is_forgotten_and_teardown_forgets_all(ours, tmp_path):
    record = tmp_path / "ours" / "online.duckdb"
    ours.apply([], objects_to_delete=[ours.get_feature_view("floats")], partial=False)
    with opened(record, 1.0) as connection:
        assert layout_of(connection, View("test", "floats")) is None
        assert len(views(connection)) == 4
    ours.teardown()
    assert not record.exists()


def test_while_another_process_writes_a_call_waits_its_bound_and_says_why(ours, tmp_path):
    hold = f"""
        import sys
        from pathlib import Path
        from feature_repo.record import opened
        with opened(Path({str(tmp_path / "ours" / "online.duckdb")!r}), 5.0):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(hold)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RecordBusy, match=r"gave up after 0\.2 s"):
            ours.get_online_features(["floats:a"], [{"user_id": 1}])
        holder.stdin.close()
    assert ours.get_online_features(["floats:a"], [{"user_id": 1}]).to_dict()["a"] == [None]


def test_entity_keys_made_all_at_once_are_feasts_own_byte_for_byte():
    ids = [0, 1, -1, 255, 256, 2**63 - 1, -(2**63)]
    at_once = entity_keys("user_id", np.array(ids, dtype=np.int64)).to_pylist()
    one_by_one = [EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=i)]) for i in ids]
    assert at_once == [serialize_entity_key(key, 3) for key in one_by_one]


def test_feast_finds_the_store_by_its_dotted_path(ours):
    assert isinstance(ours._get_provider().online_store, DuckDBOnlineStore)
