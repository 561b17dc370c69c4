"""Traces: none unless asked for; then a span a request and a stage, across services too."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving import asgi
from serving.answers import CandidatesAnswer, PageRequest
from serving.asked import CandidatesAsked
from serving.deadline import Deadline
from serving.edge import Edge
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.observed import Observed
from serving.page import Homepage
from serving.remote import StageClient
from serving.tracing import MissingExporter, Tracing, exporter, passed_on, traced_to, tracing

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def traced(spans):
    return traced_to("homepage", spans, at_once=True)


def by_name(spans):
    return {span.name: span for span in spans.get_finished_spans()}


def page(world, tmp_path, made: Tracing, user_id=2):
    with ExposureLog(tmp_path / "exposures", name="test") as log:
        source = LiveSource(Folders.of(world.home, world.home), world.manifest())
        core = Homepage(source, log, lambda: "request-0", spans=made.stage)
        return core.page(PageRequest(user_id=user_id, size=5), NOON, Deadline.within(5_000, time.monotonic))


def test_each_stage_of_a_page_is_a_span_inside_the_requests(world, tmp_path, spans, traced):
    with traced.request("/page", {}):
        made = page(world, tmp_path, traced)
    found = by_name(spans)
    request = found.pop("/page")
    assert set(found) == set(made.timings_ms)
    assert {span.parent.span_id for span in found.values()} == {request.context.span_id}
    assert (request.kind, request.parent) == (SpanKind.SERVER, None)
    assert request.resource.attributes["service.name"] == "matinee-homepage"
    for name, span in found.items():
        assert (span.end_time - span.start_time) / 1e6 == pytest.approx(made.timings_ms[name], abs=5)


def test_of_a_fault_a_span_keeps_its_type_and_nothing_of_the_member(world, tmp_path, spans, traced):
    with traced.request("/page", {}):
        page(world, tmp_path, traced, user_id=10**12)
    found = by_name(spans)
    assert found["features"].attributes["error.type"] == "NewUser"
    assert found["features"].status.status_code is StatusCode.ERROR
    assert found["/page"].status.status_code is StatusCode.UNSET  # the page went on without it
    text = "".join(span.to_json() for span in found.values())
    assert str(10**12) not in text
    assert "Traceback" not in text


def test_a_page_is_the_same_whether_it_is_traced_or_not(world, tmp_path, traced):
    one = page(world, tmp_path / "a", traced)
    other = page(world, tmp_path / "b", tracing("homepage", "off"))
    assert one.model_dump(exclude={"timings_ms"}) == other.model_dump(exclude={"timings_ms"})


def test_a_callers_trace_is_continued(spans, traced):
    with traced.request("/page", {b"traceparent": PARENT.encode()}):
        pass
    (span,) = spans.get_finished_spans()
    assert format(span.context.trace_id, "032x") == PARENT.split("-")[1]
    assert format(span.parent.span_id, "016x") == PARENT.split("-")[2]


@pytest.mark.parametrize("header", [b"", b"nonsense", b"00-zz-yy-01", PARENT.encode() * 50, b"\xff"])
def test_a_malformed_trace_header_starts_a_trace_of_its_own(spans, traced, header):
    with traced.request("/page", {b"traceparent": header}):
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None


def test_a_stage_elsewhere_is_told_which_span_it_is_part_of(spans, traced):
    sent = []

    def answer(request):
        sent.append(request.headers)
        told = CandidatesAnswer(user_id=1, version="retriever/1", generation="g", title_ids=(), scores=())
        return httpx.Response(200, content=told.model_dump_json())

    client = StageClient.at("http://retriever", transport=httpx.MockTransport(answer))
    with traced.request("/page", {}), traced.stage("retrieve"):
        client.ask("/candidates", CandidatesAsked(user_id=1), CandidatesAnswer, 1.0)
    stage = by_name(spans)["retrieve"]
    _, trace_id, span_id, _ = sent[0]["traceparent"].split("-")
    assert (trace_id, span_id) == (
        format(stage.context.trace_id, "032x"),
        format(stage.context.span_id, "016x"),
    )
    assert passed_on() == {}


def test_traces_are_off_unless_the_settings_say_otherwise():
    assert Edge().traces == "off"
    made = tracing("homepage", Edge().traces)
    assert made.tracer is None
    with made.request("/page", {b"traceparent": PARENT.encode()}), made.stage("rank"):
        assert passed_on() == {}


def test_the_layer_around_a_service_opens_the_requests_span(spans, traced):
    async def inner(scope, receive, send):
        with traced.stage("rank"):
            await asgi.answer(send, 200, b"{}")

    app = Observed(inner, "homepage", lambda: {"/page"}, Edge)
    app.tracing = traced

    async def asked():
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://here"
        ) as client:
            await client.post("/page", headers={"traceparent": PARENT})
            await client.post("/made/up")

    asyncio.run(asked())
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["rank", "/page", "rank", "other"]
    first, request = spans.get_finished_spans()[:2]
    assert first.parent.span_id == request.context.span_id
    assert format(request.context.trace_id, "032x") == PARENT.split("-")[1]


def test_an_exporter_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExporter, match=r"Install matinee\[traces\]"):
        exporter("otlp")
    assert exporter("console") is not None
