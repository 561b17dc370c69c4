"""What is seen of every request from outside: its id, its time, its status, and how many there are at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from serving import logs, metrics
from serving.access import OPEN
from serving.asgi import App, Message, Receive, Scope, Send, headers_of
from serving.edge import Edge
from serving.tracing import tracing

logger = logging.getLogger(__name__)
OTHER = "other"
CANCELLED = 499
"""How a request is counted that was given up before it was answered: its client went away, or its time was up."""


class Observed:
    """ASGI middleware, outermost: names the request, counts it, logs it if it failed or if asked to, traces it."""

    def __init__(
        self, app: App, service: str, routes: Callable[[], Collection[str]], edge: Callable[[], Edge] = Edge
    ) -> None:
        """Watch `app`; what is not among `routes()` is counted as one."""
        settings = edge()
        self.app, self.service, self.routes = app, service, frozenset(routes())
        self.log_requests, self.tracing = settings.log_requests, tracing(service, settings.traces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, under a request id."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        headers, route = headers_of(scope), scope["path"] if scope["path"] in self.routes else OTHER
        request_id = logs.request_id_of(headers.get(b"x-request-id"))
        seen = [CANCELLED]

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen[0] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.value.encode())]
            await send(message)

        with self._watched(request_id, route, seen), self.tracing.request(route, headers):
            await self.app(scope, receive, named)

    @contextmanager
    def _watched(self, request_id: logs.RequestId, route: str, seen: list[int]) -> Iterator[None]:
        token, started = logs.enter(request_id), time.perf_counter()
        metrics.IN_FLIGHT.labels(self.service).inc()
        try:
            yield
        except Exception:
            seen[0] = 500  # what the layers outside of this one make of it
            raise
        finally:
            seconds = time.perf_counter() - started
            metrics.IN_FLIGHT.labels(self.service).dec()
            metrics.count_request(self.service, route, seen[0], seconds)
            self._log(route, seen[0], seconds)
            logs.leave(token)

    def _log(self, route: str, status: int, seconds: float) -> None:
        failed = status >= 500 or status in {401, CANCELLED}
        if failed or self.log_requests:
            fields = {"route": route, "status": status, "milliseconds": round(seconds * 1000, 2)}
            logger.log(logging.WARNING if failed else logging.INFO, "request", extra={"fields": fields})
