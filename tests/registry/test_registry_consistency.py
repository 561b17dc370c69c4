"""Champions and consistency: what is served otherwise than computed holds back those who read it."""

import dataclasses
from datetime import timedelta

import alembic.command
import pytest
import sqlalchemy as sa

from registry import ConsistencyRecord, FeatureRecord, InvalidRecord, NoEvidence, NotRecorded, ServiceRecord
from registry.database import Database, migrate, migration_config

BY = {"by": "ada", "reason": "because"}
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
def ranker(ledger, draft, lineage):
    """`ranker/1`, which reads f1, f7 and f28; the digest of its service."""
    service, made_from = lineage(ledger)
    ledger.register(draft(service=service, training_set=made_from))
    return service


def test_the_champion_does_not_move_while_what_it_reads_is_served_otherwise_than_computed(
    ledger, ranker, verdict
):
    ledger.record_consistency(verdict(ranker, FOUND))
    with pytest.raises(NoEvidence) as refusal:
        ledger.promote("ranker/1", **BY)
    assert FOUND["feature"] in str(refusal.value)
    assert "matinee features verify --source world" in str(refusal.value)
    assert ledger.alias_history("ranker") == ()
    ledger.promote("ranker/1", "shadow", **BY)  # not protected
    ledger.record_consistency(verdict(ranker))
    assert ledger.promote("ranker/1", **BY).aliases == ("champion", "shadow")
    (move,) = ledger.alias_history("ranker")
    assert move.evidence["consistency"]["ranking"]["passed"] is True
    assert move.evidence["consistency"]["ranking"]["requests"] == 20


def test_on_the_first_day_there_is_no_verdict_and_history_says_so(ledger, ranker):
    ledger.promote("ranker/1", **BY)
    assert ledger.alias_history("ranker")[0].evidence["consistency"] == {"ranking": None}


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
    ledger, ranker, verdict, findings, changes, moves
):
    ledger.record_consistency(verdict(ranker, *findings, **changes))
    if moves:
        ledger.promote("ranker/1", **BY)
        return
    with pytest.raises(NoEvidence):
        ledger.promote("ranker/1", **BY)


def test_a_verdict_on_the_service_under_an_older_digest_counts_for_the_features_that_are_still_the_same(
    ledger, ranker, verdict
):
    ledger.record_features([FeatureRecord("f-gone", "gone", "user_activity", "FLOAT", {})])
    older = ledger.record_service(ServiceRecord("ranking", ("f-gone", "f7")))
    ledger.record_consistency(verdict(older, FOUND | {"digest": "f-gone"}))
    ledger.promote("ranker/1", "champion", **BY)
    ledger.remove_alias("ranker", "champion", **BY)
    ledger.record_consistency(verdict(older, FOUND))
    with pytest.raises(NoEvidence):
        ledger.promote("ranker/1", **BY)


def test_of_another_services_findings_the_champion_hears_nothing(ledger, ranker, verdict):
    other = ledger.record_service(ServiceRecord("retrieval_user", ("f7",)))
    ledger.record_consistency(verdict(other, FOUND))
    ledger.promote("ranker/1", **BY)


@pytest.mark.parametrize(("source", "moves"), [("world", False), ("movielens", True), ("", True)])
def test_who_does_not_say_what_it_reads_may_read_anything_of_its_source(
    ledger, draft, ranker, verdict, source, moves
):
    ledger.record_consistency(verdict(ranker, FOUND))
    ledger.register(draft("popular", source=source))
    if moves:
        ledger.promote("popular/1", **BY)
        return
    with pytest.raises(NoEvidence, match="watch_minutes_sum_7d"):
        ledger.promote("popular/1", **BY)


def test_taking_back_a_move_asks_for_no_evidence(ledger, draft, ranker, verdict):
    second = ledger.register(draft(weights=1, service=ranker, training_set="t"))
    ledger.promote("ranker/1", **BY)
    ledger.promote(second.ref, **BY)
    ledger.record_consistency(verdict(ranker, FOUND))
    assert ledger.rollback("ranker", **BY).number == 1


def test_many_features_are_counted_and_the_first_are_named(ledger, ranker, verdict):
    found = [FOUND | {"feature": f"user_activity:f{n}"} for n in range(9)]
    ledger.record_consistency(verdict(ranker, *found))
    with pytest.raises(NoEvidence, match=r"user_activity:f4 and 4 more were served"):
        ledger.promote("ranker/1", **BY)


def test_a_verdict_that_says_the_same_again_is_one_verdict_and_the_newest_is_what_is_read(
    ledger, ranker, verdict, raw
):
    for _ in range(2):
        ledger.record_consistency(verdict(ranker, FOUND))
    assert raw("SELECT count(*) FROM consistency_verdict") == [(1,)]
    later = verdict(ranker)
    ledger.record_consistency(
        dataclasses.replace(later, newest_request=later.newest_request + timedelta(days=1))
    )
    ledger.record_consistency(verdict(ranker, FOUND))  # what was said before may be said again after another
    assert raw("SELECT count(*) FROM consistency_verdict") == [(3,)]
    newest = ledger.consistency("world")["ranking"]
    assert (newest.passed, newest.findings, newest.service_digest) == (False, (FOUND,), ranker)
    assert ledger.consistency("kuairand") == {}


def test_a_verdict_needs_something_compared_and_a_service_that_is_recorded(ledger, verdict):
    with pytest.raises(NotRecorded, match="service"):
        ledger.record_consistency(verdict("never recorded"))
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
        with database.connection() as connection:
            have = "consistency_verdict" in sa.inspect(connection).get_table_names()
            if have and not there:
                alembic.command.downgrade(migration_config(connection), revision)
        migrate(database, revision)
        with database.connection() as connection:
            tables = sa.inspect(connection).get_table_names()
        assert ("consistency_verdict" in tables) == there
        assert {"gate_report", "feature_service", "alias"} <= set(tables)
    database.close()
