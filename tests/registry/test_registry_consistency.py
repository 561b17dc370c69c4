"""Champions and consistency: what is served otherwise than computed holds back those who read it."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry import (
    ConsistencyRecord,
    FeatureRecord,
    GateRecord,
    Input,
    InvalidRecord,
    NoEvidence,
    NotRecorded,
    ServiceRecord,
    Signature,
)
from registry.database import Database, migrate

BY = {"by": "ada", "reason": "because"}
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = {"feature": "user_activity:watch_minutes_sum_7d", "digest": "f7", "mismatch": 3}


@pytest.fixture
def verdict(clock):
    """Makes a verdict on a service of `world`; `findings` make it a failed one."""
    moment = clock()

    def make(service: str, *findings: dict, **changes: object) -> ConsistencyRecord:
        return dataclasses.replace(
            ConsistencyRecord("world", service, 20, 9_000, moment, findings), **changes
        )

    return make


@pytest.fixture
def ranker(guarded, draft, lineage):
    """`ranker/1`, which reads f1, f7 and f28; the digest of its service."""
    service, made_from = lineage(guarded)
    guarded.record_gate(GateRecord("user_activity", NEW_YEAR, passed=True, source="world"))
    guarded.register(draft(service=service, training_set=made_from))
    return service


def test_the_champion_does_not_move_while_what_it_reads_is_served_otherwise_than_computed(
    guarded, ranker, verdict
):
    guarded.record_consistency(verdict(ranker, FOUND))
    with pytest.raises(NoEvidence) as refusal:
        guarded.promote("ranker/1", **BY)
    assert FOUND["feature"] in str(refusal.value)
    assert "matinee features verify --source world" in str(refusal.value)
    assert guarded.alias_history("ranker") == ()
    guarded.promote("ranker/1", "shadow", **BY)  # not protected
    guarded.record_consistency(verdict(ranker))
    assert guarded.promote("ranker/1", **BY).aliases == ("champion", "shadow")
    (move,) = guarded.alias_history("ranker")
    assert move.evidence["consistency"]["ranking"]["passed"] is True
    assert move.evidence["consistency"]["ranking"]["requests"] == 20


def test_on_the_first_day_there_is_no_verdict_and_history_says_so(guarded, ranker):
    guarded.promote("ranker/1", **BY)
    assert guarded.alias_history("ranker")[0].evidence["consistency"] == {"ranking": None}


@pytest.mark.parametrize(
    ("findings", "changes", "moves"),
    [
        pytest.param([FOUND], {}, False, id="a feature it reads"),
        pytest.param(
            [FOUND | {"digest": "older"}], {}, True, id="a feature of that name, declared anew since"
        ),
        pytest.param([FOUND | {"digest": "older"}, FOUND], {}, False, id="one of two features it reads"),
        pytest.param([FOUND], {"source": "kuairand"}, True, id="another source"),
    ],
)
def test_a_verdict_holds_back_those_who_read_what_was_found(
    guarded, ranker, verdict, findings, changes, moves
):
    guarded.record_consistency(verdict(ranker, *findings, **changes))
    if moves:
        guarded.promote("ranker/1", **BY)
        return
    with pytest.raises(NoEvidence):
        guarded.promote("ranker/1", **BY)


def test_a_verdict_on_the_service_under_an_older_digest_counts_for_the_features_that_are_still_the_same(
    guarded, ranker, verdict
):
    guarded.record_features([FeatureRecord("f-gone", "gone", "user_activity", "FLOAT", {})])
    older = guarded.record_service(ServiceRecord("ranking", ("f-gone", "f7")))
    guarded.record_consistency(verdict(older, FOUND | {"digest": "f-gone"}))
    guarded.promote("ranker/1", "champion", **BY)
    guarded.remove_alias("ranker", "champion", **BY)
    guarded.record_consistency(verdict(older, FOUND))
    with pytest.raises(NoEvidence):
        guarded.promote("ranker/1", **BY)


def test_of_another_services_findings_the_champion_hears_nothing(guarded, ranker, verdict):
    other = guarded.record_service(ServiceRecord("retrieval_user", ("f7",)))
    guarded.record_consistency(verdict(other, FOUND))
    guarded.promote("ranker/1", **BY)


def test_of_several_inputs_each_may_hold_its_version_back(guarded, draft, ranker, verdict):
    title = guarded.record_service(ServiceRecord("retrieval_title", ("f7",)))
    towers = Signature((Input("user", ranker), Input("title", title)))
    guarded.register(draft("retriever", signature=towers, training_set="t"))
    guarded.record_consistency(verdict(ranker, FOUND | {"digest": "older"}))
    guarded.record_consistency(verdict(title, FOUND))
    with pytest.raises(NoEvidence, match="'retrieval_title' on world"):
        guarded.promote("retriever/1", **BY)
    guarded.record_consistency(verdict(title))
    guarded.promote("retriever/1", **BY)
    said = guarded.alias_history("retriever")[0].evidence["consistency"]
    assert {name: entry["passed"] for name, entry in said.items()} == {
        "ranking": False,
        "retrieval_title": True,
    }


@pytest.mark.parametrize(("source", "moves"), [("world", False), ("movielens", True), ("", True)])
def test_who_does_not_say_what_it_reads_may_read_anything_of_its_source(
    guarded, draft, ranker, verdict, training_set, source, moves
):
    guarded.record_consistency(verdict(ranker, FOUND))
    learned = dataclasses.replace(training_set("popular"), source=source)
    guarded.record_training_set(learned)
    guarded.record_gate(GateRecord("titles", NEW_YEAR, passed=True, source=source))
    guarded.register(draft("popular", source=source, training_set="popular"))
    if moves:
        guarded.promote("popular/1", **BY)
        return
    with pytest.raises(NoEvidence, match="watch_minutes_sum_7d"):
        guarded.promote("popular/1", **BY)


def test_taking_back_a_move_asks_for_no_evidence(guarded, draft, ranker, verdict):
    second = guarded.register(draft(weights=1, service=ranker, training_set="t"))
    guarded.promote("ranker/1", **BY)
    guarded.promote(second.ref, **BY)
    guarded.record_consistency(verdict(ranker, FOUND))
    assert guarded.rollback("ranker", **BY).number == 1


def test_many_features_are_counted_and_the_first_are_named(guarded, ranker, verdict):
    found = [FOUND | {"feature": f"user_activity:f{n}"} for n in range(9)]
    guarded.record_consistency(verdict(ranker, *found))
    with pytest.raises(NoEvidence, match=r"user_activity:f4 and 4 more were served"):
        guarded.promote("ranker/1", **BY)


def test_a_verdict_that_says_the_same_again_is_one_verdict_and_the_newest_is_what_is_read(
    guarded, ranker, verdict, raw
):
    for _ in range(2):
        guarded.record_consistency(verdict(ranker, FOUND))
    assert raw("SELECT count(*) FROM consistency_verdict") == [(1,)]
    later = verdict(ranker)
    guarded.record_consistency(
        dataclasses.replace(later, newest_request=later.newest_request + timedelta(days=1))
    )
    guarded.record_consistency(verdict(ranker, FOUND))  # what was said before may be said again after another
    assert raw("SELECT count(*) FROM consistency_verdict") == [(3,)]
    newest = guarded.consistency("world")["ranking"]
    assert (newest.passed, newest.findings, newest.service_digest) == (False, (FOUND,), ranker)
    assert guarded.consistency("kuairand") == {}


def test_a_verdict_needs_something_compared_and_a_service_that_is_recorded(guarded, verdict):
    with pytest.raises(NotRecorded, match="service"):
        guarded.record_consistency(verdict("never recorded"))
    with pytest.raises(InvalidRecord, match="nothing was compared"):
        verdict("s", requests=0)
    with pytest.raises(InvalidRecord, match="feature and its digest"):
        verdict("s", {"feature": "x"})


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_the_migration_goes_down_and_up_and_leaves_the_rest_as_it_was(kind, tmp_path, request):
    url = (
        f"sqlite:///{tmp_path}/r.db" if kind == "sqlite" else request.getfixturevalue("new_postgres_schema")()
    )
    database = Database(url)
    for revision, there in (("0002", True), ("0001", False), ("0002", True)):
        migrate(database, revision)
        with database.connection() as connection:
            tables = sa.inspect(connection).get_table_names()
        assert ("consistency_verdict" in tables) == there
        assert {"gate_report", "feature_service", "alias"} <= set(tables)
    database.close()
