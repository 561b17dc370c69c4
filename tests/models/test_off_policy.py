"""Values of a policy from another one's log: by hand, against obp, and by how often intervals hold the truth."""

import importlib.util
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.off_policy import (
    Model,
    NotEvaluable,
    TooLittleOverlap,
    effective_sample_size,
    policy_value,
)


def test_values_are_right_on_a_log_small_enough_to_do_by_hand():
    """Weights 2, 0, 1, 1; rewards 1, 1, 0, 1: IPS = 3/4, SNIPS = 3/4, effective sample size 16/6."""
    target, logged = np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.5])
    found = policy_value(target, logged, np.array([1.0, 1.0, 0.0, 1.0]), least_effective=1)
    assert (found.ips, found.snips) == (0.75, 0.75)
    assert found.effective_sample_size == pytest.approx(16 / 6)
    assert found.dr is None


def test_snips_and_ips_part_where_weights_do_not_average_one():
    """Weights 2, 1; rewards 1, 0: IPS = 2/2, SNIPS = 2/3, its interval 2/3 ± 1.96 √(4/9 + 4/9)/3."""
    found = policy_value(np.array([1.0, 0.5]), np.array([0.5, 0.5]), np.array([1.0, 0.0]), least_effective=1)
    assert (found.ips, found.snips) == (1.0, pytest.approx(2 / 3))
    margin = 1.959964 * np.sqrt((2 * (1 - 2 / 3)) ** 2 + (1 * (0 - 2 / 3)) ** 2) / 3
    assert (found.low, found.high) == pytest.approx((2 / 3 - margin, 2 / 3 + margin), abs=1e-6)


def test_doubly_robust_is_right_on_a_log_small_enough_to_do_by_hand():
    """Terms .4 + 2 (1 - .5) and .3 + 1 (0 - .2): mean .75, interval .75 ± 1.96 · √(2 · .65²)/2."""
    model = Model(np.array([0.5, 0.2]), np.array([0.4, 0.3]))
    args = np.array([1.0, 0.5]), np.array([0.5, 0.5]), np.array([1.0, 0.0])
    found = policy_value(*args, least_effective=1, model=model).dr
    assert found.value == pytest.approx(0.75)
    margin = 1.959964 * np.sqrt(2 * 0.65**2) / 2
    assert (found.low, found.high) == pytest.approx((0.75 - margin, 0.75 + margin), abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_policy_valued_on_its_own_log_earned_what_the_log_says(seed):
    rng = np.random.default_rng(seed)
    logged, reward = rng.uniform(0.1, 1, 50), rng.normal(size=50)
    found = policy_value(logged, logged, reward, least_effective=1)
    assert (found.ips, found.snips) == pytest.approx((reward.mean(), reward.mean()))
    assert found.effective_sample_size == pytest.approx(50)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_snips_moves_with_the_reward_and_dr_rests_on_the_model_where_that_is_exact(seed, shift):
    """SNIPS(r + c) = SNIPS(r) + c, whatever the weights; DR of a model that is exact is the model's own value."""
    rng = np.random.default_rng(seed)
    target, logged, reward = rng.uniform(0, 1, 40), rng.uniform(0.1, 1, 40), rng.normal(size=40)
    plain = policy_value(target, logged, reward, least_effective=1)
    moved = policy_value(target, logged, reward + shift, least_effective=1)
    assert moved.snips == pytest.approx(plain.snips + shift, abs=1e-9)
    policy = rng.normal(size=40)
    exact = policy_value(target, logged, reward, least_effective=1, model=Model(reward, policy)).dr
    assert exact.value == pytest.approx(policy.mean(), abs=1e-12)


def test_too_little_overlap_is_refused_with_its_size():
    with pytest.raises(TooLittleOverlap, match="effective sample size 0 of 1,000 rows, at least 200"):
        policy_value(np.zeros(1_000), np.full(1_000, 0.5), np.ones(1_000))
    lopsided = np.full(10_000, 1e-4)
    lopsided[:3] = 1.0
    with pytest.raises(TooLittleOverlap, match="effective sample size 5 of 10,000"):
        policy_value(lopsided, np.full(10_000, 0.5), np.ones(10_000))


def test_the_bound_on_overlap_itself_is_enough():
    """Equal weights of 200 rows: an effective sample size of exactly 200."""
    assert effective_sample_size(np.ones(200)) == 200
    even = np.full(200, 0.5)
    assert policy_value(even, even, np.ones(200)).effective_sample_size == 200
    with pytest.raises(TooLittleOverlap):
        policy_value(even[1:], even[1:], np.ones(199))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": np.array([1.5, 0.5])}, "target probability lies outside"),
        ({"target": np.array([np.nan, 0.5])}, "target probability lies outside"),
        ({"target": np.array([-0.1, 0.5])}, "target probability lies outside"),
        ({"logged": np.array([0.0, 0.5])}, "never drawn"),
        ({"logged": np.array([0.5, 1.1])}, "logged probability lies outside"),
        ({"reward": np.array([np.nan, 1.0])}, "reward is not finite"),
        ({"reward": np.array([1.0])}, "2 target and 2 logged probabilities, 1 rewards"),
        ({"model": Model(np.zeros(3), np.zeros(3))}, "the model expects 3 rewards"),
        ({"model": Model(np.zeros(2), np.array([0.0, np.inf]))}, "not finite"),
    ],
)
def test_what_has_no_value_is_refused(change, said):
    given = {"target": np.array([0.5, 0.5]), "logged": np.array([0.5, 0.5]), "reward": np.array([1.0, 0.0])}
    with pytest.raises(NotEvaluable, match=said):
        policy_value(**(given | change), least_effective=1)


def simulated(rng, rows, arms=5):
    """A log of softmax choices in a world of known rewards; a target policy unlike it; a wrong model of rewards."""
    x = rng.normal(size=(rows, 3))
    world, log_w, target_w = (
        np.random.default_rng(s).normal(0, scale, (3, arms)) for s, scale in ((1, 0.6), (2, 0.2), (3, 0.3))
    )
    soft = lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)  # noqa: E731
    rate = 1 / (1 + np.exp(1 - x @ world))
    logging, target = soft(x @ log_w), soft(x @ target_w)
    action = (rng.random(rows)[:, None] > np.cumsum(logging, axis=1)).sum(axis=1).clip(0, arms - 1)
    row = np.arange(rows)
    reward = (rng.random(rows) < rate[row, action]).astype(float)
    model = 0.6 * rate + 0.05  # wrong, and the same for every row: it never saw this log
    return target, logging, action, reward, model, rate


def valued(target, logging, action, reward, model, **more):
    row = np.arange(len(action))
    expected = Model(model[row, action], (target * model).sum(axis=1))
    return policy_value(target[row, action], logging[row, action], reward, model=expected, **more)


def test_intervals_hold_the_true_value_19_times_in_20():
    """400 logs of 2,000 rows; 20 of 400 outside are expected, 366..393 inside is Binomial(400, .95) at 0.1 %."""
    target, *_, rate = simulated(np.random.default_rng(999), 400_000)
    truth = (target * rate).sum(axis=1).mean()
    found = [valued(*simulated(np.random.default_rng(seed), 2_000)[:5]) for seed in range(400)]
    assert 366 <= sum(f.low <= truth <= f.high for f in found) <= 393
    assert 366 <= sum(f.dr.low <= truth <= f.dr.high for f in found) <= 393
    direct = [
        (t * m).sum(axis=1).mean() for t, _, _, _, m, _ in (simulated(np.random.default_rng(0), 2_000),)
    ]
    assert abs(direct[0] - truth) > 0.02  # the model alone is wrong; the correction is what makes DR right


def test_estimates_are_obps_to_1e_12():
    """obp 0.4.1 (Saito et al. 2021) as the oracle, on its logs' layout: (rows, actions, 1)."""
    if importlib.util.find_spec("obp") is None:
        pytest.skip("obp is not installed: pip install --no-deps obp==0.4.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from obp.ope import (
            DoublyRobust,
            InverseProbabilityWeighting,
            SelfNormalizedInverseProbabilityWeighting,
        )
    for seed in range(5):
        target, logging, action, reward, model, _ = simulated(np.random.default_rng(seed), 3_000)
        asked = {
            "reward": reward, "action": action, "pscore": logging[np.arange(3_000), action],
            "action_dist": target[:, :, None], "position": np.zeros(3_000, int),
        }  # fmt: skip
        found = valued(target, logging, action, reward, model)
        ips = InverseProbabilityWeighting().estimate_policy_value(**asked)
        snips = SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**asked)
        dr = DoublyRobust().estimate_policy_value(**asked, estimated_rewards_by_reg_model=model[:, :, None])
        assert (found.ips, found.snips, found.dr.value) == pytest.approx((ips, snips, dr), abs=1e-12)
