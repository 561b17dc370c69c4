"""Looks and what they cost, against published tables and simulated Brownian motion."""

import numpy as np
import pytest
import scipy.stats

from experiments.sequential import Looks, always_valid_z, looks_at, spending_bounds, spent


@pytest.mark.parametrize(
    ("looks", "alpha", "sides", "published"),
    [
        pytest.param(5, 0.05, 2, (4.8769, 3.3569, 2.6803, 2.2898, 2.0310), id="ldbounds: five looks, O'Brien-Fleming spending"),
        pytest.param(3, 0.025, 1, (3.7103, 2.5114, 1.9930), id="gsDesign sfLDOF: three looks"),
        pytest.param(2, 0.025, 1, (2.9626, 1.9686), id="gsDesign sfLDOF: two looks"),
        pytest.param(1, 0.05, 2, (1.95996,), id="one look is the fixed test"),
    ],
)  # fmt: skip
def test_bounds_are_those_of_published_tables(looks, alpha, sides, published):
    fractions = tuple((k + 1) / looks for k in range(looks))
    assert spending_bounds(fractions, alpha, sides) == pytest.approx(published, abs=2e-4)


def test_the_first_bound_spends_what_the_formula_says():
    """2 - 2Φ(z_{α/2}/√t), by scipy."""
    expected = 2 * scipy.stats.norm.sf(scipy.stats.norm.isf(0.0125) / np.sqrt(0.3))
    assert spent(0.3, 0.025) == pytest.approx(expected, rel=1e-12)
    assert spending_bounds((0.3,), 0.025, 1)[0] == pytest.approx(scipy.stats.norm.isf(expected), rel=1e-9)


def brownian(rng, fractions, runs, drift=0.0):
    """z-values of `runs` tests at each fraction of the information."""
    steps = np.diff(np.concatenate([[0], fractions]))
    score = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), (runs, len(steps))), axis=1)
    return score / np.sqrt(fractions)


@pytest.mark.parametrize(
    "fractions", [(0.1, 0.15, 0.7, 0.75, 1.0), (0.5, 0.501, 1.0), (0.4, 0.9, 1.3)], ids=str
)
def test_unequal_looks_keep_alpha(fractions):
    """200,000 Brownian motions; standard error .0005."""
    bounds = spending_bounds(fractions, 0.05, 2, final=True)
    z = brownian(np.random.default_rng(1), np.array(fractions), 200_000)
    assert (np.abs(z) > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=3.3 * 0.0005)


def test_one_side_keeps_alpha_and_spends_it_as_planned():
    """What has been spent by each look is what the spending function says."""
    fractions = np.array([0.25, 0.5, 0.75, 1.0])
    bounds = spending_bounds(tuple(fractions), 0.05, 1)
    z = brownian(np.random.default_rng(2), fractions, 400_000)
    stopped = np.logical_or.accumulate(z > bounds, axis=1).mean(axis=0)
    expected = [spent(t, 0.05) for t in fractions]
    assert stopped == pytest.approx(expected, abs=3.3 * np.sqrt(0.05 * 0.95 / 400_000))


def test_a_last_look_before_the_plan_spends_all_that_is_left():
    early = spending_bounds((0.3, 0.6), 0.05, 2)[-1]
    last = spending_bounds((0.3, 0.6), 0.05, 2, final=True)[-1]
    assert last < early
    z = brownian(np.random.default_rng(3), np.array([0.3, 0.6]), 200_000)
    bounds = spending_bounds((0.3, 0.6), 0.05, 2, final=True)
    assert (np.abs(z) > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.002)


def test_an_always_valid_bound_is_narrowest_where_it_is_tuned():
    """Over ρ: no other tuning is narrower at that size."""
    at = always_valid_z(5_000, 0.05, 5_000)
    assert all(always_valid_z(5_000, 0.05, other) > at for other in (1_000, 4_000, 6_000, 50_000))
    assert always_valid_z(0, 0.05, 5_000) == np.inf


def test_an_always_valid_bound_is_robbins_mixture():
    """√((nρ²+1)/(nρ²) log((nρ²+1)/α²)) with ρ² from log-log approximation of Waudby-Smith et al., within 1 %."""
    n, tuned, alpha = 8_000, 20_000, 0.05
    rho2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / tuned
    expected = np.sqrt((n * rho2 + 1) / (n * rho2) * np.log((n * rho2 + 1) / alpha**2))
    assert always_valid_z(n, alpha, tuned) == pytest.approx(expected, rel=0.01)


def test_a_test_without_a_plan_has_one_look_and_then_pays():
    first = looks_at(None, 1_000, (), over=False)
    assert (first.method, first.level(0.05, 2), first.level(0.05, 1)) == ("fixed", 0.05, 0.05)
    assert looks_at(None, 1_000, (1_000.0,), over=False).method == "fixed"  # the same data again
    second = looks_at(None, 2_000, (1_000.0,), over=False)
    assert second.method == "always-valid"
    assert second.level(0.05, 2) == pytest.approx(
        2 * scipy.stats.norm.sf(always_valid_z(2_000, 0.05, 10_000))
    )


def test_a_planned_test_spends_at_each_look_once():
    looks = looks_at(1_000, 500, (0.25, 0.5), over=False)
    assert (looks.method, looks.fractions, looks.final) == ("group-sequential", (0.25, 0.5), False)
    assert looks.level(0.05, 2) == pytest.approx(
        2 * scipy.stats.norm.sf(spending_bounds((0.25, 0.5), 0.05, 2)[-1])
    )
    assert looks_at(1_000, 500, (), over=True).level(0.05, 2) == pytest.approx(0.05)
    assert [looks_at(1_000, n, (0.5,), over=False).final for n in (999, 1_000, 1_200)] == [False, True, True]


@pytest.mark.parametrize("fractions", [(), (0.0, 1.0), (0.5, 0.5), (0.6, 0.3)])
def test_looks_that_do_not_ascend_are_refused(fractions):
    with pytest.raises(ValueError, match="ascending fractions"):
        spending_bounds(fractions, 0.05, 2)


@pytest.mark.parametrize("method", ["fixed", "group-sequential", "always-valid"])
def test_levels_never_exceed_alpha(method):
    for units in (1_500, 3_000, 9_000):
        looks = Looks(method=method, fractions=(0.1, units / 10_000), units=units, final=False)
        for sides in (1, 2):
            assert 0 < looks.level(0.05, sides) <= 0.05


def test_before_any_window_is_over_nothing_can_be_called():
    looks = looks_at(1_000, 0, (), over=False)
    assert looks.level(0.05, 2) == 0.0
    assert looks_at(1_000, 500, (0.0,), over=False).fractions == (0.5,)
