"""Events: each written with what it tells of, or not at all; and whoever reads on misses none."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from registry import (
    AliasMoved,
    ArmRecord,
    ConsistencyRecord,
    ExperimentRecord,
    GateRecord,
    InvalidRecord,
    Metric,
    NoEvidence,
    RegistryError,
    RunState,
    StillReferenced,
    open_registry,
    outbox,
    reading,
)
from registry.database import Database
from registry.outbox import Event, Kind, follow

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def told(ledger, *kinds):
    """Kind and subject of every event."""
    return [(event.kind.value, event.subject) for event in ledger.events(limit=1000, kinds=kinds)]


@pytest.fixture
def database(url):
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def experiment(ledger, draft):
    """A draft of two arms, one of which serves what an alias means when it starts."""
    for weights in range(2):
        ledger.register(draft(weights=weights))
    ledger.promote("ranker/2", "shadow", by="ada", reason="try")
    arms = (
        ArmRecord("control", {"ranker": "ranker/1"}),
        ArmRecord("treatment", {"ranker": "ranker@shadow"}, {"weight": 0.5, "rows": ["new", "popular"]}),
    )
    record = ExperimentRecord("rows", "page", arms)
    ledger.record_experiment(record, by="ada")
    return record


# --- each kind, by its operation and not by its repeat -----------------------------------------------------


def test_a_new_version_is_told_once(ledger, draft, lineage):
    service, training_set = lineage(ledger)
    whole = draft(service=service, training_set=training_set, source="world", created_by="pipeline")
    version = ledger.register(whole)
    ledger.register(whole)
    (event,) = ledger.events()
    assert (event.id, event.kind, event.subject, event.at) == (
        1, "version_created", "ranker/1", version.created_at,
    )  # fmt: skip
    assert event.payload == outbox.VersionCreated(
        "ranker", 1, version.digest, "world", training_set, (service,), "pipeline"
    )


def test_a_deleted_version_is_told_and_a_refused_deletion_is_not(ledger, draft):
    version = ledger.register(draft())
    ledger.promote("ranker/1", "shadow", by="ada", reason="try")
    with pytest.raises(StillReferenced):
        ledger.delete("ranker/1")
    ledger.remove_alias("ranker", "shadow", by="ada", reason="enough")
    ledger.delete("ranker/1")
    assert told(ledger, "version_deleted") == [("version_deleted", "ranker/1")]
    assert ledger.events(kinds=["version_deleted"])[0].payload == outbox.VersionDeleted(
        "ranker", 1, version.digest
    )


def test_every_move_of_an_alias_is_told_as_its_history_has_it(ledger, draft):
    for weights in range(2):
        ledger.register(draft(weights=weights))
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.promote("ranker/1", by="ben", reason="it is there already")
    ledger.promote("ranker/2", by="ada", reason="better")
    ledger.rollback("ranker", by="ben", reason="worse after all")
    ledger.remove_alias("ranker", "champion", by="ada", reason="closing")
    events = ledger.events(kinds=["alias_moved"])
    assert [(e.payload.move, e.payload.from_number, e.payload.to_number, e.payload.by, e.payload.reason) for e in events] == [
        ("promote", None, 1, "ada", "first"),
        ("promote", 1, 2, "ada", "better"),
        ("rollback", 2, 1, "ben", "worse after all"),
        ("remove", 1, None, "ada", "closing"),
    ]  # fmt: skip
    assert {event.subject for event in events} == {"ranker@champion"}
    assert [event.at for event in events] == [move.at for move in ledger.alias_history("ranker")]


def test_a_refused_move_is_not_told(guarded, draft):
    guarded.register(draft(metrics=[]))
    with pytest.raises(NoEvidence):
        guarded.promote("ranker/1", by="ada", reason="x")
    with pytest.raises(AliasMoved):
        guarded.promote("ranker/1", "shadow", expect=7, by="ada", reason="x")
    assert told(guarded) == [("version_created", "ranker/1")]


def test_each_arm_is_told_when_it_is_bound_and_when_it_is_released(ledger, experiment):
    ledger.record_experiment(experiment, by="ada")
    assert told(ledger, "arm_bound", "arm_released") == [], "a draft serves nothing"
    ledger.start_experiment("rows", by="ada", reason="go")
    ledger.start_experiment("rows", by="ben", reason="it runs already")
    ledger.stop_experiment("rows", by="ben", reason="enough")
    control = ({"ranker": "ranker/1"}, {})
    treatment = ({"ranker": "ranker/2"}, {"weight": 0.5, "rows": ["new", "popular"]})
    assert [event.payload for event in ledger.events(kinds=["arm_bound", "arm_released"])] == [
        outbox.ArmBound("rows", "control", *control, "ada", "go"),
        outbox.ArmBound("rows", "treatment", *treatment, "ada", "go"),
        outbox.ArmReleased("rows", "control", *control, "ben", "enough", "stopped"),
        outbox.ArmReleased("rows", "treatment", *treatment, "ben", "enough", "stopped"),
    ]
    ledger.conclude_experiment("rows", RunState.KILLED, by="ben")
    assert len(told(ledger, "arm_released")) == 2, "they served no longer"


def test_a_released_arm_says_where_its_run_went(ledger, experiment):
    ledger.record_experiment(experiment, by="ada")
    ledger.start_experiment("rows", by="ada")
    ledger.conclude_experiment("rows", RunState.LAUNCHED, by="ada", reason="treatment: it won")
    released = [event.payload for event in ledger.events(kinds=["arm_released"])]
    assert [(one.arm, one.state, one.reason) for one in released] == [
        ("control", "launched", "treatment: it won"), ("treatment", "launched", "treatment: it won"),
    ]  # fmt: skip


def test_arms_of_a_draft_that_never_ran_are_not_released(ledger, experiment):
    ledger.stop_experiment("rows", by="ada", reason="thought better of it")
    assert told(ledger, "arm_bound", "arm_released") == []
    ledger.record_experiment(experiment, by="ada")
    ledger.start_experiment("rows", by="ada")
    assert len(told(ledger, "arm_bound")) == 2, "the new run, not the one that never ran"


def test_a_failed_gate_is_told_and_a_passed_or_repeated_one_is_not(ledger):
    at = datetime(2026, 1, 1, 7, tzinfo=timezone(timedelta(hours=1)))
    failed = GateRecord(
        "plays", at, passed=False, findings=[{"c": 1}, {"c": 2}], generation="g", source="world"
    )
    ledger.record_gate(failed)
    ledger.record_gate(failed)
    ledger.record_gate(GateRecord("plays", at, passed=True, generation="g", source="world"))
    ledger.record_gate(failed)
    assert told(ledger) == [("gate_failed", "world/plays")] * 2
    event = ledger.events()[0]
    assert event.payload.to_dict() == {
        "source": "world", "table": "plays", "as_of": "2026-01-01T06:00:00Z", "generation": "g", "findings": 2,
        "digest": failed.digest,
    }  # fmt: skip
    assert event.payload == outbox.GateFailed("world", "plays", at, "g", 2, failed.digest)


def test_a_failed_verdict_on_consistency_is_told_and_a_passed_or_repeated_one_is_not(ledger, lineage):
    service, _ = lineage(ledger)
    findings = [{"feature": name, "digest": name} for name in ("f7", "f1", "f7")]
    failed = ConsistencyRecord("world", service, 3, 9, NEW_YEAR, findings)
    ledger.record_consistency(failed)
    ledger.record_consistency(failed)
    ledger.record_consistency(ConsistencyRecord("world", service, 3, 9, NEW_YEAR))
    (event,) = ledger.events()
    assert event.subject == "world/ranking"
    assert event.payload == outbox.ConsistencyFailed(
        "world", "ranking", service, ("f1", "f7"), 3, NEW_YEAR, failed.digest
    )


def test_what_changes_nothing_that_has_a_kind_is_not_told(ledger, draft, lineage):
    lineage(ledger)
    ledger.register(draft())
    ledger.tag("ranker/1", "team", "home")
    ledger.log_metrics("ranker/1", [Metric("auc", 0.7)])
    assert told(ledger) == [("version_created", "ranker/1")]


def test_an_event_is_read_back_as_it_was_told_and_is_plain_json(ledger, experiment):
    ledger.start_experiment("rows", by="ada")
    for event in ledger.events():
        written = json.loads(json.dumps(event.to_dict()))
        assert written == event.to_dict()
        assert list(written) == ["id", "kind", "subject", "at", "payload"]
        assert datetime.fromisoformat(written["at"]) == event.at


# --- neither without the other -----------------------------------------------------------------------------


def test_an_event_is_rolled_back_with_what_it_tells_of_and_leaves_no_gap(database, ledger):
    told_of = outbox.VersionDeleted("ranker", 1, "d")

    def break_off():
        with database.write() as session:
            outbox.tell(session, told_of, NEW_YEAR)
            outbox.write_out(session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert ledger.events() == ()
    with database.write() as session:
        outbox.tell(session, told_of, NEW_YEAR)
    assert ledger.events() == (Event(1, NEW_YEAR, told_of),)


def test_where_the_event_cannot_be_written_nothing_happened(ledger, draft, raw):
    ledger.register(draft())
    raw("ALTER TABLE outbox RENAME TO outbox_gone")
    with pytest.raises(sa.exc.DBAPIError):
        ledger.promote("ranker/1", by="ada", reason="x")
    with pytest.raises(sa.exc.DBAPIError):
        ledger.register(draft(weights=1))
    raw("ALTER TABLE outbox_gone RENAME TO outbox")
    assert ledger.alias_history("ranker") == ()
    assert [model.versions for model in ledger.models()] == [1]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE outbox SET subject = subject", "rows of outbox do not change"),
        ("DELETE FROM outbox", "rows of outbox stay"),
        ("INSERT INTO outbox SELECT 9, kind, subject, at, payload FROM outbox WHERE id = 1", "takes the next number"),
        ("INSERT INTO outbox SELECT 2, kind, subject, at, payload FROM outbox WHERE id = 1", "takes the next number"),
    ],
)  # fmt: skip
def test_the_database_itself_keeps_events_as_they_were_told(ledger, draft, raw, sql, says):
    for weights in range(2):
        ledger.register(draft(weights=weights))
    with pytest.raises(sa.exc.IntegrityError, match=says):
        raw(sql)


# --- reading on --------------------------------------------------------------------------------------------


def test_events_come_in_pages_from_the_last_one_seen_and_by_kind(ledger, draft):
    for weights in range(3):
        ledger.register(draft(weights=weights))
        ledger.promote(f"ranker/{weights + 1}", by="ada", reason="next")
    assert [event.id for event in ledger.events(after=2, limit=3)] == [3, 4, 5]
    assert [event.id for event in ledger.events(kinds=[Kind.ALIAS_MOVED])] == [2, 4, 6]
    assert [event.id for event in ledger.events(after=2, limit=1, kinds=["alias_moved"])] == [4]
    assert ledger.events(after=6) == ()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kinds": ["alias_moves"]}, "alias_moved"),
        ({"limit": 0}, "1 to 1000"),
        ({"limit": 1001}, "1 to 1000"),
    ],
)
def test_a_page_that_cannot_be_is_refused(ledger, asked, says):
    with pytest.raises(InvalidRecord, match=says):
        ledger.events(**asked)


def test_who_follows_gets_every_event_once_and_ends_when_told_to(ledger, draft):
    looks = []

    def look_again():
        """Two more happen while somebody waits; at the third look nothing has."""
        looks.append(len(looks))
        if len(looks) <= 2:
            ledger.register(draft(weights=100 + len(looks)))
        return len(looks) <= 2

    for weights in range(5):
        ledger.register(draft(weights=weights))
    ids = [event.id for event in follow(lambda after: ledger.events(after, limit=2), 1, look_again)]
    assert (ids, len(looks)) == ([2, 3, 4, 5, 6, 7], 3)


def test_a_later_event_is_not_seen_before_an_earlier_one_is_there(database, ledger):
    """Two transactions, the first of which commits last if nobody makes the other wait."""
    written, go, second_began = threading.Event(), threading.Event(), threading.Event()

    def first():
        with database.write() as session:
            outbox.tell(session, outbox.VersionDeleted("first", 1, "d"), NEW_YEAR)
            outbox.write_out(session)  # the id is drawn, and not committed yet
            written.set()
            assert go.wait(20)

    def second():
        assert written.wait(20)
        second_began.set()
        with database.write() as session:
            outbox.tell(session, outbox.VersionDeleted("second", 1, "d"), NEW_YEAR)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(first), pool.submit(second)]
        assert second_began.wait(20)
        seen = []
        for _ in range(50):  # long enough for the second to commit, could it
            seen += ledger.events(after=max((event.id for event in seen), default=0))
        assert seen == []
        go.set()
        for job in jobs:
            job.result()
    assert [(event.id, event.subject) for event in ledger.events()] == [(1, "first/1"), (2, "second/1")]


def test_the_outbox_is_locked_after_everything_else(database, url, ledger, draft):
    """A has the model and then tells; B has told, and changes the model at its end. Whoever took the lock of the
    outbox before that of the model would wait for A, and A for it.
    """
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time: the two cannot meet")
    ledger.register(draft())
    has_model, has_told = threading.Event(), threading.Event()
    event = outbox.VersionDeleted("ranker", 1, "d")
    somebody_waits_for_us = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"

    def a():
        with database.write() as session:
            reading.model(session, "ranker", lock=True)
            has_model.set()
            assert has_told.wait(20)
            while not session.scalar(sa.text(somebody_waits_for_us)):
                threading.Event().wait(0.01)
            outbox.tell(session, event, NEW_YEAR)

    def b():
        with database.write() as session:
            assert has_model.wait(20)
            reading.model(session, "ranker").description = "another"
            outbox.tell(session, event, NEW_YEAR)
            has_told.set()

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(a), pool.submit(b)]:
            job.result()
    assert [event.id for event in ledger.events()] == [1, 2, 3]


@pytest.mark.slow
def test_a_reader_beside_many_writers_misses_nothing(url, tmp_path, draft):
    """Writers on models of their own and on one they share, some of whose transactions fail, each with its own engine."""
    writers, each, done = 6, 8, threading.Event()

    def write(writer):
        with open_registry(url, str(tmp_path / "artifacts"), protected=()) as ledger:
            for n in range(each):
                ledger.register(draft(f"m{writer}", weights=n))
                ledger.register(draft("shared", weights=writer * 100 + n))
                ledger.promote(f"m{writer}/{n + 1}", by="ada", reason="race")
                with pytest.raises(RegistryError):
                    ledger.delete(f"m{writer}/{n + 1}")

    def read():
        seen = []
        with open_registry(url, str(tmp_path / "artifacts"), protected=()) as ledger:
            while True:
                last = done.is_set()
                page = ledger.events(after=seen[-1].id if seen else 0, limit=7)
                seen += page
                if last and not page:
                    return seen

    with ThreadPoolExecutor(writers + 2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        jobs = [pool.submit(write, writer) for writer in range(writers)]
        wait(jobs)
        done.set()
        for job in jobs:
            job.result()
        first, second = (reader.result() for reader in readers)
    assert [event.id for event in first] == list(range(1, writers * each * 3 + 1))
    assert first == second
    expected = [f"m{writer}/{n}" for writer in range(writers) for n in range(1, each + 1)]
    expected += [f"shared/{n}" for n in range(1, writers * each + 1)]
    assert sorted(event.subject for event in first if event.kind == "version_created") == sorted(expected)
    shared = [event.subject for event in first if event.subject.startswith("shared/")]
    assert shared == [f"shared/{n}" for n in range(1, writers * each + 1)], "in the order of their numbers"
    for writer in range(writers):
        own = [event.kind for event in first if event.subject.startswith(f"m{writer}")]
        assert own == ["version_created", "alias_moved"] * each, "each told before what was done with it"
