"""Pairs of live tests: who met whom, and whether effects add up."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.assignment import Assigner
from experiments.interactions import Grid, grid_of, interactions, meetings
from experiments.live import LiveExperiments

UNITS = 50_000


@pytest.fixture(scope="module")
def grid(many):
    """Nine experiments of three layers, all units of the first fifty thousand."""
    few = tuple(e for e in many.experiments if e.name in {f"e{i}-{j}" for i in (0, 1, 2) for j in (0, 1, 9)})
    live = LiveExperiments(experiments=few)
    assigner = Assigner(live)
    return grid_of(live, (assigner.assign(unit).arms for unit in range(UNITS)))


def test_a_pair_is_the_difference_of_differences_of_its_cells(grid):
    """One pair by hand: means and variances of the four cells."""
    values = np.random.default_rng(0).gamma(2, 20, UNITS)
    scan = interactions(grid, values, alpha=1.1)  # everything is shown
    one = next(f for f in scan.found if {f.first, f.second} == {"e0-9", "e1-9"})
    row = {layer: place for place, layer in enumerate(grid.layers)}

    def cell(first_arm, second_arm):
        a = (
            grid.codes[row["l" + one.first[1]]]
            == grid.arms[row["l" + one.first[1]]].index((one.first, first_arm)) + 1
        )
        b = (
            grid.codes[row["l" + one.second[1]]]
            == grid.arms[row["l" + one.second[1]]].index((one.second, second_arm)) + 1
        )
        return values[a & b]

    cells = [cell(*arms) for arms in itertools.product(("treatment", "control"), repeat=2)]
    expected = cells[0].mean() - cells[1].mean() - cells[2].mean() + cells[3].mean()
    error = np.sqrt(sum(c.var(ddof=1) / len(c) for c in cells))
    assert (one.estimate, one.standard_error) == pytest.approx((expected, error), rel=1e-9)
    assert one.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(expected / error)), rel=1e-9)


def test_effects_that_add_up_are_no_interaction_and_p_values_are_uniform(grid):
    """40 metrics over the same units, each with a main effect of every arm."""
    rng, p_values = np.random.default_rng(1), []
    for _ in range(40):
        values = rng.normal(0, 1, UNITS)
        for row, arms in enumerate(grid.arms):
            values += np.concatenate([[0.0], rng.normal(0, 1, len(arms))])[grid.codes[row]]
        scan = interactions(grid, values)
        p_values += scan.p_values
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001


def test_an_interaction_that_is_there_is_found_and_named(grid):
    rng = np.random.default_rng(2)
    both = (grid.codes[0] == grid.arms[0].index(("e0-9", "treatment")) + 1) & (
        grid.codes[2] == grid.arms[2].index(("e2-9", "treatment")) + 1
    )
    values = rng.normal(100, 10, UNITS) + 20 * both
    scan = interactions(grid, values)
    assert [(f.first, f.second) for f in scan.found] == [("e0-9", "e2-9")]
    assert scan.found[0].estimate == pytest.approx(20, abs=4 * scan.found[0].standard_error)
    assert scan.detectable_relative == pytest.approx(scan.detectable / values.mean())
    assert scan.detectable > 0


def test_small_cells_are_not_read(grid):
    scan = interactions(
        Grid(grid.layers, grid.arms, grid.controls, grid.targeted, grid.codes[:, :300]), np.ones(300)
    )
    assert scan.unread == scan.pairs == 27
    assert (scan.found, scan.detectable) == ((), None)


def test_independent_layers_meet_as_chance_says(grid):
    assert meetings(grid) == ()


def test_one_hash_for_two_layers_is_found(grid):
    """The second layer copies the first's arms: whoever treats in one treats in the other."""
    codes = grid.codes.copy()
    codes[1] = codes[0]
    found = meetings(Grid(grid.layers, grid.arms, grid.controls, grid.targeted, codes))
    assert {(m.first, m.second) for m in found} >= {("e0-9", "e1-9"), ("e0-0", "e1-0")}
    assert (
        np.mean([m.first.startswith("e0") and m.second.startswith("e1") for m in found]) >= 0.8
    )  # a false discovery rate


def test_arms_that_depend_on_each_other_are_found_though_members_do_not(grid):
    """Half of those treated in one test are moved to control in another."""
    codes, rng = grid.codes.copy(), np.random.default_rng(3)
    treated = grid.arms[0].index(("e0-9", "treatment")) + 1
    control, treatment = (grid.arms[1].index(("e1-9", arm)) + 1 for arm in ("control", "treatment"))
    moved = (codes[0] == treated) & (codes[1] == treatment) & (rng.random(UNITS) < 0.5)
    codes[1, moved] = control
    (found,) = meetings(Grid(grid.layers, grid.arms, grid.controls, grid.targeted, codes))
    assert (found.first, found.second) == ("e0-9", "e1-9")
    assert found.p_members > 0.001 > found.p_arms
    assert found.observed == pytest.approx(found.expected, rel=0.2)
