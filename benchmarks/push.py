"""From a play to the page that knows it: how long a push takes to be acknowledged, and then to be served.

Needs the workspace that `make demo` leaves, and works on a copy of its online store. A push is one play, durable when
it is acknowledged; beside it Feast's own call on our store and on Feast's SQLite store, which keeps one row a user and
does not sync. Then plays of titles on served pages: how long, from the acknowledgement, until the page leaves them out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.repo_config import RepoConfig

from feature_repo.feast_views import feast_objects
from feature_repo.materialize import PROJECT, push
from feature_repo.reader import OnlineReader
from feature_repo.repository import apply, feature_store
from feature_repo.session import KEPT_IN
from matinee.context import Day
from matinee.deployment import newest_tag
from matinee.recommending import known_users
from matinee.session import opened, print_table
from serving.client import PageClient
from serving.running import Serving, free_port, served

Push = Callable[[pa.Table], None]
FIRST_PLAY = 10**15  # beyond the world's own


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, default=200, help="of one play, for each way of pushing")
    parser.add_argument("--pages", type=int, default=50, help="titles pushed while their pages are served")
    sizes = parser.parse_args()
    with opened("world") as day, copied(day) as home:
        acknowledged = {how: times(way, sizes.pushes, day) for how, way in ways(day, home).items()}
        seen = {
            "reader, refresh": refreshes(day, home, sizes.pushes),
            "served page": pages(day, home, sizes.pages),
        }
    rows = [[how, *(f"{ms:.2f}" for ms in spread(found))] for how, found in (acknowledged | seen).items()]
    print_table("a push, ms: acknowledged; then seen", ("how", "p50", "p99", "max"), rows)
    print("RESULT " + json.dumps({
        "acknowledged_ms": {how: spread(found) for how, found in acknowledged.items()},
        "seen_ms": {how: spread(found) for how, found in seen.items()},
    }))  # fmt: skip


@contextmanager
def copied(day: Day) -> Iterator[Path]:
    """A copy of what serving reads of the workspace."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "world"
        for part in ("online", "live"):
            if (day.workspace.root / part).exists():
                shutil.copytree(day.workspace.root / part, home / part)
        (home / "workspace.json").write_text(json.dumps({"source": "world"}))
        yield home


def ways(day: Day, home: Path) -> dict[str, Push]:
    """What pushes plays, by name."""
    table = day.workspace.declarations.table(KEPT_IN)
    apply(home, day.workspace.declarations)
    ours, theirs = feature_store(home), sqlite_store(day, home)
    return {
        "push": lambda rows: push(table, rows, home / "online", PROJECT),
        "Feast's store.push on our store": lambda rows: ours.push("plays", rows.to_pandas()),
        "Feast's store.push on its SQLite store": lambda rows: theirs.push("plays", rows.to_pandas()),
    }


def sqlite_store(day: Day, home: Path) -> FeatureStore:
    """Stock Feast with the same view."""
    online = {"type": "sqlite", "path": str(home / "sqlite.db")}
    config = RepoConfig(
        project="stock", provider="local", registry=str(home / "stock.db"), online_store=online,
        offline_store={"type": "duckdb"}, entity_key_serialization_version=3, repo_path=home,
    )  # fmt: skip
    store, objects = FeatureStore(config=config), feast_objects(day.workspace.declarations, home / "offline")
    view = next(view for view in objects.views if view.name == KEPT_IN)
    store.apply([*objects.entities, view.stream_source, view])
    return store


def times(way: Push, count: int, day: Day) -> list[float]:
    """Milliseconds of each of `count` pushes of one play, after a tenth as many to warm up."""
    users, now = known_users(day), day.as_of + timedelta(hours=1)
    spent = []
    for number in range(count + count // 10):
        rows = a_play(users[number % len(users)], 1, now + timedelta(seconds=number), number)
        began = time.perf_counter()
        way(rows)
        spent.append((time.perf_counter() - began) * 1000)
    return spent[count // 10 :]


def refreshes(day: Day, home: Path, count: int) -> list[float]:
    """Milliseconds of the refresh after which a reader has the play, after each of `count` pushes."""
    table, reader = day.workspace.declarations.table(KEPT_IN), OnlineReader.open(home / "online")
    users, now, spent = known_users(day), day.as_of + timedelta(hours=2), []
    for number in range(count):
        user, play_id = users[number % len(users)], FIRST_PLAY + 10**6 + number
        push(
            table, a_play(user, 1, now + timedelta(seconds=number), 10**6 + number), home / "online", PROJECT
        )
        began = time.perf_counter()
        reader.refresh()
        spent.append((time.perf_counter() - began) * 1000)
        if play_id not in reader.recent(user).columns["play_id"]:
            raise RuntimeError(f"a refreshed reader has no play {play_id} of user {user}")
    return spent


def pages(day: Day, home: Path, count: int) -> list[float]:
    """Milliseconds from a push's acknowledgement to the first page without the title, for `count` users."""
    table, now = day.workspace.declarations.table(KEPT_IN), day.as_of + timedelta(hours=3)
    serving = Serving(
        newest_tag(day, "homepage"), home, day.workspace.bentos, port=free_port(), starts_at=now
    )
    spent = []
    with served(serving, log=home / "serving.log") as url, PageClient(url) as client:
        for number, user in enumerate(known_users(day)[:count]):
            title = client.page(user).titles[0].title_id
            push(table, a_play(user, title, now, 2 * 10**6 + number), home / "online", PROJECT)
            began = time.perf_counter()
            while title in {shown.title_id for shown in client.page(user).titles}:
                time.sleep(0.002)
            spent.append((time.perf_counter() - began) * 1000)
    return spent


def a_play(user: int, title: int, at: datetime, number: int) -> pa.Table:
    """One raw play, known as it happens."""
    moment = pa.array([at.astimezone(UTC)], pa.timestamp("us", "UTC"))
    return pa.table({
        "user_id": pa.array([user], pa.int64()), "title_id": pa.array([title], pa.int64()),
        "play_id": pa.array([FIRST_PLAY + number], pa.int64()), "event_timestamp": moment, "created_timestamp": moment,
    })  # fmt: skip


def spread(found: list[float]) -> tuple[float, float, float]:
    """p50, p99 and the largest."""
    return float(np.median(found)), float(np.percentile(found, 99)), max(found)


if __name__ == "__main__":
    main()
