"""Verdicts on whether features are served as they are computed offline; champions move on the newest.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.columns import Instant
from registry.migrations.steps import lift, put_in_force
from registry.migrations.triggers import Refusal

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REFUSALS = (
    Refusal("consistency_verdict", "UPDATE", "matinee: rows of consistency_verdict do not change"),
    Refusal("consistency_verdict", "DELETE", "matinee: rows of consistency_verdict stay"),
)


def upgrade() -> None:
    """Create the table, and the triggers that keep what was said."""
    op.create_table(
        "consistency_verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("service_digest", TEXT, nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("compared", sa.BigInteger(), nullable=False),
        sa.Column("newest_request", Instant(), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_digest"], ["feature_service.digest"], "fk_consistency_verdict_service_digest"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_consistency_verdict"),
    )
    op.create_index("ix_consistency_verdict_source", "consistency_verdict", ["source"])
    op.create_index("ix_consistency_verdict_service_digest", "consistency_verdict", ["service_digest"])
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Drop them."""
    lift(REFUSALS)
    op.drop_table("consistency_verdict")
