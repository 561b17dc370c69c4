"""Where Alembic meets the ledger: the caller hands in the connection and owns the transaction."""

from __future__ import annotations

from alembic import context

from registry.schema import Base


def run() -> None:
    """Run the asked-for revisions on the connection of `registry.database.migrate`."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        compare_type=True,
        transactional_ddl=False,  # the transaction is the caller's
    )
    context.run_migrations()


if hasattr(context, "config"):  # not so when a test runner or a type checker imports this
    run()
