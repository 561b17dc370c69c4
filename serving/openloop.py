"""Load that does not wait: requests leave when they are due, whether or not earlier ones have been answered.

A generator that waits for answers asks less the slower the service is, and so measures its own patience (coordinated
omission: Tene, How NOT to Measure Latency, 2013). Here latency counts from the moment a request was due.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_SOURCE = re.compile(rb'"source":"(\w+)"')


@dataclass(frozen=True)
class Outcome:
    """One request: when it was due, how long after that its answer was whole, and what it was. Status 0: none came."""

    due_s: float
    took_s: float
    status: int
    source: str = ""
    retry_after_s: int | None = None
    body: bytes = b""


@dataclass(frozen=True)
class Target:
    """Where to ask, over plain HTTP/1.1."""

    host: str
    port: int
    route: str = "/page"

    def request(self, body: bytes) -> bytes:
        """A POST of JSON."""
        head = f"POST {self.route} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def due_times(rate: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Moments (s) of a Poisson process of `rate` a second, as independent users come."""
    gaps = rng.exponential(1 / rate, size=int(rate * seconds * 2) + 50)
    moments: NDArray[np.float64] = np.cumsum(gaps)
    return moments[moments < seconds]


def offer(
    target: Target, bodies: Iterable[bytes], due_s: Sequence[float], timeout_s: float = 10.0
) -> tuple[Outcome, ...]:
    """Ask at each moment of `due_s`, and wait for all answers; in order of `due_s`."""
    return asyncio.run(_offer(target, bodies, due_s, timeout_s))


async def _offer(
    target: Target, bodies: Iterable[bytes], due_s: Sequence[float], timeout_s: float
) -> tuple[Outcome, ...]:
    idle: deque[_Connection] = deque()
    clock = asyncio.get_running_loop().time
    start, asked = clock(), []
    for due, body in zip(due_s, bodies, strict=False):
        await asyncio.sleep(max(0.0, start + due - clock()))
        one = _ask(target, idle, body, start + due, clock, timeout_s)
        asked.append(asyncio.create_task(one))
    found = await asyncio.gather(*asked)
    for connection in idle:
        await connection.close()
    return tuple(Outcome(due, *outcome) for due, outcome in zip(due_s, found, strict=False))


async def _ask(
    target: Target,
    idle: deque[_Connection],
    body: bytes,
    due: float,
    clock: Callable[[], float],
    timeout_s: float,
) -> tuple[float, int, str, int | None, bytes]:
    connection = _free(idle)
    try:
        async with asyncio.timeout(timeout_s):
            if connection is None:
                connection = _Connection(*await asyncio.open_connection(target.host, target.port))
            head, content = await connection.exchange(target.request(body))
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        if connection is not None:
            await connection.close()
        return clock() - due, 0, "", None, b""
    if b"connection: close" in head.lower():
        await connection.close()
    else:
        idle.append(connection)
    status, source, retry = _STATUS.match(head), _SOURCE.search(content), _RETRY.search(head)
    return (
        clock() - due,
        int(status.group(1)) if status else 0,
        source.group(1).decode() if source else "",
        int(retry.group(1)) if retry else None,
        content,
    )


def _free(idle: deque[_Connection]) -> _Connection | None:
    """One that the server has not closed in the meantime."""
    while idle:
        connection = idle.pop()
        if not connection.reader.at_eof():
            return connection
        connection.writer.close()
    return None


@dataclass(frozen=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return head, await self.reader.readexactly(int(length.group(1)) if length else 0)

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):  # the other end was quicker
            await self.writer.wait_closed()


@dataclass(frozen=True)
class Load:
    """What came of one rate: answers and good answers a second, and how long the answered waited."""

    offered_per_s: float
    answered_per_s: float
    good_per_s: float  # 200, in time, and as good as can be
    shed_share: float
    failed: int  # neither an answer nor a 503
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], seconds: float, budget_ms: float, best: str = "ranked") -> Load:
        """The figures of `outcomes` that were due within `seconds`; good is `best`, within `budget_ms`."""
        answered = [one for one in outcomes if one.status == 200]
        good = [one for one in answered if one.source == best and one.took_s * 1000 <= budget_ms]
        shed = sum(one.status == 503 for one in outcomes)
        took = [one.took_s * 1000 for one in answered] or [float("nan")]
        p50, p99 = np.percentile(took, (50, 99)).tolist()
        return cls(
            offered_per_s=len(outcomes) / seconds,
            answered_per_s=len(answered) / seconds,
            good_per_s=len(good) / seconds,
            shed_share=shed / max(1, len(outcomes)),
            failed=len(outcomes) - len(answered) - shed,
            p50_ms=p50,
            p99_ms=p99,
        )
