"""A request's deadline, and the time each of its stages took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from serving.tracing import Spans, no_span

Clock = Callable[[], float]
"""Seconds that never run backwards, such as `time.monotonic`."""


class DeadlineExceeded(TimeoutError):
    """A stage was reached after the request's time was up."""

    def __init__(self, stage: str, budget_ms: float) -> None:
        self.stage = stage
        super().__init__(f"the request's {budget_ms:.0f} ms were over at stage {stage!r}.")


@dataclass(frozen=True)
class Deadline:
    """The moment by which an answer is due, on the caller's clock."""

    at: float
    budget_ms: float
    clock: Clock

    @classmethod
    def within(cls, budget_ms: float, clock: Clock) -> Deadline:
        """A deadline `budget_ms` from now."""
        return cls(clock() + budget_ms / 1000, budget_ms, clock)

    def earlier(self, seconds: float) -> Deadline:
        """The deadline of a request that came `seconds` ago."""
        return replace(self, at=self.at - seconds)

    def part(self, share: float) -> Deadline:
        """The moment at which `share` of the budget is over."""
        return replace(self, at=self.at - (1 - share) * self.budget_ms / 1000)

    def left_s(self) -> float:
        """Seconds that are left; negative when it is over."""
        return self.at - self.clock()

    def spent_s(self) -> float:
        """Seconds since the request came."""
        return self.budget_ms / 1000 - self.left_s()

    def check(self, stage: str) -> None:
        """Raise `DeadlineExceeded` if the time is up."""
        if self.clock() >= self.at:
            raise DeadlineExceeded(stage, self.budget_ms)


@dataclass
class Stopwatch:
    """Milliseconds spent in each stage of one request, and the stage it is in or was in last."""

    deadline: Deadline
    timings_ms: dict[str, float] = field(default_factory=dict)
    at: str = ""
    spans: Spans = no_span

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; refuse to enter it after the deadline. What it finishes late is finished: it counts."""
        self.at = name
        self.deadline.check(name)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a stage that runs even after the deadline, because an answer needs it."""
        self.at = name
        started = self.deadline.clock()
        try:
            with self.spans(name):
                yield
        finally:
            self.timings_ms[name] = round((self.deadline.clock() - started) * 1000, 3)
