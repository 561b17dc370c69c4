"""What it costs to resolve an objective for one unit: to arms, versions and weights, with 0 and 250 live experiments.

In process, one thread; medians and processor time over 5,000 units of one run. Six of 25 layers set something.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import numpy as np

from experiments.config import Experiment
from experiments.live import LiveArm, LiveExperiment, LiveExperiments
from matinee.session import print_table
from serving.manifest import Defaults
from serving.resolver import Resolver
from serving.rollout import Canary

LAYERS, SLOTS, UNITS = 25, 10, 5_000
SETS = (
    ("weights.play", 1.0, 0.9),
    ("weights.completion", 0.5, 0.4),
    ("weights.retention", 0.5, 0.4),
    ("weights.diversity", 0.1, 0.2),
    ("artwork_policy", "thompson", "uniform"),
    ("ranker", "ranker/1", "ranker/2"),
)
START = datetime(2026, 1, 1, tzinfo=UTC)


def experiment(layer: int, slot: int) -> LiveExperiment:
    """One of two equal arms, over a tenth of its layer."""
    arms: list[dict[str, str | float]] = [{}, {}]
    if layer < len(SETS):
        name, one, other = SETS[layer]
        arms = [{name: one}, {name: other}]
    metric = {"name": "plays", "description": "Plays.", "value": "plays", "direction": "increase"}
    declaration = Experiment.model_validate({
        "name": f"experiment_{layer:02d}_{slot}", "layer": f"layer_{layer:02d}", "unit": "user_id", "owner": "benchmark",
        "hypothesis": "None.", "start": START, "end": START.replace(year=2100), "control": "control",
        "arms": {"control": {"share": 0.5, "parameters": arms[0]}, "other": {"share": 0.5, "parameters": arms[1]}},
        "metrics": {"primary": metric, "guardrails": [metric | {"name": "guarded", "margin": 0.1}]},
    })  # fmt: skip
    live = (
        LiveArm(name="control", low=0, high=5_000, parameters=arms[0]),
        LiveArm(name="other", low=5_000, high=10_000, parameters=arms[1]),
    )
    edges = (1_000 * slot, 1_000 * (slot + 1))
    return LiveExperiment(declaration=declaration, slot=edges, rollout=10_000, arms=live, started_at=START)


def measured(resolver: Resolver) -> tuple[float, float]:
    """The median by the clock and the mean by processor time, µs a unit; each unit was met before."""
    for unit in range(UNITS):
        resolver.resolve("homepage", unit)
    spent, cpu = [], time.process_time()
    for unit in range(UNITS):
        began = time.perf_counter()
        resolver.resolve("homepage", unit)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent)) * 1e6, (time.process_time() - cpu) / UNITS * 1e6


def main() -> None:
    """Measure, print, and end with RESULT."""
    many = tuple(experiment(layer, slot) for layer in range(LAYERS) for slot in range(SLOTS))
    defaults = Defaults(retriever="retriever/1", ranker="ranker/1", artwork="artwork/1")
    canary = Canary(kind="retriever", ref="retriever/2", share=0.05)
    rows = []
    for live in ((), many):
        for canaries in ((), (canary,)):
            p50, cpu = measured(Resolver(LiveExperiments(experiments=live), defaults, canaries))
            rows.append((len(live), len(canaries), p50, cpu))
    print_table("resolving", ("live experiments", "canaries", "p50 µs", "CPU µs"), rows)
    print(
        "RESULT "
        + json.dumps([dict(zip(("live", "canaries", "p50_us", "cpu_us"), row, strict=True)) for row in rows])
    )


if __name__ == "__main__":
    main()
