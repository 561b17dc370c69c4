"""Where a page's milliseconds go, and reading 200 x 780 features beside a bare gather and the SQL path.

Needs the workspace that `make demo` leaves. In process, one thread; medians over many users of one run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported

import numpy as np

from feature_repo.reader import OnlineReader
from feature_repo.training_set import training_set
from matinee.context import Day
from matinee.datasets import spine_of
from matinee.recommending import known_users, looker, time_pages
from matinee.session import opened, print_table
from matinee.show import print_timings

CANDIDATES = 200


def median_ms(work: Callable[[int], object], users: list[int]) -> float:
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


def main() -> None:
    """Measure, print, and end with RESULT."""
    with opened("world") as day:
        with looker(day) as look:
            timings = time_pages(look, known_users(day)[:320], 40)
        read = reads(day)
    print_timings(timings)
    print_table(
        "reading 200 x full width", ("how", "p50 ms"), [[how, f"{ms:.3f}"] for how, ms in read.items()]
    )
    stages = {t.stage: {"p50": t.p50, "p99": t.p99} for t in timings.stages}
    print(
        "RESULT "
        + json.dumps(
            {"features": timings.features, "titles": timings.titles, "page_ms": stages, "read_ms": read}
        )
    )


if __name__ == "__main__":
    main()
