"""What the simulated audience answers, by the product's own read-out. All members here are simulated, none is a person.

The pages come from an oracle with noise in place of trained models (`matinee.simulation.oracle`): at this size, with
24,000 members (400 in 60 lives of three weeks), the effects are five and more of their standard errors, whatever the seed of the lives.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from events.world import World, WorldConfig
from experiments.assignment import Assigner
from experiments.decision import Verdict
from experiments.live import LiveExperiments, compiled
from experiments.reading import SHIPPED, load
from matinee.simulation.designs import ALLURING, CONTROL, measured, more_plays, weights_test
from matinee.simulation.lives import Lived, assigned, live, read_out_lives, unit_ids
from matinee.simulation.oracle import oracle_shelves
from matinee.simulation.scenarios import (
    KILLED,
    LAUNCHED,
    OUTCOMES,
    NothingRead,
    alluring_but_alike,
    bench_of,
    funnel,
    random_change,
    search_weights,
    stage_of,
    variety,
    weights_at,
)
from matinee.simulation.trials import decided
from models.objective import ObjectiveWeights

LIVES = range(1, 61)


@pytest.fixture(scope="module")
def bench():
    world = World(WorldConfig(n_members=400, n_titles=4000, days=7, seed=0))
    return bench_of(stage_of(world), oracle_shelves(world, world.config.end + timedelta(hours=20)))


@pytest.fixture(scope="module")
def small():
    world = World(WorldConfig.tiny(days=4, seed=1))
    return bench_of(stage_of(world, days=7), oracle_shelves(world, world.config.end + timedelta(hours=20)))


@pytest.mark.slow
def test_an_arm_that_raises_plays_and_hurts_retention_is_killed_by_its_guardrail(bench):
    found = alluring_but_alike(bench, LIVES)
    (comparison,) = found.readout.comparisons
    assert found.readout.health.healthy
    assert comparison.success
    assert comparison.primary.relative_low > 0.01
    assert comparison.deteriorated == ("renewals_17d",)
    assert comparison.guardrails[0].estimate.relative_high < 0
    assert found.outcome == KILLED
    assert decided(found.readout) == "killed"


@pytest.mark.slow
def test_a_weight_on_variety_that_wins_on_retention_ships(bench):
    found = variety(bench, LIVES, weights=[0.3])
    (comparison,) = found.readout.comparisons
    assert comparison.primary.metric == "renewals_17d"
    assert comparison.primary.relative_low > 0.005
    assert comparison.guardrails[0].non_inferior
    assert found.readout.verdict is Verdict.SHIP
    assert found.outcome == LAUNCHED
    assert decided(found.readout) == "shipped"
    shipped = found.experiment.arms[found.readout.winner].parameters
    assert (shipped["weights.diversity"], shipped["weights.diversity_window"]) == (0.3, 24)


def test_tests_of_an_arm_against_itself_find_something_as_often_as_they_say(small):
    """The same lives under 60 other salts of the arm hash: 5 % ± 8.4 points (three standard errors) are below p = .05."""
    arms = {CONTROL: ObjectiveWeights(), "same": ObjectiveWeights()}
    begins, ends = small.stage.begins, small.stage.ends
    declared = weights_test("a-a", arms, more_plays(7), "Nothing changes.", begins, ends)
    lived = Lived.together(small.run(declared, arms, range(1, 5)))
    below = []
    for salt in range(60):
        again = declared.model_copy(update={"salt": f"a-a-{salt}"})
        (comparison,) = read_out_lives(again, [lived], ends).comparisons
        below.append([comparison.primary.p_value < 0.05, comparison.guardrails[0].estimate.p_value < 0.05])
    assert np.abs(np.mean(below, axis=0) - 0.05).max() < 0.084


def test_lives_that_are_scanned_in_parts_read_as_if_scanned_at_once(small):
    """Plays and renewals are not capped, so parts agree to rounding; minutes are, all at the first part's 99.9 %."""
    arms = {CONTROL: ObjectiveWeights(), "other": ALLURING}
    declared = weights_test("parts", arms, more_plays(7), "x", small.stage.begins, small.stage.ends)
    parts = [next(small.run(declared, arms, [life])) for life in (1, 2, 3)]
    whole = read_out_lives(declared, [Lived.together(parts)], small.stage.ends)
    apart = read_out_lives(declared, iter(parts), small.stage.ends)
    assert apart.health.units == whole.health.units
    for one, other in zip(apart.statistics.arms, whole.statistics.arms, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-9)
        assert one.variance == pytest.approx(other.variance, rel=1e-9)
        assert one.covariance == pytest.approx(other.covariance, rel=1e-9)


def test_arms_are_those_that_the_products_assigner_gives_and_split_in_half():
    """10,000 units, half in each arm up to four standard errors; the rest of the hash is `experiments`' to test."""
    at = WorldConfig().end
    arms = {CONTROL: ObjectiveWeights(), "other": ALLURING}
    experiment = weights_test("a-b", arms, more_plays(7), "x", at, at + timedelta(days=7))
    entry = compiled(load(SHIPPED), experiment, str, at)
    assigner = Assigner(LiveExperiments(experiments=(entry,)))
    ids = np.arange(1, 10_001)
    found = assigned(experiment)(ids)
    assert found.tolist() == [dict(assigner.assign(unit).arms)["a-b"] for unit in ids.tolist()]
    assert (found == CONTROL).mean() == pytest.approx(0.5, abs=0.02)


def test_the_products_metrics_are_read_over_windows_that_a_run_sees_the_end_of():
    shipped, now = load(SHIPPED).metrics, measured(14)
    assert now["renewals"].name == "renewals_10d"
    assert now["renewals"].window_days == 10
    assert now["renewals"].of == shipped["renewals_28d"].of
    assert now["renewals"].margin == shipped["renewals_28d"].margin
    assert now["minutes"].covariate_days == shipped["minutes_7d"].covariate_days
    assert measured(2)["plays"].window_days == 1


def test_a_life_repeats_and_another_life_is_another(small):
    ranked = small.rank(ObjectiveWeights())
    first, again, other = (live(small.stage, ranked, life) for life in (1, 1, 2))
    assert first == again
    assert first.plays["event_timestamp"] != other.plays["event_timestamp"]
    assert not np.intersect1d(unit_ids(200, 1), unit_ids(200, 2)).size
    assert set(other.exposures["user_id"].to_pylist()) <= set(unit_ids(200, 2).tolist())


def after(lived, stage):
    """The plays of a life, without those of before it."""
    return lived.plays.filter(pc.greater_equal(lived.plays["event_timestamp"], stage.begins))


def test_nobody_is_shown_a_title_again_that_they_played(small):
    """With as many titles as a page, each can be played once in a life."""
    size = small.stage.page_size
    lived = live(small.stage, small.rank(ALLURING)[:, :size], 1)
    assert 1 < max(Counter(after(lived, small.stage)["user_id"].to_pylist()).values()) <= size


def test_who_is_shown_nothing_is_not_exposed_and_plays_nothing(small):
    ranked = small.rank(ObjectiveWeights()).copy()
    ranked[:50] = -1
    lived = live(small.stage, ranked, 1)
    of_life = unit_ids(200, 1)
    seen = set(lived.exposures["user_id"].to_pylist())
    assert seen
    assert seen <= set(of_life[50:].tolist())
    assert set(after(lived, small.stage)["user_id"].to_pylist()) <= seen


def test_every_life_has_the_plays_of_before_to_itself(small):
    lived = live(small.stage, small.rank(ObjectiveWeights()), 3)
    before = lived.plays.filter(pc.less(lived.plays["event_timestamp"], small.stage.begins))
    assert len(before) == len(small.stage.before) > 0
    assert pc.sum(before["watch_minutes"]) == pc.sum(small.stage.before["watch_minutes"])
    assert (before["user_id"].to_numpy() - 600 == small.stage.before["user_id"].to_numpy()).all()


def test_members_are_exposed_with_their_first_page(small):
    lived = live(small.stage, small.rank(ObjectiveWeights()), 1)
    exposed = dict(
        zip(*(lived.exposures[name].to_pylist() for name in ("user_id", "event_timestamp")), strict=True)
    )
    assert len(exposed) == len(lived.exposures)
    plays = after(lived, small.stage)
    for user, at in zip(plays["user_id"].to_pylist(), plays["event_timestamp"].to_pylist(), strict=True):
        assert exposed[user] <= at


@pytest.mark.slow
def test_the_search_proposes_weights_and_tests_them_on_members_it_was_not_fitted_to(small):
    found = search_weights(small, [range(1, 11), range(11, 21)], range(21, 25), arms=6)
    tried = Counter(point.round for point in found.points)
    assert tried[1] == 6
    assert 1 <= tried[2] <= 6  # where the surface says that better is to be had
    assert all(point.renewals_error > 0 for point in found.points)
    assert found.confirmed.weights["searched"] == found.found
    assert found.confirmed.outcome in OUTCOMES


def test_a_search_whose_arms_have_too_few_members_says_what_would_help(small):
    with pytest.raises(NothingRead, match="More lives a round"):
        search_weights(small, [range(1, 2)], range(2, 3), arms=40)


def test_the_corners_of_the_search_are_allowed_weights():
    assert weights_at(np.zeros(4)) == ObjectiveWeights(
        play=1, completion=0, retention=0, choice=0, diversity=0, diversity_window=24, diversity_genres=1
    )
    assert weights_at(np.ones(4)).diversity == pytest.approx(0.6)


def test_ideas_are_random_changes_that_end_in_one_outcome_each(small):
    found = funnel(small, 3, 2, first_life=50, seed=4)
    assert len({one.experiment.name for one in found}) == 3
    assert all(one.weights["idea"] != ObjectiveWeights() for one in found)
    assert all(one.outcome in OUTCOMES for one in found)


def test_random_changes_stay_within_bounds_and_repeat_from_their_seed():
    made = [random_change(np.random.default_rng(seed), ObjectiveWeights()) for seed in range(200)]
    assert made == [random_change(np.random.default_rng(seed), ObjectiveWeights()) for seed in range(200)]
    assert all(0 <= one.diversity <= 0.6 for one in made)
