"""Load that does not wait for answers: requests leave when they are due, and their time counts from then.

A generator that sends the next request when the last was answered slows down with the server and never sees the queue
(coordinated omission: Tene, "How not to measure latency", 2013). Here arrivals are a Poisson process drawn ahead, every
request has a connection of its own from a pool that grows, and a request that leaves late is late already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answered:
    """One request: seconds from when it was due until its last byte, HTTP's status (0 for none), and the body."""

    due: float
    seconds: float
    status: int
    body: bytes


@dataclass(frozen=True)
class Load:
    """POST requests to one address."""

    host: str
    port: int
    path: str
    timeout: float = 10.0

    def offered(self, bodies: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> list[Answered]:
        """What came of `rate` requests a second over so many seconds, bodies taken in turn."""
        rng = np.random.default_rng(seed)
        due = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds * 1.5) + 20))
        return asyncio.run(self._offered(bodies, due[due < seconds].tolist()))

    async def _offered(self, bodies: Sequence[bytes], due: Sequence[float]) -> list[Answered]:
        pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        began, tasks = time.perf_counter(), []
        for number, moment in enumerate(due):
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            request = self._request(bodies[number % len(bodies)])
            tasks.append(asyncio.create_task(self._one(pool, request, moment, began)))
        answers = await asyncio.gather(*tasks)
        for _, writer in pool:
            writer.close()
        return list(answers)

    def _request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _one(
        self, pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], request: bytes, due: float, began: float
    ) -> Answered:  # fmt: skip
        status, body = 0, b""
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await self._connection(pool)
                writer.write(request)
                status, body = await _answer(reader)
                pool.append((reader, writer))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as fault:
            body = repr(fault).encode()
        return Answered(due, time.perf_counter() - began - due, status, body)

    async def _connection(
        self, pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that is free and that the server has not closed in the meantime, or a new one."""
        while pool:
            reader, writer = pool.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        return int(first.split()[1]), await _chunks(reader)
    return int(first.split()[1]), await reader.readexactly(int(fields.get("content-length", "0")))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).strip(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(parts)


@dataclass(frozen=True)
class Latency:
    """Milliseconds from when requests were due, over those answered with 200; and how many were not."""

    rate: float  # answered with 200, a second
    p50: float
    p99: float
    worst: float
    failed: int
    requests: int


def latency(answers: Sequence[Answered], seconds: float, warm: float = 0.0) -> Latency:
    """The figures of a run of so many seconds, requests due in the first `warm` ones left out."""
    counted = [answer for answer in answers if answer.due >= warm]
    good = np.array([answer.seconds * 1000 for answer in counted if answer.status == 200])
    if not len(good):
        return Latency(0.0, float("nan"), float("nan"), float("nan"), len(counted), len(counted))
    p50, p99 = np.percentile(good, (50, 99)).tolist()
    return Latency(
        len(good) / (seconds - warm), p50, p99, float(good.max()), len(counted) - len(good), len(counted)
    )
