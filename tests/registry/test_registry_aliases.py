"""Aliases: compare-and-set, evidence, history, and the way back."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import (
    AliasMoved,
    GateRecord,
    InvalidRecord,
    Metric,
    NoEvidence,
    NothingToRollBack,
    NotRecorded,
    open_registry,
)

BY = {"by": "ada", "reason": "because"}


@pytest.fixture
def three(ledger, draft):
    for weights in range(3):
        ledger.register(draft(weights=weights))
    return ledger


def test_an_alias_moves_and_its_history_says_who_when_and_why(three):
    three.promote("ranker/1", by="ada", reason="first", evidence={"ticket": "R-1"})
    three.promote("ranker/3", by="bob", reason="better recall")
    assert three.get("ranker@champion").number == 3
    assert three.get("ranker/1").aliases == ()
    first, second = three.alias_history("ranker")
    assert (first.from_number, first.to_number, first.by, first.reason) == (None, 1, "ada", "first")
    assert (second.from_number, second.to_number, second.by, second.reason) == (1, 3, "bob", "better recall")
    assert first.at < second.at
    assert first.evidence == {
        "metrics": {"recall_at_200 world test": 0.41}, "gates": {}, "consistency": {}, "ticket": "R-1",
    }  # fmt: skip


def test_an_alias_where_it_stands_already_makes_no_history(three):
    three.promote("ranker/1", **BY)
    three.promote("ranker/1", expect=1, **BY)
    assert len(three.alias_history("ranker")) == 1


@pytest.mark.parametrize(
    ("stands", "expect", "moves"),
    [(None, None, True), (None, 1, False), (1, None, False), (1, 1, True), (1, 2, False), (2, 1, False)],
)
def test_a_compare_and_set_moves_only_from_where_it_was_expected(three, stands, expect, moves):
    if stands is not None:
        three.promote(f"ranker/{stands}", **BY)
    if moves:
        assert three.promote("ranker/3", expect=expect, **BY).number == 3
        return
    with pytest.raises(AliasMoved) as conflict:
        three.promote("ranker/3", expect=expect, **BY)
    assert (conflict.value.expected, conflict.value.found) == (expect, stands)
    assert {model.aliases.get("champion") for model in three.models()} == {stands}


def test_a_compare_and_set_with_a_wrong_expectation_fails_even_when_already_there(three):
    three.promote("ranker/3", **BY)
    with pytest.raises(AliasMoved):
        three.promote("ranker/3", expect=2, **BY)


def test_an_alias_of_a_version_or_model_that_is_not_there_is_refused(three):
    with pytest.raises(NotRecorded):
        three.promote("ranker/9", **BY)
    with pytest.raises(NotRecorded):
        three.promote("rank/1", **BY)
    with pytest.raises(InvalidRecord):
        three.promote("ranker/1", "no/slash", **BY)


def test_an_alias_may_be_promoted_from_another_alias(three):
    three.promote("ranker/2", "challenger", **BY)
    assert three.promote("ranker@challenger", **BY).aliases == ("challenger", "champion")


@pytest.fixture
def passed(guarded, training_set):
    """The digest of a training set whose table passed the gate."""
    made = training_set()
    guarded.record_training_set(made)
    guarded.record_gate(GateRecord("user", made.as_of, passed=True, source="world"))
    return made.digest


def test_the_champion_needs_metrics(guarded, draft, passed):
    guarded.register(draft(metrics=[], training_set=passed))
    with pytest.raises(NoEvidence, match="metrics"):
        guarded.promote("ranker/1", **BY)
    assert guarded.alias_history("ranker") == ()
    guarded.promote("ranker/1", "shadow", **BY)  # not protected
    guarded.log_metrics("ranker/1", [Metric("auc", 0.6)])
    guarded.promote("ranker/1", **BY)


def test_the_champion_needs_a_training_set_to_find_the_gate_by(guarded, draft):
    guarded.register(draft())
    with pytest.raises(NoEvidence, match="a training set") as refusal:
        guarded.promote("ranker/1", **BY)
    assert len(refusal.value.lacks) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "of world as of 2026-01-01T00:00:00Z"),
        ({"generation": "g7"}, "of world as of 2026-01-01T00:00:00Z of generation g7"),
        ({"as_of": None}, "of world: no report"),
    ],
)
def test_without_any_report_of_the_gate_there_is_no_champion(guarded, draft, training_set, changes, said):
    made = training_set(**changes)
    guarded.record_training_set(made)
    guarded.register(draft(training_set=made.digest))
    guarded.record_gate(
        GateRecord("user", made.interval_end + timedelta(days=1), passed=True, source="world")
    )
    with pytest.raises(NoEvidence, match=said):
        guarded.promote("ranker/1", **BY)


OK = ("user", True, {})


@pytest.mark.parametrize(
    ("reports", "passes"),
    [
        pytest.param([("user", True, {})], True, id="passed"),
        pytest.param([("user", False, {})], False, id="failed"),
        pytest.param([("user", False, {}), ("user", True, {})], True, id="the newest report counts: passed"),
        pytest.param([("user", True, {}), ("user", False, {})], False, id="the newest report counts: failed"),
        pytest.param(
            [("user", True, {}), ("user", False, {}), ("user", True, {})],
            True,
            id="even when it was said before",
        ),
        pytest.param([("user", True, {}), ("title", False, {})], False, id="every table has to pass"),
        pytest.param([OK, ("user", False, {"days": 1})], True, id="another day's tables do not matter"),
        pytest.param(
            [OK, ("user", False, {"source": "kuairand"})], True, id="another source's tables do not matter"
        ),
        pytest.param(
            [("user", False, {"days": 1, "generation": "g7"})], False, id="the same generation matters"
        ),
        pytest.param(
            [OK, ("user", False, {"days": 1, "generation": "g8"})], True, id="another generation does not"
        ),
    ],
)
def test_the_champion_needs_a_passed_gate_on_its_tables(guarded, draft, training_set, reports, passes):
    made = training_set(generation="g7")
    guarded.record_training_set(made)
    guarded.register(draft(training_set=made.digest))
    for table, passed, rest in reports:
        as_of = made.as_of + timedelta(days=rest.get("days", 0))
        report = GateRecord(table, as_of, passed, [{"column": "x"}] * (not passed), rest.get("generation"))
        guarded.record_gate(dataclasses.replace(report, source=rest.get("source", "world")))
    if passes:
        guarded.promote("ranker/1", **BY)
        return
    with pytest.raises(NoEvidence) as refusal:
        guarded.promote("ranker/1", **BY)
    failed = next(table for table, passed, _ in reports if not passed)
    assert len(refusal.value.lacks) == 1
    assert f"passed gate on {failed!r}" in refusal.value.lacks[0]


def test_a_gate_report_that_says_the_same_again_is_one_report(ledger, clock, raw):
    report = GateRecord("user", clock(), passed=True)
    for _ in range(3):
        ledger.record_gate(report)
    assert raw("SELECT count(*) FROM gate_report") == [(1,)]


def test_rolling_back_goes_one_move_back_each_time(three):
    for number in (1, 2, 3):
        three.promote(f"ranker/{number}", **BY)
    assert three.rollback("ranker", by="bob", reason="guardrail").number == 2
    assert three.rollback("ranker", by="bob", reason="guardrail").number == 1
    with pytest.raises(NothingToRollBack):
        three.rollback("ranker", by="bob", reason="guardrail")
    assert three.get("ranker@champion").number == 1
    kinds = [(move.kind, move.from_number, move.to_number) for move in three.alias_history("ranker")]
    assert kinds[3:] == [("rollback", 3, 2), ("rollback", 2, 1)]


def test_rolling_back_needs_the_earlier_version_to_be_there(three):
    three.promote("ranker/1", **BY)
    three.promote("ranker/2", **BY)
    three.delete("ranker/1")
    with pytest.raises(NotRecorded, match="ranker/1"):
        three.rollback("ranker", by="bob", reason="guardrail")
    assert three.get("ranker@champion").number == 2


def test_a_removed_alias_is_gone_and_its_history_stays(three):
    three.promote("ranker/1", **BY)
    three.remove_alias("ranker", "champion", **BY)
    with pytest.raises(NotRecorded):
        three.get("ranker@champion")
    with pytest.raises(NotRecorded):
        three.remove_alias("ranker", "champion", **BY)
    assert [move.to_number for move in three.alias_history("ranker")] == [1, None]
    three.promote("ranker/2", expect=None, **BY)
    three.delete("ranker/1")
    with pytest.raises(NothingToRollBack):
        three.rollback("ranker", **BY)


def test_removing_an_alias_can_be_taken_back(three):
    three.promote("ranker/1", **BY)
    three.remove_alias("ranker", "champion", **BY)
    assert three.rollback("ranker", **BY).number == 1


@settings(max_examples=8, deadline=None)
@given(moves=st.lists(st.sampled_from([1, 2, 3, "back"]), max_size=10))
def test_any_sequence_of_moves_ends_where_undoing_on_paper_ends(moves, tmp_path_factory, draft):
    folder = tmp_path_factory.mktemp("moves")
    with open_registry(f"sqlite:///{folder}/r.db", str(folder / "artifacts"), protected=()) as ledger:
        for weights in range(3):
            ledger.register(draft(weights=weights))
        paper: list[int] = []
        for move in moves:
            if move == "back" and len(paper) < 2:
                with pytest.raises(NothingToRollBack):
                    ledger.rollback("ranker", **BY)
            elif move == "back":
                paper.pop()
                ledger.rollback("ranker", **BY)
            else:
                ledger.promote(f"ranker/{move}", **BY)
                paper += [move] if paper[-1:] != [move] else []
        assert [model.aliases for model in ledger.models()] == [{"champion": paper[-1]} if paper else {}]
