"""Goodput of a served homepage at multiples of its capacity, open loop: what is shed, and how long the admitted wait.

Needs a workspace with a built Bento (`make demo`, or `matinee day`). The generator shares the machine with the service.
Capacity is the highest goodput of rates that double until it grows no more; then 1, 2 and 3 times that are offered.

Goodput by the clock needs a machine that does nothing else. Beside it stands what does not: good pages for each second
of the service's own processor time, next to the same at a rate at which nobody waits. What shedding costs shows in both.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from matinee.deployment import newest_tag, serving
from matinee.recommending import known_users
from matinee.session import opened, print_table
from serving.openloop import Load, Target, due_times, offer
from serving.running import free_port, served

BUDGET_MS = 1000.0
SIZE = 40
CALM_RATE = 5.0


@dataclass(frozen=True)
class Measured:
    """What came of one rate, and the processor time (s) that the service spent on it."""

    load: Load
    good_per_cpu_s: float


def offering(target: Target, users: list[int]) -> Callable[[float, float, int], Measured]:
    """Offers a rate for so many seconds."""

    def offered(rate: float, seconds: float, seed: int) -> Measured:
        bodies = (json.dumps({"user_id": user, "size": SIZE}).encode() for user in itertools.cycle(users))
        before = cpu_s()
        outcomes = offer(target, bodies, due_times(rate, seconds, np.random.default_rng(seed)).tolist())
        load = Load.of(outcomes, seconds, BUDGET_MS)
        return Measured(load, load.good_per_s * seconds / (cpu_s() - before))

    return offered


def cpu_s() -> float:
    """Processor time of the service, which is all that this program has started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def capacity(offered: Callable[[float, float, int], Measured], seconds: float) -> float:
    """The highest goodput: rates double until it grows no more."""
    best, rate = 0.0, 10.0
    while True:
        good = offered(rate, seconds, int(rate)).load.good_per_s
        if good < 1.1 * best:
            return max(good, best)
        best, rate = good, 2 * rate


def main(seconds: float = 15.0) -> None:
    """Measure, print, and end with RESULT."""
    with opened("world") as day, tempfile.TemporaryDirectory() as folder:
        how = serving(day, newest_tag(day, "homepage"), free_port(), day.as_of)
        with served(how, log=Path(folder) / "serving.log"):
            offered = offering(Target(how.host, how.port), known_users(day))
            offered(10, 5, 0)  # warm
            calm = offered(CALM_RATE, seconds, 1)
            peak = capacity(offered, seconds / 2)
            found = [offered(factor * peak, seconds, factor) for factor in (1, 2, 3)]
    report(calm, max(peak, *(one.load.good_per_s for one in found)), found)


def report(calm: Measured, peak: float, found: list[Measured]) -> None:
    """A table for people and a line for programs."""
    rows = [
        [factor, load.offered_per_s, load.good_per_s, load.good_per_s / peak, one.good_per_cpu_s / calm.good_per_cpu_s,
         load.shed_share, load.failed, load.p50_ms, load.p99_ms]
        for factor, one in enumerate(found, 1) for load in [one.load]
    ]  # fmt: skip
    columns = ("x capacity", "offered/s", "good/s", "of peak", "of calm, by CPU", "shed", "failed", "p50 ms", "p99 ms")  # fmt: skip
    print_table(
        f"overload; peak {peak:.1f} good pages/s, calm {calm.good_per_cpu_s:.1f} per CPU second",
        columns,
        rows,
    )
    told = {"peak_per_s": peak, "calm": asdict(calm), "loads": [asdict(one) for one in found]}
    print("RESULT " + json.dumps(told))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
