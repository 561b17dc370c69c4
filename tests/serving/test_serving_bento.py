"""Bentos: built from real model folders, served by stock BentoML, asked over HTTP."""

from __future__ import annotations

import ast
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

import serving
from models.artifact import ArtifactError
from serving.bento import PACKAGES, UnknownService, build, folder_digest, requirements
from serving.client import PageClient, PageRefused
from serving.exposure_table import read
from serving.manifest import Manifest, VersionNotPacked
from serving.packing import MissingDefault
from serving.running import ServeFailed, Serving, free_port, served
from serving.samples import newest
from serving.versions import FeaturesDiffer

NEW_USER = 10**12
EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
pytestmark = pytest.mark.filterwarnings(  # old names that bentoml 1.4.39 uses
    "ignore::DeprecationWarning:_bentoml_sdk.*", "ignore:GitWildMatchPattern:DeprecationWarning"
)


@pytest.fixture
def make(world):
    """Build a Bento of the small world."""

    def make(service="homepage", **changes):
        return build(service, world.versions, world.defaults(**changes), world.home, world.home / "bentos")

    return make


@pytest.fixture
def serve(world):
    """Serve a built Bento."""

    def serve(tag, starts_at=None):
        how = Serving(tag, world.home, world.home / "bentos", port=free_port(), starts_at=starts_at)
        return served(how, log=world.home / "serving.log")

    return serve


def test_a_bento_holds_exactly_what_it_was_built_from(world, make):
    built = make()
    source = built.path / "src"
    manifest = Manifest.load(source)
    assert manifest == built.manifest
    assert [version.ref for version in manifest.versions] == ["artwork/1", "ranker/1", "retriever/1"]
    for version in manifest.versions:
        packed, given = source / version.folder, world.versions[version.ref]
        assert folder_digest(packed) == folder_digest(given)
        assert version.kind == version.ref.split("/")[0]
    assert manifest.versions[1].reads == {"ranking": world.reader.digests("ranking")}
    assert manifest.defaults == world.defaults()
    pinned = (built.path / "env" / "python" / "requirements.txt").read_text()
    assert "torch==2.13.*" in pinned
    assert "bentoml==1.4.39" in pinned
    assert "COPY" in (built.path / "env" / "docker" / "Dockerfile").read_text()


def test_equal_inputs_give_the_same_bento_and_other_inputs_another(world, make):
    first, second = make(), make()
    assert (second.tag, second.digest, second.reused) == (first.tag, first.digest, True)
    other = make(n_candidates=41)
    assert (other.reused, other.digest != first.digest) == (False, True)
    world.save_models(number=2, seed=5)
    assert make().digest not in (first.digest, other.digest)
    assert len(list((world.home / "bentos" / "bentos" / "homepage").glob("*/bento.yaml"))) == 3


def test_a_build_writes_nowhere_but_into_its_store(world, make, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "elsewhere"))
    make()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_what_does_not_fit_is_refused_before_anything_is_built(world, make):
    with pytest.raises(
        MissingDefault, match="needs a default retriever. Versions given: artwork/1, ranker/1"
    ):
        make(retriever=None)
    with pytest.raises(VersionNotPacked, match=r"ranker 'ranker/9' is not in this Bento"):
        make(ranker="ranker/9")
    with pytest.raises(UnknownService, match="There are: homepage, retriever, ranker, artwork"):
        make("homepgae")
    world.publish(digest="changed")
    with pytest.raises(FeaturesDiffer, match="trained on d0, live is changed0"):
        make()
    (world.versions["ranker/1"] / "signature.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        make()
    assert not (world.home / "bentos").exists()


def test_a_bento_carries_every_package_of_ours_that_its_sources_import():
    root = Path(serving.__file__).parent.parent
    ours = {path.parent.name for path in root.glob("*/__init__.py")}
    imported = set()
    for package in PACKAGES:
        for module in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {name.name.split(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(str(node.module).split(".")[0])
    assert imported & ours <= set(PACKAGES)


def test_requirements_are_the_projects_own_pins():
    assert any(line.startswith("bentoml==1.4.39") for line in requirements())
    assert not any("ruff" in line or "pytest" in line for line in requirements())


def test_the_built_bento_serves_pages_over_http_and_takes_up_what_is_new(world, make, serve):
    built = make(sample_share=1.0)
    started = time.monotonic()
    with serve(built.tag, starts_at=EVENING) as url, PageClient(url) as client:
        assert time.monotonic() - started < 30  # 15 s wanted; other suites may share the machine
        _a_page_is_whole(world, client)
        _bad_input_is_told_by_field(url, client)
        _health_and_description(url)
        _news_are_taken_up_without_a_restart(world, client)
    with PageClient(url) as client, pytest.raises(httpx.ConnectError):
        client.page(1)


def _a_page_is_whole(world, client):
    page = client.page(user_id=2, size=12)
    assert (page.source, len(page.titles), page.generation) == ("ranked", 12, world.reader.generation)
    assert client.page(NEW_USER, 3).source == "popular"
    rows = read(world.home / "exposures").to_pylist()
    logged = [row["title_id"] for row in rows if row["request_id"] == page.request_id]
    assert logged == [title.title_id for title in page.titles]
    shown_at = {row["event_timestamp"] for row in rows if row["request_id"] == page.request_id}
    assert all(EVENING <= moment < EVENING + timedelta(minutes=2) for moment in shown_at)
    sampled = {sample.request_id: sample for sample in newest(world.home / "samples")}
    assert page.request_id in sampled
    assert sampled[page.request_id].at in shown_at
    assert page.stale == ()
    assert [p.user_id for p in client.pages(range(1, 9), size=4)] == list(range(1, 9))


def _bad_input_is_told_by_field(url, client):
    with pytest.raises(PageRefused, match="no page for user -1: HTTP 400") as told:
        client.page(-1)
    assert told.value.status == 400

    def refused(**request):
        answer = httpx.post(f"{url}/page", **request)
        assert "Traceback" not in answer.text
        return answer.status_code, answer.text

    for body, field, reason in [
        ({"user_id": -1}, "user_id", "greater than or equal to 0"),
        ({"user_id": "1"}, "user_id", "valid integer"),
        ({"user_id": 2**63}, "user_id", "less than"),
        ({"size": 3}, "user_id", "Field required"),
        ({"user_id": 1, "size": 0}, "size", "greater than or equal to 1"),
        ({"user_id": 1, "siz": 3}, "siz", "Extra inputs"),
    ]:
        status, text = refused(json=body)
        detail = json.loads(text)["detail"][0]
        assert (status, detail["loc"]) == (400, [field])
        assert reason in detail["msg"]
    assert refused(content=b"{", headers={"content-type": "application/json"})[0] == 400
    assert refused(content=b"x", headers={"content-type": "application/vnd.bentoml+pickle"})[0] == 415
    assert refused(content=b"x", headers={"content-type": "multipart/form-data"})[0] == 415
    assert refused(content=b" " * 70_000, headers={"content-type": "application/json"})[0] == 413


def _health_and_description(url):
    for path in ("/healthz", "/livez", "/readyz"):
        assert httpx.get(url + path).status_code == 200
    description = httpx.get(f"{url}/docs.json").json()
    schema = description["paths"]["/page"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schemas = description["components"]["schemas"]
    assert set(schemas[schema["$ref"].rpartition("/")[2]]["properties"]) == {"user_id", "size", "context"}
    examples = [s["example"] for s in schemas.values() if "example" in s]
    assert {"user_id": 17, "size": 40} in examples
    metrics = httpx.get(f"{url}/metrics").text
    assert 'matinee_pages_total{source="ranked"}' in metrics
    assert 'matinee_stage_seconds_count{stage="rank"}' in metrics
    assert 'matinee_feature_slo_seconds{table="user_profile"} 108000.0' in metrics
    (age,) = (
        line
        for line in metrics.splitlines()
        if line.startswith('matinee_feature_age_seconds{table="user_profile"')
    )
    assert 20 * 3600 <= float(age.split()[-1]) < 20 * 3600 + 120  # EVENING, and what has passed since
    assert "matinee_stale_answers_total{" not in metrics


def _news_are_taken_up_without_a_restart(world, client):
    generation = world.publish(seed=3)
    world.go_live({"weights.diversity": 0.0}, {"weights.diversity": 1.0})
    give_up = time.monotonic() + 5  # LOOK_EVERY_S is half a second
    while (page := client.page(2, 3)).generation != generation or not page.arms:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    world.publish(seed=4, digest="changed")  # refused: the last good one stays
    time.sleep(1.5)
    assert client.page(2, 3).generation == generation


def test_a_bento_refuses_to_start_on_other_features_and_prints_the_difference(world, make, serve):
    built = make()
    world.publish(digest="changed")
    with pytest.raises(ServeFailed, match=r"refused to start \(exit code 1\)") as failed, serve(built.tag):
        pass
    assert "refusing to start: FeaturesDiffer: " in str(failed.value)
    assert "user_profile:user_profile_0: trained on d0, live is changed0" in str(failed.value)
    assert "Traceback" not in str(failed.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "route", "request_body", "wrong"),
    [
        ("retriever", "/candidates", {"user_id": 2, "k": 5}, {"user_id": NEW_USER}),
        ("ranker", "/score", {"user_id": 2, "title_ids": [1003, 1001]}, {"user_id": 2, "title_ids": [7]}),
        ("artwork", "/choose", {"user_id": 2, "title_ids": [1003, 1009]}, {"user_id": 2, "title_ids": []}),
    ],
)
def test_each_part_serves_alone_what_it_does_for_the_page(make, serve, service, route, request_body, wrong):
    with serve(make(service).tag, starts_at=EVENING + timedelta(days=1)) as url:
        answer = httpx.post(url + route, json=request_body).json()
        metrics = httpx.get(f"{url}/metrics").text
        refused = httpx.post(url + route, json=wrong)
    assert (answer["user_id"], answer["version"]) == (2, f"{service}/1")
    assert len(answer["title_ids"]) == request_body.get("k", 2)
    stale = {one["table"]: one["age_hours"] for one in answer["stale"]}
    assert stale["user_profile"] == pytest.approx(44, abs=0.1)  # promised: 30
    assert f'matinee_stale_answers_total{{service="{service}",table="user_profile"}} 1.0' in metrics
    if service == "artwork":
        assert answer["artwork_ids"][0] in range(100_300, 100_305)
        assert (answer["artwork_ids"][1], answer["propensities"][1]) == (None, None)
    assert refused.status_code == 400
    assert refused.json()["detail"][0]["loc"][0] in ("user_id", "title_ids")


def test_a_process_that_ends_at_once_is_reported_with_the_end_of_its_log(serve):
    with pytest.raises(ServeFailed, match="(?s)nowhere:1 refused to start.*not found"), serve("nowhere:1"):
        pass
