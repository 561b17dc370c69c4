"""Drift figures against closed forms and SciPy, and how often they cry wolf."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from validations.drift import (
    BLOCK,
    NothingToCompare,
    drift_findings,
    drifts,
    kolmogorov_smirnov,
    population_stability_index,
)
from validations.expectations import DriftLimits, Limits

numbers = st.one_of(st.integers(-5, 5).map(float), st.floats(-1e6, 1e6))
samples = st.lists(numbers, min_size=2, max_size=40).map(lambda values: np.sort(np.array(values)))


def one(reference, current, limits=None):
    (drift,) = drifts(pa.table({"x": reference}), pa.table({"x": current}), ["x"], limits)
    return drift


@given(samples, samples)
def test_the_kolmogorov_smirnov_statistic_is_scipys_ties_and_all(left, right):
    expected = scipy.stats.ks_2samp(left, right, method="asymp").statistic
    assert kolmogorov_smirnov(left, right) == pytest.approx(expected, abs=1e-12)


@given(samples, samples)
def test_the_statistic_does_not_care_which_sample_is_the_reference(left, right):
    assert kolmogorov_smirnov(left, right) == pytest.approx(kolmogorov_smirnov(right, left), abs=1e-12)


def test_psi_has_its_closed_form_on_large_histograms():
    # shares ½, ½ against ¼, ¾: (¼ − ½) ln ½ + (¾ − ½) ln (3/2) = ¼ ln 3
    psi = population_stability_index(np.array([5, 5]) * 10**9, np.array([25, 75]) * 10**8)
    assert psi == pytest.approx(math.log(3) / 4, rel=1e-6)


def test_psi_of_one_histogram_against_itself_is_nothing():
    assert population_stability_index(np.array([3, 0, 7]), np.array([3, 0, 7])) == 0


def test_psi_counts_half_a_row_where_a_bin_is_empty():
    # shares (½, 2½)/3 and (2½, ½)/3: twice (2/3) ln 5
    psi = population_stability_index(np.array([0, 2]), np.array([2, 0]))
    assert psi == pytest.approx(2 * (2 / 3) * math.log(5))


def test_psi_of_a_column_is_that_of_its_tenths():
    reference = np.arange(100_000, dtype=np.float64)
    current = reference[50_000:].repeat(2)  # the lower five tenths are empty, the upper five hold double
    empty, double = 0.5, 20_000.5
    rows = 100_000 + 0.5 * 13  # ten bins, one below, one above, one for nulls
    p, q = 10_000.5 / rows, np.array([empty] * 5 + [double] * 5) / rows
    assert one(reference, current).psi == pytest.approx(float(np.sum((q - p) * np.log(q / p))), rel=1e-12)


@pytest.mark.parametrize("rows", [3, 10, 15, 47])
def test_bins_end_at_the_quantiles_of_the_reference(rows):
    rng = np.random.default_rng(rows)
    reference, current = rng.poisson(3, rows), rng.poisson(4, 60)
    edges = np.unique(np.quantile(reference, np.arange(1, 11) / 10, method="inverted_cdf"))
    cuts = [-np.inf, reference.min() - 0.5, *edges, np.inf]
    counts = [
        np.array([np.sum((low < side) & (side <= high)) for low, high in itertools.pairwise(cuts)] + [0])
        for side in (reference, current)
    ]
    assert one(reference, current).psi == pytest.approx(population_stability_index(*counts))


def test_what_chance_explains_is_the_published_formula():
    drift = one([0] * 50 + [1] * 50, [0] * 100 + [1] * 300, DriftLimits(chance=0.01))
    # two bins hold rows, so χ² has one degree of freedom; N = 100, M = 400
    assert drift.psi_by_chance == pytest.approx((1 / 100 + 1 / 400) * scipy.stats.norm.isf(0.005) ** 2)
    # Kolmogorov's whole series differs from its first term by less than a thousandth out here
    assert drift.ks_by_chance == pytest.approx(scipy.stats.kstwobign.isf(0.01) / math.sqrt(80), rel=1e-3)


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        pytest.param([0] * 1000, [-1] * 100 + [0] * 900, id="below a constant"),
        pytest.param([0] * 1000, [0] * 900 + [1] * 100, id="above a constant"),
        pytest.param([0] * 600 + [1] * 400, [0] * 300 + [1] * 700, id="between the two values there are"),
        pytest.param(list(range(1000)), [-5] * 100 + list(range(900)), id="below everything seen"),
        pytest.param([True] * 900 + [False] * 100, [True] * 500 + [False] * 500, id="a flag"),
        pytest.param([1.0] * 900 + [None] * 100, [1.0] * 400 + [None] * 600, id="more nulls"),
        pytest.param([1.0] * 900 + [math.nan] * 100, [1.0] * 400 + [math.nan] * 600, id="more NaN"),
        pytest.param([1.0] * 900 + [None] * 100, [None] * 999 + [1.0], id="almost nothing but nulls"),
    ],
)
def test_a_shift_is_seen_wherever_it_happens(reference, current):
    assert one(reference, current).severity(DriftLimits())


def test_nulls_alone_move_psi_and_not_the_statistic_of_values():
    drift = one([1.0, 2.0] * 500, [1.0, 2.0] * 250 + [None] * 500)
    assert drift.ks == 0
    assert drift.psi > 0.2
    assert drift.null_share == (0, 0.5)


def test_nan_counts_as_null():
    poisoned, holed = one([1.0, 2.0] * 500, [1.0, math.nan] * 500), one([1.0, 2.0] * 500, [1.0, None] * 500)
    assert poisoned == holed
    assert (poisoned.ks, poisoned.null_share, poisoned.median) == (0.5, (0, 0.5), (1.5, 1.0))


def test_a_small_shift_of_everything_is_seen_by_the_statistic_before_psi_sees_it():
    reference = np.arange(10_000)
    drift = one(reference, reference + 1_200)
    assert drift.ks == pytest.approx(0.12)
    blind = Limits(warning=10)
    assert drift.severity(DriftLimits(psi=blind)) == "warning"
    assert drift.severity(DriftLimits(psi=blind, ks=Limits(warning=0.13))) is None


def test_a_column_without_values_has_no_statistic():
    nothing = pa.nulls(9, pa.float32())
    drift = one(nothing, pa.array([1.0] * 9, pa.float32()))
    assert (drift.ks, drift.ks_by_chance, drift.median) == (None, None, (None, 1.0))
    both = one(nothing, nothing)
    assert (both.psi, both.psi_by_chance, both.ks) == (0, 0, None)
    assert both.severity(DriftLimits()) is None


@pytest.mark.parametrize(("n", "m"), [(40, 40), (300, 300), (5_000, 500)])
@pytest.mark.parametrize("draw", ["normal", "poisson"])
def test_two_samples_of_one_distribution_rarely_drift_even_without_declared_limits(n, m, draw):
    rng = np.random.default_rng(11)
    sample = getattr(rng, draw)
    reference = pa.table({f"f{i}": sample(size=n) for i in range(300)})
    current = pa.table({f"f{i}": sample(size=m) for i in range(300)})
    anything = Limits(warning=0)
    limits = DriftLimits(psi=anything, ks=anything, chance=0.01)
    alarms = sum(
        drift.severity(limits) is not None
        for drift in drifts(reference, current, reference.column_names, limits)
    )
    # two figures at 1% each, 300 columns: 6 expected at most; 18 would be 5 standard deviations above
    assert alarms < 18


def test_small_tables_must_move_further_than_chance():
    rng = np.random.default_rng(3)
    few = one(rng.normal(size=12), rng.normal(size=12))
    assert few.psi > DriftLimits().psi.warning  # noise alone passes the usual limit
    assert few.severity(DriftLimits()) is None


def test_a_finding_names_what_moved_and_by_how_much():
    reference = pa.table({"still": range(1000), "moved": range(1000)})
    current = pa.table({"still": range(1000), "moved": range(500, 1500)})
    (finding,) = drift_findings(drifts(reference, current, ["still", "moved"]))
    assert (finding.column, finding.severity) == ("moved", "warning")
    assert finding.expectation == "PSI at most 0.2 from the reference and KS at most 0.1 from the reference"
    assert "KS 0.500; median 499.5 → 999.5, null 0.0% → 0.0%" in finding.observed


@pytest.mark.parametrize(
    ("reference", "current", "column", "message"),
    [
        ({"x": []}, {"x": [1]}, "x", "reference table has no rows"),
        ({"x": [1]}, {"x": []}, "x", "current table has no rows"),
        ({"minutes": [1]}, {"minutes": [1]}, "minuets", "no column 'minuets'. Did you mean 'minutes'"),
        ({"x": [1]}, {"x": ["1"]}, "x", "'x' of the current table is string"),
    ],
)
def test_nothing_to_compare_is_an_error_and_not_a_zero(reference, current, column, message):
    with pytest.raises(NothingToCompare, match=message):
        drifts(pa.table(reference), pa.table(current), [column])


@pytest.mark.parametrize(
    "wrong",
    [
        {"psi": {"warning": -1}}, {"psi": {"warning": math.nan}}, {"ks": {"error": 2}}, {"null_share": {"info": 1.1}},
        {"chance": 0}, {"chance": 1}, {"bins": 1}, {"psi": {"warning": 0.3, "error": 0.2}}, {"ks": {"info": 0.2, "error": 0.1}},
    ],
)  # fmt: skip
def test_limits_that_mean_nothing_cannot_be_declared(wrong):
    with pytest.raises(ValueError, match=r"at least 2 bins|rise from info over warning to error"):
        DriftLimits(**{k: Limits(**v) if isinstance(v, dict) else v for k, v in wrong.items()})


@pytest.mark.parametrize(
    ("nulls", "severity"), [(0, None), (10, None), (11, "info"), (20, "info"), (21, "warning"), (40, "warning"), (41, "error")]
)  # fmt: skip
def test_a_severity_begins_just_above_its_limit(nulls, severity):
    # 1,000,000 rows: chance explains less than a thousandth of a share
    reference = np.zeros(1_000_000, dtype=np.float32)
    current = reference.copy()
    current[: nulls * 10_000] = np.nan
    limits = DriftLimits(psi=Limits(), ks=Limits(), null_share=Limits(info=0.1, warning=0.2, error=0.4))
    drift = one(reference, current)
    assert drift.null_change == pytest.approx(nulls / 100, abs=1e-12)
    assert drift.severity(limits) == severity


def test_the_worst_of_the_three_figures_says_how_bad_it_is_and_is_named():
    reference = pa.table({"x": [1.0, 2.0] * 500})
    current = pa.table({"x": [1.0, 2.0] * 200 + [None] * 600})
    limits = DriftLimits(psi=Limits(warning=0.2), ks=Limits(warning=0.1), null_share=Limits(error=0.5))
    (finding,) = drift_findings(drifts(reference, current, ["x"], limits), limits)
    assert (finding.severity, finding.expectation) == (
        "error",
        "a null share within 0.5 of the reference's",
    )
    assert "null 0.0% → 60.0%" in finding.observed


def test_a_column_that_lost_its_nulls_has_drifted_as_much_as_one_that_gained_them():
    holed, whole = [1.0] * 400 + [None] * 600, [1.0] * 1000
    assert one(holed, whole).null_change == one(whole, holed).null_change == pytest.approx(0.6)
    only_nulls = DriftLimits(psi=Limits(), ks=Limits())
    assert one(holed, whole).severity(only_nulls) == one(whole, holed).severity(only_nulls) == "error"


def test_what_chance_explains_of_a_share_is_the_pooled_two_proportion_test():
    drift = one([1.0] * 70 + [None] * 30, [1.0] * 250 + [None] * 150, DriftLimits(chance=0.01))
    pooled = 180 / 500
    error = math.sqrt(pooled * (1 - pooled) * (1 / 100 + 1 / 400))
    assert drift.null_by_chance == pytest.approx(scipy.stats.norm.isf(0.005) * error)


def test_each_column_is_held_to_its_own_limits():
    reference = pa.table({"a": range(1000), "b": range(1000)})
    current = pa.table({"a": range(500, 1500), "b": range(500, 1500)})
    limits = {
        "a": DriftLimits(psi=Limits(), ks=Limits()),
        "b": DriftLimits(psi=Limits(), ks=Limits(error=0.4)),
    }
    found = drift_findings(drifts(reference, current, ["a", "b"], limits), limits)
    assert [(one.column, one.severity) for one in found] == [("b", "error")]


@pytest.mark.parametrize("seed", range(12))
def test_the_statistic_leaves_out_only_blocks_that_cannot_hold_it(seed):
    """Samples of many blocks, with ties and without, of one distribution or of two that differ in a narrow place."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(3 * BLOCK, 40 * BLOCK, size=2)
    left, right = rng.normal(size=n), rng.normal(size=m)
    if seed % 3 == 1:
        left, right = np.round(left, 1), np.round(right, 1)
    if seed % 3 == 2:
        right = np.where((right > 0.30) & (right < 0.34), 0.34, right)
    expected = scipy.stats.ks_2samp(left, right, method="asymp").statistic
    assert kolmogorov_smirnov(np.sort(left), np.sort(right)) == pytest.approx(expected, abs=1e-12)
