"""While snapshots, champions, experiments and canaries change under load, every page is whole: made of one moment."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.data import Candidates
from serving.answers import PageRequest, TitleScores
from serving.champions import Champions
from serving.deadline import Deadline
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import Homepage, Stages
from serving.rollout import Canary, Rollout
from serving.selection import Found, Ranked, known_user
from serving.versions import described

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
THREADS = 4
SWAP_EVERY = 40
"""Pages between two swaps."""
USERS = (1, 2, 3, 4, 5, 6, 10**12)
SIZE = 4


class Nowhere:
    """An exposure log that keeps nothing: what is logged is another test's matter."""

    def append(self, record):
        """Written."""


class Switch:
    """What the workspace can be switched to: two snapshots, two champions, an experiment or none, a canary or none."""

    def __init__(self, world):
        self.world, self.live = world, world.home / "live"
        world.save_models(number=2, seed=2)

    def snapshot(self, number):
        self.world.publish(as_of=datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=number), seed=number)

    def champion(self, number):
        ref = f"ranker/{1 + number % 2}"
        folder = self.world.versions[ref].relative_to(self.world.home).as_posix()
        champion = described(ref, self.world.versions[ref], {}).model_copy(update={"folder": folder})
        Champions(versions=(champion,)).write(self.live / "champions.json")

    def experiment(self, number):
        arms = ({"weights.diversity": 0.0}, {"weights.diversity": 1.0}) if number % 2 else ()
        self.world.go_live(*arms)

    def canary(self, number):
        canaries = (Canary(kind="retriever", ref="retriever/2", share=0.5),) if number % 2 else ()
        Rollout(canaries=canaries).write(self.live / "rollout.json")

    def swap(self, number):
        """Change one thing, each in turn."""
        (self.champion, self.experiment, self.canary, self.snapshot)[number % 4](number // 4)


def said(page):
    """All that a page says of how it was made and what it shows; request ids and times apart."""
    return page.model_dump(exclude={"request_id", "timings_ms"})


def homepage(source, stages):
    ids = itertools.count()
    return Homepage(source, Nowhere(), lambda: f"request-{next(ids)}", stages=stages)


def quickly_found(asked, watch):
    """Candidates by one number of the user's features and one of the retriever's: what real ones depend on, for less work."""
    features = known_user(asked.live, "retrieval_user", asked.user_id)
    ids = asked.live.available[:8]
    vectors = asked.live.retriever(asked.plan).title_vectors(ids)
    scores = np.nan_to_num(features[0]) * vectors[:, 0]
    return Found(Candidates(ids, scores.astype(np.float32)), lambda _: vectors)


def quickly_ranked(asked, found, watch):
    """Likewise: features of the titles, and a number of the ranker's."""
    found = found.candidates
    matrix = asked.live.reader.matrix("ranking", asked.user_id, found.title_ids, at=asked.now)
    bias = asked.live.ranker(asked.plan).ranker.network.entrance.first.bias[0].item()
    values = np.nan_to_num(matrix).sum(axis=1) * asked.plan.weights.diversity + bias + found.scores
    order = np.argsort(-values)[: asked.size]
    return Ranked(found.title_ids[order], tuple(TitleScores(objective=float(values[at])) for at in order))


QUICK = Stages(retrieve=quickly_found, rank=quickly_ranked)


def ask(home, user, budget_ms=600_000):
    return home.page(PageRequest(user_id=user, size=SIZE), NOW, Deadline.within(budget_ms, time.monotonic))


def under_swaps(asked, responses, swap):
    """What `asked` returned and raised, by many threads, while another one swaps."""
    pages, faults, left, done = [], [], itertools.count(), threading.Event()

    def swapping():
        for number in itertools.count(1):
            while len(pages) < number * SWAP_EVERY and not done.is_set():
                time.sleep(0.001)
            if done.is_set():
                return
            swap(number)

    def asking():
        while (number := next(left)) < responses:
            try:
                pages.append(asked(number))
            except Exception as fault:  # noqa: BLE001  (any is one too many)
                faults.append(fault)

    swap(0)
    threads = [threading.Thread(target=asking) for _ in range(THREADS)]
    swapper = threading.Thread(target=swapping)
    for thread in (swapper, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    swapper.join()
    return pages, faults


@pytest.mark.parametrize(
    ("responses", "stages"),
    [
        pytest.param(800, Stages(), id="models"),
        pytest.param(10_000, QUICK, id="ten thousand", marks=pytest.mark.slow),
    ],
)
def test_pages_under_swaps_fail_never_and_are_each_of_one_generation(world, responses, stages):
    switch = Switch(world)
    source = LiveSource(Folders.of(world.home, world.home), world.manifest(n_candidates=8))
    home, moments = homepage(source, stages), {}

    def swap(number):
        if number:
            switch.swap(number)
            source.look()
        live = source.current()
        moments[live.reader.generation, live.declared.id] = live

    pages, faults = under_swaps(lambda number: ask(home, USERS[number % len(USERS)]), responses, swap)
    assert faults == []
    assert source.refusals == {}
    assert len(pages) == responses
    assert {page.source for page in pages} == {"ranked", "popular"}
    assert [page for page in pages if page.source == "popular" and page.user_id != USERS[-1]] == []
    _each_is_what_its_moment_alone_makes(pages, moments, stages)


def _each_is_what_its_moment_alone_makes(pages, moments, stages):
    """The oracle: the same page made by a process that has only ever known that one moment."""
    met = {(page.generation, page.live_set) for page in pages}
    assert len({generation for generation, _ in met}) > 3
    assert len({live_set for _, live_set in met}) > 4
    alone = {}
    for page in pages:
        key = page.generation, page.live_set, page.user_id
        if key not in alone:
            live = moments[page.generation, page.live_set]
            alone[key] = said(ask(homepage(Still(live), stages), page.user_id))
        assert said(page) == alone[key]


class Still:
    """A source where nothing changes."""

    def __init__(self, live):
        self.current = lambda: live
