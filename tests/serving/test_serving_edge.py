"""The layers around a service, each on its own: ids, logs, token, media types, health, description."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, SecretStr, ValidationError

from feature_repo.snapshot import pointer
from serving import asgi, logs
from serving.access import Access, bears
from serving.edge import Edge
from serving.health import NOT_LOADED, Health, Readiness, State, readiness
from serving.json_only import MAX_BODY_BYTES, JsonOnly
from serving.logs import BadRequests, JsonLines, RequestId, page_id, request_id_of
from serving.metrics import Bounded
from serving.observed import Observed

TOKEN = "a-token-of-at-least-16"
NONE, WITH_TOKEN = Edge(), Edge(api_token=TOKEN)


async def hello(scope, receive, send):
    """The innermost application: says which request it answers."""
    await asgi.answer(send, 200, json.dumps({"path": scope["path"], "request_id": logs.current()}).encode())


async def broken(scope, receive, send):
    raise RuntimeError("as code does")


def ask(app, method="POST", path="/page", **request):
    async def asked():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **request)

    return asyncio.run(asked())


def observed(app=hello, edge=NONE):
    return Observed(app, "homepage", lambda: {"/page"}, lambda: edge)


@pytest.fixture
def lines():
    """What was logged, as JSON, by a logger set up as a worker's is."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines("homepage"))
    handler.addFilter(BadRequests())
    logger = logging.getLogger("serving")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(before)


# Request ids


@pytest.mark.parametrize("given", ["checkout-7f3a", "A" * 64, "12345678", "a.b_c-d.e"])
def test_a_well_formed_request_id_is_kept_and_sent_back(given):
    answer = ask(observed(), headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (given, given)


@pytest.mark.parametrize(
    "given", ["short", "A" * 65, "-leading", "new\tline-here", 'quote"d-here', "späße-here", ""]
)
def test_any_other_is_replaced_by_one_of_ours(given):
    answer = ask(observed(), headers={"X-Request-Id": given.encode("latin-1")})
    made = answer.headers["x-request-id"]
    assert made != given
    assert len(made) == 32
    assert answer.json()["request_id"] == made


def test_a_request_id_ends_with_its_request():
    ask(observed())
    assert logs.current() is None


def test_a_page_is_called_as_its_request_only_if_no_client_chose_the_name():
    for given, same in ((False, True), (True, False)):
        token = logs.enter(RequestId("0123456789abcdef", given=given))
        assert (page_id() == "0123456789abcdef") is same
        logs.leave(token)
    assert len({page_id(), page_id()}) == 2


# Logs


def test_every_line_of_a_request_carries_its_id(lines):
    async def talking(scope, receive, send):
        logging.getLogger("serving.selection").warning("deadline at stage %s", "rank")
        await asyncio.to_thread(logging.getLogger("serving.page").info, "from another thread")
        await hello(scope, receive, send)

    ask(observed(talking, Edge(log_requests=True)), headers={"X-Request-Id": "checkout-7f3a"})
    logging.getLogger("serving").info("between requests")
    *of_request, after = lines()
    assert [line["message"] for line in of_request] == [
        "deadline at stage rank",
        "from another thread",
        "request",
    ]
    assert {line["request_id"] for line in of_request} == {"checkout-7f3a"}
    assert "request_id" not in after
    last = of_request[-1]
    assert (last["route"], last["status"], last["level"]) == ("/page", 200, "INFO")
    assert last["milliseconds"] >= 0
    assert {"time", "level", "logger", "service", "message"} <= set(last)


def test_requests_that_went_well_are_not_logged_unless_asked_for(lines):
    ask(observed())
    assert lines() == []


def test_a_request_that_failed_is_logged_and_counted_as_such(lines):
    before = counted("/page", "500")
    with pytest.raises(RuntimeError):
        ask(observed(broken))
    (line,) = lines()
    assert (line["level"], line["status"], line["route"]) == ("WARNING", 500, "/page")
    assert counted("/page", "500") == before + 1


def test_a_request_that_is_given_up_is_counted_as_neither_answered_nor_failed():
    async def slow(scope, receive, send):
        await asyncio.sleep(60)

    async def given_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                observed(slow)({"type": "http", "path": "/page", "headers": []}, None, None), 0.01
            )

    before = counted("/page", "499")
    asyncio.run(given_up())
    assert counted("/page", "499") == before + 1


def test_a_line_stays_one_line_whatever_is_in_it(lines):
    logging.getLogger("serving").warning("user wrote %r and %s", "a\nb", 'c\n{"level": "forged"}')
    (line,) = lines()
    assert line["level"] == "WARNING"


def test_a_bad_request_is_one_line_without_trace_or_what_was_sent(lines):
    class Wanted(BaseModel):
        user_id: int

    try:
        Wanted.model_validate({"user_id": "my password"})
    except ValidationError as problem:
        logging.getLogger("serving").exception("Exception on /page [POST]", exc_info=problem)
    (line,) = lines()
    assert (line["level"], line["message"]) == ("INFO", "request refused: user_id: int_parsing")
    assert "exception" not in line
    assert "password" not in json.dumps(line)


def test_a_fault_of_ours_keeps_its_trace(lines):
    try:
        asyncio.run(broken({}, None, None))
    except RuntimeError:
        logging.getLogger("serving").exception("stage failed")
    (line,) = lines()
    assert line["exception"].startswith("Traceback")


def test_the_configuration_of_a_worker_is_one_that_logging_takes():
    described = logs.config("homepage")
    for name in logs.OURS:
        assert described["loggers"][name]["level"] == "INFO"
    logging.config.DictConfigurator(described)  # raises for what it does not know
    assert JsonLines("ranker").format(logging.LogRecord("x", 20, "", 0, "m", (), None)).startswith('{"time"')


# Token


@pytest.mark.parametrize("sent", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"])
def test_whoever_sends_the_token_may_ask(sent):
    assert ask(Access(hello, lambda: WITH_TOKEN), headers={"Authorization": sent}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ü",
    ],
)
@pytest.mark.parametrize(
    "path", ["/page", "/docs.json", "/schema.json", "/", "/nowhere", "/readyz/../page", "//readyz"]
)
def test_nobody_else_may_ask_anything_but_health_and_metrics(sent, path):
    headers = {} if sent is None else {"Authorization": sent.encode()}
    for method in ("POST", "GET", "HEAD", "OPTIONS"):
        answer = ask(Access(hello, lambda: WITH_TOKEN), method, path, headers=headers)
        assert answer.status_code == 401, method
        assert answer.headers["www-authenticate"] == 'Bearer realm="matinee"'
        assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics"])
def test_health_and_metrics_are_open(path):
    assert ask(Access(hello, lambda: WITH_TOKEN), "GET", path).status_code == 200


def test_without_a_token_anybody_may_ask():
    assert ask(Access(hello, lambda: NONE)).status_code == 200


def test_the_token_is_compared_whole_and_never_shown():
    token = SecretStr(TOKEN)
    assert bears(token, f"Bearer {TOKEN}".encode())
    assert not bears(SecretStr(""), b"Basic ")
    assert TOKEN not in repr(WITH_TOKEN) + str(WITH_TOKEN) + WITH_TOKEN.model_dump_json()
    with pytest.raises(ValidationError) as short:
        Edge(api_token="too short")
    assert "at least 16" in str(short.value)
    assert "too short" not in str(short.value).split("\n")[1:]


def test_refusals_for_want_of_a_token_are_logged_without_what_was_sent(lines):
    ask(
        observed(Access(hello, lambda: WITH_TOKEN)),
        headers={"Authorization": "Bearer wrong-secret-of-somebody"},
    )
    (line,) = lines()
    assert (line["status"], line["level"]) == (401, "WARNING")
    assert "wrong-secret" not in json.dumps(line)


# Media types and sizes


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json", "Content-Length": "2"}, 200),
        ({"Content-Type": "Application/JSON; charset=utf-8", "Content-Length": "2"}, 200),
        ({"Content-Type": "application/vnd.bentoml+pickle", "Content-Length": "2"}, 415),
        ({"Content-Type": "application/json-patch+json", "Content-Length": "2"}, 415),
        ({"Content-Type": "text/plain", "Content-Length": "2"}, 415),
        ({"Content-Type": "application/json", "Content-Length": str(MAX_BODY_BYTES)}, 200),
        ({"Content-Type": "application/json", "Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content-Type": "application/json", "Content-Length": "-1"}, 411),
        ({"Content-Type": "application/json", "Content-Length": "2.0"}, 411),
        ({"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_only_json_of_a_declared_bounded_length_gets_through(headers, status):
    request = httpx.Request("POST", "http://here/page", headers=headers)

    async def asked():
        transport = httpx.ASGITransport(app=JsonOnly(hello))
        return await transport.handle_async_request(request)

    assert asyncio.run(asked()).status_code == status


# Counting


def counted(route, status):
    return (
        REGISTRY.get_sample_value(
            "matinee_requests_total", {"service": "homepage", "route": route, "status": status}
        )
        or 0.0
    )


def test_paths_that_clients_make_up_are_counted_as_one():
    before = counted("other", "200")
    for number in range(5):
        ask(observed(), path=f"/{number}")
    assert counted("other", "200") == before + 5
    assert counted("/0", "200") == 0


def test_a_request_is_in_flight_until_it_is_answered():
    def in_flight():
        return REGISTRY.get_sample_value("matinee_requests_in_flight", {"service": "homepage"})

    seen = []

    async def looking(scope, receive, send):
        seen.append(in_flight())
        await hello(scope, receive, send)

    before = in_flight() or 0.0
    ask(observed(looking))
    with pytest.raises(RuntimeError):
        ask(observed(broken))
    assert seen == [before + 1]
    assert in_flight() == before


def test_labels_beyond_the_limit_are_one():
    few = Bounded(2)
    assert [few.of((arm,)) for arm in ("a", "b", "c", "a", "d")] == [
        ("a",),
        ("b",),
        ("other",),
        ("a",),
        ("other",),
    ]


# Health


def test_a_process_is_not_ready_before_it_has_loaded_and_says_why():
    answer = ask(Health(hello, State()), "GET", "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, NOT_LOADED.problem)


def test_readiness_is_asked_for_each_time():
    state, now = State(), []
    state.ask = lambda: now[-1]
    health = Health(hello, state)
    now.append(Readiness("g1"))
    assert ask(health, "GET", "/readyz").json() == {"ready": True, "generation": "g1", "refused": []}
    now.append(Readiness("g1", "shutting down"))
    answer = ask(health, "GET", "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "shutting down")


def test_a_process_says_no_while_it_stops_or_no_longer_hears_of_news_or_its_workspace_is_empty(world):
    online = world.home / "online"

    def asked(**how):
        return readiness(online, "g1", (), **({"looking": True, "stopping": False} | how))

    assert (asked().status, asked().problem) == (200, None)
    assert asked(stopping=True).problem == "shutting down"
    assert "has ended" in asked(looking=False).problem
    (online / "CURRENT").rename(online / "LOST")
    missing = asked()
    assert missing.status == 503
    assert missing.problem == "the workspace has no snapshot of features"
    assert str(world.home) not in missing.to_json().decode()
    (online / "CURRENT").write_text("")
    assert asked().status == 503
    (online / "LOST").replace(online / "CURRENT")
    assert asked().status == 200
    assert str(pointer(online))


def test_news_that_was_refused_is_told_and_no_reason_to_stop_serving(world):
    told = readiness(
        world.home / "online", "g1", {"snapshot": "features differ: /a/path"}, looking=True, stopping=False
    )
    assert told.status == 200
    assert json.loads(told.to_json())["refused"] == ["snapshot"]


def test_request_ids_are_read_by_their_rule_alone():
    assert request_id_of(None).given is False
    assert request_id_of(b"12345678").given is True
    assert request_id_of(b"1234567").given is False
