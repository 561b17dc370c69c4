"""Conformance: MLflow's own client, as it is published, over a real server, on SQLite and on PostgreSQL."""

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.model_registry.rest_store import _METHOD_TO_ALL_INFO as CALLS

from registry import Metric, VersionDraft
from registry.http import Role
from registry.http.gate import ARTIFACTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),  # of stages, in the client itself
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def speaking_as(tokens):
    """The environment by which MLflow's client is told its token; it reads it at every call."""

    @contextlib.contextmanager
    def speak(role):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MLFLOW_TRACKING_TOKEN", tokens[role])
            environment.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
            environment.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            environment.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            yield

    return speak


@pytest.fixture(scope="module", autouse=True)
def client(base_url, speaking_as):
    with speaking_as(Role.ADMIN):
        mlflow.set_tracking_uri(base_url)
        mlflow.set_registry_uri(base_url)
        yield MlflowClient(base_url, base_url)


@pytest.fixture
def versions(backend, draft, name):
    """Three versions of a model nobody else uses."""
    return [backend.registry.register(draft(name, weights)) for weights in range(3)]


@contextlib.contextmanager
def refused(code, match=None):
    with pytest.raises(MlflowException, match=match) as raised:
        yield raised
    assert raised.value.error_code == code


def numbers(found):
    return [int(version.version) for version in found]


# --- registered models -------------------------------------------------------------------------------------


def test_a_model_is_created_and_read_back(client, name):
    made = client.create_registered_model(name, {"team": "home"}, "Ranks candidates.")
    read = client.get_registered_model(name)
    for model in (made, read):
        assert (model.name, model.description, model.tags) == (name, "Ranks candidates.", {"team": "home"})
        assert (model.latest_versions, model.aliases) == ([], {})
    assert made.creation_timestamp == read.creation_timestamp == read.last_updated_timestamp


def test_a_model_is_created_once(client, name):
    client.create_registered_model(name)
    with refused("RESOURCE_ALREADY_EXISTS", name):
        client.create_registered_model(name)


@pytest.mark.parametrize("bad", ["a/b", "a:b", "a@b", " a", "x" * 201, "it's"])
def test_a_name_that_could_not_stand_in_a_reference_is_refused(client, bad):
    with refused("INVALID_PARAMETER_VALUE", "cannot be a name"):
        client.create_registered_model(bad)


def test_what_does_not_exist_is_said_so_with_what_does(client, versions, name):
    with refused("RESOURCE_DOES_NOT_EXIST", f"Did you mean '{name}'"):
        client.get_registered_model(name + "x")
    with refused("RESOURCE_DOES_NOT_EXIST", f"{name}/3"):
        client.get_model_version(name, 9)
    with refused("RESOURCE_DOES_NOT_EXIST", "alias"):
        client.get_model_version_by_alias(name, "champion")


def test_a_description_is_changed(client, name):
    client.create_registered_model(name, description="old")
    assert client.update_registered_model(name, "new").description == "new"
    assert client.get_registered_model(name).description == "new"


def test_a_model_that_never_had_versions_is_renamed(client, name):
    client.create_registered_model(name, {"team": "home"})
    client.rename_registered_model(name, name + "-new")
    assert client.get_registered_model(name + "-new").tags == {"team": "home"}
    with refused("RESOURCE_DOES_NOT_EXIST"):
        client.get_registered_model(name)


def test_stricter_a_model_that_had_versions_keeps_its_name(client, versions, name):
    with refused("RESOURCE_CONFLICT", "has had 3 versions"):
        client.rename_registered_model(name, name + "-new")


def test_a_name_that_is_taken_is_not_taken_twice(client, versions, name):
    client.create_registered_model(name + "-other")
    with refused("RESOURCE_ALREADY_EXISTS"):
        client.rename_registered_model(name + "-other", name)


def test_an_empty_model_is_deleted_and_leaves_no_tags_behind(client, name):
    client.create_registered_model(name, {"team": "home"})
    client.delete_registered_model(name)
    with refused("RESOURCE_DOES_NOT_EXIST"):
        client.get_registered_model(name)
    assert client.create_registered_model(name).tags == {}


def test_stricter_a_model_with_versions_is_not_deleted(client, versions, name):
    with refused("RESOURCE_CONFLICT", f"{name}/1, {name}/2, {name}/3"):
        client.delete_registered_model(name)


def test_stricter_numbers_are_not_reused_after_delete_and_create(client, backend, draft, name):
    backend.registry.register(draft(name))
    client.delete_model_version(name, 1)
    client.delete_registered_model(name)
    client.create_registered_model(name)
    assert backend.registry.register(draft(name)).number == 2


def test_tags_of_a_model_are_set_changed_and_deleted(client, name):
    client.create_registered_model(name)
    client.set_registered_model_tag(name, "team", "home")
    client.set_registered_model_tag(name, "team", "search")
    client.set_registered_model_tag(name, "tier", 1)
    assert client.get_registered_model(name).tags == {"team": "search", "tier": "1"}
    client.delete_registered_model_tag(name, "tier")
    assert client.get_registered_model(name).tags == {"team": "search"}


def test_models_are_searched_by_name_and_tags(client, name):
    for suffix, tags in [("a", {"team": "home"}), ("b", {"team": "search"}), ("c", {})]:
        client.create_registered_model(f"{name}-{suffix}", tags)

    def found(text):
        return [model.name[-1] for model in client.search_registered_models(text)]

    ours = f"name LIKE '{name}-%'"
    assert found(ours) == ["a", "b", "c"]
    assert found(f"name = '{name}-b'") == ["b"]
    assert found(f"name ILIKE '{name.upper()}-%'") == ["a", "b", "c"]
    assert found(f"{ours} AND tags.team = 'home'") == ["a"]
    assert found(f"{ours} AND tags.`team` != 'home'") == ["b", "c"], "a tag that is missing is unequal"


def test_a_prompt_is_not_among_the_models(client, name):
    """The client adds tags.`mlflow.prompt.is_prompt` != 'true' to every search of models."""
    client.create_registered_model(name + "-model")
    client.create_registered_model(name + "-prompt")
    client.set_registered_model_tag(name + "-prompt", "mlflow.prompt.is_prompt", "true")
    found = client.search_registered_models(f"name LIKE '{name}%'")
    assert [model.name for model in found] == [name + "-model"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["name DESC"], [5, 4, 3, 2, 1]),
        (["creation_timestamp ASC"], [3, 1, 4, 5, 2]),
        (["creation_timestamp DESC", "name ASC"], [2, 5, 4, 1, 3]),
        (["last_updated_timestamp DESC"], [1, 2, 5, 4, 3]),
    ],
)
def test_pages_of_models_are_in_order_and_leave_nothing_out(client, backend, draft, name, order, expected):
    for place in (3, 1, 4, 5, 2):
        client.create_registered_model(f"{name}-{place}")
    backend.registry.register(draft(f"{name}-1"))  # touched last
    seen, token, pages = [], None, 0
    while token is not None or not pages:
        page = client.search_registered_models(f"name LIKE '{name}-%'", 2, order, token)
        seen += [int(model.name[-1]) for model in page]
        token, pages = page.token or None, pages + 1
    assert (seen, pages) == (expected, 3)


def test_a_page_token_of_another_search_is_refused(client, name):
    for place in range(3):
        client.create_registered_model(f"{name}-{place}")
    token = client.search_registered_models(f"name LIKE '{name}%'", 1).token
    with refused("INVALID_PARAMETER_VALUE", "page_token"):
        client.search_registered_models("name LIKE '%'", 1, page_token=token)
    with refused("INVALID_PARAMETER_VALUE", "page_token"):
        client.search_registered_models(f"name LIKE '{name}%'", 1, page_token="AAAA")


def test_a_filter_that_cannot_be_understood_is_refused_with_the_place(client):
    with refused("INVALID_PARAMETER_VALUE", "did not expect"):
        client.search_registered_models("name ==== 'x'")
    with refused("INVALID_PARAMETER_VALUE", "models are searched by name and tags"):
        client.search_registered_models("run_id = 'x'")
    with refused("INVALID_PARAMETER_VALUE", "sorted by"):
        client.search_registered_models(order_by=["colour DESC"])


# --- versions ----------------------------------------------------------------------------------------------


def test_a_version_of_the_pipeline_is_seen_whole(client, backend, draft, lineage, name):
    service, training_set = lineage(backend.registry, name)
    backend.registry.register(
        draft(name, service=service, training_set=training_set, created_by="pipeline", source="world",
              tags={"team": "home"})
    )  # fmt: skip
    version = client.get_model_version(name, "1")
    assert (version.name, version.version, version.status) == (name, "1", "READY")
    assert (version.user_id, version.tags, version.aliases) == ("pipeline", {"team": "home"}, [])
    assert (version.run_id, version.current_stage) == (training_set, "None")
    assert version.source == client.get_model_version_download_uri(name, "1")


def test_timestamps_are_milliseconds_rounded_down(client, backend, versions, name):
    created = backend.registry.get(f"{name}/1").created_at
    read = client.get_model_version(name, 1).creation_timestamp
    assert read == int(created.timestamp()) * 1000, "the test's clock ticks in whole seconds"
    assert isinstance(read, int)


def test_a_version_is_created_from_an_open_folder_and_downloaded_again(
    client, import_root, name, tmp_path, backend
):
    folder = import_root / name
    (folder / "tower").mkdir(parents=True)
    (folder / "tower/config.json").write_text('{"layers": 2}')
    (folder / "report.md").write_text("# Offline evaluation")
    client.create_registered_model(name)
    made = client.create_model_version(
        name, f"file://{folder}", tags={"team": "home"}, description="First.", run_link="https://ci/7"
    )
    assert (made.version, made.status, made.source) == ("1", "READY", f"file://{folder}")
    assert (made.tags, made.description, made.run_link) == ({"team": "home"}, "First.", "https://ci/7")
    assert {file.path for file in backend.registry.get(f"{name}/1").files} == {
        "report.md", "tower/config.json",
    }  # fmt: skip
    (folder / "report.md").write_text("changed later")  # the version has bytes, not a path
    fetched = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path)))
    assert (fetched / "report.md").read_text() == "# Offline evaluation"
    assert (fetched / "tower/config.json").read_text() == '{"layers": 2}'


def test_a_version_is_created_from_files_the_client_sent(client, base_url, name, tmp_path):
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower/config.json").write_text("{}")
    (tmp_path / "report.md").write_text("# Hello")
    there = f"{base_url}/api/2.0/mlflow-artifacts/artifacts/uploads/{name}"
    get_artifact_repository(there).log_artifacts(str(tmp_path))
    client.create_registered_model(name)
    made = client.create_model_version(name, f"mlflow-artifacts:/uploads/{name}")
    again = client.create_model_version(name, there)
    assert (made.version, again.version) == ("1", "2"), "another source is another version"
    fetched = mlflow.artifacts.download_artifacts(f"models:/{name}/1/tower/config.json")
    assert Path(fetched).read_text() == "{}"


def test_files_that_another_token_sent_are_not_to_be_had(client, base_url, name, tmp_path, speaking_as):
    (tmp_path / "report.md").write_text("# Mine")
    there = f"{base_url}/api/2.0/mlflow-artifacts/artifacts/uploads/{name}"
    get_artifact_repository(there).log_artifacts(str(tmp_path))
    client.create_registered_model(name)
    with speaking_as(Role.ENGINEER), refused("INVALID_PARAMETER_VALUE", "no file was sent"):
        client.create_model_version(name, f"mlflow-artifacts:/uploads/{name}")


def test_stricter_the_same_files_again_are_the_version_there_is(client, import_root, name):
    folder = import_root / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    client.create_registered_model(name)
    made = [client.create_model_version(name, str(folder)).version for _ in range(2)]
    assert made == ["1", "1"]


@pytest.mark.parametrize(
    "source",
    ["/etc", "file:///etc/passwd", "file://elsewhere/x", "runs:/abc/model", "s3://bucket/model", "dbfs:/x", "x",
     "models:/m-0123456789abcdef0123456789abcdef", "/etc\0", "file:///x%00y", "{root}/../../etc", "prompt"],
)  # fmt: skip
def test_stricter_a_source_that_cannot_be_read_or_is_not_open_is_refused(client, import_root, name, source):
    client.create_registered_model(name)
    with pytest.raises(MlflowException) as raised:
        client.create_model_version(name, source.format(root=import_root))
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert client.search_model_versions(f"name = '{name}'") == []


@pytest.mark.parametrize("what", ["link", "link to a folder", "pickle", "no suffix", "nothing"])
def test_stricter_a_folder_with_what_the_store_refuses_makes_no_version(client, import_root, name, what):
    folder = import_root / name
    folder.mkdir()
    if what != "nothing":
        (folder / "good.json").write_text("{}")
    if what == "link":
        (folder / "config.json").symlink_to("/etc/passwd")
    elif what == "link to a folder":
        (folder / "inner").symlink_to("/etc")
    elif what == "pickle":
        (folder / "config.json").write_bytes(b"\x80\x04\x95")
    elif what == "no suffix":
        (folder / "MLmodel").write_text("flavors: {}")
    client.create_registered_model(name)
    with refused("INVALID_PARAMETER_VALUE"):
        client.create_model_version(name, str(folder))
    assert client.search_model_versions(f"name = '{name}'") == []


def test_stricter_a_folder_that_leads_out_of_the_open_one_is_refused(client, import_root, name):
    (import_root / name).symlink_to("/etc")
    client.create_registered_model(name)
    with refused("INVALID_PARAMETER_VALUE", "is not open"):
        client.create_model_version(name, str(import_root / name))


def test_a_run_id_is_a_training_set_the_ledger_knows(client, backend, lineage, import_root, name):
    _, training_set = lineage(backend.registry, name)
    folder = import_root / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    client.create_registered_model(name)
    assert client.create_model_version(name, str(folder), run_id=training_set).run_id == training_set
    assert numbers(client.search_model_versions(f"name = '{name}' and run_id = '{training_set}'")) == [1]
    assert backend.registry.explain(f"{name}/1").training_sets[0].digest == training_set
    with refused("RESOURCE_DOES_NOT_EXIST", "training set"):
        client.create_model_version(name, str(folder), run_id="0123456789abcdef")


def test_a_version_of_a_model_that_does_not_exist_is_not_created(client, versions, name):
    with refused("RESOURCE_DOES_NOT_EXIST"):
        client.create_model_version(name + "-none", f"models:/{name}/1")


def test_a_version_is_copied_with_its_files_lineage_and_measurements(client, backend, draft, lineage, name):
    service, training_set = lineage(backend.registry, name)
    original = backend.registry.register(
        draft(name, service=service, training_set=training_set, tags={"team": "home"}, params={"rate": 0.1})
    )
    backend.registry.promote(original.ref, by="ada", reason="first")
    copied = client.copy_model_version(f"models:/{name}@champion", name + "-prod")
    assert (copied.name, copied.version, copied.source) == (name + "-prod", "1", f"models:/{name}/1")
    assert (copied.tags, copied.run_id, copied.aliases) == ({"team": "home"}, training_set, [])
    ours = backend.registry.get(f"{name}-prod/1")
    for part in ("files", "metrics", "params", "config", "signature", "training_set", "upstream"):
        assert getattr(ours, part) == getattr(original, part), part


def test_a_description_of_a_version_is_changed_and_is_no_tag(client, versions, name):
    assert client.update_model_version(name, "1", "Better.").description == "Better."
    read = client.get_model_version(name, "1")
    assert (read.description, read.tags) == ("Better.", {})


def test_tags_of_a_version_are_set_changed_and_deleted(client, versions, name):
    client.set_model_version_tag(name, "1", "team", "home")
    client.set_model_version_tag(name, "1", "team", "search")
    assert client.get_model_version(name, "1").tags == {"team": "search"}
    client.delete_model_version_tag(name, "1", "team")
    assert client.get_model_version(name, "1").tags == {}


def test_a_version_is_deleted_and_its_number_is_not_given_again(client, backend, draft, versions, name):
    client.delete_model_version(name, "3")
    with refused("RESOURCE_DOES_NOT_EXIST"):
        client.get_model_version(name, "3")
    assert backend.registry.register(draft(name, 9)).number == 4


def test_stricter_a_version_with_an_alias_is_not_deleted(client, versions, name):
    client.set_registered_model_alias(name, "shadow", "2")
    with refused("RESOURCE_CONFLICT", "alias 'shadow'"):
        client.delete_model_version(name, "2")
    assert client.get_model_version_by_alias(name, "shadow").version == "2"


def test_versions_are_searched_in_mlflows_words(client, backend, draft, lineage, name):
    _, training_set = lineage(backend.registry, name)
    for weights, tags in enumerate([{"team": "home"}, {"team": "search"}, {}]):
        rest = {"training_set": training_set} if weights == 2 else {}
        backend.registry.register(draft(name, weights, tags=tags, source=f"s3://b/{weights}", **rest))
    ours = f"name = '{name}'"

    def found(text, **rest):
        return numbers(client.search_model_versions(f"{ours} AND {text}" if text else ours, **rest))

    assert found("") == [3, 2, 1], "newest first, as MLflow's server does"
    assert found("version_number > 1") == [3, 2]
    assert found("version_number IN (1, 3)") == [3, 1]
    assert found("tags.team = 'home'") == [1]
    assert found("tags.`team` != 'home'") == [3, 2]
    assert found("source_path = 's3://b/1'") == [2]
    assert found(f"run_id = '{training_set}'") == [3]
    assert found("", order_by=["version_number ASC"]) == [1, 2, 3]
    assert found("", order_by=["creation_timestamp ASC"]) == [1, 2, 3]
    assert found("", order_by=["name ASC", "version_number DESC"]) == [3, 2, 1]


def test_what_only_our_grammar_can_say_goes_through_the_client_too(client, backend, draft, name):
    for weights in range(3):
        metrics = [Metric("auc", 0.5 + weights / 10, split="test")]
        backend.registry.register(draft(name, weights, metrics=metrics))
    query = f"name = '{name}' and (metrics.auc[split = 'test'] > 0.65 or version_number = 1)"
    assert numbers(client.search_model_versions(query, order_by=["metrics.auc DESC"])) == [3, 1]


def test_pages_of_versions_leave_nothing_out_and_repeat_nothing(client, backend, draft, name):
    for weights in range(7):
        backend.registry.register(draft(name, weights))
    seen, token, pages = [], None, 0
    while token is not None or not pages:
        page = client.search_model_versions(f"name = '{name}'", 3, ["version_number ASC"], token)
        seen += numbers(page)
        token, pages = page.token or None, pages + 1
    assert (seen, pages) == ([1, 2, 3, 4, 5, 6, 7], 3)


# --- aliases and stages ------------------------------------------------------------------------------------


def test_an_alias_is_set_read_moved_and_deleted(client, versions, name):
    client.set_registered_model_alias(name, "shadow", "1")
    client.set_registered_model_alias(name, "shadow", "2")
    assert client.get_model_version_by_alias(name, "shadow").version == "2"
    assert client.get_registered_model(name).aliases == {"shadow": "2"}
    assert client.get_model_version(name, 2).aliases == ["shadow"]
    client.delete_registered_model_alias(name, "shadow")
    assert client.get_registered_model(name).aliases == {}


def test_a_move_by_an_mlflow_client_is_in_the_history_with_its_name(client, backend, versions, name):
    client.set_registered_model_alias(name, "shadow", "1")
    client.delete_registered_model_alias(name, "shadow")
    moves = backend.registry.alias_history(name, "shadow")
    assert [(move.kind, move.by, move.to_number) for move in moves] == [
        ("promote", "admin", 1), ("remove", "admin", None),
    ]  # fmt: skip


def test_stricter_the_champion_wants_evidence(client, backend, draft, name):
    backend.registry.register(draft(name, metrics=[]))
    with refused("RESOURCE_CONFLICT", "metrics: evaluate it"):
        client.set_registered_model_alias(name, "champion", "1")
    with refused("RESOURCE_CONFLICT", "metrics: evaluate it"):
        client.transition_model_version_stage(name, "1", "Production")


def test_stricter_the_champion_wants_a_passed_gate(client, backend, draft, lineage, name):
    service, training_set = lineage(backend.registry, name, passed=False)
    backend.registry.register(draft(name, service=service, training_set=training_set))
    with refused("RESOURCE_CONFLICT", "a passed gate on 'user_activity'"):
        client.set_registered_model_alias(name, "champion", "1")


def test_production_and_staging_are_aliases(client, backend, versions, name):
    assert client.transition_model_version_stage(name, "1", "Staging").current_stage == "Staging"
    assert backend.registry.get(f"{name}@challenger").number == 1
    moved = client.transition_model_version_stage(name, "1", "production")
    assert (moved.current_stage, moved.aliases) == ("Production", ["champion"])
    client.set_registered_model_alias(name, "challenger", "2")
    assert client.get_model_version(name, "2").current_stage == "Staging"


@pytest.mark.parametrize(("archive", "stage"), [(True, "Archived"), (False, "None")])
def test_what_was_in_a_stage_is_archived_only_if_asked_for(client, versions, name, archive, stage):
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=archive)
    stages = [client.get_model_version(name, number).current_stage for number in (1, 2, 3)]
    assert stages == [stage, "Production", "None"]


def test_a_version_leaves_its_stage_for_archived_and_comes_back(client, versions, name):
    client.transition_model_version_stage(name, "1", "Production")
    left = client.transition_model_version_stage(name, "1", "Archived")
    assert (left.current_stage, left.aliases, left.tags) == ("Archived", [], {})
    assert client.transition_model_version_stage(name, "1", "None").current_stage == "None"


def test_archiving_does_not_take_the_stage_from_another_version(client, versions, name):
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Archived")
    assert client.get_model_version(name, "1").current_stage == "Production"


def test_a_stage_that_does_not_exist_is_refused(client, versions, name):
    with refused("INVALID_PARAMETER_VALUE", "None, Staging, Production, Archived"):
        client.transition_model_version_stage(name, "1", "Canary")
    with refused("INVALID_PARAMETER_VALUE", "archive_existing_versions"):
        client.transition_model_version_stage(name, "1", "Archived", archive_existing_versions=True)


def test_latest_versions_are_the_newest_of_each_stage(client, backend, draft, name):
    for weights in range(6):
        backend.registry.register(draft(name, weights))
    client.transition_model_version_stage(name, "2", "Production")
    client.transition_model_version_stage(name, "4", "Staging")
    client.transition_model_version_stage(name, "1", "Archived")
    client.transition_model_version_stage(name, "6", "Archived")
    by_stage = {"Production": 2, "Staging": 4, "Archived": 6, "None": 5}
    assert sorted(numbers(client.get_latest_versions(name))) == [2, 4, 5, 6]
    for stage, number in by_stage.items():
        assert numbers(client.get_latest_versions(name, [stage])) == [number]
    latest = client.get_registered_model(name).latest_versions
    assert {version.current_stage: int(version.version) for version in latest} == by_stage


def test_an_older_client_gets_latest_versions_by_get(viewer, versions, name):
    path = "/api/2.0/mlflow/registered-models/get-latest-versions"
    answer = viewer.get(path, params={"name": name, "stages": ["None"]})
    assert [version["version"] for version in answer.json()["model_versions"]] == ["3"]


# --- artifacts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["@champion", "/1", "/latest", "/Production"])
def test_a_version_is_downloaded_by_any_way_of_naming_it(client, backend, draft, name, place, tmp_path):
    backend.registry.register(draft(name))
    backend.registry.promote(f"{name}/1", by="ada", reason="first")
    fetched = Path(mlflow.artifacts.download_artifacts(f"models:/{name}{place}", dst_path=str(tmp_path)))
    assert sorted(path.relative_to(fetched).as_posix() for path in fetched.rglob("*.*")) == [
        "report.md", "tower/config.json",
    ]  # fmt: skip


def test_a_name_with_spaces_and_signs_is_downloaded_too(client, backend, draft, name, tmp_path):
    odd = f"{name} a&b+c=50%"
    backend.registry.register(draft(odd))
    fetched = Path(
        get_artifact_repository(client.get_model_version_download_uri(odd, "1")).download_artifacts("")
    )
    assert (fetched / "report.md").read_text() == "# Offline evaluation"


def test_files_are_listed_a_folder_at_a_time(client, base_url, versions, name):
    listed = mlflow.artifacts.list_artifacts(f"models:/{name}/1")
    assert [(entry.path, entry.is_dir, entry.file_size) for entry in listed] == [
        ("report.md", False, 20), ("tower", True, None),
    ]  # fmt: skip
    inner = get_artifact_repository(client.get_model_version_download_uri(name, "1")).list_artifacts("tower")
    assert [entry.path for entry in inner] == ["tower/config.json"]


def test_a_byte_that_changed_in_the_store_is_not_handed_out(client, backend, name, tmp_path):
    unique = random.Random(name).randbytes(8).hex()
    backend.registry.register(VersionDraft(name, {"report.md": unique.encode()}))
    sha256 = backend.registry.get(f"{name}/1").files[0].sha256
    stored = Path(backend.store._place(sha256))
    stored.write_bytes(b"X" + stored.read_bytes()[1:])
    with pytest.raises(MlflowException, match="corrupt"):
        mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path))


# --- who may what ------------------------------------------------------------------------------------------


def test_a_viewer_reads_and_does_not_write(client, versions, name, speaking_as):
    with speaking_as(Role.VIEWER):
        assert client.get_model_version(name, "1").version == "1"
        for write in (
            lambda: client.create_registered_model(name + "-x"),
            lambda: client.set_model_version_tag(name, "1", "k", "v"),
            lambda: client.set_registered_model_alias(name, "shadow", "1"),
            lambda: client.transition_model_version_stage(name, "1", "Staging"),
            lambda: client.delete_model_version(name, "1"),
        ):
            with refused("PERMISSION_DENIED", "viewer"):
                write()


def test_an_engineer_writes_and_does_not_delete(client, versions, name, speaking_as):
    with speaking_as(Role.ENGINEER):
        client.set_registered_model_alias(name, "shadow", "1")
        with refused("PERMISSION_DENIED", "takes admin"):
            client.delete_model_version(name, "2")
        with refused("PERMISSION_DENIED", "takes admin"):
            client.delete_registered_model(name)


def test_nobody_gets_in_without_a_good_token(client, name, tokens):
    with pytest.MonkeyPatch.context() as environment:
        for bad in ("", "nonsense", tokens[Role.ADMIN][:-1] + "x", tokens[Role.ADMIN][:-1]):
            environment.setenv("MLFLOW_TRACKING_TOKEN", bad)
            with pytest.raises(MlflowException) as raised:
                client.get_registered_model(name)
            assert raised.value.get_http_status_code() == 401


def test_every_call_of_the_protocol_has_an_endpoint(viewer):
    paths = viewer.get("/openapi.json").json()["paths"]
    wanted = {
        (path, method.lower()) for ways in CALLS.values() for path, method in ways if "webhook" not in path
    }
    assert len({path for path, _ in wanted}) >= 18
    assert wanted - {(path, method) for path, ways in paths.items() for method in ways} == set()


# --- many at once ------------------------------------------------------------------------------------------


def test_of_many_who_create_one_model_one_does_and_the_others_are_told(engineer, name):
    path = "/api/2.0/mlflow/registered-models/create"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engineer.post(path, json={"name": name}), range(8)))
    codes = sorted(answer.json().get("error_code", "made") for answer in answers)
    assert codes == ["RESOURCE_ALREADY_EXISTS"] * 7 + ["made"]


def test_writers_over_http_lose_and_repeat_no_number(engineer, name):
    assert engineer.post("/api/2.0/mlflow/registered-models/create", json={"name": name}).is_success

    def write(writer):
        upload = f"{name}-{writer}"
        engineer.put(f"{ARTIFACTS}/uploads/{upload}/w.json", content=b"%d" % writer).raise_for_status()
        body = {"name": name, "source": f"mlflow-artifacts:/uploads/{upload}"}
        answer = engineer.post("/api/2.0/mlflow/model-versions/create", json=body)
        return int(answer.raise_for_status().json()["model_version"]["version"])

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(write, range(48))) == list(range(1, 49))


def test_the_clock_of_the_answers_is_the_one_that_was_handed_in(client, backend, versions, name):
    first = backend.registry.get(f"{name}/1").created_at
    second = backend.registry.get(f"{name}/2").created_at
    gap = (
        client.get_model_version(name, 2).creation_timestamp
        - client.get_model_version(name, 1).creation_timestamp
    )
    assert gap == (second - first) // timedelta(milliseconds=1)
