"""Whatever is slow, broken or away, there is a page within its deadline that says what it had to do without."""

from __future__ import annotations

import errno
import itertools
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from serving import metrics
from serving.answers import PageRequest
from serving.breaker import BreakerPolicy
from serving.deadline import Deadline
from serving.exposure_table import read
from serving.exposures import ExposureLog
from serving.guard import Guard
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import Homepage, Stages
from serving.parts import Parts, UnknownTitles
from serving.selection import NewUser, NothingFound, rank, retrieve

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
NEW_USER = 10**12
BUDGET_MS = 800
SLACK_MS = 5_000
"""For a machine that is busy with something else: far less than a stage that never comes back takes."""


def counted(name, **labels):
    """What Prometheus would be told now."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def homepage(world):
    """Opens a homepage over the small world, with stages or a log that fail as told."""
    opened = []

    def open_(stages=None, log=None, guard=None, source=None):
        folders = Folders.of(world.home, world.home)
        exposures = log or ExposureLog(folders.exposures, name=f"test-{len(opened)}")
        opened.append(exposures)
        ids = itertools.count()
        return Homepage(
            source or LiveSource(folders, world.manifest()),
            exposures,
            lambda: f"request-{next(ids)}",
            stages=stages or Stages(),
            guard=guard or Guard(innocent=(NewUser, NothingFound)),
        )

    yield open_
    for log in opened:
        log.close()


@pytest.fixture
def never():
    """A stage that does not come back while the test runs."""
    gate = threading.Event()

    def stage(*_):
        gate.wait()
        raise RuntimeError("nobody waits for this any more")

    yield stage
    gate.set()


def dead(*_):
    raise ConnectionRefusedError("nobody listens")


def ask(homepage, user_id=1, size=10, budget_ms=BUDGET_MS):
    return homepage.page(
        PageRequest(user_id=user_id, size=size), NOW, Deadline.within(budget_ms, time.monotonic)
    )


def degraded(page):
    return [(problem.stage, problem.reason) for problem in page.degraded]


class Disk:
    """An exposure log whose disk is full, or does not answer."""

    def __init__(self, do):
        self.append = do

    def close(self):
        """Nothing was opened."""


def full(_record):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fault", "stage", "source", "kept"),
    [
        ("rank", "rank", "retrieved", {"retriever", "artwork"}),
        ("retrieve", "retrieve", "popular", {"artwork"}),
        ("illustrate", "artwork", "ranked", {"retriever", "ranker"}),
    ],
)
@pytest.mark.parametrize("how", ["dead", "slow"])
def test_a_page_comes_in_time_whichever_stage_is_dead_or_never_comes_back(
    homepage, never, fault, stage, source, kept, how
):
    home = homepage(Stages(**{fault: never if how == "slow" else dead}))
    ask(homepage(), budget_ms=60_000)  # libraries are loaded and warm
    began = time.monotonic()
    page = ask(home, size=12)
    assert (time.monotonic() - began) * 1000 < BUDGET_MS + SLACK_MS
    assert (page.source, len(page.titles)) == (source, 12)
    reason = "deadline" if how == "slow" else "ConnectionRefusedError"
    assert (stage, reason) in degraded(page)
    if how == "dead":
        assert degraded(page) == [(stage, reason)]
        assert {kind for kind, ref in page.versions.model_dump().items() if ref is not None} == kept


def test_all_stages_dead_at_once_still_make_a_page_with_the_editors_images(world, homepage):
    page = ask(homepage(Stages(retrieve=dead, rank=dead, illustrate=dead)), size=12)
    assert (page.source, len(page.titles)) == ("popular", 12)
    assert degraded(page) == [("retrieve", "ConnectionRefusedError"), ("artwork", "ConnectionRefusedError")]
    first = {
        title: (world.reader.catalogue.artworks(title)[:1].tolist() or [None])[0] for title in world.title_ids
    }
    assert [title.artwork_id for title in page.titles] == [first[title.title_id] for title in page.titles]


def test_a_ranker_that_never_comes_back_is_left_alone_and_does_not_hold_up_the_next_pages(homepage, never):
    guard = Guard(policy=BreakerPolicy(failures=2, wait_s=3600))
    home = homepage(Stages(rank=never), guard=guard)
    pages = [ask(home) for _ in range(5)]
    assert [degraded(page) for page in pages] == [
        *[[("rank", "deadline")]] * 2,
        *[[("rank", "it kept failing")]] * 3,
    ]
    assert {page.source for page in pages} == {"retrieved"}
    assert guard.out == {"rank": 2}
    metrics.count_abandoned(guard.out)
    assert counted("matinee_abandoned_threads", stage="rank") == 2
    assert counted("matinee_abandoned_threads", stage="retrieve") == 0


def test_threads_that_do_not_come_back_are_bounded_where_no_breaker_opens(homepage, never):
    guard = Guard(policy=BreakerPolicy(failures=1000), may_be_out=2)
    home = homepage(Stages(rank=never), guard=guard)
    pages = [ask(home) for _ in range(4)]
    assert [degraded(page)[0][1] for page in pages] == [
        *["deadline"] * 2,
        *["its threads have not come back"] * 2,
    ]
    assert guard.out == {"rank": 2}


def test_a_ranker_that_comes_back_is_used_again(homepage):
    state = {"dead": True}

    def flaky(asked, found, watch):
        return dead() if state["dead"] else rank(asked, found, watch)

    home = homepage(Stages(rank=flaky), guard=Guard(policy=BreakerPolicy(failures=1, wait_s=0.0)))
    assert ask(home, budget_ms=60_000).source == "retrieved"
    state["dead"] = False
    assert ask(home, budget_ms=60_000).source == "ranked"


def test_a_canary_that_is_broken_does_not_take_the_ranker_from_the_others(world, homepage):
    from serving.rollout import Canary, Rollout

    world.save_models(number=2, seed=2)
    canary = Canary(kind="ranker", ref="ranker/2", share=0.5)
    Rollout(canaries=(canary,)).write(world.home / "live" / "rollout.json")

    def picky(asked, found, watch):
        return dead() if asked.plan.canary else rank(asked, found, watch)

    home = homepage(Stages(rank=picky), guard=Guard(policy=BreakerPolicy(failures=2, wait_s=3600)))
    pages = [ask(home, user_id=user, budget_ms=60_000) for user in range(1, 31)]
    assert {page.source for page in pages if page.canary} == {"retrieved"}
    assert {page.source for page in pages if not page.canary} == {"ranked"}


def test_who_waits_for_their_turn_behind_a_slow_page_gets_one_in_time(homepage):
    entered, gate = threading.Event(), threading.Event()

    def held(asked, watch):
        entered.set()
        gate.wait()
        return retrieve(asked, watch)

    home = homepage(Stages(retrieve=held))
    first = threading.Thread(target=ask, args=(home,), kwargs={"budget_ms": 600_000})
    first.start()
    entered.wait()
    page = ask(home, size=7)
    gate.set()
    first.join()
    assert (page.source, len(page.titles), degraded(page)) == ("popular", 7, [("wait", "deadline")])


@pytest.mark.parametrize("how", ["full", "slow"])
def test_a_disk_that_is_full_or_does_not_answer_costs_the_page_its_log_and_nothing_else(homepage, never, how):
    home = homepage(log=Disk(full if how == "full" else never))
    warm = ask(homepage(), budget_ms=60_000)
    page = ask(home, budget_ms=60_000 if how == "full" else 2_000)
    assert page.titles == warm.titles
    assert (page.source, degraded(page)) == ("ranked", [("log", "exposures were not logged")])


class Like:
    """A reader like another one, apart from some of its methods."""

    def __init__(self, reader, **other):
        self._reader, self._other = reader, other

    def __getattr__(self, name):
        return self._other[name] if name in self._other else getattr(self._reader, name)


def unreadable(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


class Once:
    """A source of one moment."""

    def __init__(self, live):
        self.current = lambda: live


def test_features_that_cannot_be_read_leave_what_is_popular(world, homepage):
    live = LiveSource(Folders.of(world.home, world.home), world.manifest()).current()
    blind = dict.fromkeys(("history", "vector", "matrix", "knows_user"), unreadable)
    home = homepage(source=Once(replace(live, reader=Like(live.reader, **blind))))
    page = ask(home, size=5, budget_ms=60_000)
    assert [title.title_id for title in page.titles] == world.title_ids[::-1][:5].tolist()
    assert degraded(page) == [("features", "OSError"), ("history", "OSError"), ("artwork", "OSError")]


def test_a_snapshot_that_is_deleted_under_a_running_process_changes_no_page(world, homepage):
    import shutil

    home = homepage()
    before = ask(home, budget_ms=60_000)
    shutil.rmtree(world.home / "online")
    home.source.look()
    after = ask(home, budget_ms=60_000)
    assert (after.titles, after.generation, after.source) == (before.titles, before.generation, "ranked")
    assert "snapshot" in home.source.refusals


def test_serving_needs_no_ledger():
    look = "import sys, serving.service; sys.exit(any(m.split('.')[0] in ('registry', 'sqlalchemy') for m in sys.modules))"
    subprocess.run([sys.executable, "-c", look], check=True)


def test_what_pages_had_to_do_without_is_counted_by_stage_and_reason(homepage):
    labels = {"stage": "rank", "reason": "ConnectionRefusedError"}
    before = (
        counted("matinee_degradations_total", **labels),
        counted("matinee_pages_total", source="retrieved"),
    )
    metrics.count(ask(homepage(Stages(rank=dead)), budget_ms=60_000), ())
    after = (
        counted("matinee_degradations_total", **labels),
        counted("matinee_pages_total", source="retrieved"),
    )
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


# --- people and titles we know little of -------------------------------------------------------------------


def test_a_new_user_is_no_fault_of_any_stage(homepage):
    guard = Guard(innocent=(NewUser, NothingFound), policy=BreakerPolicy(failures=1, wait_s=3600))
    home = homepage(guard=guard)
    for user in range(NEW_USER, NEW_USER + 10):
        page = ask(home, user_id=user, budget_ms=60_000)
        assert (page.source, degraded(page)) == ("popular", [("features", "no features of this user yet")])
    assert guard.open == ()
    assert ask(home, budget_ms=60_000).source == "ranked"


def test_a_user_who_has_seen_everything_gets_an_empty_page_and_no_error(world, homepage):
    live = LiveSource(Folders.of(world.home, world.home), world.manifest()).current()
    seen = Like(live.reader, history=lambda _: world.title_ids)
    home = homepage(source=Once(replace(live, reader=seen)))
    page = ask(home, budget_ms=60_000)
    assert (page.source, page.titles) == ("popular", ())
    assert degraded(page) == [("retrieve", "nothing unwatched found")]
    assert read(world.home / "exposures").num_rows == 0


def test_unknown_titles_and_users_are_named_to_who_asks_a_part_about_them(world):
    from serving.asked import ImagesAsked, ScoresAsked

    live = LiveSource(Folders.of(world.home, world.home), world.manifest()).current()
    with pytest.raises(UnknownTitles, match="has no title 7, 8"):
        Parts(live, NOW).scores(ScoresAsked(user_id=1, title_ids=(7, 1001, 8)))
    with pytest.raises(NewUser):
        Parts(live, NOW).scores(ScoresAsked(user_id=NEW_USER, title_ids=(1001,)))
    images = Parts(live, NOW).images(ImagesAsked(user_id=NEW_USER, title_ids=(1001,)))
    assert images.artwork_ids[0] in range(100_100, 100_105)  # a new user is drawn an image all the same
