"""Simulated truth: how often the product's own functions are wrong, with the Monte-Carlo error stated.

Runs are drawn together as arrays; each run's arms become `ArmStatistics`, and every verdict is that of the functions a
read-out calls. Errors are 3.3 standard errors of the simulation (99.9 %) unless the design allows more.
"""

import numpy as np
import pytest
import scipy.stats

from experiments.config import Guardrail, Metric
from experiments.decision import DecisionRule
from experiments.definitions import DefinedMetric
from experiments.estimates import estimate
from experiments.health import HealthRule
from experiments.metrics import ArmStatistics, Statistics, covariance_key
from experiments.monitoring import watch
from experiments.quantiles import order_statistics_of
from experiments.sequential import Looks, looks_at
from experiments.stats import log_sample_ratio_e_value

pytestmark = pytest.mark.endurance
RUNS = 10_000
ALLOWED = (
    0.006  # the design's ± .6 points; the Monte-Carlo standard error of 5 % over 10,000 runs is .22 points
)
QUANTILE = DefinedMetric.model_validate({
    "name": "q", "kind": "quantile", "quantile": 0.5, "window_days": 7, "of": {"source": "plays", "sum": "watch_minutes"},
}).metric()  # fmt: skip
METRICS = {
    "mean": Metric(name="mean", value="y"),
    "ratio": Metric(name="ratio", value="y", per="n"),
    "CUPED": Metric(name="cuped", value="y", covariate="x"),
}


def arms_of(columns, runs, units):
    """ArmStatistics of each run and arm from arrays (runs, 2, units), their moments taken all at once."""
    mean = {c: v.mean(axis=2) for c, v in columns.items()}
    centred = {c: v - mean[c][..., None] for c, v in columns.items()}
    names = sorted(columns)
    second = {
        (a, b): (centred[a] * centred[b]).sum(axis=2) / (units - 1) for a in names for b in names if a <= b
    }
    for run in range(runs):
        yield [
            ArmStatistics(
                arm="ct"[k], units=units, mean={c: float(mean[c][run, k]) for c in names},
                variance={c: float(second[c, c][run, k]) for c in names},
                covariance={covariance_key(a, b): float(v[run, k]) for (a, b), v in second.items() if a < b},
            )
            for k in (0, 1)
        ]  # fmt: skip


def drawn(rng, runs, units):
    """Skewed minutes that depend on what a member did before, and how many plays they were in."""
    x = rng.gamma(2, 20, (runs, 2, units))
    n = rng.poisson(3, x.shape) + 1.0
    return {"x": x, "n": n, "y": 0.7 * x + n * rng.gamma(1, 6, x.shape)}


@pytest.mark.parametrize("kind", METRICS)
def test_ten_thousand_a_a_tests_alarm_at_five_per_cent(kind):
    metric, rng, alarms = METRICS[kind], np.random.default_rng(17), 0
    for _ in range(10):
        columns = {c: v for c, v in drawn(rng, RUNS // 10, 500).items() if c in metric.columns}
        alarms += sum(
            estimate(metric, *arms, 0.05).p_value < 0.05 for arms in arms_of(columns, RUNS // 10, 500)
        )
    assert alarms / RUNS == pytest.approx(0.05, abs=ALLOWED)


def order_arms(values):
    return [
        ArmStatistics(arm="ct"[k], units=len(v), mean={}, variance={}, covariance={}, order={"q": order_statistics_of(v, 0.5)})
        for k, v in enumerate(values)
    ]  # fmt: skip


def test_ten_thousand_a_a_tests_of_a_median_alarm_at_five_per_cent():
    rng = np.random.default_rng(18)
    alarms = sum(
        estimate(QUANTILE, *order_arms(rng.gamma(1.5, 20, (2, 2_000))), 0.05).p_value < 0.05
        for _ in range(RUNS)
    )
    assert alarms / RUNS == pytest.approx(0.05, abs=ALLOWED)


@pytest.mark.parametrize("kind", METRICS)
def test_intervals_hold_the_truth_nineteen_times_in_twenty(kind):
    """4,000 tests in which treatment adds 3 minutes a member; coverage 95 % ± 1 point, Monte-Carlo error ± 1.1."""
    metric, runs, rng, held = METRICS[kind], 4_000, np.random.default_rng(19), 0
    truth = {"mean": 3.0, "CUPED": 3.0, "ratio": 3.0 / 4}[kind]  # plays are 4 a member
    for _ in range(4):
        columns = drawn(rng, runs // 4, 500)
        columns["y"][:, 1] += 3.0
        columns = {c: v for c, v in columns.items() if c in metric.columns}
        for arms in arms_of(columns, runs // 4, 500):
            found = estimate(metric, *arms, 0.05)
            held += found.low <= truth <= found.high
    assert held / runs == pytest.approx(0.95, abs=0.011)


def test_intervals_of_a_quantile_hold_the_truth():
    rng, runs, held = np.random.default_rng(20), 4_000, 0
    truth = scipy.stats.gamma(1.5, scale=20).median() * 0.1
    for _ in range(runs):
        control, treatment = rng.gamma(1.5, 20, (2, 2_000))
        found = estimate(QUANTILE, *order_arms([control, 1.1 * treatment]), 0.05)
        held += found.low <= truth <= found.high
    assert held / runs == pytest.approx(0.95, abs=0.011)


DAYS, DAILY = 28, 400  # looks, and units of both arms a day
FRACTIONS = tuple((d + 1) / DAYS for d in range(DAYS))


def z_values(rng, runs, effect=0.0):
    """(runs, DAYS) Welch z of skewed values cumulated over days; `effect` in standard deviations."""
    half = DAILY // 2
    sums = np.empty((runs, DAYS, 2, 2))
    for day in range(DAYS):
        values = rng.exponential(1, (runs, 2, half)) + np.array([0.0, effect])[:, None]
        sums[:, day] = np.stack([values.sum(axis=2), (values**2).sum(axis=2)], axis=2)
    n = (half * np.arange(1, DAYS + 1))[:, None]
    total = sums.cumsum(axis=1)
    mean = total[..., 0] / n
    variance = (total[..., 1] - n * mean**2) / (n - 1)
    return (mean[..., 1] - mean[..., 0]) / np.sqrt((variance / n).sum(axis=2))


def ever_below(z, looks):
    """Which runs are ever called at the nominal level of `looks`, one for each day."""
    levels = np.array([one.level(0.05, 2) for one in looks])
    return (2 * scipy.stats.norm.sf(np.abs(z)) < levels).any(axis=1)


def planned():
    return [looks_at(DAYS * DAILY, (d + 1) * DAILY, FRACTIONS[:d], over=False) for d in range(DAYS)]


def watched():
    return [
        Looks(method="always-valid", units=(d + 1) * DAILY, tuned_units=DAYS * DAILY) for d in range(DAYS)
    ]


def test_peeking_for_28_days_costs_nothing_extra():
    """10,000 A/A tests looked at daily: group-sequential at most 5.5 %, confidence sequences at most 2.5 %, naive far more.

    Monte-Carlo standard errors .22 and .15 points.
    """
    z = np.concatenate([z_values(np.random.default_rng(seed), 1_000) for seed in range(10)])
    assert ever_below(z, planned()).mean() <= 0.055
    assert ever_below(z, watched()).mean() <= 0.025
    assert ever_below(z, [Looks()] * DAYS).mean() > 0.2


def test_peeking_for_28_days_costs_little_power():
    """Where one look at the end finds an effect 95 times in 100, daily looks find it 90 times at least."""
    drift = 3.6 * np.sqrt(2 / (DAYS * DAILY / 2))
    z = z_values(np.random.default_rng(23), 2_000, drift)
    final = (2 * scipy.stats.norm.sf(np.abs(z[:, -1])) < 0.05).mean()
    assert final > 0.93
    assert final - 0.04 < ever_below(z, planned()).mean() <= final + 0.02


def cumulated(rng, demo, days, units, shift=(1.0, 1.0)):
    """Daily `Statistics` of the demonstration experiment, its second guardrail's renewals among those due."""
    names = ("watch_minutes", "plays", "renewals", "renewals_due")
    due = rng.integers(0, 3, (days, 2, units)).astype(float)
    values = np.stack([
        rng.gamma(3, 20, due.shape), rng.gamma(3, 1, due.shape) * np.array([1, shift[0]])[:, None],
        rng.binomial(due.astype(int), 0.8 * np.array([1, shift[1]])[:, None]).astype(float), due,
    ])  # fmt: skip
    for day in range(1, days + 1):
        flat = values[:, :day].transpose(2, 0, 1, 3).reshape(2, 4, -1)
        yield Statistics(
            arms=tuple(arm_of(flat[k], name, names) for k, name in enumerate(("control", "treatment")))
        )


def arm_of(rows, name, names):
    cov = np.cov(rows)
    pairs = {
        covariance_key(a, b): float(cov[i, j])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    }
    return ArmStatistics(arm=name, units=rows.shape[1], mean=dict(zip(names, rows.mean(axis=1).tolist(), strict=True)),
                         variance=dict(zip(names, np.diag(cov).tolist(), strict=True)), covariance=pairs)  # fmt: skip


def test_a_harmless_test_is_rarely_rolled_back_and_a_harmful_one_is(demo, noon):
    """400 tests watched daily for two weeks: at most 2 % of harmless ones (α 1 %, Monte-Carlo error .5), all with a tenth fewer renewals."""
    rng = np.random.default_rng(29)

    def ever(shift, runs):
        return sum(
            any(watch(demo, s, noon).roll_back for s in cumulated(rng, demo, 14, 150, shift))
            for _ in range(runs)
        )

    assert ever((1.0, 1.0), 150) <= 3
    assert ever((1.0, 0.88), 25) == 25


def test_the_sample_ratio_check_rarely_alarms_on_healthy_tests_and_catches_51_to_49():
    """2,000 tests watched for 28 days at the rule's 1 %: at most 2 % healthy ones; at 51/49 98 % within 100,000 units."""
    rng, bar = np.random.default_rng(31), -np.log(HealthRule().sample_ratio_alpha)

    def ever(share, runs, daily):
        counts = np.cumsum(rng.binomial(daily, share, (runs, DAYS)), axis=1)
        totals = daily * np.arange(1, DAYS + 1)
        return np.mean([
            any(log_sample_ratio_e_value((int(a), int(n - a)), (0.5, 0.5)) >= bar for a, n in zip(run, totals, strict=True))
            for run in counts
        ])  # fmt: skip

    assert ever(0.5, 2_000, 3_600) <= 0.02
    assert ever(0.51, 500, 3_600) >= 0.98


def test_the_rule_ships_an_inferior_guardrail_at_most_at_its_alpha(demo):
    """A guardrail exactly at its margin is called non-inferior in one test in twenty."""
    guardrail = Guardrail(name="g", value="y", margin=0.05)
    rng, runs = np.random.default_rng(37), 4_000
    columns = {"y": rng.gamma(2, 20, (runs, 2, 400)) * np.array([1, 0.95])[None, :, None]}
    from experiments.estimates import p_inferior

    called = np.mean(
        [
            p_inferior(guardrail, *arms) < DecisionRule().alpha_guardrail
            for arms in arms_of(columns, runs, 400)
        ]
    )
    assert called == pytest.approx(0.05, abs=3.3 * np.sqrt(0.05 * 0.95 / runs))
