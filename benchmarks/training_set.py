"""Point-in-time training sets: ours beside Feast's `get_historical_features`, on stock's DuckDB store and on ours.

The tables are the declared ones, a complete snapshot of each a day; the values are random, so are the labels. Every way is
run in a process of its own and must give the same numbers: without user × title features, and with them, which Feast
computes on demand from Python lists.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig
from one_process import Measured, in_its_own_process, measured, tell

import feature_repo
from events.sources import WORLD
from feature_repo.declarations import Declarations, Derived, FeatureService, FeatureTable
from feature_repo.families import declare
from feature_repo.planning import Recorded, offline_path
from feature_repo.repository import apply
from feature_repo.training_set import training_set
from matinee.session import print_table

FIRST = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
STORED, CROSSED = "stored", "crossed"  # services without and with user × title features
WAYS = {
    "ours": "training_set",
    "feast_ours": "get_historical_features, our offline store",
    "feast_stock": "get_historical_features, Feast's DuckDB store",
}


def declarations() -> Declarations:
    """The simulated world's, with the ranker's stored features as one service and its arithmetic added as another."""
    declared = declare(WORLD)
    ranking = declared.service("ranking").tables
    stored = tuple(table for table in ranking if table.stored)
    crossed = tuple(
        table for table in ranking
        if not table.stored and all(isinstance(f.computation, Derived) for f in table.features)
    )  # fmt: skip
    services = (
        FeatureService(STORED, stored, "what is stored"),
        FeatureService(CROSSED, (*stored, *crossed), "and what is computed from it"),
    )
    return replace(declared, tables=(*stored, *crossed), services=services)


def write_snapshot(connection: duckdb.DuckDBPyConnection, offline: Path, table: FeatureTable, as_of: datetime,
                   entities: int, rng: np.random.Generator) -> None:  # fmt: skip
    """One table of random values, a tenth of them null, written as `compute` writes it."""
    moment = pa.array([as_of] * entities, pa.timestamp("us", "UTC"))
    columns = {table.entity.join_key: pa.array(np.arange(entities)), "event_timestamp": moment, "created_timestamp": moment}  # fmt: skip
    for name in table.names:
        columns[name] = pa.array(rng.random(entities, dtype=np.float32), mask=rng.random(entities) < 0.1)
    connection.register("snapshot", pa.table(columns))
    path = offline_path(offline, table.name, as_of)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Recorded(f"random {as_of}", "random", {}, 0).to_metadata()
    metadata = ", ".join(f"{key}: '{value}'" for key, value in made.items())
    connection.execute(
        f"COPY snapshot TO '{path}' (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{metadata}}})"
    )


def write_inputs(home: Path, rows: int, entities: int, days: int, pair_rows: int) -> None:
    """Random snapshots, random labels, and an applied Feast registry."""
    rng = np.random.default_rng(0)
    declared = declarations()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for day in range(days):
            for table in declared.stored:
                write_snapshot(connection, home / "offline", table, FIRST + DAY * day, entities, rng)
    when = int(FIRST.timestamp() * 1e6) + rng.integers(0, days * 86_400_000_000, rows)
    spine = pa.table({
        "user_id": rng.integers(0, entities, rows), "title_id": rng.integers(0, entities, rows),
        "event_timestamp": pa.array(when, pa.timestamp("us", "UTC")), "label": np.arange(rows),
    })  # fmt: skip
    pq.write_table(spine, home / f"{STORED}.parquet")
    pq.write_table(spine.slice(0, pair_rows), home / f"{CROSSED}.parquet")
    (home / "workspace.json").write_text(json.dumps({"source": "world"}))
    apply(home, declared)


def run(way: str, service: str, home: Path, days: int) -> None:
    """One way in this process; its matrix goes to a file, outside what is timed."""
    spine = pq.read_table(home / f"{service}.parquet")
    found, matrix = _ours(service, home, days, spine) if way == "ours" else _feast(way, service, home, spine)
    np.save(home / f"{way}.npy", matrix)
    tell(found)


def _ours(service: str, home: Path, days: int, spine: pa.Table) -> tuple[Measured, np.ndarray]:
    declared = declarations()
    moments = [FIRST + DAY * day for day in range(days)]
    made, _ = [], declared.service(service).digests  # kept once made, as Feast keeps its registry
    found = measured(lambda: made.append(
        training_set(spine, declared.service(service), declared, home / "offline", moments, threads=os.cpu_count() or 1)
    ))  # fmt: skip
    return found, made[0].features


def _feast(way: str, service: str, home: Path, spine: pa.Table) -> tuple[Measured, np.ndarray]:
    repository = Path(feature_repo.__file__).parent
    settings = yaml.safe_load(
        (repository / "feature_store.yaml").read_text().replace("${MATINEE_HOME}", str(home))
    )
    if way == "feast_stock":
        settings["offline_store"] = {"type": "duckdb"}
    store = FeatureStore(config=RepoConfig(**settings, repo_path=repository))
    frame, asked = spine.to_pandas(), store.get_feature_service(service)
    answers = []
    found = measured(lambda: answers.append(
        store.get_historical_features(frame, asked, full_feature_names=True).to_df()
    ))  # fmt: skip
    names = [name.replace(":", "__") for name in declarations().service(service).digests]
    by_label = answers[0].set_index("label").sort_index()
    return found, by_label[names].to_numpy(dtype=np.float32, na_value=np.nan)


def compare(service: str, home: Path, days: int) -> dict[str, Measured]:
    """Every way on one service; refuses to report ways that disagree."""
    found, first = {}, None
    for way in WAYS:
        arguments = ("--one", way, "--service", service, "--home", str(home), "--days", str(days))
        found[way] = in_its_own_process(Path(__file__), *arguments)
        matrix = np.load(home / f"{way}.npy", mmap_mode="r")
        first = matrix if first is None else first
        np.testing.assert_array_equal(matrix, first, err_msg=f"{way} differs from ours")
    return found


def report(title: str, found: dict[str, Measured]) -> dict[str, object]:
    """A table for people; times stock's figure over ours for RESULT."""
    columns = ("how", "wall s", "CPU s", "peak MB", "of it before MB")
    rows = [
        [WAYS[w], f"{m.wall_s:.2f}", f"{m.cpu_s:.2f}", f"{m.peak_mb:.0f}", f"{m.before_mb:.0f}"]
        for w, m in found.items()
    ]
    print_table(title, columns, rows)
    stock = found["feast_stock"]
    ratios = {
        way: {
            "wall": stock.wall_s / m.wall_s, "cpu": stock.cpu_s / m.cpu_s,
            "memory_of_the_work": (stock.peak_mb - stock.before_mb) / (m.peak_mb - m.before_mb),
        }
        for way, m in found.items() if way != "feast_stock"
    }  # fmt: skip
    for way, r in ratios.items():
        print(f"{WAYS[way]}: {r['wall']:.1f} × as fast as Feast's DuckDB store, {r['cpu']:.1f} × less CPU, "
              f"{r['memory_of_the_work']:.1f} × less memory")  # fmt: skip
    return {"ways": {way: asdict(m) for way, m in found.items()}, "stock_over": ratios, "equal": True}


def main() -> None:
    """Measure, print, and end with RESULT."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=100_000)
    asked.add_argument("--entities", type=int, default=20_000)
    asked.add_argument("--days", type=int, default=8)
    asked.add_argument(
        "--pair-rows", type=int, help="labels with user × title features; all by default, some GB in Feast"
    )
    asked.add_argument("--one", choices=WAYS)
    asked.add_argument("--service", choices=(STORED, CROSSED))
    asked.add_argument("--home", type=Path)
    given = asked.parse_args()
    if given.one:
        run(given.one, given.service, given.home, given.days)
        return
    pair_rows = given.pair_rows or given.rows
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_inputs(home, given.rows, given.entities, given.days, pair_rows)
        widths = {name: len(declarations().service(name).digests) for name in (STORED, CROSSED)}
        sizes = f"{given.days} daily snapshots of {given.entities:,} users and titles (random values)"
        result = {
            "rows": given.rows, "pair_rows": pair_rows, "entities": given.entities, "days": given.days, "features": widths,
            STORED: report(f"{given.rows:,} labels × {widths[STORED]} stored features, {sizes}", compare(STORED, home, given.days)),
            CROSSED: report(f"{pair_rows:,} labels × {widths[CROSSED]}, user × title included", compare(CROSSED, home, given.days)),
        }  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
