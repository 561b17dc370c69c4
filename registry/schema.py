"""The ledger's tables. Every edge of the chain is a foreign key, so the database itself keeps the chain whole.

Rows do not change: the triggers of the first migration refuse it, whoever writes. Four things may move, and are
the only ones: tags, aliases (their history may not), an experiment's state, and a model's description and counter.
Metrics and documents may be added to a version. Its files, parameters, inputs and upstream versions, the features of a service, the
services of a training set, the versions of a Bento are complete when their row says how many there are (`…_count`).
All of them leave only with the row they hang on.

What no trigger can refuse (docs/decisions/0020): whoever owns the tables, or the file, can drop triggers; on
PostgreSQL a superuser can write past them. Anybody who may write can move an alias without its history, raise a
counter, register what is not so, or delete the newest version of a model, if nothing refers to it, and insert another
under its number. `matinee models fsck` finds the first two and the moved alias; the rest looks like work.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from registry.columns import Instant, text_type
from registry.states import OPEN, RunState

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
_states = f"state IN {tuple(state.value for state in RunState)}"
_OPEN = sa.text(f"state IN {tuple(state.value for state in OPEN)}")


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can speak of it on either database."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: text_type(), datetime: Instant(), float: sa.Double(), Any: sa.JSON()}  # noqa: RUF012 - SQLAlchemy's own spelling


class FeatureRow(Base):
    """One meaning of a feature: a changed computation is another row under the same name."""

    __tablename__ = "feature"
    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    view: Mapped[str]
    dtype: Mapped[str]
    definition: Mapped[Any]
    created_at: Mapped[datetime]


class ServiceRow(Base):
    """A named, ordered list of features: what a model takes, column by column."""

    __tablename__ = "feature_service"
    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    feature_count: Mapped[int]
    created_at: Mapped[datetime]
    members: Mapped[list[ServiceMemberRow]] = relationship(lazy="raise", order_by="ServiceMemberRow.position")


class ServiceMemberRow(Base):
    """The feature at one position of a service."""

    __tablename__ = "feature_service_member"
    __table_args__ = (UniqueConstraint("service_digest", "feature_digest"),)
    service_digest: Mapped[str] = mapped_column(
        ForeignKey("feature_service.digest", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    feature_digest: Mapped[str] = mapped_column(ForeignKey("feature.digest"), index=True)


class TrainingSetRow(Base):
    """Labels of events in [interval_start, interval_end) joined to features as of each label."""

    __tablename__ = "training_set"
    __table_args__ = (sa.CheckConstraint("interval_start < interval_end", name="interval"),)
    digest: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    interval_start: Mapped[datetime]
    interval_end: Mapped[datetime]
    rows: Mapped[int] = mapped_column(sa.BigInteger)
    as_of: Mapped[datetime | None]
    generation: Mapped[str | None]
    event_digests: Mapped[Any]
    created_at: Mapped[datetime]
    service_count: Mapped[int]


class TrainingSetServiceRow(Base):
    """A service whose features were joined to the labels of a training set."""

    __tablename__ = "training_set_service"
    training_set_digest: Mapped[str] = mapped_column(
        ForeignKey("training_set.digest", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    service_digest: Mapped[str] = mapped_column(ForeignKey("feature_service.digest"), index=True)


class ModelRow(Base):
    """A model's name and the counter of its versions. Never deleted, so that no number comes back."""

    __tablename__ = "registered_model"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str]
    next_version: Mapped[int]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class VersionRow(Base):
    """One version of a model; immutable."""

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("model_id", "digest"),
        sa.CheckConstraint("number >= 1", name="number"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("registered_model.id"))
    number: Mapped[int]
    digest: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    created_by: Mapped[str]
    source: Mapped[str]
    config: Mapped[Any]
    seed: Mapped[int | None] = mapped_column(sa.BigInteger)
    signature: Mapped[Any]
    file_count: Mapped[int]
    parameter_count: Mapped[int]
    training_set_digest: Mapped[str | None] = mapped_column(ForeignKey("training_set.digest"), index=True)
    input_count: Mapped[int]
    upstream_count: Mapped[int]
    model: Mapped[ModelRow] = relationship(lazy="raise")
    files: Mapped[list[FileRow]] = relationship(lazy="raise", order_by="FileRow.path", passive_deletes="all")
    metrics: Mapped[list[MetricRow]] = relationship(lazy="raise", passive_deletes="all")
    parameters: Mapped[list[ParameterRow]] = relationship(lazy="raise", passive_deletes="all")
    tags: Mapped[list[TagRow]] = relationship(lazy="raise", passive_deletes="all")
    inputs: Mapped[list[InputRow]] = relationship(lazy="raise", passive_deletes="all")
    upstream: Mapped[list[UpstreamRow]] = relationship(
        lazy="raise", passive_deletes="all", foreign_keys="UpstreamRow.version_id"
    )


def _version_id() -> Mapped[int]:
    return mapped_column(ForeignKey("model_version.id", ondelete="CASCADE"), primary_key=True)


class InputRow(Base):
    """One input of a version: a matrix whose columns are the features of a service, in its order."""

    __tablename__ = "version_input"
    __table_args__ = (UniqueConstraint("version_id", "name"),)
    version_id: Mapped[int] = _version_id()
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    dtype: Mapped[str]
    service_digest: Mapped[str] = mapped_column(ForeignKey("feature_service.digest"), index=True)


class UpstreamRow(Base):
    """Another model's version that one was trained behind: with other candidates or priors it would be another."""

    __tablename__ = "version_upstream"
    version_id: Mapped[int] = _version_id()
    role: Mapped[str] = mapped_column(primary_key=True)
    upstream_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)


class ArtifactRow(Base):
    """Bytes in the store, known by their SHA-256."""

    __tablename__ = "artifact"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(sa.BigInteger)
    media_type: Mapped[str]
    created_at: Mapped[datetime]


class FileRow(Base):
    """An artifact under its path within one version."""

    __tablename__ = "version_file"
    version_id: Mapped[int] = _version_id()
    path: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("artifact.sha256"), index=True)


class DocumentRow(Base):
    """An artifact beside a version: a report, a figure. Not one of its files, so a picture makes no other version."""

    __tablename__ = "version_document"
    version_id: Mapped[int] = _version_id()
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("artifact.sha256"), index=True)
    created_at: Mapped[datetime]


class MetricRow(Base):
    """A measured number; `name` is the key with its cut-off, as in `recall_at_200`."""

    __tablename__ = "metric"
    __table_args__ = (Index(None, "name", "version_id", "value"),)
    version_id: Mapped[int] = _version_id()
    name: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    k: Mapped[int | None]
    value: Mapped[float]
    created_at: Mapped[datetime]


class ParameterRow(Base):
    """A setting of training as text, and as a number too where it is one."""

    __tablename__ = "parameter"
    __table_args__ = (Index(None, "key", "version_id"),)
    version_id: Mapped[int] = _version_id()
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    number: Mapped[float | None]


class TagRow(Base):
    """A note on a version; the one thing on it that may be rewritten."""

    __tablename__ = "tag"
    __table_args__ = (Index(None, "key", "version_id"),)
    version_id: Mapped[int] = _version_id()
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class AliasRow(Base):
    """Where a moving name stands now. The pair of keys makes it a version of its own model."""

    __tablename__ = "alias"
    __table_args__ = (
        sa.ForeignKeyConstraint(["model_id", "number"], ["model_version.model_id", "model_version.number"]),
        Index(None, "model_id", "number"),
    )
    model_id: Mapped[int] = mapped_column(ForeignKey("registered_model.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    since: Mapped[datetime]


class AliasMoveRow(Base):
    """One move of an alias; append-only. Numbers, not keys: history outlives the versions in it."""

    __tablename__ = "alias_history"
    __table_args__ = (
        Index(None, "model_id", "alias"),
        sa.CheckConstraint("kind IN ('promote', 'rollback', 'remove')", name="kind"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("registered_model.id"))
    alias: Mapped[str]
    kind: Mapped[str]
    from_number: Mapped[int | None]
    to_number: Mapped[int | None]
    at: Mapped[datetime]
    by: Mapped[str]
    reason: Mapped[str]
    evidence: Mapped[Any]


class GateRow(Base):
    """The gate's verdict on one table; append-only, the newest on a table and `as_of` counts."""

    __tablename__ = "gate_report"
    __table_args__ = (Index(None, "as_of"), Index(None, "generation"))
    id: Mapped[int] = mapped_column(primary_key=True)
    table: Mapped[str] = mapped_column("table_name")
    source: Mapped[str]
    as_of: Mapped[datetime]
    generation: Mapped[str | None]
    passed: Mapped[bool]
    findings: Mapped[Any]
    digest: Mapped[str]
    created_at: Mapped[datetime]


class ConsistencyRow(Base):
    """Whether the features of a service were served as they are computed offline; append-only, the newest counts."""

    __tablename__ = "consistency_verdict"
    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(index=True)
    service_digest: Mapped[str] = mapped_column(ForeignKey("feature_service.digest"), index=True)
    passed: Mapped[bool]
    requests: Mapped[int]
    compared: Mapped[int] = mapped_column(sa.BigInteger)
    newest_request: Mapped[datetime]
    findings: Mapped[Any]
    digest: Mapped[str]
    created_at: Mapped[datetime]


class BentoRow(Base):
    """A built Bento."""

    __tablename__ = "bento"
    id: Mapped[int] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str]
    version_count: Mapped[int]
    created_at: Mapped[datetime]
    versions: Mapped[list[BentoVersionRow]] = relationship(lazy="raise")


class BentoVersionRow(Base):
    """A model version inside a Bento."""

    __tablename__ = "bento_version"
    bento_id: Mapped[int] = mapped_column(ForeignKey("bento.id", ondelete="CASCADE"), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), primary_key=True, index=True)


class ExperimentRow(Base):
    """One run of an experiment. A name may be used again once its last run is over."""

    __tablename__ = "experiment"
    __table_args__ = (
        Index(
            "uq_experiment_open_name",
            "name",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        sa.CheckConstraint(_states, name="state"),
        Index(None, "name"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    layer: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    config: Mapped[Any]
    digest: Mapped[str]
    created_at: Mapped[datetime]
    arms: Mapped[list[ArmRow]] = relationship(
        lazy="raise", order_by="ArmRow.position", back_populates="experiment"
    )


class ExperimentStateRow(Base):
    """One change of an experiment's state; append-only."""

    __tablename__ = "experiment_state"
    __table_args__ = (sa.CheckConstraint(_states, name="state"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiment.id"), index=True)
    state: Mapped[str]
    at: Mapped[datetime]
    by: Mapped[str]
    reason: Mapped[str]


class ArmRow(Base):
    """One arm; `requested` is what its bindings were declared as, before they were pinned."""

    __tablename__ = "arm"
    __table_args__ = (UniqueConstraint("experiment_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiment.id"))
    name: Mapped[str] = mapped_column(index=True)
    position: Mapped[int]
    requested: Mapped[Any]
    experiment: Mapped[ExperimentRow] = relationship(lazy="raise", back_populates="arms")
    bindings: Mapped[list[BindingRow]] = relationship(lazy="raise")


class BindingRow(Base):
    """What an arm serves for one parameter: a model version, pinned at start, or a plain value."""

    __tablename__ = "binding"
    __table_args__ = (sa.CheckConstraint("(version_id IS NULL) <> (value IS NULL)", name="version_or_value"),)
    arm_id: Mapped[int] = mapped_column(ForeignKey("arm.id"), primary_key=True)
    parameter: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"), index=True)
    value: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))


class ReadoutRow(Base):
    """A read-out of an experiment; append-only."""

    __tablename__ = "readout"
    __table_args__ = (UniqueConstraint("experiment_id", "digest"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiment.id"))
    verdict: Mapped[Any]
    digest: Mapped[str]
    created_at: Mapped[datetime]
