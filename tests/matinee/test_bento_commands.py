"""`matinee bento`: what is built is in the ledger, can be served, and is rendered for clusters and dashboards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from serving.bento import folder_digest
from serving.manifest import NEEDS, Manifest
from serving.running import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "homepage": ("/page", {"user_id": 17, "size": 5}),
    "retriever": ("/candidates", {"user_id": 17, "k": 5}),
    "ranker": ("/score", {"user_id": 17, "title_ids": []}),
    "artwork": ("/choose", {"user_id": 17, "title_ids": []}),
}


@pytest.fixture(scope="module")
def tags(a_day, shell):
    """Service → tag of its Bento."""
    shell("matinee bento build all")
    listed = json.loads(shell("matinee bento list --json").stdout)
    return {one["where"].split(":")[0]: one["where"] for one in listed}


def test_a_bento_of_each_service_is_in_the_ledger_under_the_digest_of_what_it_holds(a_day, shell, tags):
    assert set(tags) == set(NEEDS)
    listed = json.loads(shell("matinee bento list --json").stdout)
    for service, tag in tags.items():
        source = a_day / "bentos" / "bentos" / service / tag.split(":")[1] / "src"
        manifest = Manifest.load(source)
        assert {version.kind for version in manifest.versions} == set(NEEDS[service])
        assert {one["ref"] for one in listed if one["where"] == tag} == {v.ref for v in manifest.versions}
        built_from = yaml.safe_load((source.parent / "bento.yaml").read_text())["labels"]["digest"]
        assert built_from.startswith(tag.split(":")[1])
        for version in manifest.versions:
            assert len(folder_digest(source / version.folder)) == 64


@pytest.mark.parametrize(
    ("service", "ends_with"),
    list(zip(NEEDS, (signal.SIGINT, signal.SIGTERM) * 2, strict=True)),
)
def test_matinee_bento_serve_runs_each_of_them_until_it_is_told_to_stop(
    a_day, environment, tags, tmp_path, service, ends_with
):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "matinee", "bento", "serve", tags[service], "--port", str(port)],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + 180  # ten seconds where nobody else wants the processors
        while not _ready(url):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up, (tmp_path / "log").read_text()
            time.sleep(0.1)
        route, body = ASKED[service]
        if "title_ids" in body:
            body = body | {"title_ids": [_some_title(a_day)]}
        answer = httpx.post(url + route, json=body)
        assert answer.status_code == 200, answer.text
        versions = answer.json().get("version") or answer.json()["versions"]["retriever"]
        assert versions.endswith("/1")
    finally:
        process.send_signal(ends_with)
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
    with pytest.raises(httpx.ConnectError):  # no worker stays behind
        httpx.get(f"{url}/livez")


def _some_title(a_day):
    from feature_repo.reader import OnlineReader

    return int(OnlineReader.open(a_day / "online").catalogue.title_ids[0])


def _ready(url):
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_manifests_of_what_was_built_are_what_a_cluster_takes(shell, tags):
    tag = tags["homepage"]
    rendered = shell(
        f"matinee bento manifest {tag} --namespace films --image registry.example/{tag} --apart"
    ).stdout
    objects = list(yaml.safe_load_all(rendered))
    assert len(objects) == 4
    for found in objects:
        kubernetes_validate.validate(found, "1.31", strict=True)
        assert found["metadata"]["namespace"] == "films"
    assert f"image: registry.example/{tag}" in rendered
    assert "http://matinee-ranker:3000" in rendered


def test_the_dockerfile_and_the_dashboard_are_printed(shell, tags):
    text = shell(f"matinee bento dockerfile {tags['homepage']}").stdout
    assert "FROM python:3.11-slim" in text
    assert "USER bentoml" in text
    made = json.loads(shell("matinee bento dashboard").stdout)
    assert made["uid"] == "matinee-serving"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("matinee bento manifest homepage:nowhere", "no Bento 'homepage:nowhere' here. There are: artwork:"),
        (
            "matinee bento manifest {homepage} --namespace Films!",
            "namespace: String should match pattern '^[a-z0-9]",
        ),
        ("matinee bento manifest {ranker} --apart", "only a homepage runs apart"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_sentence(shell, tags, command, says):
    failed = shell(command.format(**tags), fails=True)
    assert says in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr
