"""Documents beside a version: reports and figures, filed by digest as its files are, and no part of its own digest.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.columns import Instant
from registry.migrations.refusals import leaves_only_with, needs_pragma, not_emptied_at_once
from registry.migrations.steps import lift, put_in_force
from registry.migrations.triggers import Refusal

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLE = "version_document"
REFUSALS = (
    Refusal(TABLE, "UPDATE", f"matinee: rows of {TABLE} do not change"),
    leaves_only_with(TABLE, "version_id", "model_version", "id"),
    not_emptied_at_once(TABLE),
    needs_pragma("recursive_triggers", "INSERT", TABLE),
    needs_pragma("foreign_keys", "DELETE", TABLE),
    Refusal(
        "artifact",
        "DELETE",
        "matinee: rows of artifact stay while a document refers to them",
        f"EXISTS (SELECT 1 FROM {TABLE} WHERE sha256 = OLD.sha256)",
        only="sqlite",
        verb="keep_document",
    ),
)


def upgrade() -> None:
    """Create the table, and the triggers that keep its rows as they are."""
    op.create_table(
        TABLE,
        sa.Column("version_id", sa.Integer(), nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("name", "sha256")),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], f"fk_{TABLE}_version_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sha256"], ["artifact.sha256"], f"fk_{TABLE}_sha256"),
        sa.PrimaryKeyConstraint("version_id", "name", name=f"pk_{TABLE}"),
    )
    op.create_index(f"ix_{TABLE}_sha256", TABLE, ["sha256"])
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Drop them. Stored bytes stay in the store until a sweep."""
    lift(REFUSALS)
    op.drop_table(TABLE)
