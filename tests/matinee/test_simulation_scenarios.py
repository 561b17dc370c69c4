"""What the simulated audience answers, by the product's own read-out. All members here are simulated, none is a person.

The pages come from an oracle with noise in place of trained models (`matinee.simulation.oracle`): at this size, with
24,000 members (400 in 60 lives of two weeks), the effects are five and more of their standard errors, whatever the seed of the lives.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from events.world import World, WorldConfig
from experiments.config import Metrics
from experiments.decision import Verdict
from experiments.readout import read_out_tables
from matinee.simulation.designs import ALLURING, CONTROL, more_plays, parameters, weights_test
from matinee.simulation.lives import arms_of, live, unit_ids
from matinee.simulation.oracle import oracle_shelves
from matinee.simulation.scenarios import (
    KILLED,
    LAUNCHED,
    OUTCOMES,
    alluring_but_alike,
    bench_of,
    funnel,
    random_change,
    search_weights,
    stage_of,
    variety,
    weights_at,
)
from matinee.simulation.trials import NotShippable, decided, with_arm
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
    assert comparison.primary.relative_low > 0.05  # plays rise by a twentieth and more
    assert comparison.deteriorated == ("renewal_share",)
    assert comparison.guardrails[0].estimate.relative_high < 0
    assert found.outcome == KILLED
    assert decided(found.readout, last=False) == "killed"


@pytest.mark.slow
def test_a_weight_on_variety_that_wins_on_retention_ships(bench):
    found = variety(bench, LIVES)
    (comparison,) = found.readout.comparisons
    assert comparison.primary.metric == "renewal_share"
    assert comparison.primary.relative_low > 0.005
    assert comparison.guardrails[0].non_inferior
    assert found.readout.verdict is Verdict.SHIP
    assert found.outcome == LAUNCHED
    assert decided(found.readout, last=False) is None  # a win waits for the declared end
    assert decided(found.readout, last=True) == "shipped"
    shipped = with_arm(ObjectiveWeights(), found.experiment, "varied")
    assert (shipped.diversity, shipped.diversity_window) == (0.3, 24)


def test_tests_of_an_arm_against_itself_find_something_as_often_as_they_say(small):
    """The same lives under 60 other salts of the arm hash: 5 % ± 8.4 points (three standard errors) are below p = .05."""
    arms = {CONTROL: ObjectiveWeights(), "same": ObjectiveWeights()}
    begins = small.stage.begins
    declared = weights_test(
        "a-a", arms, more_plays(), "Nothing changes.", begins, begins + timedelta(weeks=2)
    )
    exposures, outcomes = small.run(declared, arms, range(1, 5))
    below = []
    for salt in range(60):
        again = declared.model_copy(update={"salt": f"a-a-{salt}"})
        column = arms_of(again, exposures["user_id"].to_numpy())
        shown = exposures.set_column(exposures.column_names.index("arm"), "arm", [column])
        (comparison,) = read_out_tables(again, shown, outcomes, begins + timedelta(weeks=1)).comparisons
        below.append([comparison.primary.p_value < 0.05, comparison.guardrails[0].estimate.p_value < 0.05])
    assert np.abs(np.mean(below, axis=0) - 0.05).max() < 0.084


def test_a_life_repeats_and_another_life_is_another(small):
    ranked = small.rank(ObjectiveWeights())
    first, again, other = (live(small.stage, ranked, life).values["plays"] for life in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert not np.intersect1d(unit_ids(200, 1), unit_ids(200, 2)).size


def test_nobody_is_shown_a_title_again_that_they_played(small):
    """With as many titles as a page, each can be played once in a life."""
    size = small.stage.page_size
    lived = live(small.stage, small.rank(ALLURING)[:, :size], 1)
    assert lived.values["plays"].max() <= size


def test_who_is_shown_nothing_has_no_sessions(small):
    ranked = small.rank(ObjectiveWeights()).copy()
    ranked[:50] = -1
    lived = live(small.stage, ranked, 1)
    assert lived.values["sessions"][:50].sum() == 0
    assert lived.values["renewals_due"][:50].sum() == 0
    assert lived.values["sessions"][50:].sum() > 0


def test_renewals_are_counted_among_those_due(small):
    lived = live(small.stage, small.rank(ObjectiveWeights()), 3)
    assert (lived.values["renewals"] <= lived.values["renewals_due"]).all()
    assert 0.7 < lived.values["renewals"].sum() / lived.values["renewals_due"].sum() < 1


@pytest.mark.slow
def test_the_search_proposes_weights_and_tests_them_on_members_it_was_not_fitted_to(small):
    found = search_weights(small, [range(1, 5), range(5, 9)], range(20, 24), arms=6)
    assert Counter(point.round for point in found.points) == {1: 6, 2: 6}
    assert all(point.renewals_error > 0 for point in found.points)
    assert found.confirmed.weights["searched"] == found.found
    assert found.confirmed.outcome in OUTCOMES


def test_the_corners_of_the_search_are_allowed_weights():
    assert weights_at(np.zeros(4)) == ObjectiveWeights(
        play=1, completion=0, retention=0, choice=0, diversity=0, diversity_window=24
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


def test_only_weights_are_shipped_by_a_simulation(small):
    begins = small.stage.begins
    arms = {CONTROL: ObjectiveWeights(), "other": ALLURING}
    experiment = weights_test(
        "models", arms, more_plays(), "Another ranker.", begins, begins + timedelta(days=1)
    )
    other = experiment.arms["other"].model_copy(
        update={"parameters": {**parameters(ALLURING), "ranker": "ranker/2"}}
    )
    changed = experiment.model_copy(update={"arms": {**experiment.arms, "other": other}})
    assert isinstance(changed.metrics, Metrics)
    with pytest.raises(NotShippable, match="models/other sets ranker"):
        with_arm(ObjectiveWeights(), changed, "other")
