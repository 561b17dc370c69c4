"""Shadow versions judge the very candidates of a page, unseen; they never hold one up, and never fail one."""

from __future__ import annotations

import gc
import itertools
import shutil
import threading
import time
import weakref
from datetime import UTC, datetime

import numpy as np
import pytest

from models.diversity import rerank
from models.objective import ObjectiveWeights, objective
from serving.answers import PageRequest
from serving.deadline import Deadline
from serving.exposure_table import read as read_exposures
from serving.exposures import CorruptSegment, ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import Homepage
from serving.rollout import Rollout, Shadow
from serving.shadow_log import ShadowLog, agreements, read, records
from serving.shadows import WAITING, Shadows, judged

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
NEW_USER = 10**12
ALWAYS = 1.0


@pytest.fixture
def shadowed(world):
    """A homepage over two versions of everything, the second of which are shadows of `kinds`."""
    world.save_models(number=2, seed=2)
    opened = []

    def open_(*kinds, log=None, judge=judged, busy=lambda: False):
        entries = tuple(Shadow(kind=kind, ref=f"{kind}/2") for kind in kinds)
        Rollout(shadows=entries).write(world.home / "live" / "rollout.json")
        folders, ids = Folders.of(world.home, world.home), itertools.count()
        exposures, judgements = (
            ExposureLog(folders.exposures, name="test"),
            ShadowLog(folders.shadows, name="test"),
        )
        shadows = Shadows(log or judgements, busy, ALWAYS, judge)
        opened.extend([shadows, exposures, judgements])
        home = Homepage(
            LiveSource(folders, world.manifest()),
            exposures,
            lambda: f"request-{next(ids)}",
            on_shown=shadows.offer,
        )
        return home, shadows

    yield open_
    for one in opened:
        one.close()


def ask(homepage, user_id=1, size=10):
    return homepage.page(
        PageRequest(user_id=user_id, size=size), NOW, Deadline.within(60_000, time.monotonic)
    )


def test_a_shadow_ranker_scores_the_pages_own_candidates_as_if_it_had_made_the_page(world, shadowed):
    home, shadows = shadowed("ranker")
    page = ask(home, user_id=3)
    shadows.drain()
    (record,) = records(world.home / "shadows")
    assert (record.request_id, record.kind, record.shadow, record.shown) == (
        page.request_id, "ranker", "ranker/2", "ranker/1"
    )  # fmt: skip
    assert (record.generation, record.live_set, record.event_timestamp) == (
        page.generation,
        page.live_set,
        NOW,
    )
    live, reader = home.source.current(), world.reader
    retriever, ranker = live.models.retrievers["retriever/1"], live.models.rankers["ranker/2"]
    watched = reader.history(3)
    found = retriever.candidates(reader.vector("retrieval_user", 3), watched, 40, exclude=watched)
    values = objective(
        ranker.score(reader.matrix("ranking", 3, found.title_ids), retrieval=found.scores), ObjectiveWeights()
    )
    weights = ObjectiveWeights()
    order = rerank(
        values,
        retriever.title_vectors(found.title_ids),
        10,
        weights.diversity,
        window=weights.diversity_window,
    ).order
    assert [title.title_id for title in record.titles] == found.title_ids.tolist()
    assert [title.shadow_score for title in record.titles] == pytest.approx(values.tolist(), abs=1e-5)
    on_page = sorted(
        (t for t in record.titles if t.shadow_position is not None), key=lambda t: t.shadow_position
    )
    assert [title.title_id for title in on_page] == found.title_ids[order].tolist()
    shown = sorted((t for t in record.titles if t.shown_position is not None), key=lambda t: t.shown_position)
    assert [t.title_id for t in shown] == [t.title_id for t in page.titles]
    assert [t.shown_score for t in shown] == [t.scores.objective for t in page.titles]


def test_a_shadow_ranker_diversifies_by_genres_where_the_page_does(world, shadowed):
    """The same version saved twice: in the shadow's order the page stands as it was shown."""
    shutil.rmtree(world.versions["ranker/2"])
    shutil.copytree(world.versions["ranker/1"], world.versions["ranker/2"])
    world.go_live(*[{"weights.diversity": 0.9, "weights.diversity_genres": 1.0}] * 2)
    home, shadows = shadowed("ranker")
    page = ask(home, user_id=3)
    shadows.drain()
    (record,) = records(world.home / "shadows")
    of_shadow = {t.shadow_position: t.title_id for t in record.titles if t.shadow_position is not None}
    assert [of_shadow[place] for place in sorted(of_shadow)] == [title.title_id for title in page.titles]


def test_shadows_of_every_kind_judge_and_nothing_of_them_is_shown(world, shadowed):
    home, shadows = shadowed("retriever", "ranker", "artwork")
    page = ask(home, user_id=5)
    shadows.drain()
    assert page.versions.model_dump() == {
        "retriever": "retriever/1",
        "ranker": "ranker/1",
        "artwork": "artwork/1",
    }
    by_kind = {record.kind: record for record in records(world.home / "shadows")}
    assert by_kind.keys() == {"retriever", "ranker", "artwork"}
    live = home.source.current()
    features, watched = world.reader.vector("retrieval_user", 5), world.reader.history(5)
    other = live.models.retrievers["retriever/2"].candidates(features, watched, 60, exclude=watched)
    products = dict(zip(other.title_ids.tolist(), other.scores.tolist(), strict=True))
    for title in by_kind["retriever"].titles:
        assert title.shadow_score == pytest.approx(products[title.title_id])
    drawn = by_kind["artwork"].titles
    assert [t.title_id for t in drawn] == [t.title_id for t in page.titles if t.artwork_id is not None]
    for title in drawn:
        assert title.shadow_artwork_id in range(title.title_id * 100, title.title_id * 100 + 5)
        assert 0 < title.shadow_propensity <= 1
    logged = read_exposures(world.home / "exposures")
    assert set(logged["ranker"].to_pylist()) == {"ranker/1"}


def test_the_log_is_a_table_and_tells_how_often_both_would_have_shown_the_same(world, shadowed):
    home, shadows = shadowed("ranker", "artwork")
    pages = [ask(home, user_id=user) for user in range(1, 9)]
    shadows.drain()
    table = read(world.home / "shadows")
    rankings = [row for row in table.to_pylist() if row["kind"] == "ranker"]
    assert len(rankings) == 8 * 40
    artwork, ranker = agreements(records(world.home / "shadows"))
    assert (ranker.shadow, ranker.shown, ranker.pages) == ("ranker/2", "ranker/1", 8)
    same, first = [], []
    for page in pages:
        mine = [row for row in rankings if row["request_id"] == page.request_id]
        theirs = {
            row["title_id"]: row["shadow_position"] for row in mine if row["shadow_position"] is not None
        }
        ids = [title.title_id for title in page.titles]
        same.append(np.mean([title in theirs for title in ids]))
        first.append(theirs.get(ids[0]) == 0)
    assert (ranker.same_titles, ranker.same_first) == pytest.approx((np.mean(same), np.mean(first)))
    assert ranker.same_images is None
    assert 0 <= artwork.same_images <= 1


def test_the_version_that_is_shown_as_its_own_shadow_agrees_with_itself(world, shadowed):
    home, shadows = shadowed()
    Rollout(shadows=tuple(Shadow(kind=k, ref=f"{k}/1") for k in ("retriever", "ranker", "artwork"))).write(
        world.home / "live" / "rollout.json"
    )
    home.source.look()
    for user in range(1, 6):
        ask(home, user_id=user)
    shadows.drain()
    by_kind = {one.kind: one for one in agreements(records(world.home / "shadows"))}
    assert (by_kind["ranker"].same_first, by_kind["ranker"].same_titles) == (1.0, 1.0)
    assert by_kind["artwork"].same_images == 1.0
    for row in read(world.home / "shadows").to_pylist():
        if row["shown_score"] is not None:
            assert row["shadow_score"] == pytest.approx(row["shown_score"], abs=1e-6)


def test_a_page_that_did_not_get_so_far_has_nothing_to_judge(world, shadowed):
    home, shadows = shadowed("ranker")
    ask(home, user_id=NEW_USER)
    shadows.drain()
    assert list(records(world.home / "shadows")) == []


@pytest.mark.parametrize("problem", [ValueError("broken"), OSError("no space")])
def test_a_shadow_or_a_log_that_fails_fails_no_page_and_the_next_are_judged(world, shadowed, problem, caplog):
    failing = [problem]

    def judge(shadow, shown):
        if failing:
            raise failing.pop()
        return judged(shadow, shown)

    home, shadows = shadowed("ranker", judge=judge)
    pages = [ask(home, user_id=user) for user in (1, 2)]
    shadows.drain()
    assert [page.degraded for page in pages] == [(), ()]
    assert [record.request_id for record in records(world.home / "shadows")] == [pages[1].request_id]
    assert "shadow ranker/2 failed" in caplog.text


def test_a_shadow_that_never_comes_back_holds_no_page_up_and_what_waits_is_bounded(shadowed):
    gate, judged_ = threading.Event(), []

    def judge(shadow, shown):
        gate.wait()
        judged_.append(shown.page.request_id)
        raise ValueError("too late to matter")

    home, shadows = shadowed("ranker", judge=judge)
    pages = [ask(home, user_id=1 + number % 20, size=3) for number in range(WAITING + 20)]
    assert {page.source for page in pages} == {"ranked"}
    gate.set()
    shadows.drain()
    assert WAITING <= len(judged_) <= WAITING + 1  # and the one that was being judged


def test_shadows_wait_while_pages_are_being_made(world, shadowed):
    busy = threading.Event()
    busy.set()
    home, shadows = shadowed("ranker", busy=busy.is_set)
    ask(home)
    time.sleep(0.05)
    assert list(records(world.home / "shadows")) == []
    busy.clear()
    shadows.drain()
    assert len(list(records(world.home / "shadows"))) == 1


def test_a_damaged_log_is_refused_and_a_torn_end_is_not(world, shadowed):
    home, shadows = shadowed("ranker")
    for user in (1, 2):
        ask(home, user_id=user)
    shadows.drain()
    (segment,) = (world.home / "shadows").glob("*.shadows")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-9])
    assert len(list(records(world.home / "shadows"))) == 1
    segment.write_bytes(b"x" + whole[1:])
    with pytest.raises(CorruptSegment):
        list(records(world.home / "shadows"))


def test_a_version_that_has_ended_is_let_go_by_all_who_worked_with_it(world, shadowed):
    home, shadows = shadowed("ranker")
    gone = weakref.ref(home.source.current().rankers["ranker/2"])
    ask(home)
    shadows.drain()
    Rollout().write(world.home / "live" / "rollout.json")
    home.source.look()
    give_up = time.monotonic() + 20
    while gone() is not None and time.monotonic() < give_up:  # threads are on their way back to sleep
        gc.collect()
        time.sleep(0.005)
    assert gone() is None
    assert ask(home).source == "ranked"
