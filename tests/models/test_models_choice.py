from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from models.choice import ChoiceSet, Fusion, choice_loss, fit_fusion, over_typical, sample_beside
from models.data import MalformedData

utilities = arrays(np.float64, st.integers(1, 9), elements=st.floats(-30, 30))


def lists_of(n, width, seed, weights, spread=1.0):
    """(logits, retrieval), the title chosen by softmax of the weighted sum in column 0."""
    rng = np.random.default_rng(seed)
    logits, retrieval = rng.normal(size=(n, width)), spread * rng.normal(size=(n, width))
    utility = weights[0] * logits + weights[1] * retrieval + rng.gumbel(size=(n, width))
    order = np.argsort(-utility, axis=1)
    return np.take_along_axis(logits, order, 1), np.take_along_axis(retrieval, order, 1)


def test_with_every_title_there_for_certain_the_loss_is_that_of_a_softmax():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    assert choice_loss(logits, torch.zeros(5, 7)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_title_that_stands_for_four_counts_four_times():
    logits, log_inclusion = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, np.log(0.25)]])
    expected = np.log(np.exp(1) + 4 * np.exp(0.5)) - 1
    assert choice_loss(logits, log_inclusion).item() == pytest.approx(expected, rel=1e-6)


def test_a_place_without_a_title_counts_for_nothing():
    logits = torch.tensor([[1.0, 0.5, 99.0]])
    short = choice_loss(logits[:, :2], torch.zeros(1, 2))
    assert choice_loss(logits, torch.tensor([[0.0, 0.0, np.inf]])).item() == pytest.approx(
        short.item(), rel=1e-6
    )


def test_sampled_lists_estimate_the_sum_over_the_catalogue_without_bias():
    rng = np.random.default_rng(0)
    weight = np.exp(rng.normal(size=50))
    near, far = np.arange(10), np.arange(10, 50)
    sums = []
    for _ in range(4000):
        beside = sample_beside(near, far, (3, 5), rng)
        sums.append((weight[beside.title_ids] / np.exp(beside.log_inclusion)).sum())
    assert np.mean(sums) == pytest.approx(weight.sum(), abs=4 * np.std(sums) / np.sqrt(4000))


def test_a_sample_holds_no_title_twice_and_so_many_of_each_group():
    beside = sample_beside(np.arange(10), np.arange(100, 140), (3, 5), np.random.default_rng(1))
    assert (beside.title_ids < 10).sum() == 3
    assert (beside.title_ids >= 100).sum() == 5
    assert len(np.unique(beside.title_ids)) == 8
    np.testing.assert_allclose(np.exp(beside.log_inclusion), [3 / 10] * 3 + [5 / 40] * 5, rtol=1e-6)


def test_a_group_that_is_too_small_is_there_for_certain():
    beside = sample_beside(np.array([4, 5]), np.empty(0, np.int64), (3, 5), np.random.default_rng(2))
    assert beside.title_ids.tolist() == [4, 5]
    assert beside.log_inclusion.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_fusion_is_where_scipy_finds_the_penalised_likelihood_highest(seed):
    logits, retrieval = lists_of(60, 9, seed, (0.7, 0.4), spread=3.0)
    logits[3, 5:] = np.nan
    there, spread = ~np.isnan(logits), retrieval[~np.isnan(logits)].std()

    def cost(w):
        utility = np.where(there, w[0] * logits + w[1] * retrieval / spread, -np.inf)
        fit = np.sum(np.logaddexp.reduce(utility, axis=1) - utility[:, 0])
        return fit + 0.5 * ((w[0] - 1) ** 2 + w[1] ** 2)

    expected = minimize(cost, [1.0, 0.0], tol=1e-12).x / (1, spread)
    fitted = fit_fusion(logits, retrieval)
    assert (fitted.network, fitted.retrieval) == pytest.approx(tuple(expected), abs=1e-5)


def test_the_fusion_recovers_how_the_lists_were_chosen_from():
    fitted = fit_fusion(*lists_of(4000, 12, 0, (0.5, 0.02), spread=40.0))
    assert fitted.network == pytest.approx(0.5, abs=0.06)
    assert fitted.retrieval == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize(("weights", "left_out"), [((-0.6, 0.5), "network"), ((0.5, -0.6), "retrieval")])
def test_a_part_that_speaks_against_what_is_chosen_is_left_out(weights, left_out):
    logits, retrieval = lists_of(2000, 8, 1, weights)
    fitted = fit_fusion(logits, retrieval)
    (other,) = {"network", "retrieval"} - {left_out}
    assert getattr(fitted, left_out) == 0
    assert getattr(fitted, other) == pytest.approx(0.42, abs=0.1)  # of .5, as what is left out acts as noise
    spread = retrieval.std()

    def cost(w):  # the best without a negative weight is not what is left when one is struck out
        utility = w[0] * logits + w[1] * retrieval / spread
        fit = np.sum(np.logaddexp.reduce(utility, axis=1) - utility[:, 0])
        return fit + 0.5 * ((w[0] - 1) ** 2 + w[1] ** 2)

    best = minimize(cost, [1.0, 0.1], method="L-BFGS-B", bounds=[(0, None)] * 2, tol=1e-14).x / (1, spread)
    assert (fitted.network, fitted.retrieval) == pytest.approx(tuple(best), abs=1e-3)


def test_scores_that_are_all_alike_say_nothing():
    logits, retrieval = lists_of(300, 8, 2, (1.0, 0.0))
    assert fit_fusion(logits, np.full_like(retrieval, 3.0)).retrieval == 0


def test_a_fusion_needs_lists_with_the_title_that_was_played():
    logits, retrieval = lists_of(4, 3, 3, (1.0, 1.0))
    with pytest.raises(ValueError, match="0 lists"):
        fit_fusion(logits[:0], retrieval[:0])
    retrieval[2, 0] = np.nan
    with pytest.raises(ValueError, match="of 3 the title played is among"):
        fit_fusion(logits, retrieval)


def test_a_utility_is_the_weighted_sum_of_both():
    assert Fusion(0.5, 2.0)(np.array([2.0, 4.0]), np.array([1.0, -1.0])).tolist() == [3.0, 0.0]


@pytest.mark.parametrize("retrieval", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([1.0])])
def test_a_candidate_without_a_retrieval_score_is_refused(retrieval):
    with pytest.raises(MalformedData, match="finite retrieval scores"):
        Fusion()(np.zeros(2), retrieval)


def test_a_typical_candidate_is_chosen_half_of_the_time():
    assert over_typical(np.array([2.0, 2.0, 2.0])).tolist() == [0.5] * 3
    # weights 1 and 3, mean 2: 1/(1+2) and 3/(3+2)
    np.testing.assert_allclose(over_typical(np.log([1.0, 3.0])), [1 / 3, 3 / 5], rtol=1e-6)
    assert over_typical(np.empty(0)).tolist() == []


@given(utilities, st.floats(-500, 500))
def test_only_differences_between_candidates_count(utility, shift):
    np.testing.assert_allclose(over_typical(utility + shift), over_typical(utility), rtol=1e-4, atol=1e-7)


@given(utilities)
def test_more_candidates_of_the_same_kind_change_nothing_and_the_better_is_never_behind(utility):
    chance = over_typical(utility)
    np.testing.assert_allclose(over_typical(np.tile(utility, 3))[: len(utility)], chance, rtol=1e-5)
    assert (np.diff(chance[np.argsort(utility)]) >= 0).all()
    assert ((chance >= 0) & (chance <= 1)).all()


GOOD = ChoiceSet(np.zeros((4, 3, 2), np.float32), np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"features": np.zeros((4, 3), np.float32)}, r"\(L, W, F\)", id="flat"),
        pytest.param({"features": np.zeros((4, 1, 2), np.float32)}, "at least two", id="nothing beside"),
        pytest.param({"retrieval": np.zeros((4, 2), np.float32)}, r"retrieval is \(4, 2\)", id="ragged"),
        pytest.param({"log_inclusion": np.full((4, 3), -1, np.float32)}, "column 0", id="sampled play"),
        pytest.param(
            {"log_inclusion": np.array([[0, np.nan, 0]] * 4, np.float32)}, "holds NaN", id="unknown"
        ),
    ],
)
def test_malformed_lists_are_refused(change, message):
    with pytest.raises(MalformedData, match=message):
        replace(GOOD, **change)


def test_a_place_without_a_title_is_not_there():
    lists = replace(GOOD, log_inclusion=np.array([[0, 0, np.inf]] * 4, np.float32))
    assert lists.there.tolist() == [[True, True, False]] * 4
