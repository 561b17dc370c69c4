"""Reading one user and 200 titles, 500 features and more of each: our reader, a bare gather, and Feast on four stores.

The declarations are the simulated world's own, the values random, the same in every store; before anything is timed, each
store must give the same answer. One process, one thread. Stock SQLite and Redis take minutes to fill by way of protobuf, so
they hold only the rows that are read and `--filled` more titles; ours hold all of them. Redis is measured where one runs:
`--redis 127.0.0.1:6379` or MATINEE_TEST_REDIS, in database 9 under a project of its own, which is removed afterwards.
`--push` adds how long a pushed row takes to be seen by a reader in another process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig
from feast.utils import _convert_arrow_to_proto

import feature_repo
from events.sources import SOURCES
from feature_repo.compute import offline_path
from feature_repo.declarations import Declarations, FeatureService, FeatureTable
from feature_repo.families import declare
from feature_repo.feast_seam import warm
from feature_repo.feast_views import feast_objects
from feature_repo.materialize import PROJECT, materialize
from feature_repo.reader import OnlineReader
from feature_repo.snapshot import CATALOGUE_SCHEMA
from matinee.session import print_table
from validations.expectations import DType

warnings.simplefilter("ignore")  # Feast's, of on-demand views

AS_OF = datetime(2026, 3, 2, tzinfo=UTC)
SERVICE = "ranking"
GATHERED = "ranking_stored"
STORED_ONLY = "OnlineReader.matrix, stored features"
REDIS_DATABASE = 9
KEPT_ROWS = 10  # of each user, in tables that keep several


@dataclass(frozen=True)
class Timed:
    """Milliseconds a call: of the wall, and of this process's CPU."""

    p50: float
    p99: float
    cpu: float
    calls: int


@dataclass(frozen=True)
class Asked:
    """One request."""

    user: int
    titles: np.ndarray[Any, Any]

    def rows(self) -> dict[str, list[int]]:
        """As Feast takes it."""
        return {"user_id": [self.user] * len(self.titles), "title_id": self.titles.tolist()}


def timed(work: Callable[[Asked], object], requests: Sequence[Asked], calls: int) -> Timed:
    """The time of `work` over requests in turn, after three to warm up."""
    for request in requests[:3]:
        work(request)
    gc.collect()
    wall, began = [], time.process_time()
    for call in range(calls):
        start = time.perf_counter()
        work(requests[call % len(requests)])
        wall.append((time.perf_counter() - start) * 1000)
    cpu = (time.process_time() - began) * 1000 / calls
    return Timed(float(np.percentile(wall, 50)), float(np.percentile(wall, 99)), cpu, calls)


def random_requests(given: argparse.Namespace, count: int, rng: np.random.Generator) -> list[Asked]:
    """Requests of one user and as many titles as are ranked."""
    return [
        Asked(
            int(rng.integers(given.users)), np.sort(rng.choice(given.titles, given.candidates, replace=False))
        )
        for _ in range(count)
    ]


def random_rows(table: FeatureTable, entities: int, rng: np.random.Generator) -> pa.Table:
    """One row an entity, or several where the table keeps several; a tenth of the values null."""
    ids = np.repeat(np.arange(entities), KEPT_ROWS if table.keep > 1 else 1)
    moments = [
        AS_OF - timedelta(minutes=7 * (i % KEPT_ROWS)) if table.keep > 1 else AS_OF for i in range(len(ids))
    ]
    stamps = pa.array(moments, pa.timestamp("us", "UTC"))
    columns = {table.entity.join_key: pa.array(ids), "event_timestamp": stamps, "created_timestamp": stamps}
    for feature in table.features:
        columns[feature.name] = random_column(feature.dtype, len(ids), rng)
    return pa.table(columns)


def random_column(dtype: DType, count: int, rng: np.random.Generator) -> pa.Array:
    """Random values of a declared type."""
    match dtype:
        case DType.FLOAT:
            return pa.array(rng.random(count, dtype=np.float32), mask=rng.random(count) < 0.1)
        case DType.BIGINT:
            return pa.array(rng.integers(0, 1000, count))
        case DType.BIGINTS:
            return pa.array([rng.integers(0, 1000, 3).tolist() for _ in range(count)], pa.list_(pa.int64()))
    raise NotImplementedError(f"no random values of {dtype}: add them here")


def with_gathered(declared: Declarations) -> Declarations:
    """The declarations, and a service of what ranking reads less what is evaluated at request time."""
    stored = tuple(table for table in declared.service(SERVICE).tables if table.stored)
    only = FeatureService(GATHERED, stored, "ranking, stored features alone")
    return replace(declared, services=(*declared.services, only))


def write_offline(home: Path, declared: Declarations, sizes: dict[str, int]) -> dict[str, Path]:
    """Stored table → its Parquet file."""
    rng, paths = np.random.default_rng(0), {}
    for table in declared.stored:
        path = offline_path(home / "offline", table.name, AS_OF)
        path.parent.mkdir(parents=True)
        pq.write_table(random_rows(table, sizes[table.entity.name], rng), path)
        paths[table.name] = path
    return paths


def a_store(home: Path, declared: Declarations, online: dict[str, Any] | None, project: str) -> FeatureStore:
    """Plain Feast with everything applied; `online` in the place of our own online store."""
    repository = Path(feature_repo.__file__).parent
    text = (repository / "feature_store.yaml").read_text().replace("${MATINEE_HOME}", str(home))
    settings = yaml.safe_load(text) | {"project": project}
    settings["registry"] = settings["registry"] | {
        "path": str(home / f"{uuid.uuid4().hex}.db"),
        "cache_ttl_seconds": 0,
    }
    if online is not None:
        settings["online_store"] = settings["online_store"] | online if "type" not in online else online
    store = FeatureStore(config=RepoConfig(**settings, repo_path=repository))
    store.apply(feast_objects(declared, home / "offline").all())
    return store


def fill(
    store: FeatureStore, declared: Declarations, paths: dict[str, Path], ids: dict[str, list[int]]
) -> None:
    """Write the rows of `ids` the way Feast does, by way of protobuf, of the tables that ranking reads."""
    for table in declared.service(SERVICE).tables:
        if table.stored:
            rows = pq.read_table(paths[table.name], partitioning=None)
            written(store, table, rows.take(pa.array(ids[table.entity.name])).combine_chunks())


def written(store: FeatureStore, table: FeatureTable, rows: pa.Table) -> None:
    """Write rows of a table to Feast's online store."""
    view = store.get_feature_view(table.name)
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    data = _convert_arrow_to_proto(rows, view, keys)
    store.provider.online_write_batch(store.config, view, data, None)


def through_feast(store: FeatureStore) -> Callable[[Asked], Any]:
    """Feast's `get_online_features` of the service; resolved once ahead, as it would be in a server."""
    service = store.get_feature_service(SERVICE)
    warm(store, service, full_feature_names=True)
    return lambda asked: store.get_online_features(service, asked.rows(), full_feature_names=True)


def check(stores: dict[str, FeatureStore], reader: OnlineReader, asked: Asked) -> int:
    """Refuse a store whose answer is not the reader's, bit for bit; how many features Feast's answer has."""
    matrix, names = reader.matrix(SERVICE, asked.user, asked.titles), list(reader.digests(SERVICE))
    for name, store in stores.items():
        told = through_feast(store)(asked).to_dict()
        found = [told.get(reference.replace(":", "__")) for reference in names]
        for place, values in enumerate(found):
            expected = [None if np.isnan(x) else float(x) for x in matrix[:, place]]
            if values is not None and values != expected:
                raise AssertionError(f"{name}: {names[place]} is {values[:5]}, the reader has {expected[:5]}")
    return sum(values is not None for values in found)


def pushes(home: Path, store: FeatureStore, users: int, count: int) -> dict[str, float]:
    """Milliseconds from before a push until it returned, and until a reader in another process had it."""
    watcher = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--watch", str(home / "online")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    took, seen = [], []
    with watcher:
        if watcher.stdin is None or watcher.stdout is None or watcher.stdout.readline() != "ready\n":
            raise RuntimeError("the watching process did not start")
        for i in range(count):
            user, play = i % users, 10_000_000 + i
            moment = AS_OF + timedelta(seconds=i + 1)
            row = pd.DataFrame({"user_id": [user], "play_id": [play], "title_id": [i], "event_timestamp": [moment], "created_timestamp": [moment]})  # fmt: skip
            watcher.stdin.write(f"{user} {play}\n")
            watcher.stdin.flush()
            began = time.monotonic()
            store.push("plays", row)
            took.append((time.monotonic() - began) * 1000)
            seen.append((float(watcher.stdout.readline()) - began) * 1000)
        watcher.stdin.close()
    return {
        "push_p50": float(np.median(took)), "seen_p50": float(np.median(seen)), "seen_p99": float(np.percentile(seen, 99)),
        "pushes": count,
    }  # fmt: skip


def watch(root: Path) -> None:
    """Say when each play asked for on standard input is there; looks every millisecond."""
    reader = OnlineReader.open(root)
    print("ready", flush=True)
    for line in sys.stdin:
        user, play = map(int, line.split())
        deadline = time.monotonic() + 30
        while play not in reader.recent(user).columns["play_id"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"play {play} of user {user} was not seen within 30 s")
            time.sleep(0.001)
            reader.refresh()
        print(time.monotonic(), flush=True)


def measure(given: argparse.Namespace, home: Path, redis: str | None) -> dict[str, Any]:
    """Fill, check, time; the figures."""
    rng = np.random.default_rng(1)
    declared = with_gathered(declare(SOURCES["world"]))
    sizes = {"user": given.users, "title": given.titles, "artwork": 500}
    paths = write_offline(home, declared, sizes)
    (home / "workspace.json").write_text(json.dumps({"source": "world"}))
    materialize(declared, paths, home / "online", PROJECT, CATALOGUE_SCHEMA.empty_table())
    reader = OnlineReader.open(home / "online")
    requests, slow = (random_requests(given, count, rng) for count in (given.requests, given.slow_requests))
    read = {"user": {r.user for r in slow}, "title": {t for r in slow for t in r.titles.tolist()}}
    more = {"user": set(), "title": set(range(min(given.filled, given.titles)))}
    ids = {entity: sorted(read[entity] | more[entity]) for entity in read}

    project = f"bench_{uuid.uuid4().hex[:8]}"
    stores = {
        "ours": a_store(home, declared, {}, PROJECT),
        "ours, opened each time": a_store(home, declared, {"hold_megabytes": 0}, PROJECT),
        "sqlite": a_store(home, declared, {"type": "sqlite", "path": str(home / "stock.db")}, project),
    }
    if redis:
        address = {"type": "redis", "connection_string": f"{redis},db={REDIS_DATABASE}"}
        stores["redis"] = a_store(home, declared, address, project)
    try:
        for name in set(stores) - {"ours", "ours, opened each time"}:
            fill(stores[name], declared, paths, ids)
        width = check(stores, reader, slow[0])
        found = time_all(given, stores, reader, requests, slow, sizes)
        pushed = pushes(home, stores["ours"], given.users, given.pushes) if given.push else {}
    finally:
        if redis:
            stores["redis"].teardown()
    told = {
        "titles": given.titles, "users": given.users, "candidates": given.candidates,
        "stock_titles": len(ids["title"]), "stock_users": len(ids["user"]),
        "reader_features": len(reader.digests(SERVICE)), "feast_features": width,
    }  # fmt: skip
    return told | {"timed": {name: vars(t) for name, t in found.items()}, "push": pushed}


def time_all(
    given: argparse.Namespace, stores: dict[str, FeatureStore], reader: OnlineReader, requests: list[Asked],
    slow: list[Asked], sizes: dict[str, int],
) -> dict[str, Timed]:  # fmt: skip
    """Each way to read: those of stock, and ours beside them, on requests for what stock holds."""
    rng = np.random.default_rng(2)
    table = rng.random((sizes["title"], len(reader.digests(SERVICE))), dtype=np.float32)
    ids = np.arange(sizes["title"])
    ways: dict[str, tuple[Callable[[Asked], object], int]] = {
        "bare NumPy gather": (lambda r: table[np.searchsorted(ids, r.titles)], given.calls),
        "OnlineReader.matrix": (lambda r: reader.matrix(SERVICE, r.user, r.titles), given.calls),
        STORED_ONLY: (lambda r: reader.matrix(GATHERED, r.user, r.titles), given.calls),
    }
    for name, store in stores.items():
        answer = through_feast(store)
        calls = given.calls // 5 if name == "ours" else given.slow_calls
        ways[f"feast, {name}"] = (answer, calls)
        ways[f"feast, {name}, to_dict"] = (lambda r, answer=answer: answer(r).to_dict(), calls)
    return {
        name: timed(work, slow if name.startswith("feast") else requests, calls)
        for name, (work, calls) in ways.items()
    }


def report(told: dict[str, Any]) -> dict[str, Any]:
    """A table for people, and the ratios."""
    found = {name: Timed(**t) for name, t in told["timed"].items()}
    reader, gather = found["OnlineReader.matrix"], found["bare NumPy gather"]
    lines = [
        [name, f"{t.p50:.3f}", f"{t.p99:.3f}", f"{t.cpu:.3f}", t.calls, f"{t.p50 / reader.p50:.1f}"]
        for name, t in found.items()
    ]
    print_table(
        f"{told['candidates']} of {told['titles']:,} titles × {told['reader_features']} features (Feast: {told['feast_features']}, "
        f"it has none of the session), random values; stock stores hold {told['stock_titles']:,} titles",
        ("how", "p50 ms", "p99 ms", "CPU ms", "calls", "p50 over the reader's"), lines,
    )  # fmt: skip
    ours = found["feast, ours"]
    ratios = {
        "reader_over_gather": reader.p50 / gather.p50,
        "reader_of_stored_over_gather": found[STORED_ONLY].p50 / gather.p50,
    }
    for name in ("sqlite", "redis"):
        if f"feast, {name}" in found:
            stock = found[f"feast, {name}"]
            ratios |= {
                f"{name}_over_reader": stock.p50 / reader.p50, f"{name}_over_ours": stock.p50 / ours.p50,
                f"{name}_to_dict_over_ours": found[f"feast, {name}, to_dict"].p50 / found["feast, ours, to_dict"].p50,
            }  # fmt: skip
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.1f} ×")
    if told["push"]:
        push = told["push"]
        print(
            f"store.push of one play: {push['push_p50']:.0f} ms until it returned, {push['seen_p50']:.0f} ms (p99 {push['seen_p99']:.0f})"
            " until a reader in another process had it, looking every millisecond; serving looks every 0.5 s or faster"
        )  # fmt: skip
    return told | {"ratios": ratios}


def main() -> None:
    """Measure, print, and end with RESULT."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--titles", type=int, default=20_000)
    asked.add_argument("--users", type=int, default=5_000)
    asked.add_argument("--candidates", type=int, default=200)
    asked.add_argument(
        "--requests", type=int, default=500, help="different requests, asked in turn of reader and gather"
    )
    asked.add_argument(
        "--slow-requests", type=int, default=20, help="different requests, asked in turn of Feast"
    )
    asked.add_argument(
        "--filled", type=int, default=2_000, help="titles in the stock stores beside those read"
    )
    asked.add_argument("--calls", type=int, default=1_000)
    asked.add_argument(
        "--slow-calls", type=int, default=15, help="of each stock way, and of ours without memory"
    )
    asked.add_argument("--redis", default=os.environ.get("MATINEE_TEST_REDIS"), help="host:port")
    asked.add_argument("--push", action="store_true")
    asked.add_argument("--pushes", type=int, default=50)
    asked.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.watch:
        watch(given.watch)
        return
    with tempfile.TemporaryDirectory() as folder:
        print("RESULT " + json.dumps(report(measure(given, Path(folder), given.redis))))


if __name__ == "__main__":
    main()
