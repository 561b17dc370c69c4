"""Twenty metrics of a million users: from Parquet to a read-out (cold), and from daily statistics to a read-out.

Exposures and events are SIMULATED: a million users in two arms, exposed over four weeks, six million plays and one and a
half million membership events around it. Cold is a new DuckDB connection on Parquet files that the machine has read before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.config import Experiment
from experiments.daily import DailyStatistics
from experiments.definitions import DefinedMetric
from experiments.gathering import gather
from experiments.metrics import exposed_units_in
from experiments.readout import read_out

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 28
AS_OF = START + timedelta(days=DAYS + 29)
PLAYS, MEMBERSHIPS = {"source": "plays"}, {"source": "memberships"}
MINUTES = PLAYS | {"sum": "watch_minutes"}
RENEWED = MEMBERSHIPS | {"where": {"status": ["renewed"]}}
DUE = MEMBERSHIPS | {"where": {"status": ["renewed", "cancelled"]}}
COMPLETED = PLAYS | {"where": {"completed": [True]}}


def metrics() -> list[DefinedMetric]:
    """Twenty: seven means (CUPED, winsorised), four ratios, four conversions, three retentions, two quantiles."""
    rows: list[dict[str, object]] = [
        {"name": f"minutes_{d}d", "kind": "mean", "of": MINUTES, "window_days": d, "covariate_days": 28}
        for d in (1, 7, 14, 28)
    ]
    rows += [
        {"name": "plays_7d", "kind": "mean", "of": PLAYS, "window_days": 7, "covariate_days": 28},
        {"name": "minutes_capped_7d", "kind": "mean", "of": MINUTES, "window_days": 7, "cap": 300},
        {
            "name": "minutes_winsorised_7d",
            "kind": "mean",
            "of": MINUTES,
            "window_days": 7,
            "winsorise": 0.999,
        },
        {
            "name": "minutes_a_play_7d",
            "kind": "ratio",
            "of": MINUTES,
            "per": PLAYS,
            "window_days": 7,
            "covariate_days": 28,
        },
        {"name": "completion_7d", "kind": "ratio", "of": COMPLETED, "per": PLAYS, "window_days": 7},
        {"name": "completion_28d", "kind": "ratio", "of": COMPLETED, "per": PLAYS, "window_days": 28},
        {"name": "renewals_of_due_28d", "kind": "ratio", "of": RENEWED, "per": DUE, "window_days": 28},
    ]
    rows += [{"name": f"any_play_{d}d", "kind": "conversion", "of": PLAYS, "window_days": d} for d in (1, 7)]
    rows += [
        {"name": f"any_completed_{d}d", "kind": "conversion", "of": COMPLETED, "window_days": d}
        for d in (7, 28)
    ]
    rows += [
        {"name": f"back_day_{a}_to_{b}", "kind": "retention", "of": PLAYS, "from_day": a, "window_days": b}
        for a, b in ((7, 14), (14, 28), (21, 28))
    ]
    rows += [
        {"name": f"minutes_p{round(100 * q)}_28d", "kind": "quantile", "quantile": q, "of": MINUTES, "window_days": 28, "resolution": 0.25}
        for q in (0.5, 0.9)
    ]  # fmt: skip
    return [DefinedMetric.model_validate(row) for row in rows]


def experiment() -> Experiment:
    """One experiment with all twenty: the first decides, the others guard."""
    primary, *guardrails = metrics()
    arms = {"control": {"share": 0.5}, "treatment": {"share": 0.5}}
    return Experiment.model_validate({
        "name": "benchmark", "layer": "ranking", "hypothesis": "simulated", "owner": "benchmark", "arms": arms,
        "metrics": {"primary": primary.metric().model_dump(),
                    "guardrails": [g.guardrail(0.02).model_dump() for g in guardrails]},
        "start": START, "end": START + timedelta(days=DAYS),
    })  # fmt: skip


def simulate(folder: Path, users: int, seed: int = 0) -> None:
    """Write exposures, plays, memberships and users as Parquet."""
    rng = np.random.default_rng(seed)
    day = 86_400_000_000
    first = rng.integers(0, DAYS * day, users)
    arm = rng.integers(0, 2, users)
    ids = np.arange(users)
    again = np.minimum(first + rng.integers(0, day, users), DAYS * day - 1)
    _write(folder, "exposures", {
        "user_id": np.concatenate([ids, ids]), "experiment": pa.array(["benchmark"]).take(pa.array(np.zeros(2 * users, dtype=np.int64))),
        "arm": pa.array(["control", "treatment"]).take(pa.array(np.concatenate([arm, arm]))),
        "event_timestamp": _moments(np.concatenate([first, again])),
    })  # fmt: skip
    keen = rng.gamma(1.5, 1, users)
    who = rng.choice(users, 6 * users, p=keen / keen.sum())
    minutes = rng.gamma(1.5, 25, len(who)) * (1 + 0.01 * arm[who])
    when = rng.integers(-28 * day, (DAYS + 28) * day, len(who))
    completed = rng.random(len(who)) < 0.5
    _write(folder, "plays", {"play_id": np.arange(len(who)), "user_id": who, "watch_minutes": minutes, "completed": completed,
                             "event_timestamp": _moments(when), "created_timestamp": _moments(when + 1)})  # fmt: skip
    who = rng.integers(0, users, users * 3 // 2)
    when = rng.integers(-28 * day, (DAYS + 28) * day, len(who))
    status = pa.array(["renewed", "cancelled"]).take(pa.array((rng.random(len(who)) < 0.1).astype(np.int64)))
    _write(folder, "memberships", {"membership_id": np.arange(len(who)), "user_id": who, "status": status,
                                   "event_timestamp": _moments(when), "created_timestamp": _moments(when + 1)})  # fmt: skip


def _moments(micros: np.ndarray) -> pa.Array:
    return pa.array(int(START.timestamp()) * 1_000_000 + micros, pa.timestamp("us", "UTC"))


def _write(folder: Path, name: str, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def gathered(folder: Path, declared: Experiment) -> DailyStatistics:
    """From Parquet files to daily statistics on a new connection."""
    with duckdb.connect(config={"threads": 2}) as con:
        for name in ("exposures", "plays", "memberships"):
            con.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{folder / name}.parquet')")
        units = exposed_units_in(con, declared)
        return gather(con, units, declared.metrics, AS_OF)


def main() -> None:
    """Print both times, and what they were made of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    declared = experiment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder, asked.users)
        cold, stored, warm, busy = [], folder / "statistics", [], []
        for _ in range(asked.repeats):
            began, processor = time.perf_counter(), time.process_time()
            daily = gathered(folder, declared)
            found = read_out(
                declared, daily.statistics(declared.metrics.all, tuple(declared.arms), AS_OF), AS_OF
            )
            cold.append(time.perf_counter() - began)
            busy.append(time.process_time() - processor)
            daily.write(stored)
            began = time.perf_counter()
            again = DailyStatistics.read(stored)
            same = read_out(
                declared, again.statistics(declared.metrics.all, tuple(declared.arms), AS_OF), AS_OF
            )
            warm.append(time.perf_counter() - began)
            if same != found:
                raise RuntimeError("the read-out of stored statistics is another than that of the scan.")
        size = sum(f.stat().st_size for f in stored.iterdir()) // 1024
    result = {
        "simulated": True, "users": asked.users, "metrics": len(declared.metrics.all), "verdict": found.verdict.value,
        "cold_s": [round(t, 2) for t in cold], "cold_processor_s": [round(t, 2) for t in busy],
        "from_statistics_s": [round(t, 3) for t in warm],
        "statistics_kb": size,
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name:<24}{value}")
    print(found.sentence)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
