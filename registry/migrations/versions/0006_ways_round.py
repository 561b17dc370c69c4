"""Ways round the triggers on rows: TRUNCATE on PostgreSQL; on SQLite, connections that do not enforce what ours do.

TRUNCATE fires no trigger on rows. SQLite deletes past the triggers when a row is replaced (INSERT OR REPLACE), unless
the connection says PRAGMA recursive_triggers = ON, and keeps foreign keys only where it says PRAGMA foreign_keys = ON;
the `sqlite3` shell says neither by itself. And a row replaced by another with its key has, when the statement ends,
left no foreign key without its row; so what is referred to is also kept by triggers.

Revision: 0006, after 0005.
"""

from __future__ import annotations

from registry.migrations.refusals import needs_pragma, not_emptied_at_once
from registry.migrations.steps import lift, put_in_force
from registry.migrations.triggers import Refusal

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = (
    "feature", "feature_service", "feature_service_member", "training_set", "registered_model", "model_version",
    "artifact", "version_file", "metric", "parameter", "tag", "alias", "alias_history", "gate_report",
    "consistency_verdict", "bento", "bento_version", "experiment", "experiment_state", "arm", "binding", "readout",
    "access_token", "audit_entry", "registered_model_tag", "upload", "training_set_service", "version_input",
    "version_upstream", "outbox", "webhook", "webhook_kind",
)  # fmt: skip
# What is referred to, its key, and by whom, in which columns.
REFERRERS = (
    ("feature", "digest", "feature_service_member", "feature_digest"),
    ("feature_service", "digest", "training_set_service", "service_digest"),
    ("feature_service", "digest", "version_input", "service_digest"),
    ("feature_service", "digest", "consistency_verdict", "service_digest"),
    ("training_set", "digest", "model_version", "training_set_digest"),
    ("artifact", "sha256", "version_file", "sha256"),
    ("model_version", "id", "version_upstream", "upstream_id"),
    ("model_version", "id", "bento_version", "version_id"),
    ("model_version", "id", "binding", "version_id"),
    ("model_version", "model_id, number", "alias", "model_id, number"),
)


def _referred_to(table: str) -> Refusal:
    held = (
        f"EXISTS (SELECT 1 FROM {other} WHERE ({columns}) = ({', '.join(f'OLD.{name}' for name in key.split(', '))}))"
        for kept, key, other, columns in REFERRERS
        if kept == table
    )
    message = f"matinee: rows of {table} stay while a foreign key refers to them"
    return Refusal(table, "DELETE", message, " OR ".join(held), only="sqlite", verb="keep")


REFUSALS = (
    *(not_emptied_at_once(table) for table in TABLES),
    *(needs_pragma("recursive_triggers", "INSERT", table) for table in TABLES),
    *(needs_pragma("foreign_keys", "DELETE", table) for table in TABLES),
    *(_referred_to(table) for table in dict.fromkeys(kept for kept, *_ in REFERRERS)),
)


def upgrade() -> None:
    """Put the triggers in force."""
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Lift them."""
    lift(REFUSALS)
