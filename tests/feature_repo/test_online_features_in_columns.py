"""Our `get_online_features` beside Feast's own over the same store: the same answer to any request."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from both_stores import (
    DEVICE,
    HOUR,
    USER,
    both_of,
    error_of,
    key,
    now,
    our_store,
    read,
    rows,
    told,
    view,
    write,
)
from feast import Entity, FeatureService, Field, RequestSource, ValueType, metrics
from feast.aggregation import Aggregation
from feast.infra.online_stores.online_store import OnlineStore
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.types import Array, Float32, Float64, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo import feast_seam
from feature_repo.feast_seam import SEAM, changes, warm
from feature_repo.online_response import ColumnarResponse
from feature_repo.online_store import DuckDBOnlineStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Feast's SQLite store never closes its file
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
]

TITLE = Entity(name="title", join_keys=["title_id"], value_type=ValueType.INT64)
USERS, TITLES, DEVICES = range(1, 7), range(11, 17), ("tv", "phone", "")


class AsFeastDoes(DuckDBOnlineStore):
    """Our store, asked the way Feast asks any store: `online_read`, and a protobuf a cell."""

    get_online_features = OnlineStore.get_online_features


def on_demand(floats, mixed, by_title):
    offset = RequestSource(name="request", schema=[Field(name="offset", dtype=Float64)])

    @on_demand_feature_view(
        sources=[floats, mixed], mode="pandas",
        schema=[Field(name="sum", dtype=Float64), Field(name="long", dtype=Int64)],
    )  # fmt: skip
    def in_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
        out = pd.DataFrame()
        out["sum"] = pd.to_numeric(inputs["a"]).fillna(0.0) + pd.to_numeric(inputs["n"]).fillna(0)
        out["long"] = [None if name is None else len(name) for name in inputs["name"]]
        return out

    @on_demand_feature_view(
        sources=[floats, by_title, offset], mode="python",
        schema=[Field(name="gap", dtype=Float64), Field(name="half", dtype=Float64), Field(name="text", dtype=String)],
    )  # fmt: skip
    def in_python(inputs: dict) -> dict:
        pairs = list(zip(inputs["a"], inputs["score"], inputs["offset"], strict=True))
        return {
            "gap": [None if a is None or s is None else a - s + o for a, s, o in pairs],
            "half": [None if a is None else a / 2 for a, _, _ in pairs],
            "text": [f"{a}/{s}" for a, s, _ in pairs],
        }

    @on_demand_feature_view(
        sources=[floats], mode="python", singleton=True, schema=[Field(name="one", dtype=Float64)]
    )  # fmt: skip
    def of_one(inputs: dict) -> dict:
        return {"one": inputs["a"]}

    @on_demand_feature_view(
        sources=[floats], entities=[USER], mode="pandas", write_to_online_store=True, schema=[Field(name="written", dtype=Float64)]
    )  # fmt: skip
    def when_written(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"written": inputs["a"] * 10.0})

    @on_demand_feature_view(sources=[floats], mode="python", schema=[Field(name="seen", dtype=String)])
    def sees(inputs: dict) -> dict:
        return {"seen": [" ".join(sorted(inputs))] * len(inputs["a"])}

    return [in_pandas, in_python, of_one, when_written, sees]


def definitions(folder):
    floats = view(folder, "floats", [USER], {"a": Float32, "b": Float32, "c": Float32})
    mixed = view(
        folder, "mixed", [USER], {"n": Int64, "name": String, "ids": Array(Int64), "x": Float32}, ttl=HOUR
    )
    by_both = view(folder, "by_both", [USER, DEVICE], {"d": Float32, "e": String})
    by_title = view(folder, "by_title", [TITLE], {"score": Float32, "b": Float32})
    of_all = view(folder, "of_all", [], {"total": Float32})
    odfvs = on_demand(floats, mixed, by_title)
    return [
        USER, DEVICE, TITLE, floats, mixed, by_both, by_title, of_all, *odfvs,
        FeatureService(name="everything", features=[floats, mixed, by_both, by_title[["score"]], of_all, *odfvs[:2]]),
        FeatureService(name="renamed", features=[
            floats.with_name("numbers"), mixed[["n"]].with_join_key_map({"user_id": "viewer_id"}), odfvs[0].with_name("pd"),
        ]),
    ]  # fmt: skip


REFERENCES = [
    *(f"floats:{n}" for n in "abc"), *(f"mixed:{n}" for n in ("n", "name", "ids", "x")), "by_both:d", "by_both:e",
    "by_title:score", "by_title:b", "of_all:total", "in_pandas:sum", "in_pandas:long", "in_python:gap", "in_python:half",
    "in_python:text", "when_written:written", "sees:seen",
]  # fmt: skip


def filled(store):
    """Some of the users, titles and devices, with nulls here and there, some rows past their time to live."""
    rng, moment = np.random.default_rng(0), now()
    online = store._get_provider().online_store

    def some(make):
        return Value() if rng.random() < 0.3 else make()

    def put(name, data):
        table = next(v for v in store.list_all_feature_views() if v.name == name)
        online.online_write_batch(store.config, table, data, None)

    def number():
        return Value(float_val=float(rng.choice([0.0, -1.5, 2.25, np.nan, np.inf])))

    put("floats", [(key(user_id=u), {n: some(number) for n in "abc"}, moment, moment) for u in USERS[:4]])
    put("mixed", [
        (key(user_id=u), {
            "n": some(lambda: Value(int64_val=int(rng.integers(-5, 5)))), "name": some(lambda: Value(string_val="é")),
            "ids": some(lambda: Value(int64_list_val=Int64List(val=[1, 2]))), "x": some(number),
        }, moment - timedelta(minutes=45) * u, moment)
        for u in USERS[:4]
    ])  # fmt: skip
    put("by_both", [
        (key(user_id=u, device_id=d), {"d": some(number), "e": some(lambda: Value(string_val="x"))}, moment, moment)
        for u in USERS[:3] for d in DEVICES[:2]
    ])  # fmt: skip
    put("by_title", [(key(title_id=t), {"score": some(number), "b": some(number)}, moment, moment) for t in TITLES[:4]])  # fmt: skip
    write("of_all", rows(total=[7.0]))(store)
    write("when_written", rows(user_id=list(USERS[:4]), a=[1.0, 2.0, 3.0, 4.0]))(store)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    (folder / "ours").mkdir()
    return filled(our_store(folder, definitions(folder / "ours")))


def by_feast(store):
    """The same call, by way of `online_read`; there an expired row looks as one that is not there."""

    def call(*args, **kwargs):
        return AsFeastDoes().get_online_features(
            config=store.config, features=args[0], entity_rows=args[1], registry=store.registry, project=store.project, **kwargs
        )  # fmt: skip

    return call


def without_expiry(answer):
    """A row past its time to live as Feast's own path, which knows no such thing, tells it."""
    return {
        name: [("", "NOT_FOUND", 0) if status == "OUTSIDE_MAX_AGE" else (value, status, second) for value, status, second in cells]
        for name, cells in answer.items()
    }  # fmt: skip


def either(call):
    """What a call answers, or the kind and the words of the error that it ends in."""

    def caught(store):
        try:
            return call(store)
        except Exception as error:  # noqa: BLE001 - which one is what is compared
            return type(error), str(error)

    return caught


def same(store, features, entity_rows, **more):
    wanted = store.get_feature_service(features) if isinstance(features, str) else features
    theirs = either(lambda _: by_feast(store)(wanted, entity_rows, **more))(store)
    mine = either(lambda s: s.get_online_features(wanted, entity_rows, **more))(store)
    if isinstance(theirs, tuple):
        assert mine == theirs
        return None
    assert isinstance(mine, ColumnarResponse)
    assert repr(sorted(mine.to_dict().items())) == repr(sorted(theirs.to_dict().items()))
    assert without_expiry(told(mine)) == told(theirs)
    return mine


requests = st.fixed_dictionaries({
    "features": st.one_of(
        st.lists(st.sampled_from(REFERENCES), min_size=1, max_size=10, unique_by=lambda ref: ref.split(":")[1]),
        st.lists(st.sampled_from(REFERENCES), min_size=1, max_size=4),
        st.sampled_from(["everything", "renamed"]),
    ),
    "rows": st.lists(
        st.tuples(st.sampled_from(USERS), st.sampled_from(TITLES), st.sampled_from(DEVICES), st.floats(-2, 2, width=32)),
        min_size=1, max_size=8,
    ),
    "full": st.booleans(),
})  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests)
def test_any_request_is_answered_as_feast_answers_it(store, request):
    entity_rows = [
        {"user_id": u, "viewer_id": u, "title_id": t, "device_id": d, "offset": o}
        for u, t, d, o in request["rows"]
    ]
    same(store, request["features"], entity_rows, full_feature_names=request["full"])


def test_a_service_of_every_kind_of_view_is_answered_as_feast_answers_it(store):
    entity_rows = [
        {"user_id": u, "title_id": t, "device_id": d, "offset": 0.5}
        for u, t, d in zip(USERS, TITLES, DEVICES * 2, strict=True)
    ]
    found = same(store, "everything", entity_rows, full_feature_names=True)
    assert {"in_pandas__sum", "in_pandas__long", "of_all__total", "by_both__e"} < set(found.to_dict())


def test_an_on_demand_view_is_not_given_what_it_did_not_declare(store):
    features = ["sees:seen", "mixed:n", "by_title:score"]
    found = same(store, features, [{"user_id": 1, "title_id": 11}]).to_dict()
    assert {"a", "floats__a", "user_id"} <= set(found["seen"][0].split())
    assert not {"n", "score", "mixed__n", "by_title__score"} & set(found["seen"][0].split())


def test_the_forms_of_an_answer_are_feasts(store):
    entity_rows = [{"user_id": u, "device_id": "tv"} for u in USERS]
    features = [r for r in REFERENCES[:9] if r != "mixed:x"]
    mine, theirs = store.get_online_features(features, entity_rows), by_feast(store)(features, entity_rows)
    names = ["user_id", "device_id", *(reference.split(":")[1] for reference in features)]
    for stamps in (False, True):
        columns = [name + suffix for name in names for suffix in (("", "__ts") if stamps else ("",))]
        expired = {
            "n__ts",
            "name__ts",
            "ids__ts",
        }  # Feast's path knows no moment of a row that is past its time
        kept = [name for name in columns if name not in expired]
        pd.testing.assert_frame_equal(mine.to_df(stamps)[kept], theirs.to_df(stamps)[kept])
        assert mine.to_arrow(stamps).select(kept).equals(theirs.to_arrow(stamps).select(kept)) or repr(
            mine.to_arrow(stamps).select(kept).to_pylist()
        ) == repr(theirs.to_arrow(stamps).select(kept).to_pylist())
        assert mine.to_arrow(stamps).select(kept).schema == theirs.to_arrow(stamps).select(kept).schema
    assert list(mine.to_dict(include_event_timestamps=True))[:2] == ["user_id", "user_id__ts"]


def test_an_answer_has_no_protobuf_until_it_is_asked_for(store):
    answer = store.get_online_features(["floats:a"], [{"user_id": 1}])
    answer.to_dict(), answer.to_df(), answer.to_arrow()
    assert "proto" not in vars(answer)
    assert answer.proto is answer.proto


def test_tensors_are_feasts(store):
    entity_rows = [{"user_id": u} for u in USERS]
    mine = store.get_online_features(["floats:b", "mixed:name"], entity_rows).to_tensor(default_value=-1.0)
    theirs = by_feast(store)(["floats:b", "mixed:name"], entity_rows).to_tensor(default_value=-1.0)
    assert mine.keys() == theirs.keys()
    assert mine["b"].dtype == theirs["b"].dtype
    np.testing.assert_array_equal(mine["b"].numpy(), theirs["b"].numpy())


def test_an_expired_row_says_so_and_how_old_it_is(store):
    answer = told(store.get_online_features(["mixed:n"], [{"user_id": u} for u in (1, 2, 9)]))
    assert [status for _, status, _ in answer["n"]] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
    first, second, third = (moment for _, _, moment in answer["n"])
    assert first - second == 45 * 60
    assert third == 0


# On-demand views.


def test_on_demand_views_in_either_mode_are_as_on_sqlite(tmp_path):
    both = both_of(tmp_path, definitions)
    both(write("floats", rows(user_id=[1, 2], a=[1.5, None], b=[1.0, 1.0], c=[0.0, 0.0])))
    both(write("mixed", rows(user_id=[1, 2], n=[4, 5], name=["ab", "c"], ids=[[1], [2]], x=[0.0, 0.0])))
    both(write("by_title", rows(title_id=[11, 12], score=[0.25, 0.5], b=[0.0, 0.0])))
    keys = [{"user_id": u, "title_id": t, "offset": 1.0} for u, t in ((1, 11), (2, 12), (3, 11))]
    features = [
        "in_python:gap",
        "in_python:half",
        "in_python:text",
        "in_pandas:sum",
        "in_pandas:long",
        "floats:b",
    ]
    found = both(read(features, keys))
    assert [value for value, _, _ in found["gap"]] == ["double_val: 2.25\n", "", ""]
    both(read(features, keys, full_feature_names=True))
    both(read(["of_one:one"], keys[:1]))
    both(error_of(read(["in_python:gap"], [{"user_id": 1, "title_id": 11}])))  # no request data


def test_a_view_written_transformed_is_read_as_it_was_written(tmp_path):
    both = both_of(tmp_path, definitions)
    frame = rows(user_id=[1, 2], a=[1.5, 2.5])
    both(lambda store: store.write_to_online_store("when_written", frame))
    found = both(
        lambda store: store.get_online_features(
            ["when_written:written"], [{"user_id": u} for u in (1, 2, 3)]
        ).to_dict()
    )
    assert found["written"] == [15.0, 25.0, None]
    done = rows(user_id=[1], written=[99.0])
    both(lambda store: store.write_to_online_store("when_written", done, transform_on_write=False))
    assert both(
        lambda store: store.get_online_features(["when_written:written"], [{"user_id": 1}]).to_dict()
    )["written"] == [99.0]


def test_what_we_do_not_know_how_to_transform_feast_transforms(tmp_path):
    def objects(folder):
        floats = view(folder, "floats", [USER], {"a": Float32})
        summed = OnDemandFeatureView(
            name="summed", sources=[floats], entities=[USER], mode="python", schema=[Field(name="sum_a", dtype=Float64)],
            aggregations=[Aggregation(column="a", function="sum")],
        )  # fmt: skip
        return [USER, floats, summed]

    both = both_of(tmp_path, objects)
    both(write("floats", rows(user_id=[1, 2], a=[1.0, 2.0])))
    keys = [{"user_id": 1}, {"user_id": 2}]
    both(read(["floats:a"], keys))

    both(either(read(["summed:sum_a"], keys)))


# Feast's internals.


def test_the_parts_of_feast_that_reads_rest_on_are_as_they_were():
    assert changes(SEAM) == []


def test_a_part_of_feast_that_changed_is_named():
    def moved(registry, features): ...

    before = {"utils._get_cached_request_context": (moved, "registry project features")}
    now_and_then = "now takes (registry features), and took (registry project features) in Feast 0.67"
    assert changes(before) == [
        f"feast.utils._get_cached_request_context {now_and_then}: see feature_repo/feast_seam.py"
    ]


def test_a_request_that_was_warmed_is_not_resolved_again(store, monkeypatch):
    features = ["floats:a", "by_title:score"]
    warm(store, features)
    calls = []
    real = feast_seam.utils._get_online_request_context
    monkeypatch.setattr(
        feast_seam.utils, "_get_online_request_context", lambda *a: calls.append(a) or real(*a)
    )
    store.get_online_features(features, [{"user_id": 1, "title_id": 11}])
    assert calls == []
    store.get_online_features(features[::-1], [{"user_id": 1, "title_id": 11}])
    assert len(calls) == 1


def test_feasts_metrics_count_what_was_there_and_what_was_not(store, monkeypatch):
    counted = []
    monkeypatch.setattr(metrics._config, "online_features", True)
    monkeypatch.setattr(metrics, "online_store_read_duration_seconds", type("", (), {"observe": lambda _, s: counted.append(s > 0)})())  # fmt: skip

    class Counter:
        def labels(self, **labels):
            self.labelled = labels
            return self

        def inc(self, count):
            counted.append((*self.labelled.values(), count))

    monkeypatch.setattr(metrics, "online_features_status_total", Counter())
    store.get_online_features(["floats:a", "floats:b"], [{"user_id": u} for u in (1, 2, 9)])
    assert counted == [True, ("floats", "present", 4), ("floats", "not_found", 2)]


def test_awaited_it_is_the_same(store):
    asked = (["floats:a", "mixed:name"], [{"user_id": u} for u in USERS])
    assert told(asyncio.run(store.get_online_features_async(*asked))) == told(
        store.get_online_features(*asked)
    )
