"""Whether the database still enforces what the ledger relies on: triggers, constraints, its own integrity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry.access import UploadRow
from registry.database import migration_config
from registry.findings import DAMAGED, DANGLING, NOT_VALIDATED, SCHEMA_DIFFERS, UNGUARDED, Finding
from registry.migrations.triggers import Refusal, body, create

_METADATA = (
    UploadRow.metadata
)  # of the ledger's own tables, and with `registry.access` those of its HTTP edge
_ENABLED = ("O", "A")  # in pg_trigger.tgenabled: fires at the origin, fires always


def examine(connection: sa.Connection) -> Iterator[Finding]:
    """Everything the database itself can be asked, on either."""
    if connection.dialect.name == "sqlite":
        own, found = [*_sqlite_integrity(connection)], _sqlite_triggers(connection)
    else:
        own = [*_constraints(connection), *_dangling(connection), *_disabled(connection)]
        found = _postgres_triggers(connection)
    yield from own
    yield from _unguarded(found, connection)
    if not any(finding.kind is NOT_VALIDATED for finding in own):  # such a constraint cannot be compared
        for difference in compare_metadata(MigrationContext.configure(connection), _METADATA):
            yield Finding(
                SCHEMA_DIFFERS, "schema", f"to be as migrated it would take: {_described(difference)}"
            )


def expected(connection: sa.Connection) -> dict[str, Refusal]:
    """Every refusal that the migrations have put in force, by its trigger's name; a later one replaces an earlier."""
    scripts = ScriptDirectory.from_config(migration_config(connection))
    revisions = reversed(list(scripts.walk_revisions()))
    refusals = (refusal for step in revisions for refusal in getattr(step.module, "REFUSALS", ()))
    return {refusal.name: refusal for refusal in refusals if create(refusal, connection.dialect.name)}


def _unguarded(found: Mapping[str, str], connection: sa.Connection) -> Iterator[Finding]:
    for name, refusal in expected(connection).items():
        where = f"trigger {name} on {refusal.table}"
        if name not in found:
            yield Finding(UNGUARDED, where, "is not there")
            continue
        ours = create(refusal, "sqlite")[0] if connection.dialect.name == "sqlite" else body(refusal)
        if _plain(found[name]) != _plain(ours):
            yield Finding(UNGUARDED, where, f"is not as migrated; it reads: {found[name]}")


def _plain(sql: str) -> str:
    """Without the quotes that SQLite writes around the name of a table that was renamed."""
    return " ".join(sql.replace('"', "").split())


def _sqlite_integrity(connection: sa.Connection) -> Iterator[Finding]:
    for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if said != "ok":
            yield Finding(DAMAGED, "PRAGMA integrity_check", said)
    for table, row_id, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield Finding(DANGLING, f"row {row_id} of {table}", f"refers to a row of {parent} that is not there")


def _sqlite_triggers(connection: sa.Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    return {name: sql for name, sql in rows}  # noqa: C416 - rows are not pairs to the type checker


def _postgres_triggers(connection: sa.Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql(
        "SELECT t.tgname, p.prosrc FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal "
        "AND c.relnamespace = current_schema()::regnamespace"
    )
    return {name: source for name, source in rows}  # noqa: C416 - rows are not pairs to the type checker


def _disabled(connection: sa.Connection) -> Iterator[Finding]:
    """Triggers switched off, among them those by which PostgreSQL itself keeps foreign keys."""
    rows = connection.exec_driver_sql(
        "SELECT t.tgname, c.relname, t.tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE c.relnamespace = current_schema()::regnamespace ORDER BY c.relname, t.tgname"
    )
    for name, table, enabled in rows:
        if _text(enabled) not in _ENABLED:
            yield Finding(UNGUARDED, f"trigger {name} on {table}", "is disabled")


def _constraints(connection: sa.Connection) -> Iterator[Finding]:
    rows = connection.exec_driver_sql(
        "SELECT conname, conrelid::regclass::text FROM pg_constraint WHERE NOT convalidated "
        "AND connamespace = current_schema()::regnamespace ORDER BY conname"
    )
    for name, table in rows:
        yield Finding(NOT_VALIDATED, f"constraint {name} on {table}", "is not validated")


def _dangling(connection: sa.Connection) -> Iterator[Finding]:
    """References counted anew: a superuser can write past the triggers that keep them (session_replication_role)."""
    for table in _METADATA.sorted_tables:
        for key in table.foreign_key_constraints:
            parent = key.referred_table.alias("parent")
            pairs = [(element.parent, parent.c[element.column.name]) for element in key.elements]
            there = sa.exists().where(*(own == theirs for own, theirs in pairs))
            lost = sa.select(sa.func.count()).where(
                *(own.is_not(None) for own, _ in pairs), ~there.correlate(table)
            )
            if count := connection.scalar(lost.select_from(table)):
                what = f"{count} refer to rows of {key.referred_table.name} that are not there"
                yield Finding(DANGLING, f"rows of {table.name}", what)


def _described(difference: object) -> str:
    """An operation of Alembic's comparison in a few words."""
    if isinstance(difference, list):
        return "; ".join(_described(one) for one in difference)
    assert isinstance(difference, tuple)  # noqa: S101 - so Alembic documents them; tells the type checker
    return " ".join(str(getattr(part, "name", part)) for part in difference if part is not None)


def _text(char: bytes | str) -> str:
    """PostgreSQL's one-byte type comes as either, by the version of the driver."""
    return char.decode() if isinstance(char, bytes) else char
