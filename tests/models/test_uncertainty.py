import numpy as np
import pytest
import scipy.stats

from models.data import MalformedData
from models.metrics import Undefined
from models.uncertainty import compare, comparisons, estimate, estimates, first_as_good


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_interval_is_that_of_scipys_percentile_bootstrap():
    values = rng(1).exponential(size=400)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(2))
    ours = estimate(values, rng(3), resamples=20_000)
    assert ours.value == pytest.approx(values.mean(), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
    assert ours.users == 400


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    held = 0
    for seed in range(300):
        found = estimate(rng(seed).exponential(size=150), rng(seed + 10_000), resamples=300)
        held += found.low <= 1 <= found.high
    assert (
        0.90 <= held / 300 <= 0.98
    )  # 95 %, less what a skewed mean of 150 loses; its Monte Carlo error is .013


def test_a_users_measures_are_drawn_together():
    values = rng(0).random((50, 1))
    twice = estimates(np.hstack([values, 2 * values]), rng(5))
    assert twice[1].low == pytest.approx(2 * twice[0].low, rel=1e-12)
    assert twice[1].high == pytest.approx(2 * twice[0].high, rel=1e-12)


def test_the_sign_flip_p_value_is_scipys_permutation_test():
    ours, theirs = rng(0).random(12) + 0.15, rng(1).random(12)
    exact = scipy.stats.permutation_test(
        (ours, theirs), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    ).pvalue  # all 2¹² flips
    found = compare(ours, theirs, rng(2), resamples=20_000)
    assert found.p_value == pytest.approx(exact, abs=0.012)
    assert found.difference.value == pytest.approx((ours - theirs).mean())


def test_a_difference_that_no_flip_reaches_still_has_a_p_value_above_0():
    ours = np.ones(40)  # of 2⁴⁰ ways to flip two reach it, and none of 999 drawn ones will
    found = compare(ours, np.zeros(40), np.random.default_rng(0), resamples=999)
    assert found.p_value == 1 / 1000


def test_models_that_are_alike_differ_by_chance_in_one_case_of_twenty():
    rejected = 0
    for seed in range(300):
        draws = rng(seed).normal(size=(2, 60))
        rejected += compare(draws[0], draws[1], rng(seed + 5_000), resamples=300).p_value < 0.05
    assert rejected / 300 == pytest.approx(0.05, abs=0.035)


def test_the_better_model_is_told_by_pairs_though_users_differ_far_more():
    level = rng(0).normal(scale=10, size=300)
    found = compare(level + 0.2 + rng(1).normal(scale=0.5, size=300), level, rng(2))
    assert found.p_value < 0.01
    assert found.difference.low > 0


def test_equal_figures_have_no_difference_and_p_one():
    same = rng(0).random((30, 2))
    for found in comparisons(same, same, rng(1)):
        assert found.p_value == 1
        assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)


@pytest.mark.parametrize("values", [np.zeros(0), np.array([1.0, np.nan]), np.array([np.inf])])
def test_no_users_and_no_numbers_have_no_estimate(values):
    with pytest.raises(Undefined):
        estimate(values, rng())


def test_figures_of_other_users_cannot_be_paired():
    with pytest.raises(MalformedData, match=r"\(3, 1\) and \(4, 1\)"):
        compare(np.zeros(3), np.zeros(4), rng())


def test_equal_seeds_give_equal_intervals():
    values = rng(0).random(100)
    assert estimate(values, rng(1)) == estimate(values, rng(1))


def test_the_first_is_taken_whose_mean_is_within_one_standard_error_of_the_best():
    best = np.zeros(100)
    gap = np.where(
        np.arange(100) % 2, 1.0, -1.0
    )  # standard deviation 1, so the standard error of the mean is 0.1
    assert first_as_good([best - gap - 0.11, best - gap - 0.09, best]) == 1
    assert first_as_good([best - 0.001, best]) == 1  # behind by the same for everyone: no doubt about it
    assert first_as_good([best, best - 1, best]) == 0
