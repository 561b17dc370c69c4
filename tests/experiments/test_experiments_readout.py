"""The verdict: from an exposure log to a sentence, health first."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from experiments.decision import DecisionRule, Verdict
from experiments.metrics import InvalidOutcomes, exposed_units, statistics_of
from experiments.readout import Readout, read_out, read_out_tables

NAME = "homepage-multi-objective"
N = 8_000


@pytest.fixture
def exposures(noon):
    """`N` users, half in each arm, each exposed twice an hour apart."""
    arm = np.where(np.arange(N) % 2, "treatment", "control")
    times = pa.array([noon, noon + timedelta(hours=1)] * N, pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "request_id": [f"r{i}" for i in range(2 * N)],
            "user_id": np.repeat(np.arange(N), 2),
            "experiment": [NAME] * (2 * N),
            "arm": np.repeat(arm, 2),
            "event_timestamp": times,
        }
    )


def outcomes_of(minutes=0.0, plays=0.0, renewal=0.0, seed=0):
    """Outcomes whose treatment effects are these relative changes."""
    rng = np.random.default_rng(seed)
    treated = np.arange(N) % 2
    due = rng.integers(0, 3, N)
    return pa.table(
        {
            "unit_id": np.arange(N),
            "watch_minutes": rng.gamma(3, 20, N) * (1 + minutes * treated),
            "plays": rng.gamma(3, 1, N) * (1 + plays * treated),
            "renewals": rng.binomial(due, 0.8 * (1 + renewal * treated)).astype(float),
            "renewals_due": due.astype(float),
        }
    )


@pytest.mark.parametrize(
    ("effects", "verdict", "said"),
    [
        pytest.param({"minutes": 0.1}, Verdict.SHIP, "Ship treatment: minutes_per_member rose by", id="a clean win"),
        pytest.param({}, Verdict.INCONCLUSIVE, "which is no clear win", id="no effect"),
        pytest.param({"minutes": -0.2}, Verdict.STOP, "makes things worse, minutes_per_member fell", id="a loss"),
        pytest.param({"minutes": 0.1, "renewal": -0.2}, Verdict.STOP, "renewal_share fell", id="a guardrail breaks"),
        pytest.param({"minutes": 0.1, "plays": -0.1}, Verdict.STOP, "plays_per_member fell", id="plays pay for minutes"),
    ],
)  # fmt: skip
def test_success_ships_only_within_every_guardrail(demo, exposures, noon, effects, verdict, said):
    found = read_out_tables(demo, exposures, outcomes_of(**effects), noon)
    assert found.verdict is verdict
    assert said in found.sentence
    assert found.winner == ("treatment" if verdict is Verdict.SHIP else None)
    assert found.comparisons[0].success == (effects.get("minutes", 0) > 0)


def test_a_loss_within_its_margin_still_stops_a_win_when_it_is_certain(demo, exposures, noon):
    """Plays fall by 5 %: half the margin of 10 %, yet clearly a fall."""
    found = read_out_tables(demo, exposures, outcomes_of(minutes=0.1, plays=-0.05), noon)
    (comparison,) = found.comparisons
    assert [g.non_inferior for g in comparison.guardrails] == [True, True]
    assert comparison.deteriorated == ("plays_per_member",)
    assert (found.verdict, found.winner) == (Verdict.STOP, None)


def test_a_guardrail_holds_below_its_own_alpha(demo, exposures, noon):
    found = read_out_tables(demo, exposures, outcomes_of(renewal=-0.02), noon)
    p = found.comparisons[0].guardrails[1].p_value
    for factor, holds in ((1.001, True), (0.999, False)):
        again = read_out(demo, found.statistics, noon, DecisionRule(alpha_guardrail=factor * p))
        assert again.comparisons[0].guardrails[1].non_inferior == holds


def test_a_guardrail_that_is_merely_undecided_keeps_a_win_from_shipping(varied, demo, exposures, noon):
    metrics = demo.metrics.model_dump()
    metrics["guardrails"][1]["margin"] = 0.001  # far below what 8,000 users can tell
    found = read_out_tables(varied(metrics=metrics), exposures, outcomes_of(minutes=0.1), noon)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "renewal_share may lose 0.1% or more" in found.sentence
    assert found.comparisons[0].success
    assert not found.comparisons[0].deteriorated


def test_a_broken_experiment_says_so_first_and_gives_no_winner(demo, exposures, noon):
    """Every tenth treated user is lost, which no estimate can mend, however large the win looks."""
    lost = np.asarray(exposures["user_id"]) % 20 == 1
    found = read_out_tables(demo, exposures.filter(pa.array(~lost)), outcomes_of(minutes=0.5), noon)
    assert found.verdict is Verdict.BROKEN
    assert (found.winner, found.comparisons) == (None, ())
    assert found.sentence.startswith(
        "Broken, so there is no winner: sample ratio mismatch: control has 4000 units"
    )
    assert found.health.p_value < 0.01


def test_units_seen_in_two_arms_are_left_out_and_break_a_test_when_many(demo, exposures, noon):
    arm = np.asarray(exposures["arm"]).astype(object)
    few, many = arm.copy(), arm.copy()
    few[1 : 2 * 7 : 2] = "control"  # the second exposure of seven users, of whom three were treated
    many[1 : 2 * 400 : 2] = "control"

    def with_arms(arms):
        return read_out_tables(
            demo, exposures.set_column(3, "arm", pa.array(arms)), outcomes_of(minutes=0.1), noon
        )

    assert (with_arms(few).health.crossovers, with_arms(few).verdict) == (3, Verdict.SHIP)
    assert sum(arm.units for arm in with_arms(few).statistics.arms) == N - 3
    broken = with_arms(many)
    assert broken.verdict is Verdict.BROKEN
    assert "200 of 8000 units were seen in more than one arm" in broken.sentence


def test_an_arm_that_nobody_declared_breaks_the_test(demo, exposures, noon):
    arm = np.where(np.asarray(exposures["user_id"]) < 4, "beta", np.asarray(exposures["arm"]))
    found = read_out_tables(demo, exposures.set_column(3, "arm", pa.array(arm)), outcomes_of(), noon)
    assert found.verdict is Verdict.BROKEN
    assert "4 in 'beta'" in found.sentence


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        pytest.param(lambda user: user < 0, "arm 'control' has 0 exposed units", id="nobody"),
        pytest.param(lambda user: user < 2, "arm 'control' has 1 exposed units", id="one each"),
        pytest.param(lambda user: user % 2 == 0, "sample ratio mismatch", id="only control"),
    ],
)
def test_too_few_units_give_no_verdict_and_no_p_value(demo, exposures, noon, kept, said):
    chosen = exposures.filter(pa.array(kept(np.asarray(exposures["user_id"]))))
    found = read_out_tables(demo, chosen, outcomes_of(), noon)
    assert found.verdict in (Verdict.NO_VERDICT, Verdict.BROKEN)
    assert said in found.sentence
    assert found.comparisons == ()


def test_a_metric_that_does_not_vary_gives_no_verdict(demo, exposures, noon):
    flat = outcomes_of().set_column(2, "plays", pa.array(np.full(N, 3.0)))
    found = read_out_tables(demo, exposures, flat, noon)
    assert (found.verdict, found.reason) == (
        Verdict.NO_VERDICT,
        "plays_per_member does not vary in arm 'control'",
    )


def test_a_readout_is_reproduced_from_its_own_json(demo, exposures, noon):
    for effects in ({"minutes": 0.1}, {}, {"minutes": -0.2}):
        found = read_out_tables(demo, exposures, outcomes_of(**effects), noon)
        stored = Readout.from_json(found.to_json())
        assert stored == found
        assert stored.reproduced() == found


def test_only_exposed_units_are_analysed(demo, exposures, noon):
    """Users who were assigned and never exposed may do what they like."""
    some = exposures.filter(pa.array(np.asarray(exposures["user_id"]) < 4_000))
    outcomes = outcomes_of(minutes=0.1)
    wild = np.asarray(outcomes["watch_minutes"]) + 1e6 * (np.arange(N) >= 4_000)
    units = exposed_units(some, demo)
    assert statistics_of(
        units, outcomes.set_column(1, "watch_minutes", pa.array(wild)), demo
    ) == statistics_of(units, outcomes, demo)
    assert len(units) == 4_000


def test_an_exposed_unit_without_outcomes_did_nothing(demo, exposures):
    outcomes = outcomes_of()
    active = outcomes.slice(0, 6_000)
    found = statistics_of(exposed_units(exposures, demo), active, demo).arms[0]
    minutes = np.where(np.arange(N) < 6_000, np.asarray(outcomes["watch_minutes"]), 0)[::2]
    assert found.units == N // 2
    assert found.mean["watch_minutes"] == pytest.approx(minutes.mean(), rel=1e-12)
    assert found.variance["watch_minutes"] == pytest.approx(minutes.var(ddof=1), rel=1e-12)


def test_outcomes_may_be_keyed_by_the_experiments_unit(demo, exposures):
    units = exposed_units(exposures, demo)
    by_user = outcomes_of().rename_columns({"unit_id": "user_id"})
    assert statistics_of(units, by_user, demo) == statistics_of(units, outcomes_of(), demo)


def test_exposures_count_from_the_start_until_before_the_end(varied, exposures, noon):
    """Each user was shown something at noon and at one o'clock; the first that counts is the one within."""
    half_past = noon + timedelta(minutes=30)
    late = exposed_units(exposures, varied(start=half_past, end=noon + timedelta(days=1)))
    assert set(late["first_exposed_at"].to_pylist()) == {noon + timedelta(hours=1)}
    assert len(exposed_units(exposures, varied(start=noon - timedelta(days=1), end=noon))) == 0
    assert len(exposed_units(exposures, varied(start=noon, end=half_past))) == N


def test_a_log_with_lists_of_arms_reads_as_a_flat_one(demo, exposures):
    arms = [
        [{"experiment": "other", "arm": "x"}, {"experiment": NAME, "arm": arm}]
        for arm in exposures["arm"].to_pylist()
    ]
    nested = exposures.drop_columns(["experiment", "arm"]).append_column("arms", pa.array(arms))
    assert exposed_units(nested, demo).equals(exposed_units(exposures, demo))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda t: t.drop_columns(["plays"]), "outcomes lack plays", id="column missing"),
        pytest.param(
            lambda t: t.set_column(2, "plays", pa.nulls(N, pa.float64())), "'plays' is null", id="null"
        ),
        pytest.param(
            lambda t: t.set_column(2, "plays", pa.array(np.full(N, np.nan))), "not finite", id="NaN"
        ),
        pytest.param(lambda t: pa.concat_tables([t, t.slice(0, 2)]), "2 rows too many", id="a unit twice"),
    ],
)
def test_outcomes_that_cannot_be_read_are_refused(demo, exposures, noon, spoil, said):
    with pytest.raises(InvalidOutcomes, match=said):
        read_out_tables(demo, exposures, spoil(outcomes_of()), noon)


def three_arms(varied):
    parameters = {"ranker": "ranker@champion"}
    return varied(
        arms={name: {"share": 1 / 3, "parameters": parameters} for name in ("control", "small", "large")}
    )


def test_of_two_treatments_the_larger_win_ships(varied, noon):
    rng = np.random.default_rng(5)
    arm = np.array(["control", "small", "large"])[np.arange(30_000) % 3]
    effect = np.array([1.0, 1.08, 1.2])[np.arange(30_000) % 3]
    due = rng.integers(0, 3, 30_000)
    exposures = pa.table({"user_id": np.arange(30_000), "experiment": [NAME] * 30_000, "arm": arm,
                          "event_timestamp": pa.array([noon] * 30_000, pa.timestamp("us", "UTC"))})  # fmt: skip
    outcomes = pa.table({"unit_id": np.arange(30_000), "watch_minutes": effect * rng.gamma(3, 20, 30_000),
                         "plays": rng.gamma(3, 1, 30_000), "renewals": rng.binomial(due, 0.8) + 0.0,
                         "renewals_due": due + 0.0})  # fmt: skip
    found = read_out_tables(three_arms(varied), exposures, outcomes, noon)
    assert [c.may_ship for c in found.comparisons] == [True, True]
    assert found.winner == "large"


def test_alpha_of_success_is_split_over_treatments_and_of_guardrails_is_not(varied, demo, exposures, noon):
    """With p between α/2 and α, one treatment wins and the same one of two does not."""
    outcomes = outcomes_of(minutes=0.024)
    alone = read_out_tables(demo, exposures, outcomes, noon)
    p = alone.comparisons[0].primary.p_value
    rule = DecisionRule(alpha=1.5 * p)
    assert read_out(demo, alone.statistics, noon, rule).comparisons[0].success
    control, treatment = alone.statistics.arms
    three = alone.statistics.model_copy(
        update={"arms": tuple(a.model_copy(update={"arm": n}) for a, n in
                              ((control, "control"), (treatment, "small"), (treatment, "large")))}
    )  # fmt: skip
    split = read_out(three_arms(varied), three, noon, rule)
    assert [c.success for c in split.comparisons] == [False, False]
    guardrails = [c.guardrails[0].non_inferior for c in split.comparisons]
    assert guardrails == [alone.comparisons[0].guardrails[0].non_inferior] * 2
