"""Features in pieces: what a piece is, and which features get any."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inputs import Standardiser, fit_standardiser
from models.pieces import NO_PIECES, Pieces, bends, fit_pieces

NULL = np.float32("nan")


def f32(*values):
    return np.array(values, dtype=np.float32)


def by_hand(x, start, end):
    """Gorishniy et al. 2022, eq. 1: 0 before the piece, 1 after it, and how much of it lies behind x within."""
    return 0.0 if x < start else 1.0 if x >= end else (x - start) / (end - start)


def bare(*cuts, column=0):
    n = len(cuts) - 1
    return Pieces(
        np.full(n, column), f32(*cuts[:-1]), 1 / np.diff(f32(*cuts)), np.zeros(n, np.float32), np.ones(n, np.float32)
    )  # fmt: skip


@pytest.mark.parametrize("x", [-3.0, 0.0, 1.0, 2.0, 3.0, 9.0, 10.0, 11.0, np.inf, -np.inf])
def test_a_piece_is_how_much_of_it_lies_behind_a_value(x):
    cuts = (0.0, 2.0, 10.0)
    expected = [by_hand(x, *ends) for ends in pairwise(cuts)]
    assert bare(*cuts).transform(f32(x)[:, None]).ravel().tolist() == pytest.approx(expected)


def test_a_null_is_the_mean_of_every_piece():
    pieces = Pieces(np.array([0]), f32(0), f32(1), f32(0.25), f32(2))
    assert pieces.transform(f32(NULL, 0, 0.25, 1)[:, None]).ravel().tolist() == [0, -0.5, 0, 1.5]


def training_rows(seed=0, n=4_000):
    """Noise, a straight line, a bend, a step, a constant, nulls only, and a bend that is null in half of the rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)).astype(np.float32)
    x[:, 4], x[:, 5] = 3, NULL
    y = x[:, 1] + np.abs(x[:, 2]) + (x[:, 3] > 1) + 0.5 * np.abs(x[:, 6]) + rng.normal(size=n)
    x[::2, 6] = NULL
    return x, y.astype(np.float32)


def fitted(x, outcomes, pieces=4, bent=10):
    straight = fit_standardiser(x)
    read = straight.transform(x)[:, : straight.n_features]
    return fit_pieces(x, read, outcomes, pieces=pieces, bent=bent)


def test_features_along_which_an_outcome_bends_are_cut_at_their_quantiles():
    x, y = training_rows()
    found = fitted(x, {"play": y})
    assert found.column.tolist() == [2] * 4 + [3] * 4 + [6] * 4
    known = x[~np.isnan(x[:, 6]), 6]
    starts, ends = found.start[-4:], found.start[-4:] + 1 / found.inverse_width[-4:]
    np.testing.assert_allclose([*starts, ends[-1]], np.quantile(known, [0, 0.25, 0.5, 0.75, 1]), rtol=1e-5)
    np.testing.assert_allclose(starts[1:], ends[:-1], rtol=1e-5)


def test_every_piece_has_mean_0_and_deviation_1_over_the_rows_that_are_known():
    x, y = training_rows()
    found = fitted(x, {"play": y})
    made = found.transform(x)
    assert made[::2, -4:].tolist() == [[0.0] * 4] * 2_000
    known = np.concatenate([made[:, :8][1::2], made[1::2, -4:]], axis=1)
    np.testing.assert_allclose(made[:, :8].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(known[:, -4:].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(made[:, :8].std(axis=0), 1, atol=1e-5)


def test_each_outcome_has_the_features_that_it_bends_along_most_and_only_known_ones_count():
    x, y = training_rows()
    other = np.abs(x[:, 0]).copy()
    other[1::2] = NULL
    assert set(fitted(x, {"play": y}, bent=1).column) == {2}
    assert set(fitted(x, {"play": y, "retention": other}, bent=1).column) == {0, 2}
    assert fitted(x, {"play": y}, bent=0) is NO_PIECES
    assert fitted(x, {"play": np.full(len(x), NULL)}) is NO_PIECES


def test_noise_is_not_cut():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1_000)).astype(np.float32)
    assert fitted(x, {"play": rng.normal(size=500).astype(np.float32)}) is NO_PIECES


def test_a_flag_and_a_constant_have_no_bend():
    outcome = np.random.default_rng(0).normal(size=100).astype(np.float32)
    flag = np.arange(100) % 2
    assert bends(flag.astype(np.float32), flag, outcome) == 0
    assert bends(f32(*[3] * 100), np.zeros(100, np.int64), outcome) == 0
    line = np.linspace(0, 1, 100, dtype=np.float32)
    assert bends(line, np.arange(100) // 25, np.full(100, 2, np.float32)) == 0


def test_how_far_an_outcome_bends_is_counted_in_deviations_of_chance():
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(8), 100)
    x = np.sort(rng.normal(size=800)).astype(np.float32)
    found = [bends(x, bins, (3 * x + rng.normal(size=800)).astype(np.float32)) for _ in range(2_000)]
    assert np.mean(found) == pytest.approx(0, abs=4 / 2_000**0.5)
    assert np.std(found) == pytest.approx(1, abs=0.1)


def test_how_far_it_bends_is_what_the_formula_says():
    x, y, bins = f32(0, 1, 2, 3, 4, 5), f32(1, 0, 0, 0, 0, 1), np.array([0, 0, 1, 1, 2, 2])
    rest = y - 1 / 3  # the best line is flat
    square = sum(rest[2 * b : 2 * b + 2].sum() ** 2 / 2 for b in range(3)) / (rest @ rest / 6)
    assert bends(x, bins, y) == pytest.approx((square - 1) / 2**0.5, rel=1e-6)


@given(st.sets(st.integers(0, 6)))
def test_the_inputs_of_some_columns_are_those_of_the_whole(columns):
    x, y = training_rows()
    straight = fit_standardiser(x)
    whole = Standardiser(
        straight.scale, straight.mean, straight.inverse_std, straight.indicators, 5.0, fitted(x, {"play": y})
    )
    some = np.array(sorted(columns), dtype=np.int64)
    part, rows = whole.of(some)
    assert np.array_equal(part.transform(x[:50, some]), whole.transform(x[:50])[:, rows])
    assert np.array_equal(np.isin(whole.owners, some).nonzero()[0], np.sort(rows))
    assert np.array_equal(some[part.owners], whole.owners[rows])


def test_pieces_travel_with_the_standardisation_and_old_artifacts_have_none():
    x, y = training_rows()
    straight = fit_standardiser(x)
    assert not any("pieces" in name for name in straight.to_arrays("inputs"))
    whole = Standardiser(
        straight.scale, straight.mean, straight.inverse_std, straight.indicators, 5.0, fitted(x, {"play": y})
    )
    again = Standardiser.from_arrays(whole.to_arrays("inputs"), "inputs")
    assert np.array_equal(again.transform(x), whole.transform(x))
    assert Standardiser.from_arrays(straight.to_arrays("inputs"), "inputs").pieces is NO_PIECES
