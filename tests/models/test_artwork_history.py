"""The values of the figure "posterior of images over time"."""

from datetime import date

import numpy as np
import pytest
from scipy.special import expit, logit

from models.artwork import ArtworkPolicy
from models.artwork_cold_start import NewTitles, start_of
from models.artwork_data import ArtworkLog, Scale, UnknownArtwork
from models.artwork_history import NoSuchTitle, belief_history
from models.artwork_prior import Prior
from models.artwork_residuals import Baseline
from models.artwork_settings import ArtworkConfig
from models.data import MalformedData
from models.signature import Signature

RATES = np.array([[0.10, 0.14, 0.20], [0.2, 0.2, 0.2]])
DAYS = [date(2026, 3, day) for day in range(1, 7)]


@pytest.fixture
def policy():
    """Two titles (7, 8) of three images (10..12, 13..15) each, nothing shown yet, one taste."""
    new = NewTitles(RATES, np.ones((2, 3), bool))
    start = start_of(new, np.zeros((2, 3)), 0.4, -2.0, 1.8)
    mean = np.concatenate([start.mean, np.full((6, 1), 0.1, np.float32)], axis=1)
    prior = Prior(Scale(np.zeros(1), np.ones(1)), np.zeros((1, 1)), 0.0, 0.4, 0.5)
    precision = np.tile(prior.precision.astype(np.float32), (6, 1))
    return ArtworkPolicy(
        artwork_ids=np.arange(10, 16), title_ids=np.repeat([7, 8], 3), belief=type(start.belief)(mean, precision),
        prior_mean=mean, prior=prior, contexts=Scale(np.zeros(1), np.ones(1)),
        titles=Baseline(np.array([7, 8]), np.full(2, -2.0), -2.0),
        signature=Signature(("c",), ("x",)), image_signature=Signature(("i",), ("x",)), config=ArtworkConfig(),
    )  # fmt: skip


def day_log(seed, n=600, title=7):
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 3, n)
    play = (rng.random(n) < RATES[title - 7, arm]).astype(np.float32)
    ids = 10_000 * seed + np.arange(n)
    return ArtworkLog(
        ids, ids, np.full(n, title), 10 + 3 * (title - 7) + arm, rng.normal(size=(n, 1)).astype(np.float32),
        play, np.full(n, 1 / 3),
    )  # fmt: skip


def test_the_history_begins_with_the_prior(policy):
    """logit ± 1.2816 · 0.4 at the average user, whose taste is 0."""
    (before,) = belief_history(policy, [], 7)
    assert before.day is None
    for arm in before.arms:
        assert (arm.rate, arm.low, arm.high) == pytest.approx(
            tuple(expit(-2 + z * 0.4) for z in (0, -1.2815516, 1.2815516)), abs=1e-6
        )
        assert (arm.impressions, arm.plays) == (0, 0)
        assert arm.propensity == pytest.approx(1 / 3)


def test_each_day_is_what_the_policy_believes_after_absorbing_it(policy):
    logs = [day_log(seed) for seed in range(1, 4)]
    found = belief_history(policy, zip(DAYS, logs, strict=False), 7)
    assert [one.day for one in found] == [None, *DAYS[:3]]
    now = policy
    for one, log in zip(found[1:], logs, strict=True):
        now = now.absorb(log)
        assert [arm.artwork_id for arm in one.arms] == [10, 11, 12]
        logits = now.titles.logits[0] + now.belief.mean[:3, 0]
        assert [arm.rate for arm in one.arms] == pytest.approx(expit(logits).tolist(), abs=1e-6)
        width = [logit(arm.high) - logit(arm.low) for arm in one.arms]
        assert width == pytest.approx(
            (2 * 1.2815516 / np.sqrt(now.belief.precision[:3, 0])).tolist(), rel=1e-5
        )
        assert sum(arm.propensity for arm in one.arms) == pytest.approx(1)
    total = np.concatenate([log.artwork_id for log in logs])
    assert [arm.impressions for arm in found[-1].arms] == np.bincount(total - 10).tolist()
    assert sum(arm.plays for arm in found[-1].arms) == sum(log.play.sum() for log in logs)


def test_intervals_narrow_and_the_best_image_comes_out(policy):
    logs = [day_log(seed, 5_000) for seed in range(1, 7)]
    found = belief_history(policy, zip(DAYS, logs, strict=True), 7)
    spread = [sum(arm.high - arm.low for arm in one.arms) for one in found]
    assert (np.diff(spread) < 0).all()
    assert max(found[-1].arms, key=lambda arm: arm.rate).artwork_id == 12


def test_intervals_hold_the_true_rate_4_times_in_5(policy):
    """40 histories of a day, 3 images each: 84..107 of 120 is Binomial(120, .8) at 0.5 % either side."""
    days = [belief_history(policy, [(DAYS[0], day_log(seed, 3_000))], 7)[-1] for seed in range(100, 140)]
    held = [arm.low < rate < arm.high for one in days for arm, rate in zip(one.arms, RATES[0], strict=True)]
    assert 84 <= sum(held) <= 107


def test_another_titles_day_and_a_repeated_day_change_nothing(policy):
    log = day_log(1)
    found = belief_history(policy, zip(DAYS, [log, day_log(2, title=8), log], strict=False), 7)
    assert found[1].arms == found[2].arms == found[3].arms
    assert found[1].arms != found[0].arms


def test_a_user_has_his_own_history(policy):
    """Taste 0.1 ± 0.5 times x = 2 widens the prior's interval to √(.4² + (2 · .5)²)."""
    (found,) = belief_history(policy, [], 7, np.array([2.0], np.float32))
    assert logit(found.arms[0].rate) == pytest.approx(-2 + 0.2, abs=1e-5)
    width = logit(found.arms[0].high) - logit(found.arms[0].low)
    assert width == pytest.approx(2 * 1.2815516 * np.sqrt(0.4**2 + 1), rel=1e-5)


def test_what_has_no_history_is_refused(policy):
    with pytest.raises(NoSuchTitle, match="title 9 is not among the 2 titles"):
        belief_history(policy, [], 9)
    with pytest.raises(MalformedData, match="days are absorbed in order"):
        belief_history(policy, [(DAYS[1], day_log(1)), (DAYS[1], day_log(2))], 7)
    stray = day_log(1)
    with pytest.raises(UnknownArtwork):
        belief_history(policy, [(DAYS[0], type(stray)(**{**vars(stray), "artwork_id": np.full(600, 99)}))], 7)
