"""Bentos, experiments with pinned arms, read-outs, and what is live."""

import pytest
import sqlalchemy as sa

from registry import (
    ArmRecord,
    BentoRecord,
    Binding,
    DefinitionConflict,
    ExperimentRecord,
    ExperimentState,
    InvalidReference,
    NotRecorded,
    RunState,
)


def rows(weight: float = 0.5) -> ExperimentRecord:
    arms = (
        ArmRecord("treated", {"ranker": "ranker"}, {"weights": {"completion": weight}}),
        ArmRecord("control", {"ranker": "ranker@champion"}, {"weights": {"completion": 1}}),
    )
    return ExperimentRecord("rows", "page", arms, {"hypothesis": "more completion"})


@pytest.fixture
def two(ledger, draft):
    ledger.register(draft())
    ledger.register(draft(weights=1))
    ledger.promote("ranker/1", by="ada", reason="first")
    return ledger


def test_arms_are_pinned_when_the_experiment_starts_and_stay_so(two, draft):
    recorded = two.record_experiment(rows(), by="ada")
    assert (recorded.state, [arm.bindings for arm in recorded.arms]) == ("draft", [(), ()])
    two.promote("ranker/2", by="ada", reason="moved before the start")
    started = two.start_experiment("rows", by="bob", reason="ready")
    pinned = {arm.name: arm.bindings for arm in started.arms}
    assert list(pinned) == ["treated", "control"], "arms keep their order"
    assert pinned == {
        "treated": (Binding("ranker", "ranker/2", None), Binding("weights", None, {"completion": 0.5})),
        "control": (Binding("ranker", "ranker/2", None), Binding("weights", None, {"completion": 1})),
    }
    two.promote("ranker/1", by="ada", reason="moved after the start")
    two.register(draft(weights=2))
    assert two.start_experiment("rows", by="bob").arms == started.arms, "starting again changes nothing"
    assert [(c.state, c.by, c.reason) for c in two.experiments()[0].history] == [
        ("draft", "ada", "recorded"), ("running", "bob", "ready"),
    ]  # fmt: skip


def test_an_arm_of_a_version_that_is_not_there_stops_the_start_whole(two, raw):
    arms = (ArmRecord("control", {"ranker": "ranker/1"}), ArmRecord("treated", {"ranker": "ranker/9"}))
    two.record_experiment(ExperimentRecord("rows", "page", arms), by="ada")
    with pytest.raises(NotRecorded, match="ranker/9"):
        two.start_experiment("rows", by="ada")
    assert raw("SELECT count(*) FROM binding") == [(0,)]
    assert [experiment.state for experiment in two.experiments()] == ["draft"]


def test_the_same_declaration_again_is_the_same_experiment(two):
    first = two.record_experiment(rows(), by="ada")
    assert two.record_experiment(rows(), by="bob") == first
    two.start_experiment("rows", by="ada")
    assert two.record_experiment(rows(), by="bob").state == "running"
    assert len(two.experiments()) == 1


def test_another_declaration_waits_until_the_one_before_has_stopped(two):
    two.record_experiment(rows(), by="ada")
    for _ in range(2):
        with pytest.raises(ExperimentState, match="Stop it first"):
            two.record_experiment(rows(0.7), by="ada")
        two.start_experiment("rows", by="ada")
    two.stop_experiment("rows", by="ada", reason="done")
    assert two.record_experiment(rows(0.7), by="ada").state == "draft"
    assert [experiment.state for experiment in two.experiments()] == ["stopped", "draft"]


def test_a_stopped_experiment_does_not_start_or_stop_again(two):
    two.record_experiment(rows(), by="ada")
    assert two.stop_experiment("rows", by="ada").state == "stopped"
    for step in (two.start_experiment, two.stop_experiment):
        with pytest.raises(ExperimentState, match="is stopped; record it again"):
            step("rows", by="ada")
        with pytest.raises(NotRecorded, match="experiment 'row'. Did you mean 'rows'"):
            step("row", by="ada")


def standing(ledger, state):
    """A run of `rows` that stands in `state`, by the shortest way there."""
    ledger.record_experiment(rows(), by="ada")
    if state is not RunState.DRAFT:
        ledger.start_experiment("rows", by="ada")
    if state is RunState.STOPPED:
        ledger.stop_experiment("rows", by="ada")
    if state in {RunState.LAUNCHED, RunState.KILLED}:
        ledger.conclude_experiment("rows", state, by="ada")


ALLOWED = {
    "draft": {"running", "stopped"},
    "running": {"stopped", "launched", "killed"},
    "stopped": {"launched", "killed"},
    "launched": set(),
    "killed": set(),
}


@pytest.mark.parametrize("outcome", [RunState.LAUNCHED, RunState.KILLED])
@pytest.mark.parametrize("now", list(RunState))
def test_only_a_run_that_runs_or_has_stopped_is_launched_or_killed_and_once(two, now, outcome):
    standing(two, now)
    if outcome in ALLOWED[now]:
        ended = two.conclude_experiment("rows", outcome, by="bob", reason="treated: it won")
        assert (ended.state, ended.history[-1].state) == (outcome, outcome)
        assert (ended.history[-1].by, ended.history[-1].reason) == ("bob", "treated: it won")
        assert not [entry for entry in two.live() if entry.kind == "arm"]
        assert two.record_experiment(rows(), by="ada").state is RunState.DRAFT, "the name is free again"
    else:
        with pytest.raises(ExperimentState, match=f"is {now}, so it cannot be {outcome}"):
            two.conclude_experiment("rows", outcome, by="bob")
        assert two.experiments()[-1].state is now


@pytest.mark.parametrize("to", list(RunState))
@pytest.mark.parametrize("now", list(RunState))
def test_the_database_refuses_every_other_step_whoever_writes(two, raw, now, to):
    standing(two, now)
    if to == now or to in ALLOWED[now]:
        raw("UPDATE experiment SET state = :to", to=to.value)
        assert raw("SELECT state FROM experiment") == [(to.value,)]
    else:
        with pytest.raises(sa.exc.IntegrityError, match="in that order"):
            raw("UPDATE experiment SET state = :to", to=to.value)


def test_runs_are_listed_by_state_and_by_name(two):
    standing(two, RunState.KILLED)
    two.record_experiment(rows(0.7), by="ada")
    assert [run.state for run in two.experiments(["rows"])] == ["killed", "draft"]
    assert [run.digest for run in two.experiments(state=RunState.KILLED)] == [rows().digest]
    assert two.experiments(["others"]) == two.experiments(state=RunState.LAUNCHED) == ()


def test_a_name_that_was_never_recorded_is_not_concluded(two):
    standing(two, RunState.STOPPED)
    with pytest.raises(NotRecorded, match="Did you mean 'rows'"):
        two.conclude_experiment("row", RunState.KILLED, by="ada")


def test_readouts_are_kept_in_order_and_the_same_one_again_is_one(two):
    two.record_experiment(rows(), by="ada")
    with pytest.raises(ExperimentState, match="draft"):
        two.record_readout("rows", {"verdict": "?"})
    two.start_experiment("rows", by="ada")
    early = two.record_readout("rows", {"verdict": "no difference", "p": 0.4})
    assert two.record_readout("rows", {"p": 0.4, "verdict": "no difference"}) == early
    two.stop_experiment("rows", by="ada")
    late = two.record_readout("rows", {"verdict": "better", "p": 0.01})
    assert two.readouts("rows") == (early, late)
    with pytest.raises(NotRecorded):
        two.readouts("nothing")


def test_a_bento_holds_versions_as_they_were_when_it_was_built(two):
    built = two.record_bento(BentoRecord("homepage:a", "digest", ("ranker@champion", "ranker")))
    assert built.versions == ("ranker/1", "ranker/2")
    two.promote("ranker/2", by="ada", reason="moved")
    assert two.record_bento(BentoRecord("homepage:a", "digest", ("ranker@champion", "ranker"))) == built
    with pytest.raises(DefinitionConflict, match="digest"):
        two.record_bento(BentoRecord("homepage:a", "other", ("ranker/1",)))
    with pytest.raises(NotRecorded, match="ranker/9"):
        two.record_bento(BentoRecord("homepage:b", "digest", ("ranker/9",)))
    with pytest.raises(InvalidReference):
        BentoRecord("homepage:c", "digest", ("ranker/x",))


def test_live_is_behind_an_alias_in_the_newest_bento_of_a_name_or_in_a_running_arm(two):
    assert [(entry.ref, entry.kind, entry.where) for entry in two.live()] == [
        ("ranker/1", "alias", "champion")
    ]
    two.record_bento(BentoRecord("homepage:a", "1", ("ranker/1",)))
    two.record_bento(BentoRecord("homepage:b", "2", ("ranker/2",)))
    two.record_bento(BentoRecord("artwork:a", "3", ("ranker/1",)))
    two.record_experiment(rows(), by="ada")
    before = two.live()
    assert [(entry.ref, entry.kind, entry.where) for entry in before] == [
        ("ranker/1", "alias", "champion"), ("ranker/2", "bento", "homepage:b"), ("ranker/1", "bento", "artwork:a"),
    ]  # fmt: skip
    started = two.start_experiment("rows", by="ada").history[-1]
    in_arms = [entry for entry in two.live() if entry.kind == "arm"]
    assert [(entry.ref, entry.where, entry.since) for entry in in_arms] == [
        ("ranker/1", "rows/control", started.at), ("ranker/2", "rows/treated", started.at),
    ]  # fmt: skip
    two.stop_experiment("rows", by="ada")
    assert two.live() == before
