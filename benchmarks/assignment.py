"""One unit's arms in 250 live experiments over 25 layers: ours beside the GrowthBook SDK, in one run.

GrowthBook has no layers: its features each hold one rule with the same coverage and weights, in namespaces that give them the
slots ours have, and all 250 are asked as ours are. Both are local and pure Python, warm; best of several rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from growthbook import GrowthBook

from experiments.assignment import Assigner
from experiments.checking import check
from experiments.generated import write_folder
from experiments.live import LiveExperiments, compiled
from experiments.overlap import overlap
from experiments.reading import load


def everyone(folder: Path) -> LiveExperiments:
    """All experiments of a folder, live."""
    book = load(folder)
    at = datetime(2026, 2, 1, tzinfo=UTC)
    return LiveExperiments(experiments=tuple(compiled(book, e, str, at) for e in book.experiments.values()))


def features(live: LiveExperiments) -> dict[str, object]:
    """The same experiments as GrowthBook features: slots are ranges of a namespace for each layer."""
    return {
        entry.name: {
            "defaultValue": "none",
            "rules": [{
                "key": entry.name, "seed": entry.name, "hashAttribute": "id", "hashVersion": 2, "variations": ["control", "treatment"],
                "weights": [0.5, 0.5], "coverage": entry.rollout / 10_000,
                "namespace": [entry.declaration.layer, entry.slot[0] / 10_000, entry.slot[1] / 10_000],
            }],
        }
        for entry in live.experiments
    }  # fmt: skip


def growthbook(declared: dict[str, object], unit: int) -> int:
    """The arms of one unit; returns in how many experiments it is."""
    gb = GrowthBook(attributes={"id": str(unit)}, features=declared)
    return sum(gb.eval_feature(name).value != "none" for name in declared)


def microseconds(once: Callable[[int], object], units: int, rounds: int) -> float:
    """Processor time a unit, the best of some rounds."""
    best = []
    for r in range(rounds):
        began = time.process_time()
        for unit in range(r * units, (r + 1) * units):
            once(unit)
        best.append((time.process_time() - began) / units * 1e6)
    return min(best)


def main() -> None:
    """Print times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name))
        checks = []
        for _ in range(3):
            began = time.perf_counter()
            problems = check(load(Path(name)))
            checks.append(time.perf_counter() - began)
        live = everyone(Path(name))
    began = time.perf_counter()
    pairs = len(overlap(live).meeting())
    matrix_s = time.perf_counter() - began
    assigner, theirs = Assigner(live), features(live)
    ours_us = microseconds(assigner.assign, asked.units, asked.rounds)
    growthbook_us = microseconds(
        lambda unit: growthbook(theirs, unit), max(asked.units // 100, 10), asked.rounds
    )
    both = {
        "ours": statistics.mean(len(assigner.assign(u).arms) for u in range(2000)),
        "growthbook": statistics.mean(growthbook(theirs, u) for u in range(50)),
    }
    result = {
        "experiments": len(live.experiments), "layers": 25, "ours_us": round(ours_us, 1), "growthbook_us": round(growthbook_us, 1),
        "ratio": round(growthbook_us / ours_us), "mean_experiments_a_unit": both,
        "check_s": [round(s, 2) for s in checks], "problems": len(problems), "overlap_s": round(matrix_s, 2), "meeting_pairs": pairs,
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name:<24}{value}")
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
