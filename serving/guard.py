"""Stages kept inside their share of the request's budget: abandoned when it is over, left alone while they keep failing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from serving.breaker import CLOSED, Breaker, BreakerPolicy
from serving.deadline import Deadline, DeadlineExceeded, Stopwatch
from serving.workers import Abandoned, Workers

T = TypeVar("T")
MAY_BE_OUT = 4
"""Threads a stage may hold that nobody waits for any longer."""
FAIR = 0.5
"""A stage that was left less than this part of its share is not blamed for being late."""


class StageSkipped(RuntimeError):
    """A stage was not tried: it has kept failing, or too many of its threads have not come back."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage, self.reason = stage, reason
        super().__init__(f"stage {stage!r} was not tried: {reason}.")


@dataclass
class Guard:
    """Runs stages in threads, each with a breaker by stage and model version.

    So a bad version is not held against the good one. `innocent` are exceptions that say nothing against the stage, such
    as an unknown user.
    """

    innocent: tuple[type[Exception], ...] = ()
    policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    workers: Workers = field(default_factory=Workers)
    may_be_out: int = MAY_BE_OUT
    _breakers: dict[tuple[str, str | None], Breaker] = field(default_factory=dict, repr=False)
    _out: Counter[str] = field(default_factory=Counter, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(
        self,
        stage: str,
        ref: str | None,
        work: Callable[[Stopwatch], T],
        watch: Stopwatch,
        share: tuple[float, float],
        grace: float = 0.0,
    ) -> T:
        """What `work` returns, which has until the end of its `share` (from, to) of the request's budget.

        What earlier stages left unused is its own; `grace` is the part of the budget it has in any case.

        Raises:
            StageSkipped: it was not tried.
            DeadlineExceeded: it was not done in time, or there was no time left.
        """
        until = watch.deadline.part(share[1])
        watch.at = stage
        if not grace:
            until.check(stage)
        self._enter(stage, ref, watch.deadline.clock())
        inner = Stopwatch(until, spans=watch.spans)
        left_s = max(until.left_s(), grace * until.budget_ms / 1000)
        fair = left_s * 1000 >= FAIR * (share[1] - share[0]) * until.budget_ms
        try:
            call = self.workers.start(lambda: work(inner), lambda: self._back(stage, -1))
            found = self._waited(call.wait, left_s, stage, until)
        except self.innocent:
            self._leave((stage, ref), lambda breaker: breaker.succeeded())
            raise
        except DeadlineExceeded:
            now = watch.deadline.clock()
            self._leave((stage, ref), lambda b: b.failure(self.policy, now) if fair else b.left())
            raise
        except BaseException:
            now = watch.deadline.clock()
            self._leave((stage, ref), lambda breaker: breaker.failure(self.policy, now))
            raise
        else:
            self._leave((stage, ref), lambda breaker: breaker.succeeded())
            return found
        finally:
            watch.at = inner.at or stage
            watch.timings_ms |= dict(inner.timings_ms)

    def _waited(self, wait: Callable[[float], T], seconds: float, stage: str, until: Deadline) -> T:
        try:
            return wait(seconds)
        except Abandoned:
            self._back(stage, +1)
            raise DeadlineExceeded(stage, until.budget_ms) from None

    @property
    def out(self) -> Mapping[str, int]:
        """By stage, threads that nobody waits for any longer and that have not come back."""
        with self._lock:
            return {stage: number for stage, number in self._out.items() if number}

    @property
    def open(self) -> tuple[tuple[str, str | None], ...]:
        """Stages and versions that are left alone now."""
        with self._lock:
            return tuple(key for key, breaker in self._breakers.items() if breaker.until is not None)

    def _enter(self, stage: str, ref: str | None, now: float) -> None:
        with self._lock:
            if self._out[stage] >= self.may_be_out:
                raise StageSkipped(stage, "its threads have not come back")
            breaker = self._breakers.get((stage, ref), CLOSED)
            if not breaker.admits(now):
                raise StageSkipped(stage, "it kept failing")
            if breaker is not CLOSED:
                self._breakers[stage, ref] = breaker.entered()

    def _leave(self, key: tuple[str, str | None], after: Callable[[Breaker], Breaker]) -> None:
        with self._lock:
            breaker = after(self._breakers.get(key, CLOSED))
            if breaker is CLOSED:
                self._breakers.pop(key, None)
            else:
                self._breakers[key] = breaker

    def _back(self, stage: str, change: int) -> None:
        with self._lock:
            self._out[stage] += change
