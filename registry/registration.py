"""Registering a model version: all of it in one transaction, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import documents, outbox, reading, recording
from registry.artifacts import Artifact
from registry.canonical import digest_of, plain
from registry.errors import DefinitionConflict
from registry.records import Metric, VersionDraft, check_metrics, parameter_number, parameter_text
from registry.refs import parse_ref
from registry.schema import (
    ArtifactRow,
    FileRow,
    InputRow,
    MetricRow,
    ModelRow,
    ParameterRow,
    ServiceRow,
    TagRow,
    TrainingSetRow,
    UpstreamRow,
    VersionRow,
)
from registry.signature import Signature

Contents = Mapping[str, Artifact]  # path within the version → what is stored


def draft_digest(draft: VersionDraft, contents: Contents, upstream: Mapping[str, str]) -> str:
    """What makes a version this one: contents, configuration and lineage; not who, when, with what, or how well it did.

    `upstream` are the pinned references (`retriever/3`) of the versions it stands behind, by role.
    """
    return digest_of(
        {
            "name": draft.name,
            "files": {path: artifact.sha256 for path, artifact in contents.items()},
            "params": {key: parameter_text(value) for key, value in draft.params.items()},
            "config": draft.config,
            "seed": draft.seed,
            "inputs": [vars(given) for given in draft.signature.inputs],
            "outputs": draft.signature.described()["outputs"],
            "training_set": draft.training_set,
            "upstream": upstream,
            "source": draft.source,
        }
    )


def register(
    session: Session, draft: VersionDraft, contents: Contents, beside: Contents, at: datetime
) -> int:
    """The row id of the version that `draft` describes: a new one with the next number, or the one that is it.

    `beside` are the stored documents by name. As with metrics, those of a version that is there stay as they are.

    Raises:
        NotRecorded: the draft's training set, one of its services or a version it stands behind is not in the ledger.
    """
    if draft.training_set is not None:
        recording.require_digest(session, TrainingSetRow, "training set", draft.training_set)
    for service in draft.signature.services:
        recording.require_digest(session, ServiceRow, "feature service", service)
    upstream = {role: reading.version(session, parse_ref(ref)) for role, ref in draft.upstream.items()}
    model = _model(session, draft, at)
    pinned = {role: f"{row.model.name}/{row.number}" for role, row in upstream.items()}
    digest = draft_digest(draft, contents, pinned)
    same = sa.select(VersionRow.id).where(VersionRow.model_id == model.id, VersionRow.digest == digest)
    if (existing := session.scalar(same)) is not None:
        return existing
    recording.insert_new(session, ArtifactRow, recording.artifact_rows(contents, at))
    number = model.next_version
    model.next_version += 1
    session.flush()  # the counter moves before the number is used
    row = _version_row(draft, contents, upstream, at)
    row.model_id, row.number, row.digest = model.id, number, digest
    session.add(row)
    session.flush()
    documents.add(session, row, beside, at)
    created = outbox.VersionCreated(
        name=draft.name,
        number=number,
        digest=digest,
        source=draft.source,
        training_set=draft.training_set,
        services=draft.signature.services,
        by=draft.created_by,
    )
    outbox.tell(session, created, at)
    return row.id


def add_metrics(session: Session, row: VersionRow, metrics: Sequence[Metric], at: datetime) -> None:
    """Add metrics to a version. The same again is no change.

    Raises:
        DefinitionConflict: one is already there with another value.
    """
    check_metrics(metrics)
    recorded = {
        (there.name, there.dataset, there.split): there.value
        for there in session.scalars(sa.select(MetricRow).where(MetricRow.version_id == row.id))
    }
    for metric in metrics:
        value = recorded.get((metric.name, metric.dataset, metric.split))
        if value is None:
            session.add(_metric_row(metric, at, version_id=row.id))
        elif value != metric.value:
            raise DefinitionConflict(
                "metric", metric.name, [f"value ({value} is recorded, {metric.value} given)"]
            )


def _model(session: Session, draft: VersionDraft, at: datetime) -> ModelRow:
    """The row of the model, made or revived if need be, and locked: one writer at a time numbers its versions."""
    fresh = {"name": draft.name, "description": draft.description, "next_version": 1, "created_at": at}
    recording.insert_new(session, ModelRow, [fresh])
    row = session.scalars(sa.select(ModelRow).where(ModelRow.name == draft.name).with_for_update()).one()
    if row.deleted_at is not None:
        row.deleted_at, row.description = None, draft.description
    return row


def _version_row(
    draft: VersionDraft, contents: Contents, upstream: Mapping[str, VersionRow], at: datetime
) -> VersionRow:
    params = {key: parameter_text(value) for key, value in draft.params.items()}
    return VersionRow(
        created_at=at,
        created_by=draft.created_by,
        source=draft.source,
        config=plain(draft.config),
        seed=draft.seed,
        signature=plain(draft.signature.described()),
        file_count=len(contents),
        parameter_count=len(params),
        training_set_digest=draft.training_set,
        input_count=len(draft.signature.inputs),
        upstream_count=len(upstream),
        inputs=_input_rows(draft.signature),
        upstream=[UpstreamRow(role=role, upstream_id=behind.id) for role, behind in upstream.items()],
        files=[FileRow(path=path, sha256=artifact.sha256) for path, artifact in contents.items()],
        metrics=[_metric_row(metric, at) for metric in draft.metrics],
        parameters=[
            ParameterRow(key=key, value=text, number=parameter_number(text)) for key, text in params.items()
        ],
        tags=[TagRow(key=key, value=value) for key, value in draft.tags.items()],
    )


def _input_rows(signature: Signature) -> list[InputRow]:
    return [
        InputRow(position=place, name=given.name, dtype=given.dtype, service_digest=given.service)
        for place, given in enumerate(signature.inputs)
    ]


def _metric_row(metric: Metric, at: datetime, version_id: int | None = None) -> MetricRow:
    return MetricRow(
        version_id=version_id,
        name=metric.name,
        key=metric.key,
        value=metric.value,
        dataset=metric.dataset,
        split=metric.split,
        k=metric.k,
        created_at=at,
    )
