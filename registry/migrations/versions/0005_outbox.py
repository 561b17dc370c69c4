"""Events of the ledger: the outbox they are written to, and the webhooks they are delivered to.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.columns import Instant
from registry.migrations.steps import lift, put_in_force
from registry.migrations.triggers import Refusal

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REFUSALS = (
    Refusal("outbox", "UPDATE", "matinee: rows of outbox do not change"),
    Refusal("outbox", "DELETE", "matinee: rows of outbox stay"),
    Refusal(
        "outbox",
        "INSERT",
        "matinee: an event takes the next number",
        "NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM outbox)",
    ),
    Refusal(
        "webhook",
        "UPDATE",
        "matinee: of a webhook only the state of delivery changes, and what was acknowledged stays so",
        "NEW.acknowledged < OLD.acknowledged OR NEW.key <> OLD.key OR NEW.name <> OLD.name OR NEW.url <> OLD.url "
        "OR NEW.secret <> OLD.secret OR NEW.created_at <> OLD.created_at",
    ),
    Refusal("webhook_kind", "UPDATE", "matinee: rows of webhook_kind do not change"),
    Refusal(
        "webhook_kind",
        "DELETE",
        "matinee: rows of webhook_kind leave only with their webhook",
        "EXISTS (SELECT 1 FROM webhook WHERE key = OLD.webhook_key)",
    ),
)


def upgrade() -> None:
    """Create the three tables, and the triggers that keep what was told."""
    _outbox()
    _webhook()
    _webhook_kind()
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Drop them, what refers before what is referred to."""
    lift(REFUSALS)
    for table in ("webhook_kind", "webhook", "outbox"):
        op.drop_table(table)


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_kind_id", "outbox", ["kind", "id"])


def _webhook() -> None:
    op.create_table(
        "webhook",
        *(sa.Column(name, TEXT, nullable=False) for name in ("key", "name", "url", "secret")),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("paused_at", Instant(), nullable=True),
        sa.Column("acknowledged", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_attempt_at", Instant(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", TEXT, nullable=False),
        sa.Column("next_attempt_at", Instant(), nullable=True),
        sa.Column("lease", TEXT, nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_webhook"),
        sa.UniqueConstraint("name", name="uq_webhook_name"),
    )


def _webhook_kind() -> None:
    op.create_table(
        "webhook_kind",
        sa.Column("webhook_key", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook_key"], ["webhook.key"], "fk_webhook_kind_webhook_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("webhook_key", "kind", name="pk_webhook_kind"),
    )
