"""How soon a running service shows what was declared: promotions, snapshots, experiments and canaries, seen over HTTP.

Needs the workspace that `make demo` leaves, and works on a copy of it. Two clients ask for pages all the while; every
answer is looked at. Time counts from when the call that declares it has returned until the first page made with it arrives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported

import pyarrow as pa

from feature_repo.materialize import PROJECT, publish_record
from matinee.context import Day, fetched
from matinee.day import catalogue
from matinee.deployment import newest_tag, serving
from matinee.experimenting import start_experiment, stop_experiment
from matinee.publishing import publish_champions
from matinee.recommending import known_users
from matinee.rolling_out import canary, end_canary
from matinee.session import opened, print_table
from matinee.settings import Settings
from matinee.training import saved
from models.ranker import Ranker
from registry import VersionDraft
from serving.answers import Page
from serving.client import PageClient
from serving.running import free_port, served

EXPERIMENT = "homepage-multi-objective"
BY = "benchmark"
BAR_S = 2.0
GIVE_UP_S = 30.0
CLIENTS = 2
Holds = Callable[[Page], bool]


@dataclass
class Watcher:
    """Clients that ask for pages one after the other, and what they saw."""

    url: str
    users: Sequence[int]
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    _of_set: dict[str, object] = field(default_factory=dict)
    _wanted: Holds | None = None
    _seen: threading.Event = field(default_factory=threading.Event)
    _done: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask until told to stop."""
        with PageClient(self.url) as client:
            for user in cycle(self.users):
                if self._done.is_set():
                    return
                try:
                    self._look_at(client.page(user, 10))
                except Exception as fault:  # noqa: BLE001  (whatever it is, it is counted and printed)
                    self.failed.append(f"{type(fault).__name__}: {fault}")

    def _look_at(self, page: Page) -> None:
        self.answered += 1
        made = (page.generation, page.versions.ranker, bool(page.canary))
        if (
            page.source == "ranked"
            and (first := self._of_set.setdefault(f"{page.live_set} {page.generation}", made)) != made
        ):
            self.mixed.append(f"{page.live_set}: {made} and {first}")
        if self._wanted is not None and self._wanted(page):
            self._seen.set()

    def seconds_until(self, holds: Holds, declare: Callable[[], object]) -> float:
        """How long after `declare` the first page holds."""
        self._wanted = None
        self._seen.clear()
        declare()
        began = time.monotonic()
        self._wanted = holds
        if not self._seen.wait(GIVE_UP_S):
            raise TimeoutError(f"not seen within {GIVE_UP_S:g} s; failures: {self.failed[-3:]}")
        return time.monotonic() - began

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask while the block runs."""
        threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()


@contextmanager
def copied(source: str) -> Iterator[Day]:
    """A workspace like the one of `source`, of which nothing will be left."""
    with opened(source) as day:
        root = day.workspace.root
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(
            root, Path(place) / root.name, ignore=shutil.ignore_patterns("scratch", "checkpoints")
        )
        with opened(settings=Settings(source=source, workspaces=Path(place))) as day:
            yield day


def another_ranker(day: Day) -> tuple[str, str]:
    """The champion, and a new version of it that says so and is otherwise the same."""
    held = day.registry.get("ranker@champion")
    model = replace(Ranker.load(fetched(day, held.ref)), about={"made_by": "benchmark"})
    with tempfile.TemporaryDirectory() as folder:
        made = day.registry.register(VersionDraft(
            name="ranker", files=saved(model, Path(folder)), metrics=held.metrics, config=held.config, seed=held.seed,
            signature=held.signature, training_set=held.training_set, upstream=held.upstream, source=held.source,
            created_by=BY,
        ))  # fmt: skip
    return held.ref, made.ref


def renamed(titles: pa.Table, word: str) -> pa.Table:
    """The catalogue with a word after each title's name: other contents, so another snapshot."""
    names = pa.array([f"{name} {word}" for name in titles["name"].to_pylist()])
    return titles.set_column(titles.schema.get_field_index("name"), "name", names)


@contextmanager
def following(day: Day) -> Iterator[None]:
    """`matinee bento champions --follow`, as for a ledger that is served over HTTP."""
    words = [sys.executable, "-m", "matinee", "bento", "champions", "--source", day.workspace.source.name, "--follow", "0.5"]  # fmt: skip
    environment = os.environ | {"MATINEE_WORKSPACES": str(day.settings.workspaces)}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@dataclass
class Trials:
    """Seconds by what was declared. The ranker `now` is the champion before and after; `later` is another."""

    day: Day
    watcher: Watcher
    now: str
    later: str
    spent: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, what: str, declare: Callable[[], object], holds: Holds) -> None:
        """Declare, and wait until a page holds."""
        self.spent.setdefault(what, []).append(self.watcher.seconds_until(holds, declare))

    def promotions(self) -> None:
        """As `matinee models promote` does it; in between, a canary of what the Bento holds, as of `matinee bento canary`."""
        promotion = "promotion (models promote)"
        self.timed(promotion, partial(self._promote, self.later, publish=True), ranked_by(self.later))
        self.timed("canary (bento canary)", lambda: canary(self.day, self.now, 1.0), ranked_by(self.now))
        self.timed("canary ended", lambda: end_canary(self.day, self.now), ranked_by(self.later))
        self.timed(promotion, partial(self._promote, self.now, publish=True), ranked_by(self.now))

    def settle(self) -> None:
        """Wait until whoever follows the ledger has begun to."""
        for ref in (self.later, self.now):
            self.watcher.seconds_until(ranked_by(ref), partial(self._promote, ref))

    def promotions_elsewhere(self) -> None:
        """In the ledger alone, as over its HTTP API."""
        for ref in (self.later, self.now):
            self.timed(
                "promotion in the ledger, followed each .5 s", partial(self._promote, ref), ranked_by(ref)
            )

    def snapshots(self, titles: pa.Table) -> None:
        """What `matinee features materialize` ends with."""
        made: list[str] = []

        def publish() -> None:
            online = self.day.workspace.online
            made.append(publish_record(self.day.workspace.declarations, online, PROJECT, titles).id)

        self.timed("snapshot (features materialize)", publish, lambda page: page.generation == made[-1])

    def experiments(self) -> None:
        """As `matinee experiments start` and `stop`."""
        day = self.day
        self.timed(
            "experiment started",
            lambda: start_experiment(day, EXPERIMENT, day.as_of, BY),
            lambda page: bool(page.arms),
        )
        self.timed(
            "experiment stopped", lambda: stop_experiment(day, EXPERIMENT, BY), lambda page: not page.arms
        )

    def _promote(self, ref: str, *, publish: bool = False) -> None:
        self.day.registry.promote(ref, "champion", by=BY, reason="measured")
        if publish:
            publish_champions(self.day)


def ranked_by(ref: str) -> Holds:
    """Whether a page was ranked by that version."""
    return lambda page: page.versions.ranker == ref


def measure(day: Day, watcher: Watcher, rounds: int) -> dict[str, list[float]]:
    """Seconds by what was declared, `rounds` of each, twice as many promotions."""
    trials, titles = Trials(day, watcher, *another_ranker(day)), catalogue(day)
    for number in range(rounds):
        trials.promotions()
        trials.snapshots(renamed(titles, str(number)))
        trials.experiments()
    with following(day):
        trials.settle()
        for _ in range(rounds):
            trials.promotions_elsewhere()
    return trials.spent


def summary(spent: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median and largest of each."""
    return {what: {"n": len(s), "median_s": median(s), "max_s": max(s)} for what, s in spent.items()}


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--source", default="world")
    given = parser.parse_args()
    with copied(given.source) as day:
        users = known_users(day)
        bento = serving(day, newest_tag(day, "homepage"), free_port(), day.as_of)
        with served(bento, log=day.workspace.root / "serving.log") as url:
            watcher = Watcher(url, users[:200])
            with watcher.asking():
                found = summary(measure(day, watcher, given.rounds))
    rows = [[what, f["n"], f"{f['median_s']:.2f}", f"{f['max_s']:.2f}"] for what, f in found.items()]
    print_table(f"seconds until a page shows it (bar {BAR_S:g})", ("declared", "n", "median", "max"), rows)
    print(
        f"{watcher.answered} pages asked for meanwhile, {len(watcher.failed)} failed, {len(watcher.mixed)} mixed"
    )
    for problem in (*watcher.failed[:3], *watcher.mixed[:3]):
        print(f"  {problem}")
    print("RESULT " + json.dumps({
        "benchmark": "swaps", "taken_up": found, "pages": watcher.answered, "failed": len(watcher.failed), "mixed": len(watcher.mixed),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
