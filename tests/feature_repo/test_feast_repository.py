from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import small_store as small
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.feature_view import FeatureViewState
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.repo_operations import get_repo_files
from feast.types import Array, Float32, Int64, String

import feature_repo
from events.sources import SOURCES
from feature_repo.engine import stays_arrow
from feature_repo.families import declare
from feature_repo.feast_views import AmbiguousInputs, cross, feast_objects
from feature_repo.materialize import PROJECT, materialize
from feature_repo.online_store import DuckDBOnlineStore
from feature_repo.reader import OnlineReader
from feature_repo.repository import (
    HOME,
    NotApplied,
    NoWorkspace,
    _checked,
    apply,
    feature_store,
    source_of,
    workspace_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),  # it calls DuckDB 2.0 by old names
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
]

REPOSITORY = Path(feature_repo.__file__).parent
PAIRS = [(10, 100), (20, 999), (30, 104), (10, 102), (99, 101)]


def a_workspace(home: Path) -> dict[str, Path]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "workspace.json").write_text(json.dumps({"source": "world"}))
    return small.write_offline(home / "offline", small.declarations(), small.MONDAY)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def offline(home) -> dict[str, Path]:
    return a_workspace(home)


@pytest.fixture(scope="module")
def store(home, offline) -> FeatureStore:
    """Applied, and materialized by plain `feast materialize`."""
    apply(home, small.declarations())
    found = feature_store(home)
    found.materialize(small.MONDAY - small.DAY, small.MONDAY + small.DAY)
    return found


def as_matrix(columns: dict, service_digests: dict[str, str]) -> np.ndarray:
    names = [reference.replace(":", "__") for reference in service_digests]
    return np.array(
        [[np.nan if v is None else v for v in columns[name]] for name in names], dtype=np.float32
    ).T


def by_hand(offline: dict[str, Path]) -> np.ndarray:
    return np.stack([small.ranking_by_hand(offline, small.declarations(), u, t) for u, t in PAIRS])


def test_apply_counts_what_the_registry_holds_and_repeats_without_change(home, store):
    first, second = apply(home, small.declarations()), apply(home, small.declarations())
    assert first == second
    declared = small.declarations()
    assert first.features == sum(len(table.features) for table in declared.tables)
    assert (first.entities, first.views, first.on_demand_views, first.services) == (3, 6, 1, 4)


def test_online_features_are_the_parquets_values_user_x_title_included(store, offline):
    rows = [{"user_id": u, "title_id": t} for u, t in PAIRS]
    service = store.get_feature_service("ranking")
    found = store.get_online_features(service, rows, full_feature_names=True).to_dict()
    digests = small.declarations().service("ranking").digests
    np.testing.assert_array_equal(as_matrix(found, digests), by_hand(offline))


def test_historical_features_are_the_same_values(store, offline):
    moment = small.MONDAY + timedelta(hours=1)
    spine = pd.DataFrame({"user_id": [u for u, _ in PAIRS], "title_id": [t for _, t in PAIRS], "event_timestamp": [moment] * len(PAIRS)})  # fmt: skip
    service = store.get_feature_service("ranking")
    found = store.get_historical_features(spine, service, full_feature_names=True).to_df()
    found = found.set_index(["user_id", "title_id"]).loc[PAIRS]  # Feast loses the order of rows
    columns = {
        name: found[name].astype(object).where(found[name].notna(), None).tolist() for name in found.columns
    }
    digests = small.declarations().service("ranking").digests
    np.testing.assert_array_equal(as_matrix(columns, digests), by_hand(offline))


def test_history_comes_as_a_list(store, offline):
    found = store.get_online_features(
        ["user_history:recent_title_ids"], [{"user_id": u} for u in small.USERS]
    )
    rows = pq.read_table(offline["user_history"], partitioning=None)
    assert found.to_dict()["recent_title_ids"] == rows["recent_title_ids"].to_pylist()


def test_plain_feast_reads_what_the_pipeline_materialized(tmp_path):
    """And the pipeline publishes what plain Feast materialized: one record, two ways in."""
    offline = a_workspace(tmp_path)
    apply(tmp_path, small.declarations())
    generation = materialize(small.declarations(), offline, tmp_path / "online", PROJECT, small.catalogue())
    rows = [{"user_id": u, "title_id": t} for u, t in PAIRS]
    store = feature_store(tmp_path)
    found = store.get_online_features(
        store.get_feature_service("ranking"), rows, full_feature_names=True
    ).to_dict()
    reader = OnlineReader.open(tmp_path / "online")
    matrix = np.concatenate([reader.matrix("ranking", u, np.array([t])) for u, t in PAIRS])
    np.testing.assert_array_equal(as_matrix(found, reader.digests("ranking")), matrix)
    store.materialize(small.MONDAY - small.DAY, small.MONDAY + small.DAY)
    again = materialize(small.declarations(), offline, tmp_path / "online", PROJECT, small.catalogue())
    assert again.id == generation.id


def test_two_features_of_one_name_must_be_asked_for_by_their_long_names():
    expressions = json.dumps(
        {"view": "user_title", "features": {"gap": ["-", ["ref", "u", "x"], ["ref", "t", "x"]]}}
    )
    assert cross(expressions, {"u__x": [3.0, None], "t__x": [1.0, 1.0], "x": [1.0, 1.0]}) == {
        "user_title__gap": [2.0, None]
    }
    with pytest.raises(AmbiguousInputs, match="full_feature_names=True"):
        cross(expressions, {"x": [1.0], "u__x": [1.0], "t__x": [1.0]})


def test_short_names_are_answered_by_short_names(store):
    found = store.get_online_features(
        ["user_title:rate_or_one"], [{"user_id": 10, "title_id": 100}]
    ).to_dict()
    assert set(found) == {"user_id", "title_id", "rate_or_one"}


def test_a_view_that_is_no_longer_declared_leaves_the_registry(tmp_path):
    a_workspace(tmp_path)
    apply(tmp_path, small.declarations())
    fewer = small.declarations()
    kept = tuple(table for table in fewer.tables if table.name != "artwork_profile")
    services = tuple(service for service in fewer.services if service.name != "artwork_image")
    applied = apply(tmp_path, type(fewer)("world", kept, services, ()))
    assert (applied.views, applied.services) == (5, 3)
    store = feature_store(tmp_path)
    assert "artwork_profile" not in {view.name for view in store.list_batch_feature_views()}


def test_what_did_not_reach_the_registry_is_named(home, store):
    other = small.declarations()
    more = small.table("forgotten", small.USER, small.feature("one"))
    wanted = feast_objects(type(other)("world", (*other.tables, more), other.services, ()), home / "offline")
    with pytest.raises(NotApplied, match="views: forgotten; features: forgotten:one"):
        _checked(store, wanted)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_every_declared_feature_is_a_field_with_its_digest_unit_and_description(source):
    declared = declare(SOURCES[source])
    objects = feast_objects(declared, Path("offline"))
    views = {view.name: view for view in (*objects.views, *objects.on_demand)}
    for table in declared.tables:
        if table.of_sessions:
            continue
        view = views[table.name]
        assert [field.name for field in view.features] == list(table.names)
        told = json.loads(view.tags["features"]) if not table.stored else None
        for field, feature in zip(view.features, table.features, strict=True):
            tags = told[field.name] if told else field.tags | {"description": field.description}
            assert tags["digest"] == feature.digest
            assert (tags["unit"], tags["description"]) == (feature.unit, feature.description)
    assert {s.name: [p.name for p in s.feature_view_projections] for s in objects.services} == {
        s.name: [table.name for table in s.tables if not table.of_sessions] for s in declared.services
    }


def test_a_service_says_which_of_its_features_feast_does_not_serve():
    declared = declare(SOURCES["world"])
    services = {s.name: s for s in feast_objects(declared, Path("offline")).services}
    session = declared.table("user_session")
    assert json.loads(services["ranking"].tags["beyond_feast"]) == {
        f"user_session:{f.name}": f.digest for f in session.features
    }
    assert "beyond_feast" not in services["retrieval_user"].tags


def test_plays_may_be_pushed_to_the_view_that_keeps_them():
    (view,) = [
        v for v in feast_objects(declare(SOURCES["world"]), Path("offline")).views if v.name == "recent_plays"
    ]
    assert view.stream_source.name == "plays"
    assert view.batch_source.name == "recent_plays_snapshots"
    assert view.tags["keep"] == "50"


def test_apply_imports_the_definitions_only():
    """Any other module would be imported a second time under a bare name, and its views with it."""
    assert [path.name for path in get_repo_files(REPOSITORY)] == ["definitions.py"]


@pytest.mark.parametrize("environment", [{}, {HOME: ""}, {HOME: "/nowhere/at/all"}])
def test_without_a_workspace_the_definitions_say_what_to_set(environment):
    with pytest.raises(NoWorkspace, match=f"set {HOME} to the absolute path of a workspace"):
        workspace_of(environment)


def test_the_workspace_tells_its_source(home, offline):
    assert source_of(workspace_of({HOME: str(home)})).name == "world"


class AsFeastDoes(DuckDBOnlineStore):
    """Our online store, asked the way Feast asks any store: `online_read`, and a protobuf a cell."""

    get_online_features = OnlineStore.get_online_features


@pytest.mark.parametrize("full", [False, True])
def test_user_x_title_features_of_whole_columns_are_those_that_feast_computes_from_lists(store, full):
    """Among them users and titles that nobody knows, whose features are null throughout."""
    service = store.get_feature_service("ranking")
    rows = {"user_id": [u for u, _ in PAIRS] + [77], "title_id": [t for _, t in PAIRS] + [777]}
    fields = store.get_on_demand_feature_view("user_title").features
    names = service if full else [f"user_title:{field.name}" for field in fields]
    mine = store.get_online_features(names, rows, full_feature_names=full)
    theirs = AsFeastDoes().get_online_features(
        store.config, names, rows, store.registry, store.project, full_feature_names=full
    )
    assert repr(sorted(mine.to_dict().items())) == repr(sorted(theirs.to_dict().items()))
    cells = {name: str(vector) for name, vector in zip(mine.proto.metadata.feature_names.val, mine.proto.results, strict=True)}  # fmt: skip
    expected = {name: str(vector) for name, vector in zip(theirs.proto.metadata.feature_names.val, theirs.proto.results, strict=True)}  # fmt: skip
    assert cells == expected


def test_a_view_left_being_materialized_by_a_crash_is_served_as_it_was(tmp_path):
    a_workspace(tmp_path)
    apply(tmp_path, small.declarations())
    store = feature_store(tmp_path)
    store.materialize(small.MONDAY - small.DAY, small.MONDAY + small.DAY)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    store.provider.batch_engine._materialize_one = die
    with pytest.raises(Killed):
        store.materialize(small.MONDAY - small.DAY, small.MONDAY + small.DAY)
    other = feature_store(tmp_path)
    left = [
        view.name for view in other.list_batch_feature_views() if view.state == FeatureViewState.MATERIALIZING
    ]
    assert len(left) == 1
    reference = f"{left[0]}:{other.get_feature_view(left[0]).features[0].name}"
    key = other.get_feature_view(left[0]).entity_columns[0].name
    rows = [{key: i} for i in small.JOIN_KEYS[key.removesuffix("_id")]]
    statuses = other.get_online_features([reference], rows).proto.results[1].statuses
    assert set(statuses) == {FieldStatus.PRESENT}


@pytest.mark.slow
def test_the_feast_command_applies_and_materializes(tmp_path):
    """The real declarations through the plain command line, as a user of Feast would."""
    declared = declare(SOURCES["world"])
    a_workspace(tmp_path)
    for table in declared.stored:
        path = tmp_path / "offline" / table.name / "as_of=2026-03-02T000000Z.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(small.computed(table, small.MONDAY), path)

    def feast(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("feast")), "-c", str(REPOSITORY), *arguments]
        environment = os.environ | {HOME: str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    feast("apply")
    planned = feast("plan")
    assert "No changes to registry" in planned
    assert "No changes to infrastructure" in planned
    half_a_day = small.MONDAY - small.DAY / 2  # before the rows of the files
    feature_store(tmp_path).materialize(half_a_day - small.DAY, half_a_day)
    feast("materialize-incremental", "2026-03-03T00:00:00")
    store = feature_store(tmp_path)
    assert {view.name for view in store.list_batch_feature_views()} == {
        table.name for table in declared.stored
    }
    found = store.get_online_features(["title_profile:release_year"], [{"title_id": t} for t in small.TITLES])
    expected = small.computed(declared.table("title_profile"), small.MONDAY)["release_year"].to_pylist()
    assert found.to_dict()["release_year"] == expected


def feast_view(**changes) -> FeatureView:
    key = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    fields = [Field(name="user_id", dtype=Int64), Field(name="a", dtype=changes.pop("dtype", Float32))]
    source = FileSource(
        path="x.parquet", timestamp_field="event_timestamp", field_mapping=changes.pop("mapping", None)
    )
    return FeatureView(name="v", entities=[key], schema=fields, source=source, **changes)


@pytest.mark.parametrize(("changes", "arrow"), [
    pytest.param({}, True, id="floats of one id"),
    pytest.param({"dtype": Array(Int64)}, True, id="lists of ids"),
    pytest.param({"dtype": String}, True, id="kept as a serialised value"),
    pytest.param({"mapping": {"raw": "a"}}, True, id="columns renamed on the way"),
    pytest.param({"offline": True}, False, id="written back to the offline store"),
    pytest.param({"online": False}, False, id="not online"),
    pytest.param({"enable_validation": True}, False, id="validated on the way"),
])  # fmt: skip
def test_the_engine_leaves_to_the_local_engine_what_it_would_do_otherwise(changes, arrow):
    assert stays_arrow(feast_view(**changes)) is arrow
