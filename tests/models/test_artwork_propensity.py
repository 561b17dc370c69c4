"""Propensities: exact, bounded below, and drawn from as they say."""

import time
import timeit

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr

from models.artwork_propensity import (
    NotADistribution,
    drawn,
    normal_cdf,
    uniform_draw,
    win_probabilities,
    with_floor,
)


def oracle(mean, sd):
    """P(arm k is the largest) by adaptive quadrature, one arm at a time, broken at every arm's mean."""

    def density(u, k):
        others = np.delete(ndtr((u - mean) / sd), k).prod()
        return scipy.stats.norm.pdf(u, mean[k], sd[k]) * others

    def of(k):
        ends = mean[k] - 10 * sd[k], mean[k] + 10 * sd[k]
        breaks = np.concatenate([mean - 4 * sd, mean, mean + 4 * sd])
        breaks = breaks[(breaks > ends[0]) & (breaks < ends[1])]
        return quad(density, *ends, args=(k,), points=breaks, limit=400, epsabs=1e-10)[0]

    return np.array([of(k) for k in range(len(mean))])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [1, 4, 20, 60])
def test_win_probabilities_err_by_less_than_1e_5(seed, spread):
    """Standard deviations differ by up to `spread` within a title, as between a new image and a proven one."""
    rng = np.random.default_rng(100 * spread + seed)
    arms = int(rng.integers(2, 8))
    mean = rng.normal(0, rng.choice([0.01, 0.1, 0.5]), arms)
    sd = 0.3 * spread ** -rng.uniform(0, 1, arms)
    sd[:2] = 0.3, 0.3 / spread
    found = win_probabilities(mean[None], sd[None], np.ones((1, arms), bool))[0]
    assert np.abs(found - oracle(mean, sd)).max() < 1e-5


def test_two_arms_have_a_closed_form():
    """P(X₁ > X₂) = Φ((m₁ - m₂)/√(s₁² + s₂²))."""
    mean, sd = np.array([[0.3, 0.1]]), np.array([[0.2, 0.5]])
    expected = ndtr(0.2 / np.hypot(0.2, 0.5))
    assert win_probabilities(mean, sd, np.ones((1, 2), bool))[0] == pytest.approx(
        [expected, 1 - expected], abs=1e-6
    )


def test_an_absent_arm_does_not_change_the_others():
    """Two arms beside two gaps win as often as two arms alone."""
    mean, sd = np.array([[0.3, 0.1, 9.0, np.nan]]), np.array([[0.2, 0.5, 1.0, np.nan]])
    present = np.array([[True, True, False, False]])
    alone = win_probabilities(mean[:, :2], sd[:, :2], present[:, :2])
    assert win_probabilities(mean, sd, present)[0] == pytest.approx([*alone[0], 0, 0], abs=1e-12)


def test_a_titles_probabilities_do_not_depend_on_the_titles_beside_it():
    """Bit for bit, whether the title beside it needs 64 points or thousands."""
    rng = np.random.default_rng(0)
    mean, sd, present = rng.normal(0, 0.2, (3, 4)), rng.uniform(0.1, 0.3, (3, 4)), np.ones((3, 4), bool)
    sd[1, 0], sd[2, 0] = 0.001, 30.0
    together = win_probabilities(mean, sd, present)
    for row in range(3):
        alone = win_probabilities(mean[[row]], sd[[row]], present[[row]])
        assert (together[row] == alone[0]).all()


@pytest.mark.parametrize("spread", [300, 2_000])
def test_two_proven_images_are_told_apart_beside_one_nobody_has_seen(spread):
    """Of two narrow arms under a wide one: half of draws the wide one's, the rest by their own difference."""
    narrow = 1 / spread
    mean, sd = np.array([[0.0, narrow, 0.0]]), np.array([[narrow, narrow, 1.0]])
    found = win_probabilities(mean, sd, np.ones((1, 3), bool))[0]
    assert found == pytest.approx(oracle(mean[0], sd[0]), abs=1e-5)
    assert found[1] / (found[0] + found[1]) == pytest.approx(ndtr(1 / np.sqrt(2)), abs=0.002)


def test_equal_arms_share_equally_and_absent_arms_get_nothing():
    mean, sd = np.zeros((2, 4)), np.full((2, 4), 0.1)
    present = np.array([[True] * 4, [True, True, False, False]])
    mean[1, 2:] = np.nan  # what stands where there is no arm does not matter
    found = win_probabilities(mean, sd, present)
    assert found[0] == pytest.approx([0.25] * 4, abs=1e-9)
    assert found[1] == pytest.approx([0.5, 0.5, 0, 0], abs=1e-9)


def test_the_quick_normal_distribution_is_right_to_1e_7():
    z = np.linspace(-12, 12, 4001)
    assert np.abs(normal_cdf(z, np.exp(-0.5 * z * z)) - ndtr(z)).max() < 1e-7


@settings(deadline=None)
@given(
    arms=st.integers(1, 60),
    floor=st.floats(0.001, 0.5),
    seed=st.integers(0, 2**32),
)
def test_probabilities_sum_to_one_and_none_is_below_the_floor(arms, floor, seed):
    rng = np.random.default_rng(seed)
    present = np.arange(arms) < rng.integers(1, arms + 1, (5, 1))
    weights = win_probabilities(rng.normal(size=(5, arms)), rng.uniform(0.05, 1, (5, arms)), present)
    p = with_floor(weights, present, floor)
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-9
    least = np.minimum(floor, 1 / present.sum(axis=1, keepdims=True))
    assert (p >= np.where(present, least - 1e-12, 0)).all()
    assert (p[~present] == 0).all()


def test_the_floor_is_added_and_the_rest_shared_by_the_weights():
    """p = .02 + (1 - 3 · .02) w."""
    found = with_floor(np.array([[0.5, 0.5, 0.0]]), np.ones((1, 3), bool), 0.02)
    assert found[0] == pytest.approx([0.49, 0.49, 0.02])


@pytest.mark.parametrize(
    ("mean", "sd"), [([np.nan, 0], [1, 1]), ([0, 0], [0, 1]), ([0, 0], [1, -1]), ([0, np.inf], [1, 1])]
)
def test_what_is_no_distribution_is_refused(mean, sd):
    with pytest.raises(NotADistribution):
        win_probabilities(np.array([mean], float), np.array([sd], float), np.ones((1, 2), bool))


def test_draws_fall_on_arms_as_often_as_they_should():
    p = np.array([0.05, 0.6, 0.0, 0.35])
    draws = np.array([uniform_draw(user, 9, 20_000) for user in range(40_000)])
    present = np.array([True, True, False, True])
    arm = drawn(np.tile(p, (len(draws), 1)), np.tile(present, (len(draws), 1)), draws)
    counts = np.bincount(arm, minlength=4)
    assert counts[2] == 0
    assert scipy.stats.chisquare(counts[present], p[present] * len(draws)).pvalue > 0.001


def test_a_draw_depends_on_user_title_and_epoch_and_on_nothing_else():
    assert uniform_draw(1, 2, 3) == uniform_draw(1, 2, 3)
    assert len({uniform_draw(*key) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)]}) == 5


def test_draws_of_two_titles_or_two_days_are_independent():
    a = np.array([uniform_draw(u, 1, 1) for u in range(20_000)])
    for other in ((2, 1), (1, 2)):
        b = np.array([uniform_draw(u, *other) for u in range(20_000)])
        counts, _, _ = np.histogram2d(a, b, bins=4, range=[[0, 1], [0, 1]])
        assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.001


@pytest.mark.parametrize(("draw", "arm"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.999999, 1)])
def test_an_arm_owns_its_interval_closed_at_its_start(draw, arm):
    p, present = np.array([[0.25, 0.75, 0.0]]), np.array([[True, True, False]])
    assert drawn(p, present, np.array([draw]))[0] == arm


def test_a_page_of_40_titles_with_10_images_takes_under_2_ms():
    """Processor time, the best of ten runs; about 1 ms on a quiet machine."""
    rng = np.random.default_rng(0)
    mean, sd, present = rng.normal(0, 0.2, (40, 10)), rng.uniform(0.1, 0.3, (40, 10)), np.ones((40, 10), bool)
    runs = timeit.repeat(
        lambda: win_probabilities(mean, sd, present), number=20, repeat=10, timer=time.process_time
    )
    assert min(runs) / 20 < 2e-3
