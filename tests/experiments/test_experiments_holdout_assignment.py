"""A hold-out before every layer, and what was launched for everyone else."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Assigner
from experiments.config import EVERYONE, HELD_OUT, WINNERS_ONLY, Holdout
from experiments.live import CannotStart, LiveExperiments, NotLive, hold_out, launch, ramp, release, stop
from experiments.twin import MACROS, assignment_sql

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Q1 = Holdout(name="q1-2026", held_out=0.1, winners_only=0.05, start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 4, 1, tzinfo=UTC))  # fmt: skip
IDS = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def held(many):
    """250 experiments with a hold-out of 10 % and 5 % winners-only, begun after one launch."""
    return hold_out(many.model_copy(update={"launched": {"p3": 0.9}}), Q1, NOON)


@pytest.fixture(scope="module")
def assigner(held):
    return Assigner(held)


@pytest.fixture(scope="module")
def plain(many):
    """Without a hold-out."""
    return Assigner(many)


class Changed:
    """Assigners after one change each."""

    def __init__(self, many):
        self.names = [f"e{i}-{j}" for i in (0, 12) for j in (0, 5)]
        self.after = {(n, "stop"): Assigner(stop(many, n)) for n in self.names}
        self.after |= {(n, "ramp"): Assigner(ramp(many, n, 1.0)) for n in self.names}
        one = LiveExperiments(experiments=(many.named("e0-0"),))
        self.ramps = [Assigner(ramp(one, "e0-0", share)) for share in (0.5, 0.51, 0.75, 1.0)]


@pytest.fixture(scope="module")
def changed(many):
    return Changed(many)


def group(assignment):
    return dict(assignment.arms)["q1-2026"]


def test_groups_get_their_shares(assigner):
    counts = Counter(group(assigner.assign(unit)) for unit in range(40_000))
    observed = [counts[HELD_OUT], counts[WINNERS_ONLY], counts[EVERYONE]]
    assert scipy.stats.chisquare(observed, np.array([0.1, 0.05, 0.85]) * 40_000).pvalue > 0.001


@given(unit=IDS)
def test_who_is_set_apart_is_in_no_experiment(assigner, unit):
    found = assigner.assign(unit, {"country": "NO"})
    if group(found) != EVERYONE:
        assert len(found.arms) == 1


@given(unit=IDS)
def test_everyone_else_is_where_they_would_be_without_a_hold_out(plain, assigner, unit):
    found, without = assigner.assign(unit), plain.assign(unit)
    if group(found) == EVERYONE:
        assert found.arms[1:] == without.arms
        assert found.parameters == {"p3": 0.9} | without.parameters


def test_held_out_units_keep_what_there_was_and_winners_get_what_is_launched(held):
    later = launch(held, "e7-0", "treatment")
    assigner = Assigner(later)
    seen = {group(a): a.parameters for a in map(assigner.assign, range(300))}
    assert seen[HELD_OUT] == {"p3": 0.9}
    assert seen[WINNERS_ONLY] == {"p3": 0.9, "p7": 0.5}
    assert all(
        assigner.assign(u).parameters["p7"] in (0.1, 0.5)
        for u in range(300)
        if group(assigner.assign(u)) == EVERYONE
    )
    assert later.holdout == held.holdout


def test_a_launch_is_for_everyone_that_no_arm_says_otherwise_to(many):
    launched = launch(many, "e7-0", "treatment")
    assert launched.launched == {"p7": 0.5}
    assert "e7-0" not in {e.name for e in launched.experiments}
    assigner = Assigner(launched)
    for unit in range(300):
        found = assigner.assign(unit)
        rival = [arm for name, arm in found.arms if name.startswith("e7-")]
        assert found.parameters["p7"] == (0.1 if rival == ["control"] else 0.5)
    with pytest.raises(LookupError, match="has no arm 'x'. The arms are: control, treatment"):
        launch(many, "e7-0", "x")


def test_groups_and_layers_are_independent(assigner, plain):
    """Who is everyone falls into a layer's slots as all do: χ² over ten slots."""
    counts = Counter()
    for unit in range(30_000):
        slot = next((n.split("-")[1] for n, _ in plain.assign(unit).arms if n.startswith("e5-")), "none")
        counts[group(assigner.assign(unit)), slot] += 1
    slots = sorted({slot for _, slot in counts})
    table = [[counts[g, slot] for slot in slots] for g in (HELD_OUT, WINNERS_ONLY, EVERYONE)]
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001


def test_sql_sets_the_same_units_apart(held):
    ids = np.random.default_rng(0).integers(0, 2**63 - 1, 20_000, endpoint=True)
    few = held.model_copy(update={"experiments": tuple(e for e in held.experiments if e.declaration.layer == "l0" and not e.declaration.targeting)})  # fmt: skip
    for live in (few, few.model_copy(update={"experiments": ()})):
        with duckdb.connect() as con:
            con.execute(MACROS)
            con.register("units", pa.table({"unit_id": ids}))
            in_sql = con.execute(assignment_sql(live)).fetchall()
        assigner = Assigner(live)
        assert sorted(in_sql) == sorted((u, *arm) for u in ids.tolist() for arm in assigner.assign(u).arms)


def test_held_out_units_keep_the_versions_of_the_first_day_and_what_had_been_launched_stands_above_them(many):
    before = many.model_copy(update={"launched": {"ranker": "ranker/2"}})
    held = hold_out(before, Q1, NOON, {"ranker": "ranker/1", "retriever": "retriever/3"})
    assert held.holdout.baseline == {"ranker": "ranker/2", "retriever": "retriever/3"}
    assert {"ranker/2", "retriever/3"} <= set(held.references)  # a Bento packs them
    later = Assigner(held.model_copy(update={"launched": {"ranker": "ranker/9"}}))
    seen = {group(one): one.parameters for one in map(later.assign, range(500))}
    assert seen[HELD_OUT] == {"ranker": "ranker/2", "retriever": "retriever/3"}
    assert seen[WINNERS_ONLY] == {"ranker": "ranker/9"}


def test_one_hold_out_runs_at_a_time_and_within_its_dates(held, many):
    with pytest.raises(CannotStart, match="'q1-2026' is running"):
        hold_out(held, Q1, NOON)
    with pytest.raises(CannotStart, match="runs from 2026-01-01"):
        hold_out(many, Q1, NOON + timedelta(days=60))
    with pytest.raises(CannotStart, match="another name"):
        hold_out(many, Q1.model_copy(update={"name": "e0-0"}), NOON)
    assert release(held).holdout is None
    with pytest.raises(NotLive):
        release(many)


def test_changing_experiments_leaves_the_hold_out_as_it_is(held):
    for changed in (stop(held, "e4-2"), ramp(held, "e0-0", 0.9)):
        assert changed.holdout == held.holdout
        before, after = Assigner(held), Assigner(changed)
        assert all(group(before.assign(u)) == group(after.assign(u)) for u in range(500))


def test_a_live_file_names_only_what_is_used(many, held):
    """So that a Bento of a release without hold-outs reads the file until there is one."""
    assert "holdout" not in many.to_json()
    assert "launched" not in many.to_json()
    assert "planned_units" not in many.to_json()
    assert LiveExperiments.from_json(many.to_json()) == many
    assert LiveExperiments.from_json(held.to_json()) == held


@given(unit=IDS, place=st.integers(0, 3), what=st.sampled_from(["ramp", "stop"]))
def test_changing_one_experiment_moves_nobody_elsewhere(plain, changed, unit, place, what):
    name = changed.names[place]
    before = [arm for arm in plain.assign(unit).arms if arm[0] != name]
    after = [arm for arm in changed.after[name, what].assign(unit).arms if arm[0] != name]
    assert before == after


@given(unit=IDS)
def test_no_one_changes_arm_on_a_ramp(changed, unit):
    arms = [one.assign(unit).arms for one in changed.ramps]
    taken = [arm for arm in arms if arm]
    assert all(arm == taken[0] for arm in taken)
    assert arms == [()] * (len(arms) - len(taken)) + taken  # who is in stays in
