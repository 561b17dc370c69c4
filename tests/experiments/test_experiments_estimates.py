"""Estimates against other ways to the same numbers, and the false alarms of a thousand A/A tests."""

import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from experiments.config import Guardrail, Metric
from experiments.estimates import estimate, p_inferior, p_worse, unreadable
from experiments.metrics import ArmStatistics, covariance_key
from experiments.stats import log_sample_ratio_e_value, sample_ratio_p_value

MEAN = Metric(name="minutes", value="minutes")
RATIO = Metric(name="renewal_share", value="renewals", per="due")


def arm_of(name, **columns):
    """Sufficient statistics by NumPy."""
    names = sorted(columns)
    return ArmStatistics(
        arm=name,
        units=len(columns[names[0]]),
        mean={c: columns[c].mean() for c in names},
        variance={c: columns[c].var(ddof=1) for c in names},
        covariance={
            covariance_key(a, b): np.cov(columns[a], columns[b])[0, 1] for a in names for b in names if a < b
        },
    )


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_a_mean_is_compared_by_welchs_test(rng):
    control, treatment = rng.gamma(2, 20, 300), rng.gamma(2.4, 20, 200)
    found = estimate(MEAN, arm_of("c", minutes=control), arm_of("t", minutes=treatment), 0.05)
    oracle = scipy.stats.ttest_ind(treatment, control, equal_var=False)
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-9)
    assert found.relative == pytest.approx(treatment.mean() / control.mean() - 1, rel=1e-9)


def test_an_alpha_too_small_for_a_double_still_has_a_finite_interval(rng):
    control, treatment = (arm_of(name, x=rng.normal(size=30)) for name in ("control", "treatment"))
    found = estimate(Metric(name="m", value="x"), control, treatment, 1e-40)
    wide = estimate(Metric(name="m", value="x"), control, treatment, 1e-12)
    assert math.isfinite(found.low)
    assert (found.low, found.high) == (wide.low, wide.high)


def test_a_ratio_is_compared_by_its_linearised_values(rng):
    """The delta method is Welch's test on (y - R x) / mean(x), R each arm's own ratio."""

    def arm(share):
        due = rng.integers(0, 4, 400).astype(float)
        return {"due": due, "renewals": rng.binomial(due.astype(int), share).astype(float)}

    control, treatment = arm(0.8), arm(0.85)

    def linear(a):
        ratio = a["renewals"].sum() / a["due"].sum()
        return ratio + (a["renewals"] - ratio * a["due"]) / a["due"].mean()

    found = estimate(RATIO, arm_of("c", **control), arm_of("t", **treatment), 0.05)
    oracle = scipy.stats.ttest_ind(linear(treatment), linear(control), equal_var=False)
    assert found.difference == pytest.approx(linear(treatment).mean() - linear(control).mean(), rel=1e-9)
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)


def test_a_covariate_is_regressed_out(rng):
    """CUPED by hand: y - θ(x - mean x), θ from both arms together (Deng et al. 2013)."""
    before_c, before_t = rng.gamma(2, 20, 300), rng.gamma(2, 20, 300)
    y_c, y_t = before_c + rng.normal(0, 5, 300), before_t + 2 + rng.normal(0, 5, 300)
    x, y = np.concatenate([before_c, before_t]), np.concatenate([y_c, y_t])
    theta = np.cov(x, y)[0, 1] / x.var(ddof=1)
    oracle = scipy.stats.ttest_ind(y_t - theta * before_t, y_c - theta * before_c, equal_var=False)
    with_covariate = Metric(name="m", value="minutes", covariate="before")
    arms = arm_of("c", minutes=y_c, before=before_c), arm_of("t", minutes=y_t, before=before_t)
    found = estimate(with_covariate, *arms, 0.05)
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    plain = estimate(MEAN, *arms, 0.05)
    assert found.high - found.low < 0.4 * (plain.high - plain.low)


@pytest.mark.parametrize(("direction", "side"), [("increase", "less"), ("decrease", "greater")])
def test_worse_is_the_other_side_of_the_direction(rng, direction, side):
    control, treatment = rng.normal(10, 2, 100), rng.normal(9.5, 2, 100)
    metric = Metric(name="m", value="minutes", direction=direction)
    oracle = scipy.stats.ttest_ind(treatment, control, equal_var=False, alternative=side)
    found = p_worse(metric, arm_of("c", minutes=control), arm_of("t", minutes=treatment))
    assert found == pytest.approx(oracle.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("direction", "factor", "side"), [("increase", 0.9, "greater"), ("decrease", 1.1, "less")]
)
def test_non_inferior_is_better_than_control_less_the_margin(rng, direction, factor, side):
    control, treatment = rng.normal(10, 2, 100), rng.normal(9.8, 2, 120)
    guardrail = Guardrail(name="m", value="minutes", direction=direction, margin=0.1)
    oracle = scipy.stats.ttest_ind(treatment, factor * control, equal_var=False, alternative=side)
    found = p_inferior(guardrail, arm_of("c", minutes=control), arm_of("t", minutes=treatment))
    assert found == pytest.approx(oracle.pvalue, rel=1e-9)


def test_a_ratio_guardrail_scales_the_numerator_of_control(rng):
    due = rng.integers(0, 4, 400).astype(float)
    renewals = rng.binomial(due.astype(int), 0.8).astype(float)
    guardrail = Guardrail(name="r", value="renewals", per="due", margin=0.02)
    control, treatment = (
        arm_of("c", renewals=renewals, due=due),
        arm_of("t", renewals=renewals[::-1], due=due[::-1]),
    )
    scaled = estimate(RATIO, arm_of("c", renewals=0.98 * renewals, due=due), treatment, 0.05)
    assert p_inferior(guardrail, control, treatment) == pytest.approx(scaled.p_value / 2, rel=1e-9)
    assert 0.01 < scaled.p_value < 0.99


@pytest.mark.parametrize(
    ("metric", "control", "said"),
    [
        pytest.param(MEAN, {"minutes": np.array([4.0])}, "has 1 exposed units", id="one unit"),
        pytest.param(MEAN, {"minutes": np.array([0.1, 0.1, 0.1])}, "does not vary", id="constant"),
        pytest.param(RATIO, {"renewals": np.array([1.0, 3.0]), "due": np.array([1.0, 3.0])}, "does not vary", id="all renewed"),
        pytest.param(RATIO, {"renewals": np.zeros(3), "due": np.zeros(3)}, "divides by due, which is 0", id="nothing due"),
        pytest.param(Guardrail(name="m", value="minutes", margin=0.1), {"minutes": np.array([-3.0, 1.0])},
                     "relative margin means nothing", id="control below zero"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_says_why(metric, control, said):
    fine = {"minutes": np.array([1.0, 2.0]), "renewals": np.array([1.0, 0.0]), "due": np.array([1.0, 1.0])}
    if len(next(iter(control.values()))) < 2:
        degenerate = ArmStatistics(
            arm="c", units=1, mean={"minutes": 4.0}, variance={"minutes": None}, covariance={}
        )
    else:
        degenerate = arm_of("c", **control)
    assert said in unreadable(metric, degenerate, arm_of("t", **fine))
    assert unreadable(MEAN, arm_of("c", **fine), arm_of("t", **fine)) is None


RUNS = 2_000
ERROR = 3.3 * np.sqrt(0.05 * 0.95 / RUNS)  # 99.9 % of Monte-Carlo error: ±1.6 points


@pytest.mark.parametrize("metric", [MEAN, RATIO, Metric(name="c", value="minutes", covariate="due")], ids=str)
def test_an_a_a_test_alarms_one_time_in_twenty(metric):
    """2,000 A/A tests of 200 units an arm, all drawn from one skewed population."""
    rng = np.random.default_rng(11)
    due = rng.integers(0, 3, (RUNS, 2, 200)).astype(float)
    columns = {
        "due": due,
        "renewals": rng.binomial(due.astype(int), 0.7) + 0.0,
        "minutes": rng.gamma(2, 20, due.shape) + 9 * due,
    }
    alarms = 0
    for run in range(RUNS):
        arms = [arm_of(str(k), **{c: columns[c][run, k] for c in metric.columns}) for k in (0, 1)]
        alarms += estimate(metric, *arms, 0.05).p_value < 0.05
    assert alarms / RUNS == pytest.approx(0.05, abs=ERROR)


def test_the_sample_ratio_e_value_is_the_mean_likelihood_ratio_under_its_prior():
    """E = ∫ p^a (1-p)^b Beta(p; kα, kβ) dp / (α^a β^b), by quadrature."""
    share, concentration, counts = 0.3, 50.0, (40, 75)
    p = np.linspace(0, 1, 200_001)[1:-1]
    prior = scipy.stats.beta(concentration * share, concentration * (1 - share)).pdf(p)
    likelihood = counts[0] * np.log(p / share) + counts[1] * np.log((1 - p) / (1 - share))
    oracle = np.log(np.trapezoid(prior * np.exp(likelihood), p))
    assert log_sample_ratio_e_value(counts, (share, 1 - share), concentration) == pytest.approx(
        oracle, abs=1e-6
    )


def daily_log_e_values(rng, share, units_a_day, days):
    counts = np.cumsum(rng.binomial(units_a_day, share, days))
    totals = units_a_day * np.arange(1, days + 1)
    return [
        log_sample_ratio_e_value((int(a), int(n - a)), (0.5, 0.5))
        for a, n in zip(counts, totals, strict=True)
    ]


def test_a_healthy_test_watched_daily_rarely_looks_broken():
    """Ville: at most 5 % of healthy tests ever pass 20, in 28 looks; a χ² at .05 each day flags several times that."""
    rng = np.random.default_rng(3)
    runs = [daily_log_e_values(rng, 0.5, 5_000, 28) for _ in range(400)]
    ever = np.mean([max(run) > np.log(20) for run in runs])
    assert ever <= 0.05
    chi2 = [
        any(sample_ratio_p_value((a, 5_000 * d - a), (0.5, 0.5)) < 0.05 for d, a in enumerate(run, 1))
        for run in np.cumsum(rng.binomial(5_000, 0.5, (200, 28)), axis=1).tolist()
    ]
    assert np.mean(chi2) > 0.15


def test_51_to_49_is_caught_at_100_000_units():
    rng = np.random.default_rng(4)
    assert all(daily_log_e_values(rng, 0.51, 10_000, 10)[-1] > np.log(100) for _ in range(50))


def test_nobody_counted_is_no_evidence_and_no_p_value():
    assert log_sample_ratio_e_value((0, 0), (0.5, 0.5)) == 0
    assert sample_ratio_p_value((0, 0), (0.5, 0.5)) is None


def test_statistics_by_numpy_are_those_of_arrow(rng):
    """`arm_of` above reads as tea-tasting's own reader does."""
    from tea_tasting.aggr import read_aggregates

    minutes = rng.gamma(2, 20, 50)
    table = pa.table({"arm": ["c"] * 50, "minutes": minutes})
    theirs = read_aggregates(
        table, "arm", has_count=True, mean_cols=["minutes"], var_cols=["minutes"], cov_cols=[]
    )
    ours = arm_of("c", minutes=minutes)
    assert theirs["c"].var("minutes") == pytest.approx(ours.variance["minutes"], rel=1e-12)
