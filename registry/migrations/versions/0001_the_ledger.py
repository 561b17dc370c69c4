"""The ledger, whole: every table of the chain, and the triggers that keep its rows as they are.

Revision: 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.columns import Instant
from registry.migrations.triggers import Refusal, create, drop

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

UNCHANGING = (
    "feature", "feature_service", "feature_service_member", "training_set", "model_version", "artifact",
    "version_file", "metric", "parameter", "alias_history", "gate_report", "bento", "bento_version",
    "experiment_state", "arm", "binding", "readout",
)  # fmt: skip
UNDYING = (
    "registered_model", "alias_history", "gate_report", "experiment", "experiment_state", "arm", "binding", "readout",
)  # fmt: skip
# A row that hangs on another: (table, its key, the other table, its key, how many the other has in all)
PARTS = (
    ("feature_service_member", "service_digest", "feature_service", "digest", "feature_count"),
    ("version_file", "version_id", "model_version", "id", "file_count"),
    ("parameter", "version_id", "model_version", "id", "parameter_count"),
    ("metric", "version_id", "model_version", "id", None),
    ("bento_version", "bento_id", "bento", "id", "version_count"),
)


def upgrade() -> None:
    """Create everything."""
    _features()
    _models()
    _contents()
    _gates_and_bentos()
    _experiments()
    for refusal in refusals():
        for statement in create(refusal, op.get_bind().dialect.name):
            op.execute(statement)


def downgrade() -> None:
    """Drop everything, what refers before what is referred to."""
    for refusal in refusals():
        for statement in drop(refusal, op.get_bind().dialect.name):
            op.execute(statement)
    for table in (
        "binding", "readout", "arm", "experiment_state", "experiment", "bento_version", "bento", "gate_report", "tag", "parameter", "metric", "version_file", "artifact", "alias_history", "alias", "model_version", "registered_model", "training_set", "feature_service_member", "feature_service", "feature",
    ):  # fmt: skip
        op.drop_table(table)


def refusals() -> tuple[Refusal, ...]:
    """What no one may do to the ledger, whoever writes."""
    return (
        *(Refusal(table, "UPDATE", f"matinee: rows of {table} do not change") for table in UNCHANGING),
        *(Refusal(table, "DELETE", f"matinee: rows of {table} stay") for table in UNDYING),
        *(_leaves_only_with(*part[:4]) for part in PARTS),
        *(_complete(part, key, whole, other, count) for part, key, whole, other, count in PARTS if count),
        Refusal(
            "registered_model",
            "UPDATE",
            "matinee: a version counter does not go back",
            "NEW.id <> OLD.id OR NEW.next_version < OLD.next_version",
        ),
        Refusal(
            "model_version",
            "INSERT",
            "matinee: a version number comes from the counter of its model",
            "NEW.number <> (SELECT next_version - 1 FROM registered_model WHERE id = NEW.model_id)",
        ),
        Refusal(
            "experiment",
            "UPDATE OF id, name, layer, config, digest, created_at",
            "matinee: of an experiment only the state changes",
        ),
        Refusal(
            "arm",
            "INSERT",
            "matinee: arms are declared while the experiment is a draft",
            "(SELECT state FROM experiment WHERE id = NEW.experiment_id) <> 'draft'",
        ),
        Refusal(
            "binding",
            "INSERT",
            "matinee: arms are bound when the experiment starts, once",
            "(SELECT e.state FROM experiment e JOIN arm a ON a.experiment_id = e.id WHERE a.id = NEW.arm_id) <> 'draft'",
        ),
    )


def _leaves_only_with(part: str, key: str, whole: str, other: str) -> Refusal:
    condition = f"EXISTS (SELECT 1 FROM {whole} WHERE {other} = OLD.{key})"
    return Refusal(part, "DELETE", f"matinee: rows of {part} leave only with their {whole}", condition)


def _complete(part: str, key: str, whole: str, other: str, count: str) -> Refusal:
    condition = (
        f"(SELECT count(*) FROM {part} WHERE {key} = NEW.{key}) >= "
        f"(SELECT {count} FROM {whole} WHERE {other} = NEW.{key})"
    )
    return Refusal(part, "INSERT", f"matinee: the {whole} is complete", condition)


def _features() -> None:
    op.create_table(
        "feature",
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("view", TEXT, nullable=False),
        sa.Column("dtype", TEXT, nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_feature"),
    )
    op.create_index("ix_feature_name", "feature", ["name"])
    op.create_table(
        "feature_service",
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("feature_count", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_feature_service"),
    )
    op.create_index("ix_feature_service_name", "feature_service", ["name"])
    op.create_table(
        "feature_service_member",
        sa.Column("service_digest", TEXT, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("feature_digest", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["feature_digest"], ["feature.digest"], name="fk_feature_service_member_feature_digest"
        ),
        sa.ForeignKeyConstraint(
            ["service_digest"],
            ["feature_service.digest"],
            name="fk_feature_service_member_service_digest",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("service_digest", "position", name="pk_feature_service_member"),
        sa.UniqueConstraint(
            "service_digest", "feature_digest", name="uq_feature_service_member_service_digest_feature_digest"
        ),
    )
    op.create_index("ix_feature_service_member_feature_digest", "feature_service_member", ["feature_digest"])
    op.create_table(
        "training_set",
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("interval_start", Instant(), nullable=False),
        sa.Column("interval_end", Instant(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("as_of", Instant(), nullable=True),
        sa.Column("generation", TEXT, nullable=True),
        sa.Column("event_digests", sa.JSON(), nullable=False),
        sa.Column("service_digest", TEXT, nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.CheckConstraint("interval_start < interval_end", name="ck_training_set_interval"),
        sa.ForeignKeyConstraint(
            ["service_digest"], ["feature_service.digest"], name="fk_training_set_service_digest"
        ),
        sa.PrimaryKeyConstraint("digest", name="pk_training_set"),
    )
    op.create_index("ix_training_set_service_digest", "training_set", ["service_digest"])


def _models() -> None:
    op.create_table(
        "registered_model",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("next_version", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("deleted_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_registered_model"),
        sa.UniqueConstraint("name", name="uq_registered_model_name"),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("signature", sa.JSON(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("parameter_count", sa.Integer(), nullable=False),
        sa.Column("training_set_digest", TEXT, nullable=True),
        sa.Column("service_digest", TEXT, nullable=True),
        sa.CheckConstraint("number >= 1", name="ck_model_version_number"),
        sa.ForeignKeyConstraint(["model_id"], ["registered_model.id"], name="fk_model_version_model_id"),
        sa.ForeignKeyConstraint(
            ["service_digest"], ["feature_service.digest"], name="fk_model_version_service_digest"
        ),
        sa.ForeignKeyConstraint(
            ["training_set_digest"], ["training_set.digest"], name="fk_model_version_training_set_digest"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model_id", "digest", name="uq_model_version_model_id_digest"),
        sa.UniqueConstraint("model_id", "number", name="uq_model_version_model_id_number"),
    )
    op.create_index("ix_model_version_created_at", "model_version", ["created_at"])
    op.create_index("ix_model_version_service_digest", "model_version", ["service_digest"])
    op.create_index("ix_model_version_training_set_digest", "model_version", ["training_set_digest"])
    op.create_table(
        "alias",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["model_version.model_id", "model_version.number"],
            name="fk_alias_model_id_number",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["registered_model.id"], name="fk_alias_model_id"),
        sa.PrimaryKeyConstraint("model_id", "alias", name="pk_alias"),
    )
    op.create_index("ix_alias_model_id_number", "alias", ["model_id", "number"])
    op.create_table(
        "alias_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("from_number", sa.Integer(), nullable=True),
        sa.Column("to_number", sa.Integer(), nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("by", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('promote', 'rollback', 'remove')", name="ck_alias_history_kind"),
        sa.ForeignKeyConstraint(["model_id"], ["registered_model.id"], name="fk_alias_history_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_history"),
    )
    op.create_index("ix_alias_history_model_id_alias", "alias_history", ["model_id", "alias"])


def _contents() -> None:
    op.create_table(
        "artifact",
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifact"),
    )
    op.create_table(
        "version_file",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["artifact.sha256"], name="fk_version_file_sha256"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name="fk_version_file_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_version_file"),
    )
    op.create_index("ix_version_file_sha256", "version_file", ["sha256"])
    op.create_table(
        "metric",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("split", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("k", sa.Integer(), nullable=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name="fk_metric_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "name", "dataset", "split", name="pk_metric"),
    )
    op.create_index("ix_metric_name_value", "metric", ["name", "value"])
    op.create_table(
        "parameter",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name="fk_parameter_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "key", name="pk_parameter"),
    )
    op.create_index("ix_parameter_key_version_id", "parameter", ["key", "version_id"])
    op.create_table(
        "tag",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name="fk_tag_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "key", name="pk_tag"),
    )
    op.create_index("ix_tag_key_version_id", "tag", ["key", "version_id"])


def _gates_and_bentos() -> None:
    op.create_table(
        "gate_report",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("table_name", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("as_of", Instant(), nullable=False),
        sa.Column("generation", TEXT, nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gate_report"),
    )
    op.create_index("ix_gate_report_as_of", "gate_report", ["as_of"])
    op.create_index("ix_gate_report_generation", "gate_report", ["generation"])
    op.create_table(
        "bento",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tag", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("version_count", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bento"),
        sa.UniqueConstraint("tag", name="uq_bento_tag"),
    )
    op.create_table(
        "bento_version",
        sa.Column("bento_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["bento_id"], ["bento.id"], name="fk_bento_version_bento_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["version_id"], ["model_version.id"], name="fk_bento_version_version_id"),
        sa.PrimaryKeyConstraint("bento_id", "version_id", name="pk_bento_version"),
    )
    op.create_index("ix_bento_version_version_id", "bento_version", ["version_id"])


def _experiments() -> None:
    op.create_table(
        "experiment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("layer", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.CheckConstraint("state IN ('draft', 'running', 'stopped')", name="ck_experiment_state"),
        sa.PrimaryKeyConstraint("id", name="pk_experiment"),
    )
    op.create_index("ix_experiment_name", "experiment", ["name"])
    op.create_index("ix_experiment_state", "experiment", ["state"])
    op.create_index(
        "uq_experiment_open_name",
        "experiment",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state <> 'stopped'"),
        postgresql_where=sa.text("state <> 'stopped'"),
    )
    op.create_table(
        "experiment_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("by", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.CheckConstraint("state IN ('draft', 'running', 'stopped')", name="ck_experiment_state_state"),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiment.id"], name="fk_experiment_state_experiment_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_experiment_state"),
    )
    op.create_index("ix_experiment_state_experiment_id", "experiment_state", ["experiment_id"])
    op.create_table(
        "arm",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("requested", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], name="fk_arm_experiment_id"),
        sa.PrimaryKeyConstraint("id", name="pk_arm"),
        sa.UniqueConstraint("experiment_id", "name", name="uq_arm_experiment_id_name"),
    )
    op.create_index("ix_arm_name", "arm", ["name"])
    op.create_table(
        "binding",
        sa.Column("arm_id", sa.Integer(), nullable=False),
        sa.Column("parameter", TEXT, nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint("(version_id IS NULL) <> (value IS NULL)", name="ck_binding_version_or_value"),
        sa.ForeignKeyConstraint(["arm_id"], ["arm.id"], name="fk_binding_arm_id"),
        sa.ForeignKeyConstraint(["version_id"], ["model_version.id"], name="fk_binding_version_id"),
        sa.PrimaryKeyConstraint("arm_id", "parameter", name="pk_binding"),
    )
    op.create_index("ix_binding_version_id", "binding", ["version_id"])
    op.create_table(
        "readout",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], name="fk_readout_experiment_id"),
        sa.PrimaryKeyConstraint("id", name="pk_readout"),
        sa.UniqueConstraint("experiment_id", "digest", name="uq_readout_experiment_id_digest"),
    )
