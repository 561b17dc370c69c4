"""The ledger, whole: every table of the chain, and the triggers that keep its rows as they are.

Revision: 0001, after nothing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from registry.columns import Instant
from registry.migrations.refusals import refusals
from registry.migrations.steps import lift, put_in_force

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REFUSALS = refusals()


def upgrade() -> None:
    """Create everything, what is referred to before what refers."""
    for table in _TABLES:
        table()
    put_in_force(REFUSALS)


def downgrade() -> None:
    """Drop everything, what refers before what is referred to."""
    lift(REFUSALS)
    for table in reversed(_TABLES):
        op.drop_table(table.__name__.removeprefix("_"))


def _column(
    name: str, kind: TypeEngine[Any] | type[TypeEngine[Any]], *, null: bool = False
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _refers(table: str, column: str, to: str, *, cascade: bool = False) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [to], f"fk_{table}_{column}", ondelete="CASCADE" if cascade else None
    )


def _feature() -> None:
    op.create_table(
        "feature",
        _column("digest", TEXT),
        _column("name", TEXT),
        _column("view", TEXT),
        _column("dtype", TEXT),
        _column("definition", sa.JSON()),
        _column("created_at", Instant()),
        sa.PrimaryKeyConstraint("digest", name="pk_feature"),
    )
    op.create_index("ix_feature_name", "feature", ["name"])


def _feature_service() -> None:
    op.create_table(
        "feature_service",
        _column("digest", TEXT),
        _column("name", TEXT),
        _column("feature_count", sa.Integer()),
        _column("created_at", Instant()),
        sa.PrimaryKeyConstraint("digest", name="pk_feature_service"),
    )
    op.create_index("ix_feature_service_name", "feature_service", ["name"])


def _feature_service_member() -> None:
    op.create_table(
        "feature_service_member",
        _column("service_digest", TEXT),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        _column("feature_digest", TEXT),
        _refers("feature_service_member", "feature_digest", "feature.digest"),
        _refers("feature_service_member", "service_digest", "feature_service.digest", cascade=True),
        sa.PrimaryKeyConstraint("service_digest", "position", name="pk_feature_service_member"),
        sa.UniqueConstraint(
            "service_digest", "feature_digest", name="uq_feature_service_member_service_digest_feature_digest"
        ),
    )
    op.create_index("ix_feature_service_member_feature_digest", "feature_service_member", ["feature_digest"])


def _training_set() -> None:
    op.create_table(
        "training_set",
        _column("digest", TEXT),
        _column("source", TEXT),
        _column("interval_start", Instant()),
        _column("interval_end", Instant()),
        _column("rows", sa.BigInteger()),
        _column("as_of", Instant(), null=True),
        _column("generation", TEXT, null=True),
        _column("event_digests", sa.JSON()),
        _column("service_digest", TEXT, null=True),
        _column("created_at", Instant()),
        sa.CheckConstraint("interval_start < interval_end", name=op.f("ck_training_set_interval")),
        _refers("training_set", "service_digest", "feature_service.digest"),
        sa.PrimaryKeyConstraint("digest", name="pk_training_set"),
    )
    op.create_index("ix_training_set_service_digest", "training_set", ["service_digest"])


def _registered_model() -> None:
    op.create_table(
        "registered_model",
        _column("id", sa.Integer()),
        _column("name", TEXT),
        _column("description", TEXT),
        _column("next_version", sa.Integer()),
        _column("created_at", Instant()),
        _column("deleted_at", Instant(), null=True),
        sa.PrimaryKeyConstraint("id", name="pk_registered_model"),
        sa.UniqueConstraint("name", name="uq_registered_model_name"),
    )


def _model_version() -> None:
    op.create_table(
        "model_version",
        _column("id", sa.Integer()),
        _column("model_id", sa.Integer()),
        _column("number", sa.Integer()),
        _column("digest", TEXT),
        _column("created_at", Instant()),
        _column("created_by", TEXT),
        _column("source", TEXT),
        _column("config", sa.JSON()),
        _column("seed", sa.BigInteger(), null=True),
        _column("signature", sa.JSON()),
        _column("file_count", sa.Integer()),
        _column("parameter_count", sa.Integer()),
        _column("training_set_digest", TEXT, null=True),
        _column("service_digest", TEXT, null=True),
        sa.CheckConstraint("number >= 1", name=op.f("ck_model_version_number")),
        _refers("model_version", "model_id", "registered_model.id"),
        _refers("model_version", "service_digest", "feature_service.digest"),
        _refers("model_version", "training_set_digest", "training_set.digest"),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model_id", "digest", name="uq_model_version_model_id_digest"),
        sa.UniqueConstraint("model_id", "number", name="uq_model_version_model_id_number"),
    )
    op.create_index("ix_model_version_created_at", "model_version", ["created_at"])
    op.create_index("ix_model_version_service_digest", "model_version", ["service_digest"])
    op.create_index("ix_model_version_training_set_digest", "model_version", ["training_set_digest"])


def _alias() -> None:
    op.create_table(
        "alias",
        _column("model_id", sa.Integer()),
        _column("alias", TEXT),
        _column("number", sa.Integer()),
        _column("since", Instant()),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["model_version.model_id", "model_version.number"],
            name="fk_alias_model_id_number",
        ),
        _refers("alias", "model_id", "registered_model.id"),
        sa.PrimaryKeyConstraint("model_id", "alias", name="pk_alias"),
    )
    op.create_index("ix_alias_model_id_number", "alias", ["model_id", "number"])


def _alias_history() -> None:
    op.create_table(
        "alias_history",
        _column("id", sa.Integer()),
        _column("model_id", sa.Integer()),
        _column("alias", TEXT),
        _column("kind", TEXT),
        _column("from_number", sa.Integer(), null=True),
        _column("to_number", sa.Integer(), null=True),
        _column("at", Instant()),
        _column("by", TEXT),
        _column("reason", TEXT),
        _column("evidence", sa.JSON()),
        sa.CheckConstraint("kind IN ('promote', 'rollback', 'remove')", name=op.f("ck_alias_history_kind")),
        _refers("alias_history", "model_id", "registered_model.id"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_history"),
    )
    op.create_index("ix_alias_history_model_id_alias", "alias_history", ["model_id", "alias"])


def _artifact() -> None:
    op.create_table(
        "artifact",
        _column("sha256", TEXT),
        _column("size", sa.BigInteger()),
        _column("media_type", TEXT),
        _column("created_at", Instant()),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifact"),
    )


def _version_file() -> None:
    op.create_table(
        "version_file",
        _column("version_id", sa.Integer()),
        _column("path", TEXT),
        _column("sha256", TEXT),
        _refers("version_file", "sha256", "artifact.sha256"),
        _refers("version_file", "version_id", "model_version.id", cascade=True),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_version_file"),
    )
    op.create_index("ix_version_file_sha256", "version_file", ["sha256"])


def _metric() -> None:
    op.create_table(
        "metric",
        _column("version_id", sa.Integer()),
        _column("name", TEXT),
        _column("dataset", TEXT),
        _column("split", TEXT),
        _column("key", TEXT),
        _column("k", sa.Integer(), null=True),
        _column("value", sa.Double()),
        _column("created_at", Instant()),
        _refers("metric", "version_id", "model_version.id", cascade=True),
        sa.PrimaryKeyConstraint("version_id", "name", "dataset", "split", name="pk_metric"),
    )
    op.create_index("ix_metric_name_version_id_value", "metric", ["name", "version_id", "value"])


def _parameter() -> None:
    op.create_table(
        "parameter",
        _column("version_id", sa.Integer()),
        _column("key", TEXT),
        _column("value", TEXT),
        _column("number", sa.Double(), null=True),
        _refers("parameter", "version_id", "model_version.id", cascade=True),
        sa.PrimaryKeyConstraint("version_id", "key", name="pk_parameter"),
    )
    op.create_index("ix_parameter_key_version_id", "parameter", ["key", "version_id"])


def _tag() -> None:
    op.create_table(
        "tag",
        _column("version_id", sa.Integer()),
        _column("key", TEXT),
        _column("value", TEXT),
        _refers("tag", "version_id", "model_version.id", cascade=True),
        sa.PrimaryKeyConstraint("version_id", "key", name="pk_tag"),
    )
    op.create_index("ix_tag_key_version_id", "tag", ["key", "version_id"])


def _gate_report() -> None:
    op.create_table(
        "gate_report",
        _column("id", sa.Integer()),
        _column("table_name", TEXT),
        _column("source", TEXT),
        _column("as_of", Instant()),
        _column("generation", TEXT, null=True),
        _column("passed", sa.Boolean()),
        _column("findings", sa.JSON()),
        _column("digest", TEXT),
        _column("created_at", Instant()),
        sa.PrimaryKeyConstraint("id", name="pk_gate_report"),
    )
    op.create_index("ix_gate_report_as_of", "gate_report", ["as_of"])
    op.create_index("ix_gate_report_generation", "gate_report", ["generation"])


def _bento() -> None:
    op.create_table(
        "bento",
        _column("id", sa.Integer()),
        _column("tag", TEXT),
        _column("digest", TEXT),
        _column("version_count", sa.Integer()),
        _column("created_at", Instant()),
        sa.PrimaryKeyConstraint("id", name="pk_bento"),
        sa.UniqueConstraint("tag", name="uq_bento_tag"),
    )


def _bento_version() -> None:
    op.create_table(
        "bento_version",
        _column("bento_id", sa.Integer()),
        _column("version_id", sa.Integer()),
        _refers("bento_version", "bento_id", "bento.id", cascade=True),
        _refers("bento_version", "version_id", "model_version.id"),
        sa.PrimaryKeyConstraint("bento_id", "version_id", name="pk_bento_version"),
    )
    op.create_index("ix_bento_version_version_id", "bento_version", ["version_id"])


def _experiment() -> None:
    op.create_table(
        "experiment",
        _column("id", sa.Integer()),
        _column("name", TEXT),
        _column("layer", TEXT),
        _column("state", TEXT),
        _column("config", sa.JSON()),
        _column("digest", TEXT),
        _column("created_at", Instant()),
        sa.CheckConstraint("state IN ('draft', 'running', 'stopped')", name=op.f("ck_experiment_state")),
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


def _experiment_state() -> None:
    op.create_table(
        "experiment_state",
        _column("id", sa.Integer()),
        _column("experiment_id", sa.Integer()),
        _column("state", TEXT),
        _column("at", Instant()),
        _column("by", TEXT),
        _column("reason", TEXT),
        sa.CheckConstraint(
            "state IN ('draft', 'running', 'stopped')", name=op.f("ck_experiment_state_state")
        ),
        _refers("experiment_state", "experiment_id", "experiment.id"),
        sa.PrimaryKeyConstraint("id", name="pk_experiment_state"),
    )
    op.create_index("ix_experiment_state_experiment_id", "experiment_state", ["experiment_id"])


def _arm() -> None:
    op.create_table(
        "arm",
        _column("id", sa.Integer()),
        _column("experiment_id", sa.Integer()),
        _column("name", TEXT),
        _column("position", sa.Integer()),
        _column("requested", sa.JSON()),
        _refers("arm", "experiment_id", "experiment.id"),
        sa.PrimaryKeyConstraint("id", name="pk_arm"),
        sa.UniqueConstraint("experiment_id", "name", name="uq_arm_experiment_id_name"),
    )
    op.create_index("ix_arm_name", "arm", ["name"])


def _binding() -> None:
    op.create_table(
        "binding",
        _column("arm_id", sa.Integer()),
        _column("parameter", TEXT),
        _column("version_id", sa.Integer(), null=True),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint(
            "(version_id IS NULL) <> (value IS NULL)", name=op.f("ck_binding_version_or_value")
        ),
        _refers("binding", "arm_id", "arm.id"),
        _refers("binding", "version_id", "model_version.id"),
        sa.PrimaryKeyConstraint("arm_id", "parameter", name="pk_binding"),
    )
    op.create_index("ix_binding_version_id", "binding", ["version_id"])


def _readout() -> None:
    op.create_table(
        "readout",
        _column("id", sa.Integer()),
        _column("experiment_id", sa.Integer()),
        _column("verdict", sa.JSON()),
        _column("digest", TEXT),
        _column("created_at", Instant()),
        _refers("readout", "experiment_id", "experiment.id"),
        sa.PrimaryKeyConstraint("id", name="pk_readout"),
        sa.UniqueConstraint("experiment_id", "digest", name="uq_readout_experiment_id_digest"),
    )


_TABLES = (
    _feature, _feature_service, _feature_service_member, _training_set, _registered_model,
    _model_version, _alias, _alias_history, _artifact, _version_file, _metric, _parameter, _tag,
    _gate_report, _bento, _bento_version, _experiment, _experiment_state, _arm, _binding, _readout,
)  # fmt: skip
