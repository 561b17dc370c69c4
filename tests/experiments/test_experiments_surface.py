"""The response surface that a search for weights goes by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.surface import NothingFeasible, fit, propose, quadratic, sobol

TRUE = np.array([0.5, -0.5, 0.25])


def hill(points, top=(0.7, 0.3)):
    """A quadratic with its top at `top`, 0 there."""
    return -((np.asarray(points) - np.array(top)) ** 2).sum(axis=1)


def test_a_quadratic_without_noise_is_found_exactly():
    points = sobol(32, 2, 0)
    surface = fit(points, hill(points), np.full(32, 1e-4), spread=10)
    elsewhere = sobol(16, 2, 1)
    assert surface.at(elsewhere)[0] == pytest.approx(hill(elsewhere), abs=1e-4)


def test_the_fit_is_weighted_least_squares_where_the_ridge_is_weak():
    rng = np.random.default_rng(0)
    points, errors = rng.random((40, 2)), rng.uniform(0.1, 1, 40)
    values = hill(points) + errors * rng.normal(size=40)
    design = quadratic(points) / errors[:, None]
    by_hand, *_ = np.linalg.lstsq(design, values / errors, rcond=None)
    assert fit(points, values, errors, spread=1e4).mean == pytest.approx(by_hand, rel=1e-4)


@given(seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_intervals_of_the_surface_cover_the_truth_about_as_often_as_they_say(seed):
    """95 % over 100 fits of one point would need many runs; here the z-score of the truth stays within 5."""
    rng = np.random.default_rng(seed)
    points = sobol(24, 2, seed)
    surface = fit(points, hill(points) + 0.05 * rng.normal(size=24), np.full(24, 0.05), spread=3)
    mean, sd = surface.at(np.array([[0.2, 0.9]]))
    assert abs(mean - hill([[0.2, 0.9]])) / sd < 5


def test_the_next_point_is_the_top_of_the_hill():
    points = sobol(32, 2, 0)
    surface = fit(points, hill(points), np.full(32, 1e-3), spread=10)
    best = propose(surface, [], np.zeros(0), 2, 1, seed=3)
    assert best[0] == pytest.approx([0.7, 0.3], abs=0.03)


def test_the_next_point_keeps_every_constraint_with_caution():
    points = sobol(32, 2, 0)
    aim = fit(points, hill(points), np.full(32, 1e-3), spread=10)
    other = fit(points, -points[:, 0], np.full(32, 1e-3), spread=10)  # x0 at most 0.4
    chosen = propose(aim, [other], np.array([-0.4]), 2, 5, seed=3)
    assert (chosen[:, 0] <= 0.4).all()
    assert chosen[0] == pytest.approx([0.4, 0.3], abs=0.05)
    assert len(np.unique(chosen, axis=0)) == 5


def test_where_nothing_keeps_the_constraints_the_error_says_so():
    points = sobol(16, 2, 0)
    flat = fit(points, np.zeros(16), np.full(16, 1e-3), spread=1)
    with pytest.raises(NothingFeasible, match="at least 5"):
        propose(flat, [flat], np.array([5.0]), 2, 1, seed=0)


@pytest.mark.parametrize(("errors", "spread"), [([0.0, 1.0], 1.0), ([1.0, 1.0], 0.0)])
def test_errors_and_spread_must_lie_above_nought(errors, spread):
    with pytest.raises(ValueError, match="above 0"):
        fit(np.zeros((2, 2)), np.zeros(2), np.array(errors), spread)


def test_sobol_points_fill_the_cube_evenly():
    points = sobol(64, 3, 7)
    assert points.shape == (64, 3)
    counts = np.histogramdd(points, bins=[4, 4, 1], range=[(0, 1)] * 3)[0]
    assert (counts == 4).all()  # a (0, 6, 2)-net puts equally many points into every such box
