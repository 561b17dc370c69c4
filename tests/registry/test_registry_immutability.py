"""Rows stay as they are even for somebody who goes past the ledger's code with SQL."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from registry import ArmRecord, BentoRecord, ConsistencyRecord, ExperimentRecord, GateRecord
from registry.database import Database


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
    "table", ["metric", "parameter", "version_file", "feature_service_member", "bento_version"]
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
            " file_count, parameter_count) SELECT model_id, :number, 'x', created_at, created_by, source, config,"
            " signature, 0, 0 FROM model_version WHERE number = 1 AND model_id = 2",
            number=number,
        )


def test_files_and_parameters_cannot_be_added_to_a_complete_version(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO version_file (version_id, path, sha256) SELECT 2, 'evil.json', sha256 FROM artifact")
    with pytest.raises(sa.exc.IntegrityError, match="the model_version is complete"):
        raw("INSERT INTO parameter (version_id, key, value) VALUES (2, 'late', 'x')")


def test_of_an_experiment_only_the_state_changes(full, raw):
    with pytest.raises(sa.exc.IntegrityError, match="only the state changes"):
        raw("UPDATE experiment SET config = config")
    with pytest.raises(sa.exc.IntegrityError, match="ck_experiment_state"):
        raw("UPDATE experiment SET state = 'RUNNING'")


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
