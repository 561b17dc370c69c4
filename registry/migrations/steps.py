"""What several revisions do alike, on the database that is being migrated."""

from __future__ import annotations

from collections.abc import Iterable

from alembic import op

from registry.migrations.triggers import Refusal, create, drop


def put_in_force(forbidden: Iterable[Refusal]) -> None:
    """Create the triggers behind refusals."""
    for refusal in forbidden:
        for statement in create(refusal, op.get_bind().dialect.name):
            op.execute(statement)


def lift(lifted: Iterable[Refusal]) -> None:
    """Drop the triggers behind refusals."""
    for refusal in lifted:
        for statement in drop(refusal, op.get_bind().dialect.name):
            op.execute(statement)


def take_the_place(table: str, indexed: Iterable[str]) -> None:
    """On SQLite, let `<table>_anew`, which holds the rows already, be `table`, with an index over each column of `indexed`.

    https://www.sqlite.org/lang_altertable.html, section 7; `registry.database.migrate` switches the checking of foreign keys
    off for that long.
    """
    # else renaming looks into triggers that speak of the dropped table
    op.execute("PRAGMA legacy_alter_table = ON")
    op.drop_table(table)
    op.rename_table(f"{table}_anew", table)
    op.execute("PRAGMA legacy_alter_table = OFF")
    for column in indexed:
        op.create_index(f"ix_{table}_{column}", table, [column])
