"""A circuit breaker as a value: what keeps failing is left alone for a while, then tried once (Nygard, Release It!, 2007)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BreakerPolicy:
    """After `failures` in a row it opens for `wait_s`; each probe that fails doubles that, up to `longest_s`."""

    failures: int = 5
    wait_s: float = 1.0
    longest_s: float = 30.0


@dataclass(frozen=True)
class Breaker:
    """Closed while `until` is None; else open until then, and from then on half open: one probe at a time."""

    failed: int = 0  # in a row
    until: float | None = None
    wait_s: float = 0.0
    probing: bool = False

    def admits(self, now: float) -> bool:
        """Whether it may be tried at `now`."""
        return self.until is None or (now >= self.until and not self.probing)

    def entered(self) -> Breaker:
        """Somebody tries; if it is open, that is the probe."""
        return self if self.until is None else replace(self, probing=True)

    def left(self) -> Breaker:
        """The one who tried has learnt nothing about it."""
        return replace(self, probing=False) if self.probing else self

    def succeeded(self) -> Breaker:
        """Closed, its past forgotten."""
        return CLOSED

    def failure(self, policy: BreakerPolicy, now: float) -> Breaker:
        """One failure more: open if there were enough of them, or if it was the probe.

        A failure that began before it opened changes nothing.
        """
        if self.until is not None and not self.probing:
            return self
        failed = self.failed + 1
        if self.until is None and failed < policy.failures:
            return replace(self, failed=failed)
        wait = policy.wait_s if self.until is None else min(2 * self.wait_s, policy.longest_s)
        return Breaker(failed, now + wait, wait)


CLOSED = Breaker()
