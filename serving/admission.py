"""Who is let in when more ask than can be answered: so many at once, so many waiting, and nobody for too long.

A queue without a bound answers everybody too late. Here, who is let in waits a bounded time, and who is not learns it at
once, for little work, with the time after which to ask again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving import asgi, metrics
from serving.asgi import App, Receive, Scope, Send

Reason = Literal["full", "waited"]
_ARRIVED: ContextVar[float | None] = ContextVar("matinee_arrived", default=None)
_OF_THE_PAST = 0.1
"""Weight of the newest request in the mean time that requests take."""


class Limits(BaseSettings):
    """How much one process takes on; from the environment, since it is the machine's to say."""

    model_config = SettingsConfigDict(env_prefix="MATINEE_ADMIT_", frozen=True)

    at_once: int = Field(
        4, ge=1, description="requests worked on; pages are made one at a time, the others wait for the disk"
    )
    waiting: int = Field(32, ge=0, description="requests that wait for those")
    longest_wait_ms: float = Field(200, ge=0, description="who has waited so long is turned away")


class Shed(RuntimeError):
    """A request is turned away: the queue is `full`, or it `waited` too long."""

    def __init__(self, reason: Reason, retry_after_s: int) -> None:
        self.reason, self.retry_after_s = reason, retry_after_s
        super().__init__(f"too many requests ({reason}); try again in {retry_after_s} s.")


class Admission:
    """Lets requests in, first come first served. For one event loop."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._takes_s = 0.0

    @property
    def running(self) -> int:
        """Requests that are worked on."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Work on one request.

        Raises:
            Shed: it is not let in.
        """
        await self._enter()
        began = self._clock()
        try:
            yield
        finally:
            self._takes_s += _OF_THE_PAST * (self._clock() - began - self._takes_s)
            self._leave()

    async def _enter(self) -> None:
        if self._running < self._limits.at_once:
            self._running += 1
            return
        if len(self._waiting) >= self._limits.waiting:
            raise self._shed("full")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self._limits.longest_wait_ms / 1000, self._turn_away, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:  # its turn had come as well
                self._leave()
            raise
        finally:
            timer.cancel()

    def _turn_away(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self._waiting.remove(turn)
            turn.set_exception(self._shed("waited"))

    def _leave(self) -> None:
        """Hand the place to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _shed(self, reason: Reason) -> Shed:
        queue_s = (self._running + len(self._waiting)) * self._takes_s / self._limits.at_once
        return Shed(reason, max(1, math.ceil(queue_s)))


def since_arrival(clock: Callable[[], float]) -> float:
    """Seconds for which the request at hand has been here; 0 where it did not come through `Admitted`."""
    arrived = _ARRIVED.get()
    return 0.0 if arrived is None else clock() - arrived


class Admitted:
    """ASGI middleware: a POST is let in, or answered 503 with `Retry-After`. Health and metrics always pass."""

    def __init__(self, app: App, limits: Limits | None = None) -> None:
        """Guard `app`; without `limits`, those of the environment."""
        self.app = app
        self.admission = Admission(limits or Limits())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, or turn the request away."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        _ARRIVED.set(time.monotonic())
        try:
            async with self.admission.turn():
                metrics.RUNNING.set(self.admission.running)
                metrics.WAITING.set(self.admission.waiting)
                await self.app(scope, receive, send)
        except Shed as shed:
            metrics.SHED.labels(shed.reason).inc()
            again: list[tuple[bytes, bytes]] = [(b"retry-after", str(shed.retry_after_s).encode())]
            await asgi.refuse(send, 503, str(shed), again)
