"""How much one token may ask for: a bucket of requests that refills with time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the server takes. Rates are requests per second and token, sizes bytes of a request's body."""

    rate: float = 200.0
    burst: int = 400
    body: int = 1 << 20
    upload: int = 256 << 20  # one file of an upload; the store holds a file in memory


class Buckets:
    """One token bucket for each key. `clock` gives seconds that never go back, as `time.monotonic` does.

    A bucket holds `burst` requests, refills at `rate` a second, and is forgotten once it is full again.

    >>> now = 0.0
    >>> buckets = Buckets(rate=2, burst=1, clock=lambda: now)
    >>> buckets.take("a"), buckets.take("a")
    (0.0, 0.5)
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._held: dict[str, tuple[float, float]] = {}  # key → (requests left, when that was)
        self._lock = threading.Lock()
        self._swept = clock()

    def take(self, key: str) -> float:
        """Take one request from the bucket of `key`: 0, or how many seconds to wait until there is one."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            left, then = self._held.get(key, (float(self._burst), now))
            left = min(self._burst, left + (now - then) * self._rate)
            if left < 1:
                self._held[key] = (left, now)
                return (1 - left) / self._rate
            self._held[key] = (left - 1, now)
            return 0.0

    def __len__(self) -> int:
        return len(self._held)

    def _sweep(self, now: float) -> None:
        """Forget buckets that are full again, once in the time that takes the emptiest."""
        whole = self._burst / self._rate
        if now - self._swept < whole:
            return
        self._swept = now
        self._held = {key: held for key, held in self._held.items() if now - held[1] < whole}
