"""The page core, without HTTP: what it shows, what it says about it, and what it does when a stage fails."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.artwork import arm_set_digest, context_digest
from models.diversity import rerank, with_genres
from models.objective import ObjectiveWeights, objective
from serving.answers import PageRequest
from serving.deadline import Deadline, DeadlineExceeded, Stopwatch
from serving.exposure_table import read
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import Homepage

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
NEW_USER = 10**12


@pytest.fixture
def homepage(world):
    """A homepage over the small world; `homepage(world, **defaults)` opens it as it is now."""
    with_log = []

    def opened(world, **defaults):
        folders = Folders.of(world.home, world.home)
        log = ExposureLog(folders.exposures, name=f"test-{len(with_log)}")
        with_log.append(log)
        ids = itertools.count()
        return Homepage(LiveSource(folders, world.manifest(**defaults)), log, lambda: f"request-{next(ids)}")

    yield opened
    for log in with_log:
        log.close()


def ask(homepage, user_id=1, size=10, budget_ms=5_000, now=NOW, clock=time.monotonic):
    request = PageRequest(user_id=user_id, size=size)
    return homepage.page(request, now, Deadline.within(budget_ms, clock))


def shown(page):
    return [title.title_id for title in page.titles]


def lose(homepage, kind):
    """Take the models of a kind away from a running process."""
    live = homepage.source._live
    homepage.source._live = replace(live, models=replace(live.models, **{kind: {}}))


def test_a_page_is_what_retrieval_ranking_and_reranking_say_one_after_the_other(world, homepage):
    home = homepage(world)
    page = ask(home, user_id=3, size=10)
    live, reader = home.source.current(), world.reader
    retriever, ranker = live.models.retrievers["retriever/1"], live.models.rankers["ranker/1"]
    watched = reader.history(3)
    found = retriever.candidates(reader.vector("retrieval_user", 3), watched, 40, exclude=watched)
    heads = ranker.score(reader.matrix("ranking", 3, found.title_ids), retrieval=found.scores)
    weights = ObjectiveWeights()
    values = objective(heads, weights)
    expected = rerank(
        values,
        retriever.title_vectors(found.title_ids),
        10,
        weights.diversity,
        window=weights.diversity_window,
    )
    assert shown(page) == found.title_ids[expected.order].tolist()
    for title, place, penalty in zip(page.titles, expected.order, expected.penalties, strict=True):
        assert title.scores.model_dump() == pytest.approx({
            "retrieval": found.scores[place], "play": heads.play[place], "completion": heads.completion[place],
            "retention": heads.retention[place], "choice": heads.choice[place], "objective": values[place],
            "diversity_penalty": penalty,
        })  # fmt: skip


def test_an_arm_sets_how_many_titles_in_a_row_are_to_differ(world, homepage):
    arms = [{"weights.diversity": 0.9, "weights.diversity_window": window} for window in (2, 1000)]
    world.go_live(*arms)
    home, reader = homepage(world), world.reader
    retriever, ranker = (
        home.source.current().models.retrievers["retriever/1"],
        home.source.current().models.rankers["ranker/1"],
    )
    seen = {}
    for user in range(1, 20):
        page = ask(home, user_id=user, size=10)
        window = page.weights["diversity_window"]
        watched = reader.history(user)
        found = retriever.candidates(reader.vector("retrieval_user", user), watched, 40, exclude=watched)
        heavy = reader.matrix("ranking", user, found.title_ids)
        values = objective(ranker.score(heavy, retrieval=found.scores), ObjectiveWeights())
        expected = rerank(values, retriever.title_vectors(found.title_ids), 10, 0.9, window=int(window))
        assert shown(page) == found.title_ids[expected.order].tolist()
        seen[page.arms[0].arm] = window
    assert seen == {"arm0": 2, "arm1": 1000}


def test_an_arm_sets_how_far_genres_say_what_is_alike(world, homepage):
    """Every title of the test's catalogue is of Comedy, of Comedy and Drama, or of none."""
    world.go_live(*({"weights.diversity": 0.9, "weights.diversity_genres": share} for share in (0.0, 0.5)))
    home, reader, seen = homepage(world), world.reader, {}
    live = home.source.current()
    for user in range(1, 20):
        page = ask(home, user_id=user, size=10)
        watched, share = reader.history(user), page.weights["diversity_genres"]
        found = live.retrievers["retriever/1"].candidates(
            reader.vector("retrieval_user", user), watched, 40, exclude=watched
        )
        heavy = reader.matrix("ranking", user, found.title_ids)
        values = objective(
            live.models.rankers["ranker/1"].score(heavy, retrieval=found.scores), ObjectiveWeights()
        )
        vectors = live.retrievers["retriever/1"].title_vectors(found.title_ids)
        genres = [["Comedy", "Drama"][: title % 3] for title in found.title_ids.tolist()]
        mixed = with_genres(vectors, genres, share)
        assert shown(page) == found.title_ids[rerank(values, mixed, 10, 0.9, window=10).order].tolist()
        plain = found.title_ids[rerank(values, vectors, 10, 0.9, window=10).order].tolist()
        seen.setdefault(page.arms[0].arm, []).append(shown(page) == plain)
    assert all(seen["arm0"])
    assert not all(seen["arm1"])


def test_a_page_says_what_it_was_made_of(world, homepage):
    page = ask(homepage(world), size=7)
    assert (page.source, page.degraded, page.arms) == ("ranked", (), ())
    assert page.versions.model_dump() == {
        "retriever": "retriever/1",
        "ranker": "ranker/1",
        "artwork": "artwork/1",
    }
    assert (page.generation, page.as_of) == (world.reader.generation, world.reader.as_of)
    assert page.weights == ObjectiveWeights().model_dump()
    assert [title.position for title in page.titles] == list(range(7))
    stages = [
        "wait",
        "assign",
        "features",
        "retrieve",
        "rank_features",
        "rank",
        "rerank",
        "artwork",
        "assemble",
        "log",
    ]
    assert list(page.timings_ms) == stages
    title = page.titles[0]
    assert title.name == f"Title {title.title_id}"
    assert title.year == (None if title.title_id % 7 == 0 else 1900 + title.title_id % 100)
    assert title.genres == ("Comedy", "Drama")[: title.title_id % 3]


def test_every_title_with_images_shows_one_of_them_with_its_propensity(world, homepage):
    page = ask(homepage(world), size=40)
    assert any(title.title_id % 10 == 9 for title in page.titles)
    for title in page.titles:
        if title.title_id % 10 == 9:  # the small world gives these no image
            assert (title.artwork_id, title.propensity) == (None, None)
        else:
            assert title.artwork_id in range(title.title_id * 100, title.title_id * 100 + 5)
            assert 0 < title.propensity <= 1


def test_a_logged_propensity_can_be_computed_again_from_what_is_logged_beside_it(world, homepage):
    home = homepage(world)
    ask(home, size=40)
    live = home.source.current()
    policy, context = live.models.artworks["artwork/1"], live.reader.vector("artwork_context", 1)
    logged = [row for row in read(home.source.folders.exposures).to_pylist() if row["artwork_propensity"]]
    assert logged
    for row in logged:
        offered = live.reader.catalogue.artworks(row["title_id"])
        assert row["artwork_arm_set"] == arm_set_digest(offered[::-1])
        chances = policy.probabilities(
            context[None], offered[None], np.ones((1, len(offered)), bool), row["artwork_policy"]
        )
        assert row["artwork_propensity"] == chances[0, offered.tolist().index(row["artwork_id"])]
        assert (row["artwork_belief"], row["artwork_context"]) == (
            policy.belief_digest,
            context_digest(context),
        )
        assert (row["artwork_temper"], row["artwork_floor"]) == (policy.config.temper, policy.config.floor)


def test_a_user_keeps_an_image_for_the_day_and_a_page_for_the_snapshot(world, homepage):
    home = homepage(world)
    morning, evening = ask(home, now=NOW.replace(hour=0)), ask(home, now=NOW.replace(hour=23))
    assert morning.titles == evening.titles
    days = [ask(home, size=40, now=NOW + timedelta(days=day)) for day in range(10)]
    assert len({tuple(title.artwork_id for title in page.titles) for page in days}) > 1


@pytest.mark.parametrize("user_id", [1, 2, NEW_USER])
def test_no_page_shows_a_title_twice_or_watched_or_not_yet_available(world, homepage, user_id):
    late = world.title_ids[:30].tolist()
    world.publish(late=late)
    world.save_models(number=2)
    page = ask(homepage(world), user_id=user_id, size=60)
    assert len(set(shown(page))) == len(page.titles) > 0
    assert not set(shown(page)) & {*late, *world.reader.history(user_id).tolist()}


def test_a_new_user_gets_what_is_popular_and_the_page_says_why(world, homepage):
    page = ask(homepage(world), user_id=NEW_USER, size=5)
    assert shown(page) == world.title_ids[::-1][:5].tolist()
    assert page.source == "popular"
    assert [(p.stage, p.reason) for p in page.degraded] == [("features", "no features of this user yet")]
    assert (page.versions.retriever, page.versions.ranker) == (None, None)
    assert all(value is None for title in page.titles for value in title.scores.model_dump().values())


def test_arms_set_weights_and_versions_and_the_page_names_them(world, homepage):
    world.save_models(number=2, seed=9)
    world.go_live({"weights.diversity": 0.0, "ranker": "ranker/2"}, {"weights.diversity": 1.0})
    home = homepage(world)
    pages = {page.arms[0].arm: page for page in (ask(home, user_id=user) for user in range(1, 20))}
    assert pages.keys() == {"arm0", "arm1"}
    assert (pages["arm0"].versions.ranker, pages["arm0"].weights["diversity"]) == ("ranker/2", 0.0)
    assert (pages["arm1"].versions.ranker, pages["arm1"].weights["diversity"]) == ("ranker/1", 1.0)
    objectives = [title.scores.objective for title in pages["arm0"].titles]
    assert objectives == sorted(objectives, reverse=True)


@pytest.mark.parametrize(
    ("policy", "propensities"),
    [("uniform", {0.2}), ("editorial", {1.0}), ("thompson", None)],
)
def test_an_arm_says_how_images_are_drawn(world, homepage, policy, propensities):
    world.go_live({"artwork_policy": policy}, {"artwork_policy": policy})
    drawn = {title.propensity for title in ask(homepage(world), size=40).titles} - {None}
    assert drawn == propensities if propensities else len(drawn) > 2


@pytest.mark.parametrize(
    ("lost", "source", "stage", "kept"),
    [
        pytest.param("rankers", "retrieved", "rank", {"retriever", "artwork"}, id="ranker"),
        pytest.param("retrievers", "popular", "retrieve", {"artwork"}, id="retriever"),
        pytest.param("artworks", "ranked", "artwork", {"retriever", "ranker"}, id="artwork"),
    ],
)
def test_a_failing_stage_leaves_the_next_best_answer_and_the_page_says_which(
    world, homepage, lost, source, stage, kept
):
    home = homepage(world)
    lose(home, lost)
    page = ask(home, size=12)
    assert (page.source, len(page.titles)) == (source, 12)
    assert [(problem.stage, problem.reason) for problem in page.degraded] == [(stage, "VersionNotLoaded")]
    assert {kind for kind, ref in page.versions.model_dump().items() if ref is not None} == kept
    assert read(world.home / "exposures").num_rows == 12


def test_a_known_user_whose_titles_cannot_be_retrieved_is_not_shown_what_they_watched(world, homepage):
    home = homepage(world)
    lose(home, "retrievers")
    watched = set(world.reader.history(1).tolist())
    assert watched & set(world.defaults().popular)
    assert not watched & set(shown(ask(home, user_id=1, size=60)))


def test_a_stage_is_not_entered_after_the_deadline_and_what_it_finishes_late_counts():
    seconds = iter([0.0, 0.5, 0.6, 2.0, 2.1])  # set the deadline, enter, start, stop; then too late to enter
    watch = Stopwatch(Deadline.within(1000, lambda: next(seconds)))
    with watch.stage("rank"):
        late = True
    assert late
    assert watch.timings_ms == {"rank": 1400.0}
    with pytest.raises(DeadlineExceeded, match="over at stage 'rerank'"), watch.stage("rerank"):
        late = False
    assert late


def test_without_an_artwork_policy_the_first_image_is_shown_and_no_propensity_is_claimed(world, homepage):
    home = homepage(world)
    lose(home, "artworks")
    for title in ask(home, size=40).titles:
        first = None if title.title_id % 10 == 9 else title.title_id * 100
        assert (title.artwork_id, title.propensity) == (first, None)


def test_a_source_without_ranker_or_artwork_policy_has_pages_and_that_is_no_fault(world, homepage):
    plain = ask(homepage(world, ranker=None, artwork=None))
    assert (plain.source, plain.degraded, len(plain.titles)) == ("retrieved", (), 10)
    assert plain.versions.model_dump() == {"retriever": "retriever/1", "ranker": None, "artwork": None}
    assert {title.propensity for title in plain.titles} == {None}
    scores = [title.scores.retrieval for title in plain.titles]
    assert scores == sorted(scores, reverse=True)


class Ticking:
    """A clock that moves on by one second whenever it is read."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1
        return self.seconds


def test_the_less_time_there_is_the_simpler_the_page_and_there_always_is_one(world, homepage):
    home = homepage(world)
    pages = [ask(home, size=5, budget_ms=seconds * 1000, clock=Ticking()) for seconds in range(1, 60)]
    order = {"popular": 0, "retrieved": 1, "ranked": 2}
    sources = [order[page.source] for page in pages]
    assert sources == sorted(sources)
    assert set(sources) == {0, 1, 2}
    for page in pages:
        assert len(page.titles) == 5
        reasons = {problem.reason for problem in page.degraded}
        assert reasons == ({"deadline"} if page is not pages[-1] and reasons else set())
    assert pages[-1].degraded == ()
    assert read(world.home / "exposures").num_rows == 5 * len(pages)


def test_exposures_are_logged_once_with_position_propensity_and_scores(world, homepage):
    world.go_live({"weights.diversity": 0.0}, {"weights.diversity": 1.0})
    page = ask(homepage(world), user_id=4, size=9)
    rows = read(world.home / "exposures").to_pylist()
    assert [row["title_id"] for row in rows] == shown(page)
    assert {row["request_id"] for row in rows} == {page.request_id}
    assert [row["artwork_propensity"] for row in rows] == [title.propensity for title in page.titles]
    assert [row["objective_score"] for row in rows] == [title.scores.objective for title in page.titles]
    assert {row["arm"] for row in rows} == {f"trial={page.arms[0].arm}"}
    assert {row["event_timestamp"] for row in rows} == {NOW}


def test_when_exposures_cannot_be_logged_the_page_comes_all_the_same_and_says_so(world, homepage):
    home = homepage(world)
    (world.home / "exposures").rmdir()  # a log that has written nothing yet has nothing in its folder
    page = ask(home)
    assert [(problem.stage, problem.reason) for problem in page.degraded] == [
        ("log", "exposures were not logged")
    ]
    assert page.source == "ranked"
    assert read(world.home / "exposures").num_rows == 0


def test_pages_asked_for_at_the_same_time_are_whole_and_logged_once_each(world, homepage):
    home = homepage(world)
    alone = {user: shown(ask(home, user_id=user)) for user in range(1, 9)}
    before = read(world.home / "exposures").num_rows
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda user=user: found.update({user: shown(ask(home, user_id=user))}))
        for user in alone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone
    assert read(world.home / "exposures").num_rows - before == sum(map(len, alone.values()))


def test_a_page_asks_for_more_titles_than_there_are_and_gets_those_there_are(world, homepage):
    page = ask(homepage(world, n_candidates=200), size=200)
    unwatched = set(world.title_ids.tolist()) - set(world.reader.history(1).tolist())
    assert set(shown(page)) == unwatched
    assert np.isfinite([title.scores.objective for title in page.titles]).all()
