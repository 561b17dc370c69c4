"""All pairs of 250 live tests on 500,000 SIMULATED units: who met whom, and whether effects add up.

One interaction is injected beside main effects of every test, so that the scan has something to find; the stated minimum
detectable effect says what it would have missed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import scipy.stats

from experiments.assignment import Assigner
from experiments.generated import write_folder
from experiments.interactions import Grid, grid_of, interactions, meetings
from experiments.live import LiveExperiments, compiled
from experiments.reading import load


def outcomes(
    grid: Grid, pair: tuple[tuple[str, str], tuple[str, str]], extra: float, seed: int
) -> np.ndarray:
    """(U,) skewed values with a main effect of every arm, and `extra` where both arms of `pair` are seen."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 20, grid.codes.shape[1])
    for row, arms in enumerate(grid.arms):
        values += np.concatenate([[0.0], rng.normal(0, 0.3, len(arms))])[grid.codes[row]]
    seen = [
        grid.codes[r] == p for r, arms in enumerate(grid.arms) for p, arm in enumerate(arms, 1) if arm in pair
    ]
    return values + extra * np.logical_and(*seen)


def main() -> None:
    """Print times, what was found and what could have been."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=500_000)
    parser.add_argument("--extra", type=float, default=20.0, help="minutes, of the injected interaction")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name))
        book = load(Path(name))
    at = datetime(2026, 2, 1, tzinfo=UTC)
    live = LiveExperiments(experiments=tuple(compiled(book, e, str, at) for e in book.experiments.values()))
    times = {}

    def timed(what: str, began: float) -> float:
        times[what] = round(time.perf_counter() - began, 1)
        return time.perf_counter()

    began = time.perf_counter()
    assigner = Assigner(live)
    grid = grid_of(live, (assigner.assign(unit).arms for unit in range(asked.units)))
    began = timed("assign and lay out", began)
    strange = meetings(grid)
    began = timed("meetings", began)
    pair = (("e3-2", "treatment"), ("e11-4", "treatment"))
    values = outcomes(grid, pair, asked.extra, seed=1)
    began = time.perf_counter()
    scan = interactions(grid, values)
    timed("interactions, one metric", began)
    null = interactions(grid, outcomes(grid, pair, 0.0, seed=2))
    result = {
        "simulated": True, "units": asked.units, "experiments": len(live.experiments), "pairs": scan.pairs, "unread": scan.unread,
        "seconds": times, "strange_meetings": len(strange), "detectable": round(scan.detectable or 0, 2),
        "detectable_relative": round(scan.detectable_relative or 0, 3), "injected": [*pair, asked.extra],
        "found": [f.model_dump() for f in scan.found], "null_found": len(null.found),
        "null_p_values_uniform_ks_p": round(float(scipy.stats.kstest(null.p_values, "uniform").pvalue), 3),
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name:<28}{value}")
    print("RESULT " + json.dumps(result, default=str))


if __name__ == "__main__":
    main()
