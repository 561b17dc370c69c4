"""The size of a decision, against statsmodels for one test and by simulation for the whole."""

from datetime import UTC, datetime

import numpy as np
import pytest
import yaml
from statsmodels.stats.power import NormalIndPower

from experiments.checking import check
from experiments.config import Guardrail, Metric
from experiments.decision import DecisionRule
from experiments.definitions import DefinedMetric
from experiments.estimates import estimate, p_inferior
from experiments.metrics import ArmStatistics
from experiments.power import NoHistory, baseline, plan
from experiments.reading import SHIPPED, load
from experiments.scoping import Arrivals, Draft, scope

MINUTES = Metric(name="m", value="m")
NO_DETERIORATION = DecisionRule(alpha_deterioration=0.0)


def arm(mean=60.0, variance=900.0, n=5_000, name="past", column="m"):
    return ArmStatistics(arm=name, units=n, mean={column: mean}, variance={column: variance}, covariance={})


def guard(name, margin=0.05, mean=10.0, variance=40.0):
    g = Guardrail(name=name, value=name, margin=margin)
    return g, baseline(g, arm(mean, variance, column=name))


def test_the_past_is_read_as_a_read_out_reads():
    found = baseline(MINUTES, arm())
    assert (found.level, found.variance) == (60.0, pytest.approx(900.0, rel=1e-9))


def test_a_covariate_is_taken_off_the_variance():
    """Correlation .8 leaves 1 - .64 of it."""
    metric = Metric(name="m", value="m", covariate="x")
    past = ArmStatistics(arm="past", units=5_000, mean={"m": 60.0, "x": 60.0}, variance={"m": 900.0, "x": 900.0}, covariance={"m,x": 720.0})  # fmt: skip
    found = baseline(metric, past)
    assert found.variance == pytest.approx(0.36 * 900, rel=1e-3)
    assert found.variance_cut == pytest.approx(0.64, abs=1e-3)


@pytest.mark.parametrize("past", [arm(mean=-1.0), arm(variance=0.0), arm(n=1)])
def test_a_past_that_says_nothing_is_refused(past):
    with pytest.raises(NoHistory, match="'m'"):
        baseline(MINUTES, past)


def test_one_test_alone_is_sized_as_statsmodels_does():
    found = plan(
        (MINUTES, baseline(MINUTES, arm())), [], 0.02, (0.5, 0.5), 0.8, looks=1, rule=NO_DETERIORATION
    )
    theirs = 2 * NormalIndPower().solve_power(0.02 * 60 / 30, alpha=0.05, power=0.8, alternative="two-sided")
    assert found.units == pytest.approx(theirs, rel=1e-3)
    (need,) = found.needs
    assert need.detectable == pytest.approx(0.02, rel=1e-3)


def test_a_decision_over_guardrails_needs_more_than_each_test_alone():
    """Five guardrails at 80 % each would leave 33 % with the success metric left out, 26 % with it."""
    guards = [guard(f"g{i}") for i in range(5)]
    found = plan((MINUTES, baseline(MINUTES, arm())), guards, 0.02, (0.5, 0.5), 0.8, rule=NO_DETERIORATION)
    assert found.unsplit_power == pytest.approx(0.8**6)
    assert found.power >= 0.8 - 1e-6
    assert found.power_if_independent > found.power
    alone = plan((MINUTES, baseline(MINUTES, arm())), [], 0.02, (0.5, 0.5), 0.8, rule=NO_DETERIORATION)
    assert found.units > 1.3 * alone.units
    assert [need.beta for need in found.needs] == [pytest.approx(0.2 / 6)] * 6


def test_a_guardrail_is_sized_against_control_less_its_margin():
    """(z_.95 + z_.9)² σ² (.9²/.4 + 1/.6) / (.1 · 10)², by hand; beta of .2 is split over two."""
    found = plan(
        (MINUTES, baseline(MINUTES, arm())),
        [guard("g", 0.1)],
        0.5,
        (0.4, 0.6),
        0.8,
        looks=1,
        rule=NO_DETERIORATION,
    )
    by_hand = (1.644854 + 1.281552) ** 2 * 40 * (0.81 / 0.4 + 1 / 0.6)
    assert found.needs[1].units == pytest.approx(by_hand, abs=1)


@pytest.mark.slow
def test_the_decisions_power_is_what_was_said():
    """1,500 simulated decisions of the planned size, looked at once; Monte-Carlo standard error 1 point."""
    guards = [guard(f"g{i}", variance=40.0 * (1 + i)) for i in range(3)]
    found = plan((MINUTES, baseline(MINUTES, arm())), guards, 0.02, (0.4, 0.6), 0.8, looks=1)
    rng, n = np.random.default_rng(5), (round(0.4 * found.units), round(0.6 * found.units))

    def pair(column, level, variance, shift=0.0):
        means = [
            rng.normal(level, np.sqrt(variance / n[0])),
            rng.normal(level + shift, np.sqrt(variance / n[1])),
        ]
        return [
            arm(float(m), variance, k, "ct"[i], column) for i, (m, k) in enumerate(zip(means, n, strict=True))
        ]

    ships = 0
    for _ in range(1_500):
        wins = estimate(MINUTES, *pair("m", 60.0, 900.0, 1.2), 0.05)
        ships += (
            wins.difference > 0 and wins.p_value < 0.05
            and all(p_inferior(g, *pair(g.value, b.level, b.variance)) < 0.05 for g, b in guards)
        )  # fmt: skip
    assert ships / 1_500 == pytest.approx(found.power_if_independent / (1 - 0.01), abs=0.034)
    assert ships / 1_500 > 0.8


@pytest.mark.parametrize(("effect", "power"), [(0.0, 0.8), (0.02, 0.99)])
def test_what_cannot_be_planned_is_refused(effect, power):
    with pytest.raises(ValueError, match="cannot be planned"):
        plan((MINUTES, baseline(MINUTES, arm())), [], effect, (0.5, 0.5), power)


@pytest.mark.parametrize(
    ("units", "days"),
    [
        pytest.param(100, 1, id="the first day"),
        pytest.param(101, 2, id="the second"),
        pytest.param(150, 2, id="exactly what came"),
        pytest.param(1_000, 2 + 12, id="beyond, at 75 a day"),
    ],
)
def test_duration_follows_arrivals(units, days):
    assert Arrivals(daily=(100, 50)).days_for(units) == days


def test_a_past_in_which_nobody_new_comes_never_fills_a_test():
    assert Arrivals(daily=(100, *[0] * 7)).days_for(101) is None


def test_the_draft_passes_the_check(folder):
    path = folder("metrics.yaml", (SHIPPED / "metrics.yaml").read_text())
    metrics = load(path).metrics
    names = {"minutes_7d": arm(column="minutes_7d"), "plays_7d": arm(column="plays_7d")}
    primary = metrics["minutes_7d"].metric().model_copy(update={"covariate": None})
    guardrail = metrics["plays_7d"].guardrail(0.03).model_copy(update={"covariate": None})
    made_plan = plan((primary, baseline(primary, names["minutes_7d"])), [(guardrail, baseline(guardrail, names["plays_7d"]))], 0.02, (0.5, 0.5))  # fmt: skip
    draft = Draft(name="variety", hypothesis="Variety: keeps members # really", owner="me", layer="ranking", primary="minutes_7d",
                  guardrails={"plays_7d": 0.03}, effect=0.02, parameters={"weights.diversity": 0.3}, traffic=0.5)  # fmt: skip
    defined = [DefinedMetric.model_validate(metrics[m]) for m in ("minutes_7d", "plays_7d")]
    made = scope(draft, made_plan, Arrivals(daily=(500,) * 30), defined, datetime(2026, 3, 1, tzinfo=UTC))
    folder("variety.yaml", made.yaml)
    book = load(path)
    assert check(book) == ()
    declared = book.experiments["variety"]
    assert (declared.planned_units, declared.rollout) == (made_plan.units, 0.5)
    assert (declared.end - declared.start).days == made.days
    assert made.exposure_days == -(-2 * made_plan.units // 500)
    assert yaml.safe_load(made.yaml)["hypothesis"] == "Variety: keeps members # really"
    assert "clear every guardrail" in made.sentence
