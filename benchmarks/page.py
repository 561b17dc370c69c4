"""The page over HTTP under open-loop load, where its milliseconds go, and the same page in other ways.

Needs the workspace that `make demo` leaves. Server and load share the machine. Latency counts from when a request was due.
Beside it in the same run: the page over stock Feast's `get_online_features` (SQLite) and the plain ranking module, and an
empty BentoML endpoint, which is the floor of the framework; and reading 200 x full width beside a bare gather and SQL.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from online_read import Asked, a_store, through_feast, written

from feature_repo.compute import offline_path
from feature_repo.reader import OnlineReader
from feature_repo.training_set import training_set
from matinee.context import Day
from matinee.datasets import spine_of
from matinee.deployment import newest_tag, serving
from matinee.recommending import Looker, known_users, looker, time_pages
from matinee.session import opened, print_table
from matinee.show import print_timings
from models.diversity import rerank
from models.objective import objective
from serving.images import choose_images
from serving.openloop import Load, Outcome, Target, due_times, offer
from serving.running import Serving, free_port, served

CANDIDATES, SIZE = 200, 40
BUDGET_MS = 200.0
WARM_S = 2.0
EMPTY = """
import bentoml

@bentoml.service(workers=1, threads=16, traffic={"timeout": 10}, logging={"access": {"enabled": False}})
class Empty:
    @bentoml.api
    def page(self, user_id: int, size: int = 40) -> dict[str, int]:
        return {"user_id": user_id}
"""


def median_ms(work: Callable[[int], object], users: Sequence[int]) -> float:
    """The median time of `work` over users, after a tenth of them to warm up."""
    spent = []
    for user in users:
        began = time.perf_counter()
        work(user)
        spent.append((time.perf_counter() - began) * 1000)
    return float(np.median(spent[len(spent) // 10 :]))


def reads(day: Day) -> dict[str, float]:
    """Milliseconds to read one user's 200 candidates at full width, ours and two peers."""
    reader, users = OnlineReader.open(day.workspace.online).pinned(), known_users(day)
    titles = reader.catalogue.title_ids
    rng = np.random.default_rng(0)
    chosen = {user: np.sort(rng.choice(titles, CANDIDATES, replace=False)) for user in users[:300]}
    width = len(reader.digests("ranking"))
    table = rng.random((len(titles), width), dtype=np.float32)
    service = day.workspace.declarations.service("ranking")

    def in_sql(user: int) -> object:
        spine = spine_of(np.full(CANDIDATES, user), chosen[user], day.as_of)
        return training_set(
            spine, service, day.workspace.declarations, day.workspace.offline, [day.as_of],
            events=day.workspace.lake.register, threads=1,
        )  # fmt: skip

    return {
        "snapshot, with user x title features": median_ms(lambda u: reader.matrix("ranking", u, chosen[u], at=day.as_of), users[:300]),
        "bare NumPy gather of as many columns": median_ms(lambda u: table[np.searchsorted(titles, chosen[u])], users[:300]),
        "DuckDB over the offline Parquet": median_ms(in_sql, users[:10]),
    }  # fmt: skip


def over_feast(day: Day, look: Looker, users: Sequence[int]) -> dict[str, float]:
    """Milliseconds of a page whose features stock Feast reads and whose ranker is the plain module; in process."""
    live, plan_of = look.source.current(), look.source.current().plan
    asked = {}
    for user in users:
        retriever, watched = live.retriever(plan_of(user)), live.reader.history(user)
        features = live.reader.vector("retrieval_user", user)
        asked[user] = retriever.candidates(features, watched, CANDIDATES, exclude=watched)
    declared, names = (
        day.workspace.declarations,
        [n.replace(":", "__") for n in live.reader.digests("ranking")],
    )
    titles = np.unique(np.concatenate([found.title_ids for found in asked.values()])).tolist()
    with tempfile.TemporaryDirectory() as folder:
        store = a_store(
            Path(folder), declared, {"type": "sqlite", "path": f"{folder}/stock.db"}, "page_bench"
        )
        service = declared.service("ranking")
        wanted = {"user": pa.array(users), "title": pa.array(titles)}
        for table in (t for t in service.tables if t.stored):
            rows = pq.read_table(
                offline_path(day.workspace.offline, table.name, day.as_of), partitioning=None
            )
            rows = rows.filter(pc.is_in(rows[table.entity.join_key], value_set=wanted[table.entity.name]))
            written(store, table, rows.combine_chunks())
        read = through_feast(store)

        def features_of(user: int) -> object:
            return read(Asked(user, asked[user].title_ids)).to_dict()

        def page(user: int) -> object:
            found, plan = asked[user], plan_of(user)
            told = features_of(user)
            matrix = np.array([told.get(name, [None] * len(found.title_ids)) for name in names], np.float32).T
            ranker = live.models.rankers[str(plan.versions.ranker)]
            values = objective(
                ranker.score(np.ascontiguousarray(matrix), retrieval=found.scores), plan.weights
            )
            vectors = live.retriever(plan).title_vectors(found.title_ids)
            chosen = rerank(
                values, vectors, SIZE, plan.weights.diversity, window=plan.weights.diversity_window
            )
            return choose_images(live, plan, user, found.title_ids[chosen.order], day.as_of)

        return {"page": median_ms(page, users), "of it get_online_features": median_ms(features_of, users)}


def bodies(users: Sequence[int]) -> list[bytes]:
    """A request of each user's page."""
    return [json.dumps({"user_id": user, "size": SIZE}).encode() for user in users]


class Program(Serving):
    """A service in a file of its own instead of a Bento."""

    @property
    def command(self) -> list[str]:
        """Told where the file lies."""
        return [*super().command, "--working-dir", str(self.home)]


@contextmanager
def an_empty_service() -> Iterator[int]:
    """The port of a BentoML service that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "empty.py").write_text(EMPTY)
        (home / "bentos").mkdir()
        empty = Program("empty:Empty", home, home / "bentos", port=free_port())
        with served(empty, log=home / "log"):
            yield empty.port


def at_rate(port: int, asked: Sequence[bytes], rate: float, seconds: float) -> tuple[Load, list[Outcome]]:
    """One run at one rate, after `WARM_S` seconds of the same that do not count."""
    due = due_times(rate, seconds + WARM_S, np.random.default_rng(0)).tolist()
    outcomes = [one for one in offer(Target("127.0.0.1", port), cycle(asked), due) if one.due_s >= WARM_S]
    return Load.of(outcomes, seconds, BUDGET_MS), outcomes


def rising(
    port: int, asked: Sequence[bytes], seconds: float, start: float = 20.0
) -> list[tuple[float, Load]]:
    """Runs at rising rates, until one sheds or fails, or its p99 is over the budget."""
    found: list[tuple[float, Load]] = []
    rate = start
    while True:
        measured, _ = at_rate(port, asked, rate, seconds)
        found.append((rate, measured))
        print(f"  {rate:6.0f}/s offered: {measured.good_per_s:6.1f}/s good, p50 {measured.p50_ms:.1f}, p99 {measured.p99_ms:.1f}, "
              f"{measured.shed_share:.1%} shed, {measured.failed} failed", flush=True)  # fmt: skip
        if not within_budget(measured):
            return found
        rate *= 1.2


def within_budget(measured: Load) -> bool:
    """Nothing failed or was shed, and 99 in 100 were in time."""
    return not measured.failed and not measured.shed_share and measured.p99_ms <= BUDGET_MS


def by_stage(answers: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Milliseconds of each stage as the pages themselves say."""
    spent: dict[str, list[float]] = {}
    for answer in answers:
        if answer.status == 200:
            for stage, ms in json.loads(answer.body)["timings_ms"].items():
                spent.setdefault(stage, []).append(ms)
    return {
        s: dict(zip(("p50", "p99"), np.percentile(ms, (50, 99)).tolist(), strict=True))
        for s, ms in spent.items()
    }


def ahead(port: int, users: Sequence[int], at_once: int = 50) -> float:
    """Users a second whose pages are made ahead of time, one request of many users after the other."""
    parts = [list(users[start : start + at_once]) for start in range(0, 500, at_once)]
    began = time.perf_counter()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for part in parts:
            client.post("/precompute", json={"user_ids": part, "size": SIZE}).raise_for_status()
    return sum(map(len, parts)) / (time.perf_counter() - began)


def over_http(day: Day, users: Sequence[int], rate: float, seconds: float) -> dict[str, object]:
    """The served page at one rate, at rising ones, and an empty endpoint at the first."""
    asked = bodies(users)
    with an_empty_service() as port:
        floor, _ = at_rate(port, asked, rate, seconds / 3)
    with tempfile.TemporaryDirectory() as folder:
        bento = serving(day, newest_tag(day, "homepage"), free_port(), day.as_of)
        with served(bento, log=Path(folder) / "log"):
            page, answers = at_rate(bento.port, asked, rate, seconds)
            stages, reached = by_stage(answers), Counter(answer.source for answer in answers)
            in_advance = ahead(bento.port, users)
            print(f"made ahead of time: {in_advance:.0f} users/s")
            print(f"rates, until p99 is over {BUDGET_MS:.0f} ms:")
            rates = rising(bento.port, asked, max(8.0, seconds / 6))
    rows = [
        [name, f"{m.p50_ms:.2f}", f"{m.p99_ms:.2f}", m.failed, m.offered_per_s]
        for name, m in ((f"page at {rate:g}/s", page), (f"empty endpoint at {rate:g}/s", floor))
    ]
    print_table(
        "over HTTP, ms from when a request was due",
        ("what", "p50", "p99", "failed", "offered/s"),
        rows,
    )
    print_table("stages", ("stage", "p50 ms", "p99 ms"), [[s, f"{m['p50']:.2f}", f"{m['p99']:.2f}"] for s, m in stages.items()])  # fmt: skip
    within = [r for r, m in rates if within_budget(m)]
    return {
        "page": asdict(page), "empty": asdict(floor), "stages_ms": stages, "sources": reached, "ahead_users_per_s": in_advance,
        "rates": [{"offered": r, **asdict(m)} for r, m in rates], "highest_rate_within_budget": max(within, default=0.0),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--feast-users", type=int, default=12, help="pages over stock Feast")
    given = parser.parse_args()
    with opened("world") as day:
        users = known_users(day)
        http = over_http(day, users[:2000], given.rate, given.seconds)
        with looker(day) as look:
            timings = time_pages(look, users[:320], SIZE)
            feast = over_feast(day, look, users[: given.feast_users])
        read = reads(day)
    print_timings(timings)
    ours = next(t.p50 for t in timings.stages if t.stage == "whole page")
    rows = [["ours", f"{ours:.2f}", "1"]]
    rows += [
        [f"stock Feast, plain module: {what}", f"{ms:.1f}", f"{ms / ours:.1f}"] for what, ms in feast.items()
    ]
    print_table("a page in process", ("how", "p50 ms", "x ours"), rows)
    print_table(
        "reading 200 x full width", ("how", "p50 ms"), [[how, f"{ms:.3f}"] for how, ms in read.items()]
    )
    stages = {t.stage: {"p50": t.p50, "p99": t.p99} for t in timings.stages}
    shape = {"features": timings.features, "titles": timings.titles, "candidates": timings.candidates}
    print("RESULT " + json.dumps({"benchmark": "page", **shape, "http": http, "in_process_ms": stages, "over_feast_ms": feast, "read_ms": read}))  # fmt: skip


if __name__ == "__main__":
    main()
