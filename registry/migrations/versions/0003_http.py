"""What the HTTP edge keeps: tokens, the audit log, tags of models, files sent ahead of their version.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.columns import Instant
from registry.migrations.steps import lift, put_in_force
from registry.migrations.triggers import Refusal

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REFUSALS = (
    Refusal("audit_entry", "UPDATE", "matinee: rows of audit_entry do not change"),
    Refusal("audit_entry", "DELETE", "matinee: rows of audit_entry stay"),
    Refusal("access_token", "DELETE", "matinee: rows of access_token stay"),
    Refusal(
        "access_token",
        "UPDATE",
        "matinee: of a token only revoked_at changes, once",
        "OLD.revoked_at IS NOT NULL OR NEW.key <> OLD.key OR NEW.role <> OLD.role OR NEW.name <> OLD.name "
        "OR NEW.salt <> OLD.salt OR NEW.digest <> OLD.digest "
        "OR coalesce(NEW.expires_at <> OLD.expires_at, NEW.expires_at IS NOT NULL OR OLD.expires_at IS NOT NULL)",
    ),
)


def upgrade() -> None:
    """Create the four tables, and the triggers that keep the log as it is."""
    _access_token()
    _audit_entry()
    _registered_model_tag()
    _upload()
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Drop them, what refers before what is referred to."""
    lift(REFUSALS)
    for table in ("upload", "registered_model_tag", "audit_entry", "access_token"):
        op.drop_table(table)


def _access_token() -> None:
    op.create_table(
        "access_token",
        *(sa.Column(name, TEXT, nullable=False) for name in ("key", "name", "role", "salt", "digest")),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'engineer', 'admin')", name=op.f("ck_access_token_role")),
        sa.PrimaryKeyConstraint("key", name="pk_access_token"),
    )


def _audit_entry() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("token", "name", "role", "action", "target")),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("problem", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["token"], ["access_token.key"], "fk_audit_entry_token"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entry"),
    )
    op.create_index("ix_audit_entry_at", "audit_entry", ["at"])


def _registered_model_tag() -> None:
    op.create_table(
        "registered_model_tag",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["registered_model.id"], "fk_registered_model_tag_model_id"),
        sa.PrimaryKeyConstraint("model_id", "key", name="pk_registered_model_tag"),
    )
    op.create_index("ix_registered_model_tag_key_model_id", "registered_model_tag", ["key", "model_id"])


def _upload() -> None:
    op.create_table(
        "upload",
        *(sa.Column(name, TEXT, nullable=False) for name in ("token", "folder", "path", "sha256")),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["token"], ["access_token.key"], "fk_upload_token"),
        sa.PrimaryKeyConstraint("token", "folder", "path", name="pk_upload"),
    )
