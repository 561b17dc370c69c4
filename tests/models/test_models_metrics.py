import itertools
import math

import numpy as np
import pytest

from models.metrics import (
    Undefined,
    auc,
    coverage_at,
    expected_calibration_error,
    gini_at,
    grouped_auc,
    hits,
    log_loss,
    ndcg_at,
    recall_at,
    reciprocal_rank,
)


def hit(*flags):
    return np.array(flags, dtype=bool)


def test_recall_is_the_share_of_all_that_is_relevant():
    assert recall_at(hit(1, 0, 1, 1), n_relevant=5, k=3) == 2 / 5


def test_a_list_shorter_than_k_is_judged_by_what_it_has():
    assert recall_at(hit(1), n_relevant=2, k=100) == 1 / 2
    assert ndcg_at(hit(1), n_relevant=1, k=100) == 1


@pytest.mark.parametrize(
    ("flags", "n", "k", "expected"),
    [
        pytest.param((1, 1), 2, 2, 1, id="best possible"),
        pytest.param((0, 1), 1, 2, 1 / math.log2(3), id="second place"),
        pytest.param((0, 1, 1), 2, 2, (1 / math.log2(3)) / (1 + 1 / math.log2(3)), id="cut at k"),
        pytest.param((1, 0, 0), 5, 3, 1 / (1 + 1 / math.log2(3) + 1 / 2), id="more relevant than k"),
        pytest.param((0, 0), 3, 2, 0, id="nothing"),
    ],
)
def test_ndcg_discounts_by_the_logarithm_of_the_place(flags, n, k, expected):
    assert ndcg_at(hit(*flags), n, k) == pytest.approx(expected, rel=1e-12)


def test_hits_are_the_ranked_titles_that_are_relevant():
    assert hits(np.array([5, 3, 9]), np.array([9, 5])).tolist() == [True, False, True]


def pairs_won(label, score):
    """AUC by its definition: every positive against every negative."""
    positive = [s for s, y in zip(score, label, strict=True) if y]
    negative = [s for s, y in zip(score, label, strict=True) if not y]
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positive, negative)]
    return sum(won) / len(won)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order_ties_counting_half(seed):
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 2, 40).astype(float), rng.integers(0, 6, 40).astype(float)
    assert auc(label, score) == pytest.approx(pairs_won(label, score), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_grouped_auc_is_the_mean_over_groups_by_rows_those_of_one_class_left_out(seed):
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 2, 60).astype(float), rng.random(60)
    group = rng.integers(0, 8, 60)
    label[group == 3] = 1
    usable = [g for g in range(8) if 0 < label[group == g].sum() < (group == g).sum()]
    sizes = [(group == g).sum() for g in usable]
    each = [pairs_won(label[group == g], score[group == g]) for g in usable]
    expected = sum(n * a for n, a in zip(sizes, each, strict=True)) / sum(sizes)
    assert grouped_auc(label, score, group) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_is_the_mean_gap_over_bins_of_equal_count():
    probability = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1.0])
    # bins of four: |.25 - .1| and |1 - .8|
    assert expected_calibration_error(label, probability, bins=2) == pytest.approx((0.15 + 0.2) / 2)


def test_honest_probabilities_have_a_small_calibration_error_and_overconfident_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 50_000)
    label = (rng.random(50_000) < p).astype(float)
    assert expected_calibration_error(label, p) < 0.01
    assert expected_calibration_error(label, np.where(p > 0.5, 0.99, 0.01)) > 0.2


def test_log_loss_is_the_mean_negative_logarithm():
    expected = -(math.log(0.8) + math.log(1 - 0.3) + 0.25 * math.log(0.5) + 0.75 * math.log(0.5)) / 3
    assert log_loss(np.array([1, 0, 0.25]), np.array([0.8, 0.3, 0.5])) == pytest.approx(expected, rel=1e-9)


def test_coverage_counts_each_title_once():
    lists = [np.array([1, 2, 3]), np.array([2, 1, 9])]
    assert coverage_at(lists, catalogue_size=10, k=2) == 2 / 10
    assert coverage_at(lists, catalogue_size=10, k=3) == 4 / 10


ONES, HALVES = np.ones(3), np.full(3, 0.5)


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda: auc(ONES, HALVES), id="auc of one class"),
        pytest.param(lambda: grouped_auc(ONES, HALVES, np.arange(3)), id="grouped auc of one class"),
        pytest.param(lambda: grouped_auc(ONES[:0], ONES[:0], np.arange(0)), id="grouped auc of nothing"),
        pytest.param(lambda: recall_at(hit(0), 0, 1), id="recall of nothing relevant"),
        pytest.param(lambda: ndcg_at(hit(0), 0, 1), id="ndcg of nothing relevant"),
        pytest.param(lambda: expected_calibration_error(ONES[:0], ONES[:0]), id="calibration of nothing"),
        pytest.param(lambda: log_loss(ONES[:0], ONES[:0]), id="log loss of nothing"),
        pytest.param(lambda: coverage_at([], 0, 5), id="coverage of nothing"),
    ],
)
def test_what_the_input_does_not_determine_is_no_number(measure):
    with pytest.raises(Undefined):
        measure()


def test_the_reciprocal_rank_is_one_over_the_place_of_the_first_relevant_title():
    assert reciprocal_rank(np.array([False, False, True, True])) == pytest.approx(1 / 3)
    assert reciprocal_rank(np.array([True, False])) == 1
    assert reciprocal_rank(np.array([False, False])) == 0
    assert reciprocal_rank(np.array([], dtype=bool)) == 0


def test_gini_is_the_mean_difference_between_titles_over_twice_their_mean():
    lists = [np.array([1, 2, 3]), np.array([1, 2, 9]), np.array([1, 4, 2])]
    counts = np.array([3, 2, 0, 1, 0, 0])  # of six titles, among the first two places
    expected = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert gini_at(lists, 6, 2) == pytest.approx(expected)


def test_gini_is_zero_where_all_are_shown_alike_and_nearly_one_where_one_title_is():
    assert gini_at([np.array([1, 2]), np.array([3, 4])], 4, 2) == pytest.approx(0)
    assert gini_at([np.array([7])] * 5, 1000, 1) == pytest.approx(0.999)


def test_gini_of_nothing_shown_is_undefined():
    with pytest.raises(Undefined, match="nothing shown"):
        gini_at([np.array([], dtype=np.int64)], 10, 5)
