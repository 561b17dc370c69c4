"""Materializing a wide table: our pipeline and plain Feast on our stores, beside Feast's own way into SQLite.

One view of FLOAT features, one row an entity, random values. Each way runs in a process of its own and must serve the
values of the Parquet file afterwards, read back for some entities through plain Feast. `--stock-rows` gives stock a share
of the rows; its figures are then scaled to all of them, and said to be.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig
from one_process import Measured, in_its_own_process, measured, tell

import feature_repo
from feature_repo.compute import offline_path
from feature_repo.declarations import (
    USER,
    Attribute,
    Declarations,
    Feature,
    FeatureService,
    FeatureTable,
    Weight,
)
from feature_repo.feast_views import feast_objects
from feature_repo.materialize import PROJECT, materialize
from feature_repo.snapshot import CATALOGUE_SCHEMA
from matinee.session import print_table

AS_OF = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
WAYS = {
    "ours": "materialize: Parquet, record, published snapshot",
    "feast_ours": "feast materialize on our stores and engine",
    "feast_stock": "feast materialize, stock: DuckDB store, local engine, SQLite",
}
CHECKED = 25  # entities read back


def declarations(width: int) -> Declarations:
    """One table of `width` features, each a column of its own."""
    events = ibis.table({f"x{i}": "float64" for i in range(width)}, name="events")
    features = tuple(
        Feature(f"x{i}", Attribute(events[f"x{i}"]), f"random number {i}", "units", (), frozenset())
        for i in range(width)
    )
    wide = FeatureTable("wide", USER, Weight.HEAVY, "random numbers", features)
    return Declarations("world", (wide,), (FeatureService("all", (wide,), "all of them"),), ())


def write_inputs(home: Path, rows: int, width: int) -> None:
    """The table of one `as_of`, and the workspace around it."""
    rng = np.random.default_rng(0)
    moment = pa.array([AS_OF] * rows, pa.timestamp("us", "UTC"))
    columns = {"user_id": pa.array(np.arange(rows)), "event_timestamp": moment, "created_timestamp": moment}
    for i in range(width):
        columns[f"x{i}"] = pa.array(rng.random(rows, dtype=np.float32), mask=rng.random(rows) < 0.1)
    path = offline_path(home / "offline", "wide", AS_OF)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path, compression="zstd")
    (home / "workspace.json").write_text(json.dumps({"source": "world"}))
    (home / "feast").mkdir()


def applied(home: Path, way: str, declared: Declarations) -> FeatureStore:
    """Plain Feast with the view applied; stock's own classes where stock is measured."""
    repository = Path(feature_repo.__file__).parent
    text = (repository / "feature_store.yaml").read_text().replace("${MATINEE_HOME}", str(home))
    settings = yaml.safe_load(text)
    if way == "feast_stock":
        online = {"type": "sqlite", "path": str(home / "online" / "stock.db")}
        settings |= {"offline_store": {"type": "duckdb"}, "batch_engine": {"type": "local"}, "online_store": online}  # fmt: skip
        (home / "online").mkdir()
    store = FeatureStore(config=RepoConfig(**settings, repo_path=repository))
    store.apply(feast_objects(declared, home / "offline").all())
    return store


def run(way: str, home: Path, width: int, profile: int) -> None:
    """One way in this process, then read some of it back."""
    declared = declarations(width)
    store = applied(home, way, declared)
    path = offline_path(home / "offline", "wide", AS_OF)
    work = partial(store.materialize, AS_OF - DAY, AS_OF + DAY)
    if way == "ours":
        catalogue = CATALOGUE_SCHEMA.empty_table()
        work = partial(materialize, declared, {"wide": path}, home / "online", PROJECT, catalogue)
    profiler = cProfile.Profile()
    found = measured((lambda: profiler.runcall(work)) if profile else work)
    check(store, pq.read_table(path, partitioning=None), declared)
    size = sum(file.stat().st_size for file in (home / "online").rglob("*") if file.is_file())
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(profile)
    tell(replace(found, told={"store_mb": size / 1e6}))


def check(store: FeatureStore, rows: pa.Table, declared: Declarations) -> None:
    """Refuse what does not serve the values that were to be materialized."""
    asked = np.linspace(0, len(rows) - 1, min(CHECKED, len(rows))).astype(int).tolist()
    names = list(declared.table("wide").names)
    answer = store.get_online_features(
        [f"wide:{n}" for n in names], [{"user_id": i} for i in asked]
    ).to_dict()
    for name in names:
        expected = rows[name].take(pa.array(asked)).to_pylist()
        if answer[name] != expected:
            raise AssertionError(
                f"{name} of entities {asked}: served {answer[name]}, the file has {expected}"
            )


def report(found: dict[str, Measured], rows: int, stock_rows: int, width: int) -> dict[str, Any]:
    """A table for people, and its figures."""
    scale = rows / stock_rows
    scaled = f", scaled from {stock_rows:,}" if stock_rows != rows else ""
    lines, figures = [], {}
    for way, m in found.items():
        by = scale if way == "feast_stock" else 1.0
        name = WAYS[way] + (scaled if by != 1 else "")
        memory = m.peak_mb - m.before_mb
        lines.append([name, f"{m.wall_s * by:.2f}", f"{m.cpu_s * by:.2f}", f"{m.peak_mb:.0f}", f"{memory:.0f}",
                      f"{m.told['store_mb'] * by:.0f}"])  # fmt: skip
        figures[way] = {**asdict(m), "wall_s": m.wall_s * by, "cpu_s": m.cpu_s * by, "scaled_by": by}
    columns = ("how", "wall s", "CPU s", "peak MB", "of it for the work", "store MB")
    print_table(f"materialize {rows:,} × {width} (random values)", columns, lines)
    stock = figures["feast_stock"]
    ratios = {
        way: {k: stock[k] / f[k] for k in ("wall_s", "cpu_s")}
        for way, f in figures.items()
        if way != "feast_stock"
    }
    for way, r in ratios.items():
        print(f"{WAYS[way]}: {r['cpu_s']:.0f} × less CPU than stock{scaled}, {r['wall_s']:.0f} × as fast")
    return {"rows": rows, "features": width, "stock_rows": stock_rows, "ways": figures, "stock_over": ratios}


def main() -> None:
    """Measure, print, and end with RESULT."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=20_000)
    asked.add_argument("--features", type=int, default=500)
    asked.add_argument("--stock-rows", type=int, help="rows for stock, all of them by default (minutes)")
    asked.add_argument("--one", choices=WAYS)
    asked.add_argument("--home", type=Path)
    asked.add_argument(
        "--profile", type=int, default=0, help="with --one and --home: so many lines of a profile"
    )
    given = asked.parse_args()
    if given.one:
        run(given.one, given.home, given.features, given.profile)
        return
    stock_rows = given.stock_rows or given.rows
    found = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder), stock_rows if way == "feast_stock" else given.rows, given.features)
            found[way] = in_its_own_process(
                Path(__file__), "--one", way, "--home", folder, "--features", str(given.features)
            )
    print("RESULT " + json.dumps(report(found, given.rows, stock_rows, given.features)))


if __name__ == "__main__":
    main()
