"""Pages that are looked at and not shown: explained, or made ahead of time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pytest

from models.objective import ObjectiveWeights, objective
from serving.answers import PageRequest, PagesRequest
from serving.deadline import Deadline
from serving.explaining import ExplainRequest, explained
from serving.exposure_table import read
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import Homepage

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
NEW_USER = 10**12


@pytest.fixture
def home(world, tmp_path):
    folders = Folders.of(world.home, world.home)
    with ExposureLog(folders.exposures, name="test") as log:
        yield Homepage(LiveSource(folders, world.manifest()), log, lambda: "request")


def within(budget_ms=5_000):
    return Deadline.within(budget_ms, time.monotonic)


def asked_why(home, user_id=1, size=8, reasons=4):
    request = ExplainRequest(user_id=user_id, size=size, reasons=reasons)
    return explained(home.looked_at(request, NOW, within()), request.reasons)


def test_an_explanation_is_of_the_page_that_would_be_shown(home):
    told = asked_why(home)
    page = home.page(PageRequest(user_id=1, size=8), NOW, within())
    assert [title.title_id for title in told.titles] == [title.title_id for title in page.titles]
    assert [title.scores for title in told.titles] == [title.scores for title in page.titles]
    for name in ("arms", "versions", "weights", "source", "artwork_draw", "generation"):
        assert getattr(told, name) == getattr(page, name)


def test_heads_and_features_each_add_up_to_the_objective(home):
    told = asked_why(home, reasons=3)
    for title in told.titles:
        assert sum(title.objective_parts.values()) == pytest.approx(title.scores.objective, abs=1e-5)
        brought = sum(reason.brought for reason in title.reasons) + title.other_features_brought
        whole = told.baseline + title.retrieval_brought + brought
        assert whole == pytest.approx(title.scores.objective, abs=told.unexplained + 1e-5)
    assert told.unexplained < 0.01


def test_the_features_named_are_those_that_brought_most_with_the_values_that_were_read(home):
    told = asked_why(home, reasons=4)
    live = home.source.current()
    names = list(live.reader.digests("ranking"))
    title_ids = np.array([title.title_id for title in told.titles])
    matrix = live.reader.matrix("ranking", 1, title_ids, at=NOW)
    for row, title in enumerate(told.titles):
        sizes = [abs(reason.brought) for reason in title.reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert len(sizes) == 4
        for reason in title.reasons:
            value = matrix[row, names.index(reason.feature)]
            assert reason.value == (None if np.isnan(value) else float(value))


def test_an_explanation_is_logged_nowhere(home):
    asked_why(home)
    assert len(read(home.source.folders.exposures)) == 0


def test_where_nothing_was_ranked_the_explanation_says_what_there_is(home):
    told = asked_why(home, user_id=NEW_USER)
    assert told.source == "popular"
    assert told.degraded[0].reason == "no features of this user yet"
    assert told.baseline is told.unexplained is None
    assert [title.reasons for title in told.titles] == [()] * len(told.titles)


def test_an_explanation_weighs_with_the_weights_of_the_users_arm(world, home):
    world.go_live(
        {"weights.play": 0.0, "weights.completion": 0.0, "weights.choice": 0.0}, {"weights.play": 1.0}
    )
    home.source.look()
    told = [asked_why(home, user_id=user) for user in range(1, 9)]
    alone = [one for one in told if one.weights["play"] == 0]
    assert alone
    assert len(alone) < len(told)
    for one in alone:
        live, weights = home.source.current(), ObjectiveWeights.model_validate(one.weights)
        titles = np.array([title.title_id for title in one.titles])
        heads = live.models.rankers[one.versions.ranker].score(
            live.reader.matrix("ranking", one.user_id, titles, at=NOW)
        )
        np.testing.assert_allclose(
            [t.scores.objective for t in one.titles], objective(heads, weights), atol=1e-5
        )


def test_pages_made_ahead_are_those_that_would_be_shown_and_are_logged_nowhere(home):
    users = (1, NEW_USER, 2)
    made = home.ahead(PagesRequest(user_ids=users, size=6), NOW, within).pages
    assert len(read(home.source.folders.exposures)) == 0
    shown = [home.page(PageRequest(user_id=user, size=6), NOW, within()) for user in users]
    assert [page.titles for page in made] == [page.titles for page in shown]
    assert [page.user_id for page in made] == list(users)
