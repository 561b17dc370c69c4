"""From rows to values: finding versions and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, contains_eager, joinedload

from registry.errors import NotRecorded
from registry.records import FeatureRecord, GateRecord, Metric, ServiceRecord, TrainingSetRecord
from registry.refs import Ref
from registry.results import Consistency, File, ModelVersion, RegisteredModel
from registry.schema import (
    AliasRow,
    ArtifactRow,
    ConsistencyRow,
    FeatureRow,
    FileRow,
    GateRow,
    InputRow,
    MetricRow,
    ModelRow,
    ParameterRow,
    ServiceMemberRow,
    ServiceRow,
    TagRow,
    TrainingSetRow,
    TrainingSetServiceRow,
    UpstreamRow,
    VersionRow,
)
from registry.signature import Column, Input, Signature

_IDS: sa.BindParameter[int] = sa.bindparam("ids", expanding=True)
_METRICS = (
    sa.select(
        MetricRow.version_id, MetricRow.key, MetricRow.value, MetricRow.dataset, MetricRow.split, MetricRow.k
    )
    .where(MetricRow.version_id.in_(_IDS))
    .order_by(MetricRow.name, MetricRow.dataset, MetricRow.split)
)
_PARAMETERS = (
    sa.select(ParameterRow.version_id, ParameterRow.key, ParameterRow.value)
    .where(ParameterRow.version_id.in_(_IDS))
    .order_by(ParameterRow.key)
)
_TAGS = (
    sa.select(TagRow.version_id, TagRow.key, TagRow.value)
    .where(TagRow.version_id.in_(_IDS))
    .order_by(TagRow.key)
)
_ALIASES = (
    sa.select(VersionRow.id, AliasRow.alias)
    .join(AliasRow, sa.and_(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number))
    .where(VersionRow.id.in_(_IDS))
    .order_by(AliasRow.alias)
)
_INPUTS = (
    sa.select(InputRow.version_id, InputRow.name, InputRow.service_digest, InputRow.dtype)
    .where(InputRow.version_id.in_(_IDS))
    .order_by(InputRow.position)
)
_UPSTREAM = (
    sa.select(
        UpstreamRow.version_id, UpstreamRow.role, ModelRow.name + "/" + sa.cast(VersionRow.number, sa.Text)
    )
    .join(VersionRow, VersionRow.id == UpstreamRow.upstream_id)
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .where(UpstreamRow.version_id.in_(_IDS))
    .order_by(UpstreamRow.role)
)
_FILES = (
    sa.select(FileRow.version_id, FileRow.path, FileRow.sha256, ArtifactRow.size, ArtifactRow.media_type)
    .join(ArtifactRow, ArtifactRow.sha256 == FileRow.sha256)
    .where(FileRow.version_id.in_(_IDS))
    .order_by(FileRow.path)
)


def version(session: Session, ref: Ref, *, lock: bool = False) -> VersionRow:
    """The row `ref` means, with its model and nothing else; with `lock`, nobody else adds to it until we are done.

    Raises:
        NotRecorded: there is no such model, version or alias; names what there is.
    """
    query = _named(ref).options(contains_eager(VersionRow.model))
    row = session.scalars(query.with_for_update(of=VersionRow) if lock else query).first()
    if row is None:
        raise _missing(session, ref)
    return row


def model_version(session: Session, ref: Ref) -> ModelVersion:
    """The version `ref` means, whole.

    Raises:
        NotRecorded: there is no such model, version or alias; names what there is.
    """
    return whole(session, [version(session, ref)])[0]


def by_ids(session: Session, ids: Sequence[int]) -> tuple[ModelVersion, ...]:
    """The versions with these row ids, whole, in the order given."""
    query = sa.select(VersionRow).where(VersionRow.id.in_(ids)).options(joinedload(VersionRow.model))
    found = {row.id: row for row in session.scalars(query)}
    return whole(session, [found[row_id] for row_id in ids])


def whole(session: Session, rows: Sequence[VersionRow]) -> tuple[ModelVersion, ...]:
    """The values of rows loaded with their models: at most seven queries, however many versions."""
    ids = [row.id for row in rows]
    metrics, tags, aliases, files = (
        _by_version(session, parts, ids, ids) for parts in (_METRICS, _TAGS, _ALIASES, _FILES)
    )
    parameters, inputs, upstream = (  # a version says how many of these it has: mostly there is nothing to ask
        _by_version(session, parts, ids, [row.id for row in rows if getattr(row, count)])
        for parts, count in (
            (_PARAMETERS, "parameter_count"), (_INPUTS, "input_count"), (_UPSTREAM, "upstream_count"),
        )
    )  # fmt: skip
    return tuple(
        ModelVersion(
            name=row.model.name,
            number=row.number,
            digest=row.digest,
            created_at=row.created_at,
            created_by=row.created_by,
            source=row.source,
            config=row.config,
            seed=row.seed,
            signature=Signature.of(tuple(Input(*given) for given in inputs[row.id]), row.signature),
            training_set=row.training_set_digest,
            upstream=dict(upstream[row.id]),
            metrics=tuple(Metric(*metric) for metric in metrics[row.id]),
            params=dict(parameters[row.id]),
            tags=dict(tags[row.id]),
            aliases=tuple(alias for (alias,) in aliases[row.id]),
            files=tuple(File(*file) for file in files[row.id]),
        )
        for row in rows
    )


def columns(session: Session, version: VersionRow) -> dict[str, tuple[Column, ...]]:
    """Every input of a version by name, in order, with the feature behind each of its columns."""
    query = (
        sa.select(InputRow.name, FeatureRow.view, FeatureRow.name, FeatureRow.digest, FeatureRow.dtype)
        .join(ServiceMemberRow, ServiceMemberRow.service_digest == InputRow.service_digest)
        .join(FeatureRow, FeatureRow.digest == ServiceMemberRow.feature_digest)
        .where(InputRow.version_id == version.id)
        .order_by(InputRow.position, ServiceMemberRow.position)
    )
    found: dict[str, list[Column]] = {}
    for given, *column in session.execute(query):
        found.setdefault(given, []).append(Column(*column))
    return {given: tuple(held) for given, held in found.items()}


def _by_version(
    session: Session, parts: sa.Executable, ids: Sequence[int], having: Sequence[int]
) -> Mapping[int, list[Any]]:
    """What hangs on each version: the rows of `parts` under the version they begin with; only `having` have some."""
    grouped: dict[int, list[Any]] = {row_id: [] for row_id in ids}
    if having:
        for owner, *columns in session.connection().execute(parts, {"ids": having}):
            grouped[owner].append(tuple(columns))
    return grouped


def models(session: Session) -> tuple[RegisteredModel, ...]:
    """Every model by name, with its newest version and aliases: two queries, however many models."""
    counted = (
        sa.select(ModelRow, sa.func.count(VersionRow.id), sa.func.max(VersionRow.number))
        .outerjoin(VersionRow, VersionRow.model_id == ModelRow.id)
        .where(ModelRow.deleted_at.is_(None))
        .group_by(ModelRow.id)
        .order_by(ModelRow.name)
    )
    aliases: dict[int, dict[str, int]] = {}
    for row in session.scalars(sa.select(AliasRow).order_by(AliasRow.alias)):
        aliases.setdefault(row.model_id, {})[row.alias] = row.number
    return tuple(
        RegisteredModel(row.name, row.description, row.created_at, count, latest, aliases.get(row.id, {}))
        for row, count, latest in session.execute(counted)
    )


def features(session: Session, digests: Sequence[str]) -> dict[str, FeatureRecord]:
    """The features among `digests` that are recorded, by digest."""
    return {
        row.digest: FeatureRecord(row.digest, row.name, row.view, row.dtype, row.definition)
        for row in session.scalars(sa.select(FeatureRow).where(FeatureRow.digest.in_(digests)))
    }


def service(session: Session, digest: str) -> ServiceRecord:
    """The feature service with this digest.

    Raises:
        NotRecorded: there is none.
    """
    row = session.get(ServiceRow, digest)
    if row is None:
        raise NotRecorded("feature service", digest)
    member = ServiceMemberRow
    features = (
        sa.select(member.feature_digest).where(member.service_digest == digest).order_by(member.position)
    )
    return ServiceRecord(row.name, tuple(session.scalars(features)))


def training_set(session: Session, digest: str) -> TrainingSetRecord:
    """The training set with this digest.

    Raises:
        NotRecorded: there is none.
    """
    row = session.get(TrainingSetRow, digest)
    if row is None:
        raise NotRecorded("training set", digest)
    return TrainingSetRecord(
        digest=row.digest,
        source=row.source,
        interval_start=row.interval_start,
        interval_end=row.interval_end,
        rows=row.rows,
        as_of=row.as_of,
        generation=row.generation,
        event_digests=row.event_digests,
        services=services_of(session, digest),
    )


def services_of(session: Session, training_set: str) -> tuple[str, ...]:
    """The digests of the services that a training set was built from, in order."""
    row = TrainingSetServiceRow
    theirs = sa.select(row.service_digest).where(row.training_set_digest == training_set)
    return tuple(session.scalars(theirs.order_by(row.position)))


def gates(session: Session, source: str, as_of: datetime) -> dict[str, GateRecord]:
    """The newest gate report on each table of a source and `as_of`, by table."""
    theirs = sa.select(GateRow).where(GateRow.source.in_(["", source]), GateRow.as_of == as_of)
    return {
        row.table: GateRecord(row.table, row.as_of, row.passed, row.findings, row.generation, row.source)
        for row in session.scalars(theirs.order_by(GateRow.id))
    }


def consistency(session: Session, source: str) -> dict[str, Consistency]:
    """The newest consistency verdict on each service of a source, by the service's name."""
    query = (
        sa.select(ConsistencyRow, ServiceRow.name)
        .join(ServiceRow, ServiceRow.digest == ConsistencyRow.service_digest)
        .where(ConsistencyRow.source == source)
        .order_by(ConsistencyRow.id)
    )
    return {
        name: Consistency(
            source=row.source,
            service=name,
            service_digest=row.service_digest,
            passed=row.passed,
            requests=row.requests,
            compared=row.compared,
            newest_request=row.newest_request,
            findings=tuple(row.findings),
            digest=row.digest,
            at=row.created_at,
        )
        for row, name in session.execute(query)
    }


def model(session: Session, name: str, *, lock: bool = False) -> ModelRow:
    """The row of a model; with `lock`, nobody else changes its versions or aliases until we are done.

    Raises:
        NotRecorded: there is none of that name.
    """
    query = sa.select(ModelRow).where(ModelRow.name == name, ModelRow.deleted_at.is_(None))
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotRecorded("model", name, _names(session))
    return row


def _named(ref: Ref) -> sa.Select[VersionRow]:
    query = (
        sa.select(VersionRow)
        .join(ModelRow, VersionRow.model_id == ModelRow.id)
        .where(ModelRow.name == ref.name)
    )
    if ref.number is not None:
        return query.where(VersionRow.number == ref.number)
    if ref.alias is None:
        return query.order_by(VersionRow.number.desc()).limit(1)
    held = sa.and_(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number)
    return query.join(AliasRow, held).where(AliasRow.alias == ref.alias)


def _missing(session: Session, ref: Ref) -> NotRecorded:
    row = model(session, ref.name)
    if ref.alias is not None:
        known = session.scalars(sa.select(AliasRow.alias).where(AliasRow.model_id == row.id)).all()
        return NotRecorded("alias", str(ref), [f"{ref.name}@{alias}" for alias in known])
    newest = (
        sa.select(VersionRow.number).where(VersionRow.model_id == row.id).order_by(VersionRow.number.desc())
    )
    known_numbers = session.scalars(newest.limit(12)).all()
    return NotRecorded("model version", str(ref), [f"{ref.name}/{number}" for number in known_numbers])


def _names(session: Session) -> Sequence[str]:
    return session.scalars(sa.select(ModelRow.name).where(ModelRow.deleted_at.is_(None))).all()


def file_digest(version: ModelVersion, path: str) -> str:
    """The SHA-256 of the file at `path` in a version.

    Raises:
        NotRecorded: it has no such file.
    """
    for file in version.files:
        if file.path == path:
            return file.sha256
    raise NotRecorded(f"file in {version.ref}", path, [file.path for file in version.files])
