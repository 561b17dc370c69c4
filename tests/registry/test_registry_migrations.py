"""The schema: migrations and models agree, and several programs may open the ledger at once."""

from concurrent.futures import ThreadPoolExecutor

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from registry import open_registry
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


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_the_schema_goes_down_with_data_in_and_comes_up_again(kind, tmp_path, request, draft):
    url = (
        f"sqlite:///{tmp_path}/r.db" if kind == "sqlite" else request.getfixturevalue("new_postgres_schema")()
    )
    with open_registry(url, str(tmp_path / "artifacts")) as ledger:
        ledger.register(draft())
    database = Database(url)
    with database.connection() as connection:
        alembic.command.downgrade(migration_config(connection), "base")
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version"}
    migrate(database)
    with database.connection() as connection:
        assert differences(connection) == []
    database.close()
    with open_registry(url, str(tmp_path / "artifacts")) as ledger:
        assert ledger.register(draft()).number == 1


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
