"""The dispatcher: takes events to webhooks, each at its own pace, for as long as it runs.

Any number of them may run at once, in servers and on command lines; leases see to it that they do not meet
(`registry.delivery`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from registry import delivery
from registry.database import Database
from registry.delivery import POST_SECONDS, Outcome, Parcel
from registry.signing import signed
from registry.webhooks import MOST, row_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_THREADS = 5  # four for the ledger, and one in which `run` waits for its end
_AFTER_TROUBLE = 5.0  # seconds until a database that failed is asked again

Transport = Callable[[str, Mapping[str, str], bytes], Awaitable[Outcome]]
"""Posts a body with headers to a URL, within `POST_SECONDS`; `registry.posting.Poster` is one."""


@dataclass(frozen=True)
class Tally:
    """How many attempts were acknowledged, and how many were not."""

    delivered: int = 0
    failed: int = 0


class Dispatcher:
    """Delivers what is due from one ledger.

    Args:
        database: the ledger's.
        post: the way out.
        clock: what time it is; back-off and leases are measured by it.
        rng: draws names of leases and jitter. Two dispatchers need two that differ.
        report: told of every attempt.
    """

    def __init__(
        self,
        database: Database,
        post: Transport,
        clock: Callable[[], datetime],
        rng: random.Random,
        report: Callable[[Parcel, Outcome], None] = lambda _parcel, _outcome: None,
    ) -> None:
        self._database, self._post, self._clock = database, post, clock
        self._rng, self._report = rng, report
        self._threads = ThreadPoolExecutor(_THREADS, "dispatcher")

    async def once(self) -> Tally:
        """Deliver all that is due; a webhook that fails is left for later. Raises what the database raises."""
        _resolve_names_side_by_side()
        tallies = await asyncio.gather(*(self._drain(key) for key in await self._aside(self._due)))
        return Tally(sum(one.delivered for one in tallies), sum(one.failed for one in tallies))

    async def run(self, stop: threading.Event, interval: float = 0.5) -> None:
        """Deliver what is due, and look again every `interval` seconds until `stop`; what is on its way is waited for."""
        _resolve_names_side_by_side()
        working: dict[str, asyncio.Task[None]] = {}
        while not stop.is_set():
            pause = interval
            try:
                found = await self._aside(self._due)
            except SQLAlchemyError:
                _log.exception("webhooks: the ledger cannot be read; trying again in %g s", _AFTER_TROUBLE)
                found, pause = (), _AFTER_TROUBLE
            working = {key: task for key, task in working.items() if not task.done()}
            for key in found:
                if key not in working:
                    working[key] = asyncio.create_task(self._drain_or_say(key, stop))
            await self._aside(stop.wait, pause)
        await asyncio.gather(*working.values())

    async def probe(self, name: str) -> Outcome:
        """Post a signed message of type `test` to a webhook, paused or not; nothing is moved or written down.

        Raises:
            NotRecorded: there is no such webhook.
        """
        now = self._clock()
        url, key, secret = await self._aside(self._addressee, name)
        body, message_id = delivery.probe_body(now), f"msg_{key}_test_{self._rng.randbytes(8).hex()}"
        return await self._post(url, signed(secret, message_id, now, body), body)

    async def _drain_or_say(self, key: str, stop: threading.Event) -> None:
        try:
            await self._drain(key, stop)
        except Exception:  # noqa: BLE001 - of one webhook, and said; the others go on, and this one when its lease has run out
            _log.exception("webhook %s: the delivery broke off", key)

    async def _drain(self, key: str, stop: threading.Event | None = None) -> Tally:
        """Deliver one event after another to one webhook, until there is none or one is not taken."""
        delivered = 0
        while stop is None or not stop.is_set():
            parcel = await self._aside(self._claim, key)
            if parcel is None:
                break
            outcome = await self._attempt(parcel)
            if outcome is None or not await self._aside(self._settle, parcel, outcome):
                break
            self._report(parcel, outcome)
            if not outcome.acknowledged:
                _log.warning("webhook %s: event %d not taken: %s", parcel.name, parcel.event.id, outcome.said)
                return Tally(delivered, 1)
            delivered += 1
        return Tally(delivered)

    async def _attempt(self, parcel: Parcel) -> Outcome | None:
        """Post a parcel; None where so little of its lease is left that it might end on the way."""
        now = self._clock()
        if now > parcel.until - timedelta(seconds=POST_SECONDS):
            return None
        body = delivery.body_of(parcel.event)
        return await self._post(parcel.url, signed(parcel.secret, parcel.message_id, now, body), body)

    def _addressee(self, name: str) -> tuple[str, str, str]:
        with self._database.read() as session:
            row = row_of(session, name)
            return row.url, row.key, row.secret

    def _due(self) -> tuple[str, ...]:
        with self._database.read() as session:
            return delivery.due(session, self._clock())

    def _claim(self, key: str) -> Parcel | None:
        with self._database.write() as session:
            return delivery.claim(session, key, self._rng.randbytes(16).hex(), self._clock())

    def _settle(self, parcel: Parcel, outcome: Outcome) -> bool:
        with self._database.write() as session:
            return delivery.settle(session, parcel, outcome, self._clock(), self._rng.random())

    async def _aside(self, step: Callable[..., _T], *values: object) -> _T:
        """Run a step that waits (for the database, mostly) in a thread, so that posts do not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, step, *values)


@contextmanager
def in_background(dispatcher: Dispatcher, interval: float = 0.5) -> Iterator[None]:
    """Deliver in a thread of its own while the block runs; at its end, what is on its way is waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(dispatcher.run(stop, interval)), name="dispatcher")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _resolve_names_side_by_side() -> None:
    """Names are resolved in the loop's threads; one that hangs must not keep others waiting."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST, "resolver"))
