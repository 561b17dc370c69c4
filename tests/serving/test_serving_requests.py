"""A served homepage with a token, logs of every request and traces, asked over HTTP as strangers and friends would."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import time

import httpx
import jsonschema
import pytest

from serving.access import OPEN
from serving.answers import Page
from serving.bento import build
from serving.dashboard import PANELS
from serving.running import ServeFailed, Serving, free_port, served

TOKEN = "only-a-test-knows-this"
AS_FRIEND = {"Authorization": f"Bearer {TOKEN}"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:_bentoml_sdk.*", "ignore:GitWildMatchPattern:DeprecationWarning"
    ),
]


class Bomb:
    """Were it unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture(scope="module")
def home(first_world, tmp_path_factory):
    home = tmp_path_factory.mktemp("http") / "home"
    shutil.copytree(first_world.home, home)
    return home


@pytest.fixture(scope="module")
def url(first_world, home):
    built = build("homepage", first_world.versions, first_world.defaults(), home, home / "bentos")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MATINEE_API_TOKEN", TOKEN)
        environment.setenv("MATINEE_LOG_REQUESTS", "true")
        environment.setenv("MATINEE_TRACES", "console")
        how = Serving(built.tag, home, home / "bentos", port=free_port())
        with served(how, log=home / "serving.log") as url:
            yield url


@pytest.fixture(scope="module")
def description(url):
    return httpx.get(f"{url}/docs.json", headers=AS_FRIEND).json()


def log_lines(home, request_id):
    """The lines of one request; they may be written a moment after its answer."""
    give_up = time.monotonic() + 5
    while True:
        lines = [
            line for line in (home / "serving.log").read_text().splitlines() if line.startswith('{"time"')
        ]
        found = [line for line in map(json.loads, lines) if line.get("request_id") == request_id]
        if found and found[-1]["message"] == "request":
            return found
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_strangers_get_nothing_but_health_and_metrics(url):
    for path in ("/", "/docs.json", "/schema.json", "/static_content/swagger-ui.css", "/nowhere"):
        assert httpx.get(url + path).status_code == 401, path
    for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = httpx.post(f"{url}/page", json={"user_id": 2}, headers=sent)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="matinee"')
    for path in OPEN:
        assert httpx.get(url + path).status_code == 200, path
    assert httpx.post(f"{url}/page", json={"user_id": 2}, headers=AS_FRIEND).status_code == 200


def test_a_request_is_called_the_same_in_its_answer_and_in_the_log(url, home):
    headers = AS_FRIEND | {"X-Request-Id": "checkout-7f3a"}
    answer = httpx.post(f"{url}/page", json={"user_id": 10**12}, headers=headers)
    assert answer.headers["x-request-id"] == "checkout-7f3a"
    page = Page.model_validate_json(answer.content)
    assert page.request_id != "checkout-7f3a"  # a client may send it again; a page's id is its own
    (line,) = log_lines(home, "checkout-7f3a")
    assert (line["route"], line["status"], line["service"]) == ("/page", 200, "homepage")
    unnamed = httpx.post(f"{url}/page", json={"user_id": 2}, headers=AS_FRIEND)
    assert unnamed.json()["request_id"] == unnamed.headers["x-request-id"]


def test_secrets_and_bad_bodies_are_in_no_log(url, home):
    headers = {"Authorization": "Bearer somebody-elses-secret", "X-Request-Id": "stranger-1"}
    httpx.post(f"{url}/page", json={"user_id": 2}, headers=headers)
    headers = AS_FRIEND | {"X-Request-Id": "mistaken-1"}
    refused = httpx.post(f"{url}/page", json={"user_id": "card 4111-1111"}, headers=headers)
    assert refused.status_code == 400
    log_lines(home, "stranger-1")
    assert [line["level"] for line in log_lines(home, "mistaken-1")] == ["INFO", "INFO"]
    log = (home / "serving.log").read_text()
    assert TOKEN not in log
    assert "somebody-elses-secret" not in log
    assert "4111-1111" not in log
    assert "Traceback" not in log


def test_no_route_reads_a_pickle(url, home, description):
    bomb = pickle.dumps(Bomb(home / "exploded"))
    routes = [*description["paths"], "/docs.json", "/schema.json", "/", "/nowhere"]
    for route in routes:
        for media_type in ("application/vnd.bentoml+pickle", "application/vnd.bentoml+pickle; charset=utf-8"):
            headers = AS_FRIEND | {"Content-Type": media_type, "Payload-Container": "Pickle"}
            assert httpx.post(url + route, content=bomb, headers=headers).status_code == 415, route
        assert httpx.request("PUT", url + route, content=bomb, headers=AS_FRIEND).status_code in {404, 405}
        get = httpx.request("GET", url + route, content=bomb, headers=headers)
        assert get.status_code in {200, 404, 405}, route
    as_json = httpx.post(
        f"{url}/page", content=bomb, headers=AS_FRIEND | {"Content-Type": "application/json"}
    )
    assert as_json.status_code == 400
    assert not (home / "exploded").exists()


def test_readiness_tells_why_not_and_that_it_is_over(url, home):
    pointer = home / "online" / "CURRENT"
    assert httpx.get(f"{url}/readyz").json()["ready"] is True
    pointer.rename(home / "online" / "LOST")
    try:
        answer = httpx.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (
            503,
            "the workspace has no snapshot of features",
        )
        assert str(home) not in answer.text
        assert httpx.get(f"{url}/livez").status_code == 200  # a restart would not help
        page = httpx.post(f"{url}/page", json={"user_id": 2}, headers=AS_FRIEND)
        assert page.json()["source"] == "ranked"  # whoever asks all the same gets the last good one
    finally:
        (home / "online" / "LOST").rename(pointer)
    assert httpx.get(f"{url}/readyz").json()["ready"] is True


def test_every_expression_of_the_dashboard_is_about_what_the_service_says(url):
    new_user = httpx.post(f"{url}/page", json={"user_id": 10**12}, headers=AS_FRIEND).json()
    assert new_user["degraded"]
    text = httpx.get(f"{url}/metrics").text
    series = set(re.findall(r"^(\w+)(?:{| )", text, re.MULTILINE))
    labels = set(re.findall(r"[{,](\w+)=", text))
    # Counted when it happens, and it has not: an arm needs an experiment, a shadow one that judges, shedding a crowd.
    series |= {"matinee_arm_pages_total", "matinee_shadows_total", "matinee_shed_total"}
    labels |= {"experiment", "arm", "outcome"}
    functions = {"by", "sum", "max", "rate", "histogram_quantile", "__rate_interval"}
    for panel in PANELS:
        for target in panel.targets:
            bare = re.sub(r'"[^"]*"', "", target.expression)
            words = set(re.findall(r"[a-zA-Z_]\w*", bare)) - functions
            assert words <= series | labels, (panel.title, words - series - labels)


def test_made_up_paths_do_not_grow_the_metrics(url):
    with httpx.Client(base_url=url, headers=AS_FRIEND) as client:
        client.get("/warm")
        before = client.get("/metrics").text.count("\n")
        for number in range(200):
            assert client.get(f"/made-up-{number}").status_code == 404
        assert client.get("/metrics").text.count("\n") == before


def test_requests_are_traced_stage_by_stage_when_asked_for(url, home):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    httpx.post(f"{url}/page", json={"user_id": 2}, headers=AS_FRIEND | {"traceparent": parent})
    give_up = time.monotonic() + 15  # spans are sent in batches, every five seconds
    while (log := (home / "serving.log").read_text()).count("0x0af7651916cd43dd8448eb211c80319c") < 10:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    for name in ("/page", "retrieve", "rank", "artwork", "log"):
        assert f'"name": "{name}"' in log


def test_what_is_described_has_an_example_of_request_answer_and_every_error(url, description):
    assert description["openapi"].startswith("3.1")
    operations = {path: item["post"] for path, item in description["paths"].items() if "post" in item}
    assert set(operations) == {"/page", "/explain", "/precompute"}
    components = description["components"]
    problem = components["schemas"]["Problem"]
    for path, operation in operations.items():
        asked = operation["requestBody"]["content"]["application/json"]
        answered = operation["responses"]["200"]["content"]["application/json"]
        for media in (asked, answered):
            jsonschema.validate(media["example"], media["schema"] | {"components": components})
        errors = {status: answer for status, answer in operation["responses"].items() if status != "200"}
        assert set(errors) == {"400", "401", "411", "413", "415", "429", "500", "503", "504"}
        for answer in errors.values():
            jsonschema.validate(answer["content"]["application/json"]["example"], problem)
        given = httpx.post(f"{url}{path}", json=asked["example"], headers=AS_FRIEND)
        assert given.status_code == 200
        jsonschema.validate(given.json(), answered["schema"] | {"components": components})


def test_errors_are_what_the_description_says(url, description):
    problem = description["components"]["schemas"]["Problem"]
    for status, request in {
        400: {"json": {"user_id": -1}},
        401: {"json": {"user_id": 2}, "headers": {"Authorization": "Bearer no"}},
        413: {"content": b" " * 70_000, "headers": {"Content-Type": "application/json"}},
        415: {"content": b"x", "headers": {"Content-Type": "text/plain"}},
    }.items():
        answer = httpx.post(f"{url}/page", **request | {"headers": AS_FRIEND | request.get("headers", {})})
        assert answer.status_code == status
        jsonschema.validate(answer.json(), problem)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MATINEE_API_TOKEN", "hunter2", "api_token"),
        ("MATINEE_TRACES", "everywhere", "traces"),
        ("MATINEE_RANKER_URL", "no url", "ranker_url"),
    ],
)
def test_settings_that_cannot_be_are_a_reason_not_to_start(
    first_world, home, monkeypatch, variable, value, says
):
    built = build("homepage", first_world.versions, first_world.defaults(), home, home / "other")
    monkeypatch.setenv(variable, value)
    how = Serving(built.tag, home, home / "other", port=free_port())
    with (
        pytest.raises(ServeFailed, match="refused to start") as failed,
        served(how, log=home / "refused.log"),
    ):
        pass
    assert "refusing to start: ValidationError" in str(failed.value)
    assert says in str(failed.value)
    assert "hunter2" not in str(failed.value)
    assert "Traceback" not in str(failed.value)
