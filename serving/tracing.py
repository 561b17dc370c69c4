"""OpenTelemetry traces: off unless asked for; a span for each request and each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.edge import Traces

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Spans = Callable[[str], AbstractContextManager[Any]]
"""A span of the given name around a block, child of the one it is in."""
_PROPAGATOR = TraceContextTextMapPropagator()


class MissingExporter(RuntimeError):
    """Traces are to go where nothing here can send them."""

    def __init__(self) -> None:
        super().__init__(
            "MATINEE_TRACES=otlp needs the package opentelemetry-exporter-otlp-proto-http, which is not installed. "
            "Install matinee[traces], or set MATINEE_TRACES=console or off."
        )


@dataclass(frozen=True)
class Tracing:
    """Spans of one service, or nothing at all where `tracer` is None."""

    service: str
    tracer: trace.Tracer | None = None

    def request(self, name: str, headers: Mapping[bytes, bytes]) -> AbstractContextManager[Any]:
        """A span around one request, child of the caller's where its `traceparent` says so."""
        if self.tracer is None:
            return nullcontext()
        named = {key: headers.get(key.encode()) for key in _PROPAGATOR.fields}
        carrier = {key: value.decode("latin-1") for key, value in named.items() if value is not None}
        return _span(self.tracer, name, SpanKind.SERVER, _PROPAGATOR.extract(carrier, Context()))

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """A span around one stage of the request."""
        return nullcontext() if self.tracer is None else _span(self.tracer, name, SpanKind.INTERNAL)


@contextmanager
def _span(tracer: trace.Tracer, name: str, kind: SpanKind, context: Context | None = None) -> Iterator[None]:
    """Of a fault it keeps the type alone: messages and traces name members, and spans go further than logs."""
    with tracer.start_as_current_span(
        name, context, kind=kind, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as problem:
            span.set_attribute("error.type", type(problem).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def no_span(_: str) -> AbstractContextManager[None]:
    """No span."""
    return nullcontext()


def passed_on() -> dict[str, str]:
    """The headers with which another service's spans become children of the one we are in; none without one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def tracing(service: str, traces: Traces) -> Tracing:
    """What the setting asks for.

    Raises:
        MissingExporter: the package that sends over OTLP is not installed.
    """
    return Tracing(service) if traces == "off" else traced_to(service, exporter(traces))


def traced_to(service: str, exporter: SpanExporter, *, at_once: bool = False) -> Tracing:
    """Spans to `exporter`, in batches from another thread, or each when it ends."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415  (only where traces are wanted)
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"matinee-{service}"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
    return Tracing(service, provider.get_tracer("matinee.serving"))


def exporter(traces: Traces) -> SpanExporter:
    """Where spans go: OTLP's endpoint comes from OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT)."""
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

    if traces == "console":
        return ConsoleSpanExporter()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found]  # noqa: PLC0415
            OTLPSpanExporter,
        )
    except ModuleNotFoundError as problem:
        raise MissingExporter from problem
    made: SpanExporter = OTLPSpanExporter()
    return made
