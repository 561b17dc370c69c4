"""Our offline store beside Feast's own, through plain Feast: equal where stock is right, right where it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store as small
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    RequestSource,
    ValueType,
)
from feast.data_format import JsonFormat
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.repo_config import RepoConfig
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.arithmetic import references
from feature_repo.feast_views import _expressions_of, cross, cross_columns, feast_objects, vectorised
from feature_repo.offline_store import NameTaken, NotAppendable, UnsupportedSource, files_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dask.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:dask.*"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning"),
]

OURS, STOCK, DASK = "feature_repo.offline_store.DuckDBOfflineStore", "duckdb", "dask"
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY, US = timedelta(days=1), timedelta(microseconds=1)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
TITLE = Entity(name="title", join_keys=["title_id"], value_type=ValueType.INT64)


@dataclass
class Repository:
    """A Feast repository of one test: the same views in a store of each kind."""

    folder: Path
    views: list = field(default_factory=list)
    _stores: dict[str, FeatureStore] = field(default_factory=dict)

    def source(self, name: str, rows: pd.DataFrame, unit: str = "us", **more: object) -> FileSource:
        """`rows` as a Parquet file with timestamps of this unit."""
        table = pa.Table.from_pandas(rows, preserve_index=False)
        fields = [
            f.with_type(pa.timestamp(unit, f.type.tz)) if pa.types.is_timestamp(f.type) else f
            for f in table.schema
        ]
        path = self.folder / f"{name}.parquet"
        pq.write_table(table.cast(pa.schema(fields)), path)
        times = {"timestamp_field": "event_timestamp"}
        if "created_timestamp" in rows:
            times["created_timestamp_column"] = "created_timestamp"
        return FileSource(name=f"{name}_rows", **{"path": str(path), **times, **more})

    def view(self, name: str, rows: pd.DataFrame | FileSource, *, entities=(USER,), ttl=7 * DAY, types=None,
             **more: object) -> FeatureView:  # fmt: skip
        """A view of all columns of `rows` that are neither key nor time."""
        source = rows if isinstance(rows, FileSource) else self.source(name, rows)
        types = types or {
            c: Float64 for c in rows.columns
            if c not in {"user_id", "title_id", "event_timestamp", "created_timestamp"}
        }  # fmt: skip
        keys = [Field(name=e.join_key, dtype=Int64) for e in entities]
        made = FeatureView(name=name, entities=list(entities), ttl=ttl, source=source, **more,
                           schema=[*keys, *(Field(name=n, dtype=t) for n, t in types.items())])  # fmt: skip
        self.views.append(made)
        return made

    def store(self, kind: str = OURS, **settings: object) -> FeatureStore:
        """A store of this kind with all views applied."""
        key = f"{kind}{settings}"
        if key not in self._stores:
            home = self.folder / f"store{len(self._stores)}"
            home.mkdir()
            self._stores[key] = FeatureStore(config=RepoConfig(
                project="p", provider="local", registry=str(home / "registry.db"), entity_key_serialization_version=3,
                online_store={"type": "sqlite", "path": str(home / "online.db")}, repo_path=self.folder,
                offline_store={"type": kind, **({"threads": 1} if kind == OURS else {}), **settings},
            ))  # fmt: skip
            self._stores[key].apply([USER, TITLE, *self.views])
        return self._stores[key]


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path)


def history(*rows: tuple[int | None, float, float], **columns: list) -> pd.DataFrame:
    """(user_id, day it happened, day it was known), with x = 0, 1, 2, …"""
    users, happened, known = zip(*rows, strict=True)
    return pd.DataFrame({
        "user_id": pd.array(users, "Int64"),
        "event_timestamp": [pd.Timestamp(MONDAY + DAY * d) for d in happened],
        "created_timestamp": [pd.Timestamp(MONDAY + DAY * d) for d in known],
        "x": np.arange(len(rows), dtype=float), **columns,
    })  # fmt: skip


def spine(*rows: tuple[int | None, float], **columns: list) -> pd.DataFrame:
    users, moments = zip(*rows, strict=True)
    return pd.DataFrame({
        "user_id": pd.array(users, "Int64"),
        "event_timestamp": [pd.Timestamp(MONDAY + DAY * d) for d in moments], **columns,
    })  # fmt: skip


def answer(store: FeatureStore, rows, features, **how: object) -> pd.DataFrame:
    return store.get_historical_features(rows, features, **how).to_df()


def same_rows(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal but for the order of rows, which stock loses, and for how pandas types a column."""
    assert sorted(left.columns) == sorted(right.columns)
    plain = [
        frame[sorted(left.columns)].astype(object).where(frame[sorted(left.columns)].notna(), None)
        for frame in (left, right)
    ]
    rows = [sorted(map(repr, frame.itertuples(index=False, name=None))) for frame in plain]
    assert rows[0] == rows[1]


MANY = history((1, 0, 0), (1, 1, 3), (1, 2, 2), (2, 0, 0), (2, 5, 5), (3, 1, 1))
ASKED = [(2, 5), (1, 1), (1, 3), (9, 2), (1, 0), (1, 3), (3, 8), (3, 8.1), (None, 3), (2, -1), (1, 20)]


@pytest.mark.parametrize("kind", [STOCK, DASK])
@pytest.mark.parametrize("full", [False, True])
def test_features_of_two_views_are_those_of_stock(repository, kind, full):
    repository.view("v", MANY)
    repository.view("w", MANY.assign(a=MANY["x"] * 10, z=-MANY["x"]).drop(columns="x"), ttl=2 * DAY)
    asked = [row for row in ASKED if row[0] is not None]  # without nulls, which turn dask's ids into floats
    frame, refs = spine(*asked, label=list(range(len(asked)))), ["w:z", "v:x", "w:a"]
    # Without a null the frame is of plain int64, as both expect.
    frame["user_id"] = frame["user_id"].astype("int64")
    stock = answer(
        repository.store(kind), frame, refs, full_feature_names=full, filter_by_created_timestamp=True
    )
    ours = answer(repository.store(), frame, refs, full_feature_names=full)
    if kind == DASK:  # it loses labels that stand twice, and those that see expired rows only
        ours = ours[ours["label"].isin(stock["label"])]
        assert len(stock) > len(asked) / 3
    same_rows(ours, stock)


def test_rows_with_a_null_key_stay_and_see_nothing(repository):
    repository.view("v", history((1, 0, 0), (None, 0, 0)))
    frame = spine((None, 1), (1, 1))
    ours = answer(repository.store(), frame, ["v:x"])
    assert ours["x"].tolist()[1] == 0.0
    assert np.isnan(ours["x"].tolist()[0])
    same_rows(ours, answer(repository.store(STOCK), frame, ["v:x"]))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=12,
             unique_by=lambda row: (row[0], row[1], row[1] + row[2])),
    st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 9)), min_size=1, max_size=10),
    st.integers(0, 4), st.booleans(),
)  # fmt: skip
def test_any_history_gives_what_stock_gives_when_told_to_filter_or_not(
    tmp_path_factory, rows, asked, ttl, only
):
    """Rows equal in both times are left out here: which of them stock takes is an accident."""
    repository = Repository(tmp_path_factory.mktemp("r"))
    repository.view("v", history(*((u, d, d + late) for u, d, late in rows)), ttl=ttl * DAY)
    frame = spine(*asked, label=list(range(len(asked))))
    stock = answer(repository.store(STOCK), frame, ["v:x"], filter_by_created_timestamp=only)
    ours = repository.store(filter_by_created_timestamp=only)
    same_rows(answer(ours, frame, ["v:x"], filter_by_created_timestamp=only), stock)


def test_what_became_known_later_is_left_out_without_being_asked(repository):
    """Stock's default shows the label a row that was written two days after it."""
    repository.view("v", history((1, 0, 0), (1, 1, 3)))
    frame = spine((1, 1), (1, 3))
    assert answer(repository.store(), frame, ["v:x"])["x"].tolist() == [0.0, 1.0]
    assert answer(repository.store(STOCK), frame, ["v:x"])["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("setting", "asked", "found"), [
    (True, False, 0.0), (True, True, 0.0), (False, True, 0.0), (False, False, 1.0),
])  # fmt: skip
def test_either_the_settings_or_the_call_may_ask_for_it(repository, setting, asked, found):
    repository.view("v", history((1, 0, 0), (1, 1, 3)))
    store = repository.store(filter_by_created_timestamp=setting)
    assert answer(store, spine((1, 1)), ["v:x"], filter_by_created_timestamp=asked)["x"].tolist() == [found]


def test_rows_keep_the_order_of_the_entity_frame_and_its_other_columns(repository):
    repository.view("v", history(*((u, 0, 0) for u in range(200))))
    users = np.random.default_rng(0).permutation(300).tolist() * 2
    frame = spine(*((u, 1) for u in users), label=list(range(len(users))), note=[f"n{u}" for u in users])
    ours = answer(repository.store(), frame, ["v:x"])
    assert ours[["user_id", "label", "note"]].to_dict("list") == frame[["user_id", "label", "note"]].to_dict(
        "list"
    )
    assert [None if np.isnan(x) else x for x in ours["x"]] == [float(u) if u < 200 else None for u in users]


@pytest.mark.parametrize("name", ["x_y", "rn", "entity_row_id", "event_expire_timestamp", "label", "row_id", "place", "event"])  # fmt: skip
def test_a_feature_may_have_any_name(repository, name):
    """The first four crash stock's store or come out wrong: it uses those names itself."""
    repository.view("v", history((1, 0, 0)).rename(columns={"x": name}))
    assert answer(repository.store(), spine((1, 1)), [f"v:{name}"])[name].tolist() == [0.0]


def test_a_column_of_the_entity_frame_and_of_the_source_may_share_a_name(repository):
    repository.view("v", history((1, 0, 0), label=[9.0]))
    frame = spine((1, 1), label=["mine"], created_timestamp=[pd.Timestamp(MONDAY)], x=[5])
    found = answer(repository.store(), frame, ["v:x"], full_feature_names=True)
    assert found.drop(columns=["event_timestamp", "created_timestamp"]).to_dict("list") == {
        "user_id": [1], "label": ["mine"], "x": [5], "v__x": [0.0]}  # fmt: skip


def test_a_feature_under_a_name_the_entity_frame_has_is_refused_with_the_way_out(repository):
    repository.view("v", history((1, 0, 0)))
    with pytest.raises(NameTaken, match="named 'x': ask with full_feature_names=True"):
        answer(repository.store(), spine((1, 1), x=[5]), ["v:x"])


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_nanoseconds_as_pandas_writes_them_are_read_and_materialized(repository, unit):
    """Stock's DuckDB store cannot cast them and stops."""
    repository.view("v", repository.source("n", MANY, unit), types={"x": Float64})
    store = repository.store()
    assert answer(store, spine((1, 3), (2, 5)), ["v:x"])["x"].tolist() == [2.0, 4.0]
    store.materialize(MONDAY, MONDAY + 6 * DAY)
    rows = [{"user_id": u} for u in (1, 2, 3, 4)]
    assert store.get_online_features(["v:x"], rows).to_dict()["x"] == [2.0, 4.0, 5.0, None]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", None])
def test_a_label_is_an_instant_whatever_its_time_zone(repository, zone):
    """Without a zone it is UTC, as Feast has it."""
    repository.view("v", history((1, 0, 0), (1, 1, 1)))
    frame = spine((1, 1), (1, 0.99))
    frame["event_timestamp"] = (
        frame["event_timestamp"].dt.tz_localize(None)
        if zone is None
        else frame["event_timestamp"].dt.tz_convert(zone)
    )
    assert answer(repository.store(), frame, ["v:x"])["x"].tolist() == [1.0, 0.0]


def test_the_time_may_be_text_or_under_another_name(repository):
    repository.view("v", history((1, 0, 0), (1, 1, 1)))
    text = spine((1, 1)).assign(event_timestamp=["2026-03-03T00:00:00Z"])
    other = spine((1, 0)).rename(columns={"event_timestamp": "happened"})
    assert answer(repository.store(), text, ["v:x"])["x"].tolist() == [1.0]
    assert answer(repository.store(), other, ["v:x"])["x"].tolist() == [0.0]


def test_an_entity_frame_may_be_sql(repository):
    repository.view("v", MANY)
    frame = spine((1, 3), (2, 5))
    frame.to_parquet(repository.folder / "spine.parquet")
    sql = f"FROM '{repository.folder}/spine.parquet'"
    same_rows(answer(repository.store(), sql, ["v:x"]), answer(repository.store(), frame, ["v:x"]))


def test_a_join_key_that_is_not_there_is_named(repository):
    repository.view("v", MANY)
    with pytest.raises(FeastEntityDFMissingColumnsError, match="user_id"):
        answer(repository.store(), spine((1, 1)).drop(columns="user_id"), ["v:x"])


def test_without_an_entity_frame_every_entity_and_time_of_the_range_is_answered_oldest_first(repository):
    repository.view("v", MANY)
    repository.view("w", history((1, 1.5, 1.5), (7, 2, 2)).rename(columns={"x": "y"}))
    found = answer(
        repository.store(), None, ["v:x", "w:y"], start_date=MONDAY + DAY, end_date=MONDAY + 2 * DAY
    )
    days = ((found["event_timestamp"] - pd.Timestamp(MONDAY)) / pd.Timedelta(DAY)).tolist()
    assert list(zip(days, found["user_id"], strict=True)) == [(1, 1), (1, 3), (1.5, 1), (2, 1), (2, 7)]
    named = found[["user_id", "event_timestamp"]]
    same_rows(found, answer(repository.store(), named, ["v:x", "w:y"]))


def test_without_a_start_the_range_is_as_long_as_the_longest_time_to_live(repository):
    repository.view("v", MANY, ttl=2 * DAY)
    found = answer(repository.store(), None, ["v:x"], end_date=MONDAY + 3 * DAY)
    assert sorted(found["user_id"]) == [1, 1, 3]


def test_a_view_of_titles_and_one_of_users_leave_each_others_keys_null(repository):
    repository.view("v", history((1, 1, 1)))
    repository.view(
        "t", history((5, 1, 1)).rename(columns={"user_id": "title_id", "x": "y"}), entities=(TITLE,)
    )
    found = answer(repository.store(), None, ["v:x", "t:y"], start_date=MONDAY, end_date=MONDAY + 2 * DAY)
    expected = {"user_id": [1, None], "title_id": [None, 5], "x": [0.0, None], "y": [None, 0.0]}
    same_rows(found.drop(columns="event_timestamp"), pd.DataFrame(expected))


def test_every_type_of_value_comes_back_as_stock_gives_it(repository):
    rows = history((1, 0, 0), (2, 0, 0), i=pd.array([1, None], "Int64"), s=["é", None], b=[True, None],
                   tags=[["a", "b"], None], at=[pd.Timestamp(MONDAY), None], ids=[[1], []])  # fmt: skip
    types = {
        "i": Int64,
        "s": String,
        "b": Bool,
        "tags": Array(String),
        "at": UnixTimestamp,
        "ids": Array(Int64),
    }
    repository.view("v", repository.source("v", rows), types=types)
    frame, refs = spine((2, 1), (1, 1), (3, 1)), [f"v:{name}" for name in types]
    ours, stock = (
        store.get_historical_features(frame, refs).to_arrow().sort_by("user_id").drop(["event_timestamp"])
        for store in (repository.store(), repository.store(STOCK))
    )
    assert ours.to_pylist() == stock.to_pylist()
    assert all(column.num_chunks == 1 for column in ours.columns)


def test_mapped_columns_and_renamed_views_are_found(repository):
    rows = MANY.rename(columns={"x": "raw_x", "user_id": "uid"})
    source = repository.source("m", rows, field_mapping={"raw_x": "x", "uid": "user_id"})
    view = repository.view("v", source, types={"x": Float64})
    store = repository.store()
    store.apply(FeatureService(name="both", features=[
        view.with_name("viewer").with_join_key_map({"user_id": "viewer_id"}),
        view.with_name("friend").with_join_key_map({"user_id": "friend_id"}),
    ]))  # fmt: skip
    frame = spine((1, 3)).rename(columns={"user_id": "viewer_id"}).assign(friend_id=[2])
    found = answer(store, frame, store.get_feature_service("both"), full_feature_names=True)
    assert found[["viewer__x", "friend__x"]].to_dict("list") == {"viewer__x": [2.0], "friend__x": [3.0]}


def test_on_demand_features_are_computed_and_saved_with_the_answer(repository):
    view = repository.view("v", MANY)
    asked = RequestSource(name="asked", schema=[Field(name="add", dtype=Float64)])

    @on_demand_feature_view(sources=[view, asked], schema=[Field(name="sum", dtype=Float64)], mode="pandas")
    def summed(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"sum": inputs["x"] + inputs["add"]})

    repository.views.append(summed)
    store, frame = repository.store(), spine((2, 5), (1, 3), add=[10.0, 20.0])
    job = store.get_historical_features(frame, ["v:x", "summed:sum"])
    assert not job.supports_remote_storage_export()
    assert job.to_df()["sum"].tolist() == [14.0, 22.0]
    path = repository.folder / "saved.parquet"
    store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(path=str(path)))
    assert pq.read_table(path)["sum"].to_pylist() == [14.0, 22.0]
    kept = store.get_saved_dataset("kept").to_df()
    assert sorted(kept["sum"]) == [14.0, 22.0]


@pytest.mark.parametrize("full", [True, False])
def test_our_on_demand_features_are_the_same_in_columns_as_in_python_lists(full):
    """In columns a few rows at a time, here two, under the kind of name that was asked for first."""
    declared = small.declarations()
    (view,) = feast_objects(declared, Path("offline")).on_demand
    refs = sorted(
        {
            str(ref)
            for f in declared.table("user_title").features
            for ref in references(f.computation.expression)
        }
    )
    rng = np.random.default_rng(0)
    values = {ref: [None if x < 0.2 else x for x in rng.random(5).round(3).tolist()] for ref in refs}
    long = {ref.replace(":", "__"): v for ref, v in values.items()}
    short = {ref.split(":")[1]: v for ref, v in values.items()}
    inputs = {**long, **short} if full else {**short, **long}
    expressions = _expressions_of(view)
    in_lists = cross(expressions, inputs)
    in_columns = cross_columns(expressions, pa.table(inputs), rows=2)
    assert in_columns.to_pydict() == in_lists
    assert {column.type for column in in_columns.columns} == {pa.float32()}


def test_another_persons_on_demand_view_is_left_as_it_is(repository):
    @on_demand_feature_view(
        sources=[repository.view("v", MANY)], schema=[Field(name="y", dtype=Float64)], mode="python"
    )
    def user_title(inputs: dict) -> dict:
        return {"y": inputs["x"]}

    assert vectorised(user_title) is user_title


def test_a_view_without_entities_is_joined_and_materialized(repository):
    """Stock's DuckDB store leaves out the key that Feast looks for then."""
    rows = history((1, 0, 0), (1, 2, 2)).drop(columns="user_id")
    repository.view("v", rows, entities=(), types={"x": Float64})
    store = repository.store()
    assert answer(store, spine((1, 1), (2, 3)), ["v:x"])["x"].tolist() == [0.0, 1.0]
    store.materialize(MONDAY, MONDAY + 3 * DAY)
    assert store.get_online_features(["v:x"], [{"user_id": 1}]).to_dict()["x"] == [1.0]


def pulled(store: FeatureStore, view: FeatureView, latest: bool, start: float | None, end: float | None):
    provider, source = store._get_provider(), view.batch_source
    pull = (
        provider.offline_store.pull_latest_from_table_or_query
        if latest
        else provider.offline_store.pull_all_from_table_or_query
    )
    ends = [None if d is None else MONDAY + DAY * d for d in (start, end)]
    return pull(config=store.config, data_source=source, join_key_columns=["user_id"], feature_name_columns=["x"],
                timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
                start_date=ends[0], end_date=ends[1]).to_df()  # fmt: skip


@pytest.mark.parametrize(("latest", "start", "end"), [
    (True, 0, 9), (True, 1, 2), (True, 0, 0), (True, 6, 9), (False, 0, 9), (False, 1, 2), (False, None, 2),
    (False, 1, None), (False, None, None),
])  # fmt: skip
def test_pulls_give_the_rows_that_stock_gives(repository, latest, start, end):
    view = repository.view("v", MANY)
    same_rows(*(pulled(repository.store(kind), view, latest, start, end) for kind in (OURS, STOCK)))


def test_of_equal_rows_the_last_written_is_pulled_and_of_equal_times_the_newest_known(repository):
    view = repository.view("v", history((1, 1, 1), (1, 1, 1), (2, 1, 3), (2, 1, 2)))
    assert pulled(repository.store(), view, True, 0, 9)["x"].tolist() == [1.0, 2.0]


def test_what_is_pulled_is_in_microseconds_and_in_one_piece(repository):
    """Feast's way to protobuf loses the rows of all chunks but one, and DuckDB gives a million rows a chunk."""
    count = 1_000_001
    times = pa.array(np.zeros(count, dtype=np.int64)).cast(pa.timestamp("ns", "UTC"))
    table = pa.table({"user_id": np.arange(count), "x": np.ones(count), "event_timestamp": times, "created_timestamp": times})  # fmt: skip
    pq.write_table(table, repository.folder / "many.parquet")
    source = FileSource(path="many.parquet", timestamp_field="event_timestamp")
    store = repository.store()
    found = store._get_provider().offline_store.pull_all_from_table_or_query(
        store.config, source, ["user_id"], ["x"], "event_timestamp", "created_timestamp"
    ).to_arrow()  # fmt: skip
    assert found.num_rows == count
    assert {column.num_chunks for column in found.columns} == {1}
    assert found["event_timestamp"].type == pa.timestamp("us", "UTC")


def test_the_newest_row_of_a_view_without_entities_has_the_key_that_feast_gives_it(repository):
    repository.source("v", history((1, 0, 0), (2, 1, 1)))
    source, store = FileSource(path="v.parquet", timestamp_field="event_timestamp"), repository.store()
    for keys in ([], ["__dummy_id"]):
        found = store._get_provider().offline_store.pull_latest_from_table_or_query(
            store.config, source, keys, ["x"], "event_timestamp", None, MONDAY, MONDAY + DAY
        ).to_df()  # fmt: skip
        assert found[["x", "__dummy_id"]].to_dict("list") == {"x": [1.0], "__dummy_id": [""]}


def test_rows_pushed_offline_are_appended_and_a_reader_sees_all_or_none(repository):
    repository.view("v", MANY)
    store = repository.store()
    more = history((1, 6, 6)).assign(x=99.0).astype({"user_id": "int64"})
    store.write_to_offline_store("v", more)
    assert answer(store, spine((1, 6), (1, 3)), ["v:x"])["x"].tolist() == [99.0, 2.0]
    assert sorted(path.name for path in repository.folder.glob("v.*")) == ["v.parquet"]


def test_rows_are_not_appended_to_a_source_of_many_files(repository):
    """Stock would write a file by the name of the pattern, and every row would count twice."""
    (repository.folder / "days").mkdir()
    MANY.to_parquet(repository.folder / "days" / "as_of=1.parquet")
    source = FileSource(path=str(repository.folder / "days" / "as_of=*.parquet"), timestamp_field="event_timestamp",
                        created_timestamp_column="created_timestamp")  # fmt: skip
    repository.view("v", source, types={"x": Float64})
    with pytest.raises(NotAppendable, match="written once"):
        repository.store().write_to_offline_store("v", MANY)


def test_logged_features_are_written_and_found_again(repository):
    view = repository.view("v", MANY)
    store = repository.store()
    folder = repository.folder / "logs"
    service = FeatureService(name="logged", features=[view], logging_config=LoggingConfig(
        destination=FileLoggingDestination(path=str(folder)), sample_rate=1.0))  # fmt: skip
    store.apply(service)
    now = pa.array([MONDAY], pa.timestamp("us", "UTC"))
    logs = pa.table({
        "user_id": [1], "v__x": [2.0], "v__x__timestamp": now, "v__x__status": pa.array([2], pa.int32()),
        "__request_id": ["r"], "__log_timestamp": now, "__log_date": now.cast(pa.date32()),
    })  # fmt: skip
    store.write_logged_features(logs, service)
    found = store._get_provider().retrieve_feature_service_logs(
        service, MONDAY - DAY, MONDAY + DAY, store.config, store.registry
    ).to_arrow()  # fmt: skip
    assert found["v__x"].to_pylist() == [2.0]


@pytest.mark.parametrize("source", [
    pytest.param(FileSource(path="s3://bucket/x.parquet", timestamp_field="t"), id="remote"),
    pytest.param(KafkaSource(name="k", kafka_bootstrap_servers="", topic="", timestamp_field="t",
                             message_format=JsonFormat("t timestamp")), id="no file"),
])  # fmt: skip
def test_a_source_that_is_not_local_parquet_is_refused_with_the_reason(repository, source):
    with pytest.raises(UnsupportedSource, match="reads a FileSource of local Parquet"):
        files_of(source, repository.store().config)


def test_a_file_a_folder_a_pattern_and_a_relative_path_name_their_files(repository):
    folder, config = repository.folder, repository.store().config
    for name in ("b", "a"):
        MANY.to_parquet(folder / f"{name}.parquet")

    def names(path: str) -> list[str]:
        return [p.name for p in files_of(FileSource(path=path, timestamp_field="t"), config)]

    assert names(str(folder)) == names(f"{folder}/*.parquet") == ["a.parquet", "b.parquet"]
    assert names("a.parquet") == names(f"file://{folder}/a.parquet") == ["a.parquet"]
    with pytest.raises(FileNotFoundError, match="there is no Parquet file"):
        names("c.parquet")
