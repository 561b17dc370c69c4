"""Triggers that refuse a change, written for SQLite and for PostgreSQL from one description."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Refuse `event` on rows of `table` where `condition` holds.

    `event` is INSERT, DELETE, UPDATE, or UPDATE OF some columns; `condition` is SQL over NEW and OLD. Or it is
    TRUNCATE, which PostgreSQL has beside DELETE and for which triggers on rows do not fire. `only` is the database
    that a refusal is for, if not for both; `verb` tells apart two refusals of one event on one table.
    """

    table: str
    event: str
    message: str
    condition: str = "1 = 1"
    only: str | None = None
    verb: str = "refuse"

    @property
    def name(self) -> str:
        """One name for the trigger and, on PostgreSQL, its function."""
        return f"{self.verb}_{self.event.split()[0].lower()}_{self.table}"


def create(refusal: Refusal, dialect: str) -> tuple[str, ...]:
    """The statements that put `refusal` in force; none where it is for the other database only."""
    if refusal.only not in {None, dialect}:
        return ()
    scope = "STATEMENT" if refusal.event == "TRUNCATE" else "ROW"
    head = f"CREATE TRIGGER {refusal.name} BEFORE {refusal.event} ON {refusal.table} FOR EACH {scope}"
    if dialect == "sqlite":
        return (f"{head} WHEN {refusal.condition} BEGIN SELECT RAISE(ABORT, '{refusal.message}'); END",)
    return (
        f"CREATE FUNCTION {refusal.name}() RETURNS trigger LANGUAGE plpgsql AS $${body(refusal)}$$",
        f"{head} EXECUTE FUNCTION {refusal.name}()",
    )


def body(refusal: Refusal) -> str:
    """What the function behind a refusal does on PostgreSQL."""
    row = {"DELETE": "OLD", "TRUNCATE": "NULL"}.get(refusal.event, "NEW")
    return (
        f" BEGIN IF {refusal.condition} THEN RAISE EXCEPTION '{refusal.message}' "
        f"USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN {row}; END "
    )


def drop(refusal: Refusal, dialect: str) -> tuple[str, ...]:
    """The statements that lift `refusal`; none where it is for the other database only."""
    if refusal.only not in {None, dialect}:
        return ()
    if dialect == "sqlite":
        return (f"DROP TRIGGER {refusal.name}",)
    return (f"DROP TRIGGER {refusal.name} ON {refusal.table}", f"DROP FUNCTION {refusal.name}()")
