"""Nobody empties a table of the ledger at once: PostgreSQL's TRUNCATE passes by the triggers on rows.

Revision: 0006, after 0003.
"""

from __future__ import annotations

from alembic import op

from registry.migrations.triggers import Refusal, create, drop

revision = "0006"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "feature", "feature_service", "feature_service_member", "training_set", "registered_model", "model_version",
    "artifact", "version_file", "metric", "parameter", "tag", "alias", "alias_history", "gate_report",
    "consistency_verdict", "bento", "bento_version", "experiment", "experiment_state", "arm", "binding", "readout",
    "access_token", "audit_entry", "registered_model_tag", "upload",
)  # fmt: skip
REFUSALS = tuple(Refusal(table, "TRUNCATE", f"matinee: {table} is not emptied at once") for table in TABLES)


def upgrade() -> None:
    """Put the triggers in force; on SQLite there is nothing to do."""
    for refusal in REFUSALS:
        for statement in create(refusal, op.get_bind().dialect.name):
            op.execute(statement)


def downgrade() -> None:
    """Lift them."""
    for refusal in REFUSALS:
        for statement in drop(refusal, op.get_bind().dialect.name):
            op.execute(statement)
