"""Features in pieces: what a piece is, and which features get any."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inputs import Standardiser, fit_standardiser
from models.pieces import NO_PIECES, STRAIGHT, Bend, Pieces, bend_of, fit_pieces

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


def bends(*rows):
    return bend_of(*rows).share


def deviations(*rows):
    return bend_of(*rows).deviations


def training_rows(seed=0, n=20_000):
    """Noise, a straight line, a bend, a step, a constant, nulls only, and a bend that is null in half of the rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)).astype(np.float32)
    x[:, 4], x[:, 5] = 3, NULL
    z = x[:, 1] + 2 * np.abs(x[:, 2]) + 2 * (x[:, 3] > 1) + np.abs(x[:, 6]) - 3
    x[::2, 6] = NULL
    return x, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32)


def fitted(x, outcomes, pieces=4, bent=10):
    straight = fit_standardiser(x)
    read = straight.transform(x)[:, : straight.n_features]
    return fit_pieces(x, read, outcomes, np.arange(len(x)), pieces=pieces, bent=bent)


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
    assert made[::2, -4:].tolist() == [[0.0] * 4] * 10_000
    known = np.concatenate([made[:, :8][1::2], made[1::2, -4:]], axis=1)
    np.testing.assert_allclose(made[:, :8].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(known[:, -4:].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(made[:, :8].std(axis=0), 1, atol=1e-5)


def test_each_outcome_has_the_features_that_it_bends_along_most_and_only_known_ones_count():
    x, y = training_rows()
    other = (np.abs(x[:, 0]) > 1).astype(np.float32)
    other[1::2] = NULL
    assert set(fitted(x, {"play": y}, bent=1).column) == {2}
    assert set(fitted(x, {"play": y, "retention": other}, bent=1).column) == {0, 2}
    assert fitted(x, {"play": y}, bent=0) is NO_PIECES
    assert fitted(x, {"play": np.full(len(x), NULL)}) is NO_PIECES


def test_noise_is_not_cut():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1_000)).astype(np.float32)
    assert fitted(x, {"play": (rng.random(500) < 0.3).astype(np.float32)}) is NO_PIECES


def test_a_bend_too_small_to_matter_is_not_cut():
    x, y = training_rows()
    straight = fit_standardiser(x)
    read = straight.transform(x)[:, : straight.n_features]
    bins = np.searchsorted(np.quantile(x[:, 3], [0.25, 0.5, 0.75]), x[:, 3], side="right")
    users = np.arange(len(y))
    share = bends(read[:, 3], bins, y, users)
    assert (
        0.001
        < share
        < bends(read[:, 2], np.searchsorted(np.quantile(x[:, 2], [0.25, 0.5, 0.75]), x[:, 2]), y, users)
    )
    for least, among in ((0.99 * share, True), (1.01 * share, False)):
        found = fit_pieces(x, read, {"play": y}, np.arange(len(x)), pieces=4, bent=10, least=least)
        assert (3 in found.column) == among


def chances(z):
    return 1 / (1 + np.exp(-z))


def test_a_flag_a_constant_and_an_outcome_that_is_always_the_same_have_no_bend():
    outcome = (np.random.default_rng(0).random(100) < 0.5).astype(np.float32)
    flag = np.arange(100) % 2
    line = np.linspace(0, 1, 100, dtype=np.float32)
    assert bend_of(flag.astype(np.float32), flag, outcome, flag) == STRAIGHT
    assert (STRAIGHT.share, STRAIGHT.deviations) == (0, 0)
    assert deviations(f32(*[3] * 100), np.zeros(100, np.int64), outcome, flag) == 0
    assert deviations(line, np.arange(100) // 25, np.full(100, 1, np.float32), flag) == 0


def test_along_a_logistic_line_an_outcome_bends_by_chance_alone():
    """Over many samples the deviations have mean 0 and deviation 1 or a little less, for a share watched as for a play."""
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(8), 100)
    x = np.sort(rng.normal(size=800)).astype(np.float32)
    x = np.array([x[bins == b].mean() for b in bins], np.float32)  # no bend within a bin
    plays = [
        deviations(x, bins, (rng.random(800) < chances(2 * x - 1)).astype(np.float32), np.arange(800))
        for _ in range(2_000)
    ]
    shares = [
        deviations(x, bins, rng.beta(5 * chances(x), 5 * chances(-x)).astype(np.float32), np.arange(800))
        for _ in range(2_000)
    ]
    for found in (plays, shares):
        assert -0.3 < np.mean(found) < 4 / 2_000**0.5
        assert 0.7 < np.std(found) < 1.1


def test_the_share_by_which_an_outcome_bends_is_what_bins_explain_beyond_the_line():
    """A play is as likely at both ends and unlikely between: the line is flat, and all that bins explain is bend."""
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(4), 10_000)
    y = (rng.random(40_000) < np.array([0.8, 0.2, 0.2, 0.8])[bins]).astype(np.float32)
    explained = sum(10_000 * (y[bins == b].mean() - y.mean()) ** 2 for b in range(4)) / 40_000
    within = np.mean([y[bins == b].var() for b in range(4)])
    assert bends(bins.astype(np.float32), bins, y, np.arange(40_000)) == pytest.approx(
        explained / within, rel=1e-3
    )


def test_the_rows_of_one_user_are_one_piece_of_evidence():
    """400 users with ten equal rows each, as members who stay or leave: as sure as their 400 rows alone, and as large."""
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(4), 100)
    y = (rng.random(400) < np.array([0.8, 0.2, 0.2, 0.8])[bins]).astype(np.float32)
    one = bins.astype(np.float32), bins, y
    ten = tuple(np.repeat(values, 10) for values in one)
    alone = deviations(*one, np.arange(400))
    assert deviations(*ten, np.repeat(np.arange(400), 10)) == pytest.approx(alone, rel=0.02)
    assert deviations(*ten, np.arange(4_000)) > 5 * alone
    assert bends(*ten, np.repeat(np.arange(400), 10)) == pytest.approx(bends(*one, np.arange(400)), rel=0.02)


def test_what_chance_explains_is_not_counted_and_what_may_be_chance_is_nothing():
    assert Bend(square=40.0, free=2, explained=0.2).share == pytest.approx(0.2 * (1 - 2 / 40))
    assert Bend(square=26.1, free=2, explained=0.2).share > 0  # (26.1 - 2) / 2 is above twelve deviations
    assert Bend(square=26.0, free=2, explained=0.2).share == 0


def test_values_too_near_for_a_piece_between_them_have_finite_inputs():
    """The last of eight cuts lies five eighths of the way between the two largest numbers, and is the larger in a float32."""
    steps = np.repeat(np.arange(4), [1_167, 1_168, 1_168, 501])
    x = (np.float32(1) + steps * np.spacing(np.float32(1))).astype(np.float32)[:, None]
    y = (np.random.default_rng(0).random(4_004) < np.array([0.9, 0.1, 0.1, 0.9])[steps]).astype(np.float32)
    found = fit_pieces(x, x - 1, {"play": y}, np.arange(4_004), pieces=8, bent=1)
    assert len(found)
    assert np.isfinite(found.inverse_std).all()
    assert np.isfinite(found.transform(x)).all()
    np.testing.assert_allclose(found.transform(x).std(axis=0), 1, atol=1e-5)


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


@given(st.sets(st.integers(0, 6)))
def test_read_in_no_other_pieces_all_else_is_as_it_was(columns):
    x, y = training_rows()
    straight = fit_standardiser(x)
    whole = replace(straight, pieces=fitted(x, {"play": y}))
    part, left = whole.in_pieces(np.array(sorted(columns), dtype=np.int64))
    assert np.array_equal(part.transform(x[:50]), whole.transform(x[:50])[:, left])
    assert set(part.pieces.column) == set(whole.pieces.column) & columns
    assert part.width == straight.width + len(part.pieces)
    assert np.array_equal(part.owners, whole.owners[left])


def test_what_a_column_is_read_as_in_pieces_is_a_reading_of_its_own():
    x, y = training_rows()
    x[::9, 1] = np.nan
    whole = replace(fit_standardiser(x), pieces=fitted(x, {"play": y}))
    n = whole.n_features
    marked = n + len(whole.indicators)
    assert np.array_equal(whole.readings[:marked], whole.owners[:marked])
    assert len(whole.pieces)
    assert np.array_equal(whole.readings[marked:], n + whole.owners[marked:])


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
