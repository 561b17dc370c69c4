"""The schema: migrations and models agree, and several programs may open the ledger at once."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry import (
    ArmRecord,
    BentoRecord,
    ConsistencyRecord,
    ExperimentRecord,
    GateRecord,
    Input,
    NewerLedger,
    RunState,
    Signature,
    StillReferenced,
    open_registry,
)
from registry.database import Database, migrate, migration_config
from registry.schema import Base


def differences(connection):
    return compare_metadata(
        MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata
    )


def test_migrations_and_models_describe_one_schema(url):
    database = Database(url)
    with database.connection() as connection:
        assert differences(connection) == []
    database.close()


def test_constraints_are_named_alike_in_migrations_and_models(url):
    database = Database(url)
    with database.connection() as connection:
        inspector = sa.inspect(connection)
        for table in Base.metadata.sorted_tables:
            there = {inspector.get_pk_constraint(table.name)["name"]}
            for kind in ("get_foreign_keys", "get_unique_constraints", "get_check_constraints"):
                there |= {entry["name"] for entry in getattr(inspector, kind)(table.name)}
            assert there == {str(constraint.name) for constraint in table.constraints}
    database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def empty_url(request, tmp_path):
    """A database in which nothing is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/r.db"
    return request.getfixturevalue("new_postgres_schema")()


@pytest.fixture
def database(empty_url):
    made = Database(empty_url)
    yield made
    made.close()


def contents(database):
    """Every table but Alembic's own: column → what each row has there, as text, in order of the primary key."""
    with database.connection() as connection:
        inspector = sa.inspect(connection)
        return {
            table: columns_of(connection, table, inspector.get_pk_constraint(table)["constrained_columns"])
            for table in inspector.get_table_names()
            if table != "alembic_version"
        }


def columns_of(connection, table, key):
    result = connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {', '.join(key)}")
    names, rows = list(result.keys()), result.all()
    return {name: [str(row[place]) for row in rows] for place, name in enumerate(names)}


def triggers(database):
    with database.connection() as connection:
        if database.dialect == "sqlite":
            found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        else:
            found = connection.exec_driver_sql(
                "SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
                "WHERE NOT tgisinternal AND c.relnamespace = current_schema()::regnamespace"
            )
        return set(found.scalars())


def fill(url, artifacts, draft, lineage):
    """At least one row in every table of the chain."""
    with open_registry(url, artifacts, protected=()) as ledger:
        service, made_from = lineage(ledger)
        light, _ = lineage(ledger, "light")
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        ledger.record_gate(GateRecord("user_activity", moment, passed=True))
        ledger.record_consistency(ConsistencyRecord("world", service, 1, 1, moment))
        ledger.register(
            draft("retriever", signature=Signature((Input("user", service), Input("title", light))))
        )
        ledger.register(
            draft(service=service, training_set=made_from, params={"epochs": 3}, tags={"a": "b"}, seed=2**40,
                  upstream={"retriever": "retriever/1"}, documents={"report.html": b"<p>good"})
        )  # fmt: skip
        ledger.register(draft("popular"))
        ledger.promote("ranker/1", by="ada", reason="first")
        ledger.record_bento(BentoRecord("homepage:a", "b", ("ranker/1",)))
        arms = (ArmRecord("control", {"ranker": "ranker/1"}, {"weight": 1}),)
        ledger.record_experiment(ExperimentRecord("rows", "page", arms), by="ada")
        ledger.start_experiment("rows", by="ada")
        ledger.record_readout("rows", {"verdict": "no difference"})


def test_every_step_down_keeps_what_it_has_room_for_and_every_step_up_brings_all_of_it_back_but_that(
    database, empty_url, tmp_path, draft, lineage
):
    fill(empty_url, str(tmp_path / "artifacts"), draft, lineage)
    with database.connection() as connection:
        steps = list(ScriptDirectory.from_config(migration_config(connection)).walk_revisions())
    at_head, forbidden = contents(database), triggers(database)
    assert forbidden
    for step in steps:  # newest first
        before = contents(database)
        below = step.down_revision or "base"
        migrate(database, below)
        after = contents(database)
        for table in after.keys() & before.keys():
            for column in after[table].keys() & before[table].keys():
                assert after[table][column] == before[table][column], (step.revision, table, column)
        migrate(database, step.revision)
        again = contents(database)
        assert {table: set(columns) for table, columns in again.items()} == {
            table: set(columns) for table, columns in before.items()
        }
        migrate(database, below)
    assert contents(database) == {}
    assert triggers(database) == set()
    migrate(database)
    assert triggers(database) == forbidden
    assert contents(database).keys() == at_head.keys()
    with database.connection() as connection:
        assert differences(connection) == []
    with open_registry(empty_url, str(tmp_path / "artifacts")) as ledger:
        assert ledger.register(draft()).number == 1


def test_a_ledger_of_revision_3_comes_up_with_every_service_an_input(
    database, empty_url, tmp_path, draft, lineage
):
    fill(empty_url, str(tmp_path / "artifacts"), draft, lineage)
    with open_registry(empty_url, str(tmp_path / "artifacts")) as ledger:
        before = ledger.get("ranker/1")
        (user, _title) = ledger.get("retriever/1").signature.inputs
    migrate(database, "0003")
    with database.connection() as connection:
        served = connection.exec_driver_sql(
            "SELECT m.name, v.service_digest FROM model_version v JOIN registered_model m ON m.id = v.model_id ORDER BY 1"
        ).all()
    service = before.signature.inputs[0].service
    assert served == [("popular", None), ("ranker", service), ("retriever", user.service)]
    with open_registry(empty_url, str(tmp_path / "artifacts")) as ledger:
        after = ledger.get("ranker/1")
        assert after == replace(before, upstream={})  # what revision 3 has no room for
        assert ledger.get("retriever/1").signature.inputs == (Input("features", user.service),)
        assert ledger.get("popular/1").signature.inputs == ()
        assert [made.services for made in ledger.explain("ranker/1").training_sets] == [(service,)]
        assert ledger.get("ranker@champion") == after
        with pytest.raises(StillReferenced):
            ledger.delete("ranker/1")


def recorded_before(database, url, artifacts, told):
    """A ledger of revision 7 in which each run was stopped for a reason; None: it runs still."""
    with open_registry(url, artifacts) as ledger:
        for name in told:
            ledger.record_experiment(ExperimentRecord(name, "page", (ArmRecord("control"),)), by="ada")
            ledger.start_experiment(name, by="ada", reason="launched to everyone")
    migrate(database, "0007")
    with database.connection() as connection:
        for name, reason in told.items():
            if reason is not None:
                (run,) = connection.execute(
                    sa.text("SELECT id FROM experiment WHERE name = :name"), {"name": name}
                ).one()
                connection.execute(
                    sa.text("UPDATE experiment SET state = 'stopped' WHERE id = :run"), {"run": run}
                )
                step = "INSERT INTO experiment_state (experiment_id, state, at, by, reason) SELECT :run, 'stopped', at, by, :why FROM experiment_state WHERE experiment_id = :run AND state = 'running'"
                connection.execute(sa.text(step), {"run": run, "why": reason})


def test_what_came_of_an_experiment_is_read_off_the_reason_once_and_nothing_else_of_it_changes(
    database, empty_url, tmp_path
):
    artifacts = str(tmp_path / "artifacts")
    told = {
        "won": "launched treatment: Ship treatment.", "won-in-the-loop": "shipped: Ship it.", "hurt": "killed: Worse.",
        "ended": "enough", "unlike": "killed off by mistake", "late": "it was launched before", "runs": None,
    }  # fmt: skip
    recorded_before(database, empty_url, artifacts, told)
    before = contents(database)
    migrate(database, "0008")
    with open_registry(empty_url, artifacts) as ledger:
        stands = {run.name: (run.state, run.history[-1].state) for run in ledger.experiments()}
        reasons = {run.name: run.history[-1].reason for run in ledger.experiments()}
    launched, killed, stopped = (("launched",) * 2, ("killed",) * 2, ("stopped",) * 2)
    assert stands == {
        "won": launched, "won-in-the-loop": launched, "hurt": killed, "ended": stopped, "unlike": stopped,
        "late": stopped, "runs": ("running",) * 2,
    }  # fmt: skip
    assert reasons == told | {"runs": "launched to everyone"}
    migrate(database, "0007")
    assert contents(database) == before


def test_a_ledger_that_goes_below_the_states_says_in_the_reason_what_they_said(database, empty_url, tmp_path):
    artifacts = str(tmp_path / "artifacts")
    with open_registry(empty_url, artifacts) as ledger:
        for name, outcome in (("won", RunState.LAUNCHED), ("hurt", RunState.KILLED)):
            ledger.record_experiment(ExperimentRecord(name, "page", (ArmRecord("control"),)), by="ada")
            ledger.start_experiment(name, by="ada")
            ledger.stop_experiment(name, by="ada", reason="to wait")
            ledger.conclude_experiment(name, outcome, by="ada", reason="it is so")
    migrate(database, "0007")
    with database.connection() as connection:
        steps = connection.exec_driver_sql("SELECT state, reason FROM experiment_state ORDER BY id").all()
    assert steps[3::4] == [("stopped", "launched it is so"), ("stopped", "killed: it is so")]
    assert steps[2::4] == [("stopped", "to wait")] * 2
    migrate(database)
    with open_registry(empty_url, artifacts) as ledger:
        assert [[c.state for c in run.history] for run in ledger.experiments()] == [
            ["draft", "running", "stopped", "launched"], ["draft", "running", "stopped", "killed"],
        ]  # fmt: skip


def test_a_step_that_would_leave_a_row_that_refers_to_nothing_leaves_everything_as_it_was(tmp_path, draft):
    database = Database(f"sqlite:///{tmp_path}/r.db")
    with open_registry(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "artifacts")) as ledger:
        ledger.register(draft())
    with (
        pytest.raises(sa.exc.IntegrityError, match="1 rows of tag refer to nothing"),
        database.rebuilding() as raw,
    ):
        raw.exec_driver_sql("INSERT INTO tag VALUES (99, 'a', 'b')")
    with database.connection() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM tag").scalar_one() == 0
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_four_programs_may_open_a_new_ledger_at_once(kind, tmp_path, request):
    url = (
        f"sqlite:///{tmp_path}/r.db" if kind == "sqlite" else request.getfixturevalue("new_postgres_schema")()
    )

    def opened(_):
        with open_registry(url, str(tmp_path / "artifacts")) as ledger:
            return ledger.models()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [()] * 4


def test_opening_a_new_file_that_another_is_writing_waits_for_it(tmp_path):
    writer = sqlite3.connect(tmp_path / "r.db", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")  # as another program that has just made the file
    timer = threading.Timer(0.3, writer.execute, ["COMMIT"])
    timer.start()
    with open_registry(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "artifacts")) as ledger:
        assert ledger.models() == ()
    timer.join()
    writer.close()


def test_sqlite_enforces_references_and_keeps_acknowledged_writes(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/deeper/r.db")
    with database.connection() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout", "recursive_triggers")
        }
    database.close()
    full = 2
    assert pragmas == {
        "foreign_keys": 1,
        "journal_mode": "wal",
        "synchronous": full,
        "busy_timeout": 30_000,
        "recursive_triggers": 1,
    }


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://somewhere/r"])
def test_only_a_sqlite_file_or_postgresql_holds_a_ledger(url):
    with pytest.raises(ValueError, match="ledger"):
        Database(url)


def test_a_ledger_that_a_newer_matinee_has_migrated_is_refused_and_left_as_it_is(database):
    migrate(database)
    with database.connection() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    with pytest.raises(
        NewerLedger, match=r"stands at migration 9999, and the newest that this matinee knows is 00\d\d"
    ):
        migrate(database)
    with database.connection() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"
