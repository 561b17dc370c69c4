"""A read-out knows how often it was looked at, in whom the primary moved, whether it lasts; guardrails are watched."""

from datetime import timedelta

import numpy as np
import pytest

from experiments.decision import DecisionRule, Verdict, levels_of
from experiments.drilldown import novelty_results, segment_results
from experiments.metrics import ArmStatistics, Statistics
from experiments.monitoring import watch
from experiments.multiplicity import benjamini_hochberg
from experiments.readout import Readout, read_out
from experiments.sentences import looks_said
from experiments.sequential import Looks, always_valid_z, spending_bounds

SPREAD = {"watch_minutes": 1200.0, "plays": 3.0, "renewals": 0.2, "renewals_due": 0.3}
LEVEL = {"watch_minutes": 60.0, "plays": 3.0, "renewals": 0.8, "renewals_due": 1.0}


def statistics(units=1_000, **changes):
    """Two arms of `units` each; `changes` are what treatment's columns are multiplied by."""
    means = {"control": LEVEL, "treatment": {c: v * changes.get(c, 1.0) for c, v in LEVEL.items()}}
    return Statistics(arms=tuple(
        ArmStatistics(arm=a, units=units, mean=m, variance=SPREAD, covariance={"renewals,renewals_due": 0.15}) for a, m in means.items()
    ))  # fmt: skip


@pytest.fixture
def planned(varied):
    return varied(planned_units=8_000)


def test_an_early_look_asks_for_more(planned, varied, noon):
    """An effect of 3 standard errors wins a single look, and not the first quarter of a planned test."""
    effect = 1 + 3 * np.sqrt(2 * 1200 / 1_000) / 60
    found = read_out(planned, statistics(watch_minutes=effect), noon)
    assert found.looks.fractions == (0.25,)
    assert not found.comparisons[0].success
    assert read_out(varied(), statistics(watch_minutes=effect), noon).comparisons[0].success
    e = found.comparisons[0].primary
    z = spending_bounds((0.25,), 0.05, 2)[0]
    assert (e.high - e.low) / 2 == pytest.approx(
        z * np.sqrt(2 * 1200 / 1_000), rel=0.03
    )  # t of 1,998 has wider tails
    assert "Look 1 at 25% of the planned units" in looks_said(
        found.looks, levels_of(planned, found.rule, found.looks)
    )


def test_each_look_remembers_those_before_it(planned, noon):
    looks = ()
    for units in (1_000, 2_000, 4_000):
        found = read_out(planned, statistics(units), noon, earlier=looks)
        looks = found.looks.fractions
    assert looks == (0.25, 0.5, 1.0)
    bounds = spending_bounds((0.25, 0.5, 1.0), 0.05, 2, final=True)
    from scipy.stats import norm

    levels = levels_of(planned, found.rule, found.looks)
    assert levels.success == pytest.approx(2 * norm.sf(bounds[-1]))
    assert levels.guardrail == pytest.approx(
        norm.sf(spending_bounds((0.25, 0.5, 1.0), 0.05, 1, final=True)[-1])
    )
    assert Readout.from_json(found.to_json()).reproduced() == found


def test_reading_the_same_data_again_is_no_further_look(planned, noon):
    first = read_out(planned, statistics(), noon)
    assert read_out(planned, statistics(), noon, earlier=first.looks.fractions).looks == first.looks


def test_a_test_that_is_over_before_its_plan_spends_what_is_left(planned):
    early = read_out(planned, statistics(2_000), planned.end - timedelta(days=1))
    over = read_out(planned, statistics(2_000), planned.end)
    assert (early.looks.final, over.looks.final) == (False, True)
    assert levels_of(planned, over.rule, over.looks).success == pytest.approx(0.05)


def test_metrics_that_wait_give_no_verdict_and_say_until_when(demo, noon):
    waiting = statistics().model_copy(update={"waiting": {"renewal_share": noon + timedelta(days=28)}})
    found = read_out(demo, waiting, noon)
    assert (found.verdict, found.comparisons) == (Verdict.NO_VERDICT, ())
    assert "renewal_share until 2026-03-29" in found.sentence


def segments(effects, units=2_000):
    return {name: statistics(units, watch_minutes=1 + e).arms for name, e in effects.items()}


def test_segments_are_corrected_for_how_many_there_are(demo):
    """Nineteen segments without effect and one of 2.5 standard errors: p .012 alone, .25 among twenty."""
    lift = 2.5 * np.sqrt(2 * 1200 / 2_000) / 60
    many = statistics().model_copy(
        update={"segments": segments({f"c={i:02}": lift * (i == 3) for i in range(20)})}
    )
    found = segment_results(demo, many, 0.05)
    assert [s.segment for s in found] == [f"c={i:02}" for i in range(20)]
    assert found[3].estimate.p_value == pytest.approx(0.0125, abs=0.001)
    assert found[3].p_adjusted == pytest.approx(20 * found[3].estimate.p_value, rel=1e-9)
    assert not any(s.moved for s in found)
    alone = statistics().model_copy(update={"segments": segments({"c=03": lift})})
    assert segment_results(demo, alone, 0.05)[0].moved


def test_a_segment_that_cannot_be_read_is_left_out(demo):
    one = statistics(1).arms
    some = statistics().model_copy(update={"segments": segments({"c=a": 0.0}) | {"c=b": one}})
    assert [s.segment for s in segment_results(demo, some, 0.05)] == ["c=a"]


def test_benjamini_hochberg_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).uniform(size=50) ** 3
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])
    assert benjamini_hochberg([]).tolist() == []


def lasting(effects, slope, units=2_000):
    """Statistics by day with these effects in minutes, and a mean slope in treatment."""

    def arm(name, column, mean, variance):
        return ArmStatistics(
            arm=name, units=units, mean={column: mean}, variance={column: variance}, covariance={}
        )

    days = tuple(
        (arm("control", "value", 10.0, 90.0), arm("treatment", "value", 10.0 + e, 90.0)) for e in effects
    )
    trend = (arm("control", "slope", 0.0, 1.0), arm("treatment", "slope", slope, 1.0))
    return statistics().model_copy(update={"tenures": days, "trend": trend})


@pytest.mark.parametrize(
    ("effects", "slope", "fading"),
    [
        pytest.param((2.0, 1.0, 0.2), -0.3, True, id="a win that fades"),
        pytest.param((-2.0, -1.0, -0.2), 0.3, True, id="a loss that fades"),
        pytest.param((0.2, 1.0, 2.0), 0.3, False, id="a win that grows"),
        pytest.param((2.0, 1.9, 2.1), -0.01, False, id="a win that lasts"),
    ],
)
def test_an_effect_that_fades_is_said_to(demo, effects, slope, fading):
    (found,) = novelty_results(demo, lasting(effects, slope))
    assert found.fading == fading
    assert [d.estimate.difference for d in found.days] == pytest.approx(list(effects))
    assert found.slope.difference == pytest.approx(slope)


def test_a_primary_without_days_has_no_novelty(demo):
    assert novelty_results(demo, statistics()) == ()


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param({"renewals": 1.0}, "fine", id="nothing happened"),
        pytest.param({"renewals": 0.97}, "worse", id="surely worse, margin 5 %"),
        pytest.param({"renewals": 0.85}, "breached", id="surely beyond the margin"),
        pytest.param({"renewals": 1.2}, "fine", id="better is fine"),
    ],
)
def test_a_guardrail_that_is_surely_worse_rolls_back(demo, noon, change, state):
    seen = watch(demo, statistics(20_000, **change), noon)
    (plays, renewals) = seen.guardrails
    assert (plays.state, renewals.state) == ("fine", state)
    assert seen.roll_back == (state != "fine")
    assert seen.sentence.startswith(
        "Roll back: renewal_share" if seen.roll_back else "No guardrail is surely worse"
    )
    assert ("beyond its margin of 0.05" in seen.sentence) == (state == "breached")


def test_guardrails_are_split_over_and_watched_wider_than_a_single_look(demo, noon):
    (_, renewals) = watch(demo, statistics(20_000), noon).guardrails
    single = read_out(demo, statistics(20_000), noon).comparisons[0].guardrails[1].estimate
    assert renewals.estimate.high - renewals.estimate.low > 1.5 * (single.high - single.low)


def test_alpha_of_watching_is_split_over_guardrails_and_treatments(demo, noon):
    """Two guardrails, one treatment: the interval is z(40,000 units, .01/2) standard errors wide, tuned at 10,000."""
    (plays, _) = watch(demo, statistics(20_000), noon).guardrails
    z = always_valid_z(40_000, 0.005, 10_000)
    assert plays.estimate.high == pytest.approx(z * np.sqrt(2 * 3.0 / 20_000), rel=1e-3)
    planned = watch(demo.model_copy(update={"planned_units": 40_000}), statistics(20_000), noon).guardrails[0]
    assert planned.estimate.high == pytest.approx(
        always_valid_z(40_000, 0.005, 40_000) * np.sqrt(6 / 20_000), rel=1e-3
    )


def test_alphas_are_split_as_the_rule_says(demo, varied):
    """Success over treatments, deterioration over metrics and treatments, guardrails over nothing."""
    third = {name: {"share": 1 / 3} for name in ("control", "small", "large")}
    for experiment, treatments in ((demo, 1), (varied(arms=third), 2)):
        levels = levels_of(experiment, DecisionRule(), Looks())
        assert levels.success == pytest.approx(0.05 / treatments)
        assert levels.deterioration == pytest.approx(0.01 / (3 * treatments))
        assert (levels.interval, levels.guardrail) == (0.05, 0.05)


def test_too_few_units_are_not_watched(demo, noon):
    seen = watch(demo, statistics(99, renewals=0.2), noon)
    assert {w.state for w in seen.guardrails} == {"unread"}
    assert "(2 cannot be read yet)" in seen.sentence
    assert watch(demo, statistics(100, renewals=0.2), noon).roll_back


def test_a_broken_test_is_not_rolled_back_on_its_estimates(demo, noon):
    control, treatment = statistics(20_000, renewals=0.5).arms
    lost = Statistics(arms=(control, treatment.model_copy(update={"units": 15_000})))
    seen = watch(demo, lost, noon)
    assert not seen.roll_back
    assert seen.sentence.startswith("Broken, so nothing is decided: sample ratio mismatch")


def test_a_falling_metric_that_should_fall_is_fine(varied, demo, noon):
    metrics = demo.metrics.model_dump()
    metrics["guardrails"][1]["direction"] = "decrease"
    experiment = varied(metrics=metrics)
    assert watch(experiment, statistics(20_000, renewals=0.9), noon).guardrails[1].state == "fine"
    assert watch(experiment, statistics(20_000, renewals=1.15), noon).guardrails[1].state == "breached"


def test_the_share_of_variance_that_cuped_takes_is_said(varied, demo, noon):
    metrics = demo.metrics.model_dump()
    metrics["primary"]["covariate"] = "before"
    arms = [
        a.model_copy(update={
            "mean": {**a.mean, "before": 60.0}, "variance": {**a.variance, "before": 1200.0},
            "covariance": {**a.covariance, "before,watch_minutes": 840.0},
        })
        for a in statistics().arms
    ]  # fmt: skip
    found = read_out(varied(metrics=metrics), Statistics(arms=tuple(arms)), noon)
    assert found.comparisons[0].variance_cut == pytest.approx(0.49, abs=0.001)  # correlation .7
    assert read_out(demo, statistics(), noon, DecisionRule()).comparisons[0].variance_cut is None
