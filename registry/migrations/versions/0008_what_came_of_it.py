"""What came of an experiment is a state of its run, launched or killed, and no longer the beginning of a reason.

Until now a run that was shipped or rolled back had stopped, for a reason that began `launched …`, `shipped: …` or
`killed: …`. Those runs, and that step of their history, get the state; reasons stay as they were written. Going down,
they have stopped again, and a reason that would not say what came of the run says so first.

SQLite cannot change a constraint, so there both tables are written anew, as in revision 0004.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql.schema import SchemaItem

from registry.columns import Instant
from registry.migrations.refusals import needs_pragma, not_emptied_at_once, refusals
from registry.migrations.steps import lift, put_in_force, take_the_place
from registry.migrations.triggers import Refusal

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
CHANGED = ("experiment", "experiment_state")
CHECKS = {"experiment": "ck_experiment_state", "experiment_state": "ck_experiment_state_state"}
BEFORE = ("draft", "running", "stopped")
SINCE = (*BEFORE, "launched", "killed")
FOLLOWS = {
    "draft": ("running", "stopped"),
    "running": ("stopped", "launched", "killed"),
    "stopped": ("launched", "killed"),
}
_ALLOWED = " OR ".join(f"(OLD.state = '{now}' AND NEW.state IN {then})" for now, then in FOLLOWS.items())
REFUSALS = (
    Refusal(
        "experiment",
        "UPDATE OF state",
        "matinee: an experiment runs, stops and is launched or killed, in that order",
        f"OLD.state <> NEW.state AND NOT ({_ALLOWED})",
        verb="order",
    ),
    Refusal(
        "experiment",
        "INSERT",
        "matinee: an experiment begins as a draft",
        "NEW.state <> 'draft'",
        verb="order",
    ),
)
# How a reason began, and the state that it stands for.
PREFIXES = (("launched ", "launched"), ("shipped: ", "launched"), ("killed: ", "killed"))
SAYS = " ".join(f"WHEN {{0}} = '{state}' THEN '{prefix}'" for prefix, state in (PREFIXES[0], PREFIXES[2]))


def upgrade() -> None:
    """Allow the two states, and give them to the runs and steps whose reason says so."""
    lift(_standing())
    _allow(SINCE, open_where="state IN ('draft', 'running')")
    for prefix, state in PREFIXES:
        op.execute(
            f"UPDATE experiment_state SET state = '{state}' "
            f"WHERE state = 'stopped' AND substr(reason, 1, {len(prefix)}) = '{prefix}'"
        )
    op.execute(f"UPDATE experiment SET state = {_LAST} WHERE state = 'stopped' AND {_LAST} IS NOT NULL")
    put_in_force((*_standing(), *REFUSALS))


def downgrade() -> None:
    """Take the two states away again; a reason says them where it did not."""
    lift((*REFUSALS, *_standing()))
    said = " OR ".join(
        f"(state = '{state}' AND substr(reason, 1, {len(prefix)}) = '{prefix}')" for prefix, state in PREFIXES
    )
    op.execute(
        f"UPDATE experiment_state SET reason = (CASE {SAYS.format('state')} END) || reason "
        f"WHERE state IN ('launched', 'killed') AND NOT ({said})"
    )
    for table in CHANGED:
        op.execute(f"UPDATE {table} SET state = 'stopped' WHERE state IN ('launched', 'killed')")
    _allow(BEFORE, open_where="state <> 'stopped'")
    put_in_force(_standing())


_LAST = "(SELECT s.state FROM experiment_state s WHERE s.experiment_id = experiment.id ORDER BY s.id DESC LIMIT 1)"


def _standing() -> tuple[Refusal, ...]:
    """What the revisions before forbid on the two tables."""
    return (
        *(refusal for refusal in refusals() if refusal.table in CHANGED),
        *(not_emptied_at_once(table) for table in CHANGED),
        *(needs_pragma("recursive_triggers", "INSERT", table) for table in CHANGED),
        *(needs_pragma("foreign_keys", "DELETE", table) for table in CHANGED),
    )


def _allow(states: tuple[str, ...], *, open_where: str) -> None:
    """Let `state` be one of `states`; a name has one run at most for which `open_where` holds."""
    if op.get_bind().dialect.name == "sqlite":
        for table, (items, indexed) in _tables(states).items():
            _written_anew(table, items, indexed)
    else:
        op.drop_index("uq_experiment_open_name", "experiment")
        for table, check in CHECKS.items():
            op.drop_constraint(op.f(check), table, type_="check")
            op.create_check_constraint(op.f(check), table, f"state IN {states}")
    op.create_index(
        "uq_experiment_open_name", "experiment", ["name"], unique=True,
        sqlite_where=sa.text(open_where), postgresql_where=sa.text(open_where),
    )  # fmt: skip


def _written_anew(table: str, items: list[SchemaItem], indexed: tuple[str, ...]) -> None:
    made = op.create_table(f"{table}_anew", *items)
    columns = ", ".join(f'"{column.name}"' for column in made.columns)
    op.execute(f"INSERT INTO {table}_anew ({columns}) SELECT {columns} FROM {table}")
    take_the_place(table, indexed)


def _tables(states: tuple[str, ...]) -> dict[str, tuple[list[SchemaItem], tuple[str, ...]]]:
    """Both tables in full, as SQLite needs them, and the columns that have an index of their own."""
    experiment: list[SchemaItem] = [
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("name", "layer", "state")),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.CheckConstraint(f"state IN {states}", name=op.f(CHECKS["experiment"])),
        sa.PrimaryKeyConstraint("id", name="pk_experiment"),
    ]
    history: list[SchemaItem] = [
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("id", "experiment_id")),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("by", "reason")),
        sa.CheckConstraint(f"state IN {states}", name=op.f(CHECKS["experiment_state"])),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], "fk_experiment_state_experiment_id"),
        sa.PrimaryKeyConstraint("id", name="pk_experiment_state"),
    ]
    return {
        "experiment": (experiment, ("name", "state")),
        "experiment_state": (history, ("experiment_id",)),
    }
