"""Recording what comes before a model: features, services, training sets, gate reports.

Each is known by its digest, so recording it again changes nothing; another content under the same digest is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry import outbox, reading
from registry.artifacts import Artifact
from registry.canonical import plain
from registry.errors import DefinitionConflict, NotRecorded
from registry.records import (
    ConsistencyRecord,
    FeatureRecord,
    GateRecord,
    ServiceRecord,
    TrainingSetRecord,
)
from registry.schema import (
    Base,
    ConsistencyRow,
    FeatureRow,
    GateRow,
    ServiceMemberRow,
    ServiceRow,
    TrainingSetRow,
    TrainingSetServiceRow,
)

_CHUNK = 1000  # digests in one IN list; SQLite allows 32,766 values


def record_features(session: Session, features: Sequence[FeatureRecord], at: datetime) -> None:
    """Record features by digest.

    Raises:
        DefinitionConflict: a digest is already recorded with another name, view, type or definition.
    """
    given: dict[str, dict[str, Any]] = {}
    for feature in features:
        columns = _feature_columns(feature)
        _refuse_other("feature", feature.name, given.setdefault(feature.digest, columns), columns)
    insert_new(session, FeatureRow, [{**columns, "created_at": at} for columns in given.values()])
    for chunk in _chunks(list(given)):
        for row in session.scalars(sa.select(FeatureRow).where(FeatureRow.digest.in_(chunk))):
            columns = given[row.digest]
            _refuse_other("feature", columns["name"], {key: getattr(row, key) for key in columns}, columns)


def record_service(session: Session, service: ServiceRecord, at: datetime) -> None:
    """Record a service whose features are recorded.

    Raises:
        NotRecorded: one of its features is not.
    """
    known = {
        digest
        for chunk in _chunks(service.features)
        for digest in session.scalars(sa.select(FeatureRow.digest).where(FeatureRow.digest.in_(chunk)))
    }
    for digest in service.features:
        if digest not in known:
            raise NotRecorded("feature", digest, known)
    row = {
        "digest": service.digest,
        "name": service.name,
        "feature_count": len(service.features),
        "created_at": at,
    }
    if inserted(session, ServiceRow, row):
        members = enumerate(service.features)
        session.execute(
            sa.insert(ServiceMemberRow),
            [
                {"service_digest": service.digest, "position": place, "feature_digest": digest}
                for place, digest in members
            ],
        )


def record_training_set(session: Session, training_set: TrainingSetRecord, at: datetime) -> None:
    """Record a training set.

    Raises:
        NotRecorded: a service it was built from is not recorded.
        DefinitionConflict: its digest is already recorded with another content.
    """
    for service in training_set.services:
        require_digest(session, ServiceRow, "feature service", service)
    digest, columns = training_set.digest, _training_set_columns(training_set)
    if inserted(session, TrainingSetRow, {**columns, "created_at": at}):
        session.add_all(
            TrainingSetServiceRow(training_set_digest=digest, position=place, service_digest=service)
            for place, service in enumerate(training_set.services)
        )
        session.flush()
        return
    row = session.get_one(TrainingSetRow, digest)
    recorded = {key: getattr(row, key) for key in columns} | {
        "services": reading.services_of(session, digest)
    }
    _refuse_other("training set", digest, recorded, {**columns, "services": training_set.services})


def record_gate(session: Session, gate: GateRecord, at: datetime) -> None:
    """Append a gate report, unless the newest one on the same table and `as_of` says the same."""
    same = (
        GateRow.table == gate.table,
        GateRow.as_of == gate.as_of,
        GateRow.source == gate.source,
        GateRow.generation.is_not_distinct_from(gate.generation),
    )
    newest = session.scalars(sa.select(GateRow).where(*same).order_by(GateRow.id.desc()).limit(1)).first()
    if newest is not None and newest.digest == gate.digest:
        return
    row = GateRow(
        table=gate.table,
        source=gate.source,
        as_of=gate.as_of,
        generation=gate.generation,
        passed=gate.passed,
        findings=plain(gate.findings),
        digest=gate.digest,
        created_at=at,
    )
    session.add(row)
    if not gate.passed:
        failed = outbox.GateFailed(
            gate.source, gate.table, gate.as_of, gate.generation, len(gate.findings), gate.digest
        )
        outbox.tell(session, failed, at)


def record_consistency(session: Session, verdict: ConsistencyRecord, at: datetime) -> None:
    """Append a consistency verdict, unless the newest one on the same source and service says the same.

    Raises:
        NotRecorded: the service is not recorded.
    """
    require_digest(session, ServiceRow, "feature service", verdict.service)
    same = (ConsistencyRow.source == verdict.source, ConsistencyRow.service_digest == verdict.service)
    newest = sa.select(ConsistencyRow.digest).where(*same).order_by(ConsistencyRow.id.desc()).limit(1)
    if session.scalar(newest) == verdict.digest:
        return
    row = ConsistencyRow(
        source=verdict.source,
        service_digest=verdict.service,
        passed=verdict.passed,
        requests=verdict.requests,
        compared=verdict.compared,
        newest_request=verdict.newest_request,
        findings=plain(verdict.findings),
        digest=verdict.digest,
        created_at=at,
    )
    session.add(row)
    if not verdict.passed:
        failed = outbox.ConsistencyFailed(
            source=verdict.source,
            service=session.get_one(ServiceRow, verdict.service).name,
            service_digest=verdict.service,
            features=tuple(sorted({str(finding["feature"]) for finding in verdict.findings})),
            requests=verdict.requests,
            newest_request=verdict.newest_request,
            digest=verdict.digest,
        )
        outbox.tell(session, failed, at)


def require_digest(
    session: Session, table: type[ServiceRow | TrainingSetRow | FeatureRow], kind: str, digest: str
) -> None:
    """Raise `NotRecorded` unless `digest` is in `table`."""
    if session.scalar(sa.select(table.digest).where(table.digest == digest)) is None:
        recent = sa.select(table.digest).order_by(table.created_at.desc()).limit(100)
        raise NotRecorded(kind, digest, session.scalars(recent).all())


def insert_new(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not taken yet; leave the others as they are."""
    if rows:
        session.execute(_insert_unless_there(session, table), [dict(row) for row in rows])


def artifact_rows(contents: Mapping[str, Artifact], at: datetime) -> list[dict[str, object]]:
    """A row for each of some stored files, in order of digest, so that no two writers wait for each other."""
    stored = {artifact.sha256: artifact for artifact in contents.values()}
    return [
        {"sha256": sha256, "size": artifact.size, "media_type": artifact.media_type, "created_at": at}
        for sha256, artifact in sorted(stored.items())
    ]


def inserted(session: Session, table: type[Base], row: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is taken; whether it was inserted."""
    statement = _insert_unless_there(session, table).values(dict(row)).returning(sa.literal(1))
    return session.execute(statement).first() is not None


def _insert_unless_there(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    assert isinstance(table.__table__, sa.Table)  # noqa: S101 - so for every class of ours; tells the type checker
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table.__table__).on_conflict_do_nothing()
    return sqlite.insert(table.__table__).on_conflict_do_nothing()


def _feature_columns(feature: FeatureRecord) -> dict[str, Any]:
    return {
        "digest": feature.digest,
        "name": feature.name,
        "view": feature.view,
        "dtype": feature.dtype,
        "definition": plain(feature.definition),
    }


def _training_set_columns(training_set: TrainingSetRecord) -> dict[str, Any]:
    return {
        "digest": training_set.digest,
        "source": training_set.source,
        "interval_start": training_set.interval_start,
        "interval_end": training_set.interval_end,
        "rows": training_set.rows,
        "as_of": training_set.as_of,
        "generation": training_set.generation,
        "event_digests": plain(training_set.event_digests),
        "service_count": len(training_set.services),
    }


def _refuse_other(kind: str, name: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if differs := [key for key in given if recorded[key] != given[key]]:
        raise DefinitionConflict(kind, name, differs)


def _chunks(digests: Sequence[str]) -> Iterable[Sequence[str]]:
    return (digests[start : start + _CHUNK] for start in range(0, len(digests), _CHUNK))
