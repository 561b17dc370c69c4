"""Goodput of a served homepage at multiples of its capacity, open loop: what is shed, and how long the admitted wait.

Needs a workspace with a built Bento (`make demo`, or `matinee day`). The generator shares the machine with the service.
Capacity is the highest goodput of rates that double until it grows no more; then 1, 2 and 3 times that are offered.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from matinee.deployment import newest_tag, serving
from matinee.recommending import known_users
from matinee.session import opened, print_table
from serving.openloop import Load, Target, due_times, offer
from serving.running import free_port, served

BUDGET_MS = 1000.0
SIZE = 40


def measured(target: Target, users: list[int], rate: float, seconds: float, seed: int) -> Load:
    """One rate for so long."""
    bodies = (json.dumps({"user_id": user, "size": SIZE}).encode() for user in itertools.cycle(users))
    outcomes = offer(target, bodies, due_times(rate, seconds, np.random.default_rng(seed)).tolist())
    return Load.of(outcomes, seconds, BUDGET_MS)


def capacity(target: Target, users: list[int], seconds: float) -> float:
    """The highest goodput: rates double until it grows no more."""
    best, rate = 0.0, 10.0
    while True:
        good = measured(target, users, rate, seconds, seed=int(rate)).good_per_s
        if good < 1.1 * best:
            return max(good, best)
        best, rate = good, 2 * rate


def main(seconds: float = 15.0) -> None:
    """Measure, print, and end with RESULT."""
    with opened("world") as day, tempfile.TemporaryDirectory() as folder:
        users = known_users(day)
        how = serving(day, newest_tag(day, "homepage"), free_port(), day.as_of)
        with served(how, log=Path(folder) / "serving.log"):
            target = Target(how.host, how.port)
            measured(target, users, 10, 5, seed=0)  # warm
            peak = capacity(target, users, seconds / 2)
            loads = [measured(target, users, factor * peak, seconds, seed=factor) for factor in (1, 2, 3)]
    best = max(peak, *(load.good_per_s for load in loads))
    columns = ("x capacity", "offered/s", "good/s", "of peak", "shed", "failed", "p50 ms", "p99 ms")
    print_table(
        f"overload; peak {best:.1f} good pages/s",
        columns,
        [
            [factor, load.offered_per_s, load.good_per_s, load.good_per_s / best, load.shed_share, load.failed, load.p50_ms, load.p99_ms]
            for factor, load in enumerate(loads, 1)
        ],
    )  # fmt: skip
    print("RESULT " + json.dumps({"peak_per_s": best, "loads": [asdict(load) for load in loads]}))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
