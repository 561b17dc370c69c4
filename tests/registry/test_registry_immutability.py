"""Rows stay as they are even for somebody who goes past the ledger's code with SQL."""

import sqlite3
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa

from registry import ArmRecord, BentoRecord, ConsistencyRecord, ExperimentRecord, GateRecord
from registry.database import Database
from registry.schema import Base


@pytest.fixture(scope="module")
def raw(module_url):
    """Runs SQL past the ledger's own code, as an attacker or a careless colleague would."""
    database = Database(module_url)

    def run(sql: str, **values: object) -> list[tuple]:
        with database.connection() as connection:
            result = connection.execute(sa.text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    database.close()


@pytest.fixture(scope="module")
def full(module_ledger, draft, lineage):
    """A ledger with at least one row in every table."""
    ledger = module_ledger
    service, made_from = lineage(ledger)
    ledger.record_gate(GateRecord("user_activity", datetime(2026, 1, 1, tzinfo=UTC), passed=True))
    ledger.record_consistency(ConsistencyRecord("world", service, 1, 1, datetime(2026, 1, 1, tzinfo=UTC)))
    ledger.register(draft("retriever"))
    ledger.register(
        draft(
            service=service,
            training_set=made_from,
            params={"epochs": 3},
            tags={"a": "b"},
            seed=1,
            created_by="x",
            upstream={"retriever": "retriever/1"},
            documents={"report.html": b"<p>good"},
        )
    )
    ledger.register(draft(weights=1, metrics=[]))
    ledger.promote("ranker/1", "shadow", by="ada", reason="first")
    ledger.record_bento(BentoRecord("homepage:a", "b", ("ranker/1",)))
    arms = (ArmRecord("control", {"ranker": "ranker/1"}, {"weight": 1}),)
    ledger.record_experiment(ExperimentRecord("rows", "page", arms), by="ada")
    ledger.start_experiment("rows", by="ada")
    ledger.record_readout("rows", {"verdict": "no difference"})
    return ledger


FROZEN = {
    "feature": "name", "feature_service": "name", "feature_service_member": "position", "training_set": "rows",
    "model_version": "seed", "artifact": "size", "version_file": "path", "metric": "value", "parameter": "value",
    "training_set_service": "position", "version_input": "name", "version_upstream": "role", "version_document": "name",
    "alias_history": "reason", "gate_report": "passed", "consistency_verdict": "passed", "bento": "digest", "bento_version": "version_id",
    "experiment_state": "by", "arm": "name", "binding": "parameter", "readout": "verdict",
}  # fmt: skip


@pytest.mark.parametrize(("table", "column"), FROZEN.items())
def test_rows_do_not_change(full, raw, table, column):
    assert raw(f"SELECT count(*) FROM {table}")[0][0] >= 1
    with pytest.raises(sa.exc.IntegrityError, match=f"rows of {table} do not change"):
        raw(f"UPDATE {table} SET {column} = {column}")


@pytest.mark.parametrize(
    "table",
    [
        "registered_model",
        "alias_history",
        "gate_report",
        "consistency_verdict",
        "experiment",
        "experiment_state",
        "arm",
        "binding",
        "readout",
    ],
)
def test_what_was_said_stays_said(full, raw, table):
    with pytest.raises(sa.exc.IntegrityError, match=f"rows of {table} stay"):
        raw(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    "table",
    [
        "metric",
        "parameter",
        "version_file",
        "feature_service_member",
        "bento_version",
        "version_input",
        "version_upstream",
        "version_document",
        "training_set_service",
    ],
)
def test_parts_leave_only_with_the_whole(full, raw, table):
    with pytest.raises(sa.exc.IntegrityError, match=f"rows of {table} leave only with"):
        raw(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM model_version WHERE number = 1",
        "DELETE FROM feature",
        "DELETE FROM feature_service",
        "DELETE FROM training_set",
        "DELETE FROM artifact",
    ],
)
def test_the_database_itself_keeps_what_is_referred_to(full, raw, sql):
    with pytest.raises(sa.exc.IntegrityError, match="(?i)foreign key"):
        raw(sql)


def test_the_counter_of_versions_does_not_go_back(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="counter does not go back"):
        raw("UPDATE registered_model SET next_version = 1")


@pytest.mark.parametrize("number", [1, 5])
def test_a_version_cannot_be_slipped_in_under_a_number_of_ones_own(full, raw, number):
    with pytest.raises(sa.exc.IntegrityError, match="number comes from the counter"):
        raw(
            "INSERT INTO model_version (model_id, number, digest, created_at, created_by, source, config, signature,"
            " file_count, parameter_count, input_count, upstream_count) SELECT model_id, :number, 'x', created_at, created_by,"
            " source, config, signature, 0, 0, 0, 0 FROM model_version WHERE number = 1 AND model_id = 2",
            number=number,
        )


def test_files_and_parameters_cannot_be_added_to_a_complete_version(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO version_file (version_id, path, sha256) SELECT 2, 'evil.json', sha256 FROM artifact")
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO parameter (version_id, key, value) VALUES (2, 'late', 'x')")
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO version_input SELECT 2, 9, 'late', dtype, service_digest FROM version_input")
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO version_upstream VALUES (2, 'late', 1)")
    with pytest.raises(sa.exc.IntegrityError, match="the training_set is complete"):
        raw("INSERT INTO training_set_service SELECT digest, 9, 'late' FROM training_set")


def test_of_an_experiment_only_the_state_changes(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="only the state changes"):
        raw("UPDATE experiment SET config = config")
    with pytest.raises(sa.exc.IntegrityError, match="in that order"):
        raw("UPDATE experiment SET state = 'RUNNING'")
    with pytest.raises(sa.exc.IntegrityError, match="ck_experiment_state"):
        raw(
            "INSERT INTO experiment_state (experiment_id, state, at, by, reason) SELECT 1, 'RUNNING', at, by, reason FROM experiment_state"
        )
    with pytest.raises(sa.exc.IntegrityError, match="begins as a draft"):
        raw(
            "INSERT INTO experiment (name, layer, state, config, digest, created_at) "
            "SELECT 'slipped in', layer, 'launched', config, digest, created_at FROM experiment"
        )


def test_a_running_experiment_gets_no_new_arms_or_bindings(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="while the experiment is a draft"):
        raw("INSERT INTO arm (experiment_id, name, position, requested) VALUES (1, 'late', 9, '{}')")
    with pytest.raises(sa.exc.IntegrityError, match="when the experiment starts"):
        raw("INSERT INTO binding (arm_id, parameter, version_id) VALUES (1, 'late', 2)")


def test_one_name_has_at_most_one_open_experiment(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)unique"):
        raw(
            "INSERT INTO experiment (name, layer, state, config, digest, created_at) "
            "SELECT name, layer, 'draft', config, digest, created_at FROM experiment"
        )


def test_replacing_a_row_is_no_way_round(full, raw, module_url):
    if module_url.startswith("postgresql"):
        pytest.skip("INSERT OR REPLACE is SQLite's")
    with pytest.raises(sa.exc.IntegrityError, match="matinee"):
        raw(
            "INSERT OR REPLACE INTO metric SELECT version_id, name, dataset, split, key, k, 1.0, created_at FROM metric"
        )


def test_an_alias_points_only_at_a_version_of_its_own_model(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="(?i)foreign key"):
        raw("INSERT INTO alias (model_id, alias, number, since) SELECT 1, 'x', 2, since FROM alias")


@pytest.fixture
def shell(module_url):
    """The database as the `sqlite3` shell opens it: no pragma of ours, a transaction that is not kept."""
    if module_url.startswith("postgresql"):
        pytest.skip("pragmas are SQLite's")
    connection = sqlite3.connect(sa.make_url(module_url).database, isolation_level=None)
    connection.execute("BEGIN")
    yield connection
    connection.rollback()
    connection.close()


WAYS_ROUND = [
    "UPDATE model_version SET rowid = 99 WHERE id = 1",
    "UPDATE registered_model SET rowid = 99 WHERE id = 1",
    "UPDATE registered_model SET next_version = -1",
    "DELETE FROM registered_model",
    "DELETE FROM model_version WHERE id = 1",
    "DELETE FROM artifact",
    "DELETE FROM feature",
    "INSERT OR REPLACE INTO registered_model SELECT id, name, description, 1, created_at, deleted_at FROM registered_model",
    (
        "INSERT OR REPLACE INTO model_version SELECT id, model_id, number, 'another', created_at, created_by, source, config,"
        " seed, signature, file_count, parameter_count, training_set_digest, input_count, upstream_count FROM model_version WHERE id = 2"
    ),
    "INSERT OR REPLACE INTO artifact SELECT sha256, size + 1, media_type, created_at FROM artifact",
    (
        "INSERT OR REPLACE INTO alias_history SELECT id, model_id, alias, kind, from_number, to_number, at, 'eve', reason,"
        " evidence FROM alias_history"
    ),
    "UPDATE OR REPLACE metric SET value = 1",
]


@pytest.mark.parametrize("sql", WAYS_ROUND)
def test_no_way_round_is_left_to_a_connection_without_our_pragmas(full, shell, sql):
    with pytest.raises(sqlite3.IntegrityError, match="matinee"):
        shell.execute(sql)


@pytest.mark.parametrize(
    "pragma", ["recursive_triggers = OFF", "foreign_keys = OFF", "ignore_check_constraints = ON"]
)
@pytest.mark.parametrize("sql", [way for way in WAYS_ROUND if way.startswith(("INSERT", "UPDATE"))])
def test_switching_one_pragma_off_opens_no_way(full, shell, pragma, sql):
    shell.rollback()
    for ours in ("recursive_triggers = ON", "foreign_keys = ON", pragma):
        shell.execute(f"PRAGMA {ours}")
    shell.execute("BEGIN")
    with pytest.raises(sqlite3.IntegrityError, match="matinee"):
        shell.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO metric SELECT * FROM metric WHERE true ON CONFLICT (version_id, name, dataset, split) DO UPDATE SET value = 1",
        "INSERT INTO artifact SELECT * FROM artifact WHERE true ON CONFLICT (sha256) DO UPDATE SET size = 1",
        "INSERT INTO feature SELECT * FROM feature WHERE true ON CONFLICT (digest) DO UPDATE SET dtype = 'x'",
        "INSERT INTO registered_model SELECT * FROM registered_model WHERE true ON CONFLICT (name) DO UPDATE SET next_version = 1",
    ],
)
def test_an_insert_that_turns_into_an_update_is_refused_as_one(full, raw, sql):
    with pytest.raises(sa.exc.IntegrityError, match="matinee: (rows of .* do not change|a version counter)"):
        raw(sql)


def test_a_name_deleted_and_taken_again_goes_on_counting(full, raw, draft):
    full.register(draft("passing"))
    full.delete("passing/1")
    full.delete_model("passing")
    with pytest.raises(sa.exc.IntegrityError, match="rows of registered_model stay"):
        raw("DELETE FROM registered_model WHERE name = 'passing'")
    assert full.register(draft("passing", weights=1)).number == 2
    full.delete("passing/2")


ALL_TABLES = sorted(Base.metadata.tables)


@pytest.mark.parametrize("table", ALL_TABLES)
def test_no_table_is_emptied_by_truncate(full, raw, module_url, table):
    if not module_url.startswith("postgresql"):
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(sa.exc.IntegrityError, match="is not emptied at once"):
        raw(f"TRUNCATE {table} CASCADE")


def test_copy_passes_by_no_trigger(full, module_url):
    if not module_url.startswith("postgresql"):
        pytest.skip("SQLite has no COPY")
    database = Database(module_url)
    with database.connection() as connection:
        sha256 = connection.exec_driver_sql("SELECT sha256 FROM artifact LIMIT 1").scalar_one()
        cursor = connection.connection.cursor()
        with (
            pytest.raises(psycopg.errors.IntegrityError, match="the model_version is complete"),
            cursor.copy("COPY version_file (version_id, path, sha256) FROM STDIN") as copy,
        ):
            copy.write_row((2, "evil.json", sha256))
        connection.rollback()
    database.close()


def test_only_a_superuser_switches_the_triggers_of_postgresql_off(full, module_url):
    if not module_url.startswith("postgresql"):
        pytest.skip("SQLite has no session_replication_role")
    database = Database(module_url)
    with database.connection() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE pg_read_all_data")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.rollback()
    database.close()
