"""All four services at once, each from its own Bento: served by stock BentoML, asked apart, and fuzzed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from itertools import count

import bentoml
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import serving.service
from serving.answers import PageRequest
from serving.bento import build
from serving.client import PageClient
from serving.deadline import Deadline
from serving.engines import Engines
from serving.exposures import ExposureLog
from serving.json_only import MAX_BODY_BYTES
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import NEEDS
from serving.page import Homepage as HomepageCore
from serving.remote import Remote
from serving.running import Serving, free_port, served

EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
NEW_USER = 10**12
PARTS = ("retriever", "ranker", "artwork")
EXAMPLES = int(os.environ.get("MATINEE_FUZZ_EXAMPLES", "25"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:_bentoml_sdk.*", "ignore:GitWildMatchPattern:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def home(first_world, tmp_path_factory):
    home = tmp_path_factory.mktemp("services") / "home"
    shutil.copytree(first_world.home, home)
    return home


@pytest.fixture(scope="module")
def prepare(first_world, home):
    """How to serve a service from a store of its own: BentoML clears the store's folder of metrics when one starts."""

    def prepare(service, name, **changed):
        versions = {
            ref: path for ref, path in first_world.versions.items() if ref.split("/")[0] in NEEDS[service]
        }
        defaults = first_world.defaults(**{kind: None for kind in PARTS if kind not in NEEDS[service]})
        built = build(service, versions, defaults, home, home / name)
        return Serving(built.tag, home, home / name, port=free_port(), starts_at=EVENING, settings=changed)

    return prepare


def urls_of(how):
    return {f"MATINEE_{part.upper()}_URL": how[part].base_url for part in PARTS}


@contextmanager
def all_served(how, home):
    """Serve them while the block runs; they start at once."""
    with ExitStack() as stack, ThreadPoolExecutor(len(how)) as pool:
        contexts = [served(one, log=home / f"{name}.log", timeout=110) for name, one in how.items()]
        started = [pool.submit(context.__enter__) for context in contexts]
        for context, start in zip(contexts, started, strict=True):
            if start.exception() is None:
                stack.push(context)
        yield {name: start.result() for name, start in zip(how, started, strict=True)}


@pytest.fixture(scope="module")
def urls(prepare, home):
    """The base URL of each service; of the homepage, `together` has its stages in process, `apart` asks the others."""
    how = {part: prepare(part, part) for part in PARTS}
    how |= {
        "together": prepare("homepage", "together"),
        "apart": prepare("homepage", "apart", **urls_of(how)),
    }
    with all_served(how, home) as found:
        yield found


def told(page):
    return page.model_dump(
        exclude={"request_id", "timings_ms", "stale"}
    )  # what differs by the moment of asking


def test_pages_are_equal_whether_their_stages_run_together_or_apart(urls):
    with PageClient(urls["together"]) as together, PageClient(urls["apart"]) as apart:
        for user_id in (*range(1, 13), NEW_USER):
            page = apart.page(user_id, 12)
            assert told(page) == told(together.page(user_id, 12))
            assert page.source == ("popular" if user_id == NEW_USER else "ranked")


def test_the_homepage_that_runs_apart_asked_the_others(urls):
    with PageClient(urls["apart"]) as client:
        client.page(2)
    for part, route in zip(PARTS, ("/candidates", "/score", "/choose"), strict=True):
        counted = f'matinee_requests_total{{route="{route}",service="{part}",status="200"}}'
        assert counted in httpx.get(f"{urls[part]}/metrics").text


class Dependency:
    """A service as BentoML's own dependency on it, used where our client of it is used."""

    def __init__(self, declared, url, loop):
        self.loop = loop
        self.proxy = self.within(bentoml.depends(declared, url=url).get().__aenter__(), 30)

    def within(self, coroutine, seconds):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def ask(self, route, request, answer, left_s):
        call = self.proxy.to_async.call(route.removeprefix("/"), request.model_dump(mode="json"))
        return answer.model_validate(self.within(call, left_s).model_dump())


@pytest.fixture
def dependencies(urls):
    """Every part over `bentoml.depends(url=…)`, which wants an event loop that runs."""
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    declared = {part: getattr(serving.service, part.capitalize()) for part in PARTS}
    made = {part: Dependency(declared[part], urls[part], loop) for part in PARTS}
    yield made
    for one in made.values():
        one.within(one.proxy.close(), 5)
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()


def test_over_bentomls_own_dependencies_pages_are_equal_too(urls, dependencies, first_world, home, tmp_path):
    """Who composes services with `bentoml.depends(url=…)` needs nothing of ours but the types."""
    remote = Remote(dependencies)
    engines = Engines(remote.retrieve, remote.rank, remote.illustrate)
    source = LiveSource(Folders.of(first_world.home, home), first_world.manifest(), apart=PARTS)
    with (
        closing(ExposureLog(tmp_path / "exposures", name="test")) as log,
        PageClient(urls["together"]) as client,
    ):
        core = HomepageCore(source, log, map(str, count()).__next__, engines=engines)
        for user_id in (*range(1, 13), NEW_USER):
            request, left = PageRequest(user_id=user_id, size=12), Deadline.within(10_000, time.monotonic)
            page, together = core.page(request, EVENING, left), client.page(user_id, 12)
            assert told(page) == told(together) | {"live_set": page.live_set}  # another manifest's
            assert page.source == ("popular" if user_id == NEW_USER else "ranked")


ALL = (*PARTS, "together")


@pytest.mark.parametrize("service", ALL)
def test_what_is_described_is_answered_so(urls, service):
    """Values that fit the description, and the examples in it: no fault, and answers as described."""
    described = schemathesis.openapi.from_url(f"{urls[service]}/docs.json")
    tried = set()
    for found in described.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @SETTINGS
        def answer(case):
            case.call_and_validate(checks=CHECKS)
            tried.add(case.operation.path)

        answer()
    endpoints = 3 if service in {"together", "apart"} else 1  # a homepage also explains and makes pages ahead
    assert len(tried) == endpoints + 4  # health thrice, metrics


@pytest.mark.parametrize("service", ALL)
def test_what_breaks_the_description_is_no_fault_of_the_service(urls, service):
    described = schemathesis.openapi.from_url(f"{urls[service]}/docs.json")
    for found in described.get_all_operations():
        operation = found.ok()
        if operation.method.upper() != "POST":
            continue

        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        @SETTINGS
        def answer(case):
            case.call_and_validate(checks=[not_a_server_error])

        answer()


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "user_id",
    "size",
    "k",
    "title_ids",
    "retrieval",
    "pin",
    "vectors",
    "draw",
    "context",
    "user_ids",
    "reasons",
)
NEARLY = st.dictionaries(st.sampled_from(FIELDS), JSONS, max_size=5).map(
    lambda found: {"user_id": 2, **found}
)
ODD = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe{}",
    b"[" * 30_000,
    b'{"a":' * 10_000,
    b'{"user_id": ' + b"9" * 5_000 + b"}",
    b'{"user_id": 1e999}',
    b'{"user_id": NaN}',
    b'{"user_id": 2, "user_id": 3}',
    b'{"user_id": 2, "title_ids": [' + b"1000," * 10_000 + b"1000]}",
    b" " * MAX_BODY_BYTES,
    b'{"user_id": 2, "pin": {"at": "0001-01-01T00:00:00Z"}}',
    b'{"user_id": 2, "pin": {"version": "../../etc/passwd"}}',
    b'{"user_id": 2, "\\ud800": 1}',
)
ROUTES = {
    "retriever": "/candidates",
    "ranker": "/score",
    "artwork": "/choose",
    "together": "/page",
    "apart": "/page",
}


@pytest.mark.parametrize("service", ROUTES)
def test_no_body_whatever_is_answered_with_a_fault(urls, service):
    with httpx.Client(base_url=urls[service], timeout=20) as client:

        def send(body: bytes):
            answer = client.post(ROUTES[service], content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (body[:200], answer.text[:500])
            assert "Traceback" not in answer.text

        for body in ODD:
            send(body)

        @given(
            st.binary(max_size=200)
            | JSONS.map(lambda v: json.dumps(v).encode())
            | NEARLY.map(lambda v: json.dumps(v).encode())
        )
        @settings(SETTINGS, max_examples=4 * EXAMPLES)
        def any_body(body):
            send(body)

        any_body()


@pytest.mark.parametrize("service", ROUTES)
def test_no_header_whatever_is_answered_with_a_fault(urls, service):
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)
    names = st.sampled_from(["Content-Type", "Authorization", "X-Request-Id", "traceparent", "tracestate", "Accept", "Payload-Container", "Content-Encoding", "X-Anything"])  # fmt: skip
    with httpx.Client(base_url=urls[service], timeout=20) as client:

        @given(st.dictionaries(names, printable, max_size=4))
        @SETTINGS
        def any_headers(headers):
            headers = {"Content-Type": "application/json"} | {
                name: value.strip() for name, value in headers.items()
            }
            answer = client.post(ROUTES[service], content=b'{"user_id": 2}', headers=headers)
            assert answer.status_code < 500, (headers, answer.text[:500])

        any_headers()


def test_a_service_that_dies_leaves_pages_that_say_so(prepare, home):
    ranker = prepare("ranker", "dying")
    how = {"bereft": prepare("homepage", "bereft", MATINEE_RANKER_URL=ranker.base_url)}
    with all_served(how, home) as urls, PageClient(urls["bereft"]) as client:
        with served(ranker, log=home / "dying.log", timeout=110):
            assert client.page(2).source == "ranked"
        page = client.page(2)
        assert (page.source, [(d.stage, d.reason) for d in page.degraded]) == (
            "retrieved",
            [("rank", "StageUnreachable")],
        )
        metrics = httpx.get(f"{urls['bereft']}/metrics").text
        assert 'matinee_degradations_total{reason="StageUnreachable",stage="rank"} 1.0' in metrics
        assert httpx.get(f"{urls['bereft']}/readyz").status_code == 200
