"""The quality factor: fewer candidates while pages are slow, all of them while they are not."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.answers import PageRequest
from serving.deadline import Deadline
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import Defaults
from serving.page import Homepage
from serving.quality_factor import Quality, QualityConfig, QualityFactor

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
CONFIG = QualityConfig(target_share=0.8, quantile=0.9, floor=0.25, step=0.01)


@given(st.lists(st.floats(0, 2000), max_size=200), st.floats(0.25, 1))
def test_it_stays_between_its_floor_and_one(latencies, start):
    factor = QualityFactor(CONFIG, start)
    for latency in latencies:
        factor = factor.after(latency, 1000)
        assert 0.25 <= factor.value <= 1


@given(st.floats(0, 2000), st.floats(0, 2000), st.floats(0.25, 1))
def test_a_slower_answer_never_leaves_it_higher(one, other, start):
    fast, slow = sorted((one, other))
    factor = QualityFactor(CONFIG, start)
    assert factor.after(slow, 1000).value <= factor.after(fast, 1000).value


def test_an_answer_beyond_the_target_costs_as_many_steps_as_answers_within_it_are_to_outnumber_it():
    factor = QualityFactor(CONFIG, 0.5)
    assert factor.after(800.0, 1000).value == pytest.approx(0.5 + 0.01)
    assert factor.after(800.1, 1000).value == pytest.approx(0.5 - 0.01 * 9)  # 0.9 / (1 - 0.9)


@pytest.mark.parametrize("load", [1.5, 2.5])
def test_the_quantile_of_latency_is_driven_to_the_target(load):
    """Latency grows with the candidates, with noise: after a while the wanted share of answers is within the target."""
    rng = np.random.default_rng(0)
    factor, within = QualityFactor(QualityConfig(quantile=0.9, step=0.002, floor=0.1)), []
    for _ in range(20_000):
        latency = 100 + load * 500 * factor.value * rng.lognormal(0, 0.3)
        within.append(latency <= 800)
        factor = factor.after(latency, 1000)
    assert np.mean(within[5_000:]) == pytest.approx(0.9, abs=0.02)
    assert 0.1 < factor.value < 1


def test_while_there_is_no_load_it_comes_back_to_one():
    factor = QualityFactor(CONFIG, 0.25)
    for _ in range(76):
        factor = factor.after(1.0, 1000)
    assert factor.value == 1


def test_it_never_takes_titles_from_the_page():
    assert QualityFactor(CONFIG, 0.25).of(200, 40) == 50
    assert QualityFactor(CONFIG, 0.25).of(200, 60) == 60
    assert QualityFactor(CONFIG, 0.25).of(30, 60) == 30
    assert QualityFactor(CONFIG, 1.0).of(200, 40) == 200


def test_it_is_off_unless_asked_for_and_its_settings_are_checked():
    assert Defaults().adaptive_quality is None
    for wrong in ({"quantile": 1.0}, {"floor": 0.0}, {"target_share": 1.1}, {"steps": 1}):
        with pytest.raises(ValidationError):
            QualityConfig.model_validate(wrong)


def test_a_page_weighs_up_what_the_factor_leaves_and_says_so(world):
    folders, ids = Folders.of(world.home, world.home), itertools.count()
    source = LiveSource(folders, world.manifest())
    with ExposureLog(folders.exposures, name="test") as log:

        def home(quality):
            return Homepage(source, log, lambda: f"request-{next(ids)}", quality=quality)

        def ask(quality, budget_ms=60_000):
            request = PageRequest(user_id=1, size=5)
            return home(quality).page(request, NOW, Deadline.within(budget_ms, time.monotonic))

        full, half = ask(None), ask(Quality(QualityFactor(CONFIG, 0.5)))
        assert (full.quality, half.quality, half.source) == (1.0, 0.5, "ranked")
        retriever, watched = source.current().models.retrievers["retriever/1"], world.reader.history(1)
        features = world.reader.vector("retrieval_user", 1)
        best = retriever.candidates(features, watched, 20, exclude=watched).title_ids  # half of 40
        assert {title.title_id for title in half.titles} <= set(best.tolist())
        moved = Quality(QualityFactor(CONFIG, 0.5))
        ask(moved)
        assert moved.factor.value == pytest.approx(0.51)
