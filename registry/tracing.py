"""Walking the chain both ways. A walk is a fixed number of queries, however much hangs on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import reading
from registry.deployment import newest
from registry.errors import InvalidReference, NotRecorded, RegistryError
from registry.lineage import (
    ArmNode,
    BentoNode,
    FeatureNode,
    Lineage,
    ReadoutNode,
    ServiceNode,
    TrainingSetNode,
    VersionNode,
)
from registry.refs import parse_ref
from registry.schema import (
    AliasRow,
    ArmRow,
    BentoRow,
    BentoVersionRow,
    BindingRow,
    ExperimentRow,
    FeatureRow,
    InputRow,
    ModelRow,
    ReadoutRow,
    ServiceMemberRow,
    ServiceRow,
    TrainingSetRow,
    TrainingSetServiceRow,
    UpstreamRow,
    VersionRow,
)

Rows = Any  # a select, or a union of some: a query for the keys of some rows, used inside others


def explain(session: Session, target: str | int) -> Lineage:
    """Where a version, an arm, an experiment or a read-out comes from, and where its versions serve.

    Versions that these were trained behind are shown with what they were made from, and not where they serve.

    Raises:
        NotRecorded: the ledger has no such thing.
    """
    meant = _versions_of(session, target)
    shown = _with_upstream(meant)
    services = sa.select(InputRow.service_digest).where(InputRow.version_id.in_(shown))
    training_sets = sa.select(VersionRow.training_set_digest).where(VersionRow.id.in_(shown))
    versions = _Versions(shown, serving=meant)
    return _lineage(session, str(target), versions, services, training_sets, features=None)


def impact(session: Session, target: str) -> Lineage:
    """Everything that a feature, a service, a training set or a version reaches.

    `target` is `feature NAME`, `feature DIGEST`, `service DIGEST`, `training_set DIGEST`, or a version's
    reference; a bare digest or feature name will do. A name means every meaning the feature has had. A version
    reaches those that were trained behind it.

    Raises:
        NotRecorded: the ledger has no such thing.
    """
    kind, key = _what(session, target)
    if kind == "version":
        one = sa.select(VersionRow.id).where(VersionRow.id == reading.version(session, parse_ref(key)).id)
        return _lineage(session, target, _reached(one), _none(), _none(), features=None)
    if kind == "training_set":
        made = sa.select(TrainingSetRow.digest).where(TrainingSetRow.digest == key)
        taught = sa.select(VersionRow.id).where(VersionRow.training_set_digest.in_(made))
        return _lineage(session, target, _reached(taught), _none(), made, features=None)
    features = sa.select(FeatureRow.digest).where(sa.or_(FeatureRow.digest == key, FeatureRow.name == key))
    if kind == "service":
        features = sa.select(ServiceMemberRow.feature_digest).where(ServiceMemberRow.service_digest == key)
        services: Rows = sa.select(ServiceRow.digest).where(ServiceRow.digest == key)
    else:
        services = sa.select(ServiceMemberRow.service_digest).where(
            ServiceMemberRow.feature_digest.in_(features)
        )
    joined = TrainingSetServiceRow
    made = sa.select(joined.training_set_digest).where(joined.service_digest.in_(services))
    reading_it = sa.select(InputRow.version_id).where(InputRow.service_digest.in_(services))
    taught = sa.select(VersionRow.id).where(VersionRow.training_set_digest.in_(made))
    touched = sa.select(reading_it.union(taught).subquery().c[0])
    return _lineage(session, target, _reached(touched), services, made, features=features)


@dataclass(frozen=True)
class _Versions:
    """The row ids of the versions to show, and of those among them whose Bentos, arms and read-outs are to be shown."""

    shown: Rows
    serving: Rows


def _with_upstream(versions: Rows) -> Rows:
    """`versions` and, as far as that goes, those that they were trained behind."""
    found = versions.cte("upstream", recursive=True)
    (column,) = found.c
    further = sa.select(UpstreamRow.upstream_id).join(found, UpstreamRow.version_id == column)
    return sa.select(found.union(further).c[0])


def _reached(versions: Rows) -> _Versions:
    """`versions` and, as far as that goes, those that were trained behind them."""
    found = versions.cte("reached", recursive=True)
    (column,) = found.c
    further = sa.select(UpstreamRow.version_id).join(found, UpstreamRow.upstream_id == column)
    everything = sa.select(found.union(further).c[0])
    return _Versions(everything, everything)


def _what(session: Session, target: str) -> tuple[str, str]:
    """What `target` is: ("feature" | "service" | "training_set" | "version", its key)."""
    word, _, rest = target.partition(" ")
    kinds = {"feature": "feature", "service": "service", "training_set": "training_set", "model": "version"}
    wanted, key = (kinds[word], rest) if word in kinds and rest else (None, target)
    checks = {
        "feature": sa.select(FeatureRow.digest).where(
            sa.or_(FeatureRow.digest == key, FeatureRow.name == key)
        ),
        "service": sa.select(ServiceRow.digest).where(ServiceRow.digest == key),
        "training_set": sa.select(TrainingSetRow.digest).where(TrainingSetRow.digest == key),
    }
    for kind, check in checks.items():
        if wanted in {None, kind} and session.scalar(check.limit(1)) is not None:
            return kind, key
    if wanted in {None, "version"} and _is_version(session, key):
        return "version", key
    known = session.scalars(sa.select(FeatureRow.name).distinct().order_by(FeatureRow.name)).all()
    raise NotRecorded(wanted or "feature, service, training set or version", key, known)


def _is_version(session: Session, key: str) -> bool:
    try:
        reading.version(session, parse_ref(key))
    except (InvalidReference, NotRecorded):
        return False
    return True


def _versions_of(session: Session, target: str | int) -> Rows:
    """The row ids of the versions that `target` is or serves."""
    word, _, rest = str(target).partition(" ")
    if isinstance(target, int) or (word == "readout" and rest.isdecimal()):
        return _served(_readout_run(session, int(rest or target)))
    if word == "experiment" and rest:
        return _served(newest(session, rest).id)
    name, slash, arm = (rest if word == "arm" and rest else str(target)).partition("/")
    if slash and (word == "arm" or not arm.isdecimal()):
        return _served(newest(session, name).id, _arm(session, newest(session, name), arm))
    ref = parse_ref(rest if word == "model" and rest else str(target))
    return sa.select(VersionRow.id).where(VersionRow.id == reading.version(session, ref).id)


def _served(run: int, arm: int | None = None) -> Rows:
    bound = sa.select(BindingRow.version_id).join(ArmRow).where(BindingRow.version_id.is_not(None))
    return bound.where(ArmRow.experiment_id == run if arm is None else ArmRow.id == arm)


def _readout_run(session: Session, readout: int) -> int:
    run = session.scalar(sa.select(ReadoutRow.experiment_id).where(ReadoutRow.id == readout))
    if run is None:
        known = session.scalars(sa.select(ReadoutRow.id).order_by(ReadoutRow.id.desc()).limit(12))
        raise NotRecorded("read-out", str(readout), [str(row_id) for row_id in known])
    return run


def _arm(session: Session, run: ExperimentRow, name: str) -> int:
    arms = dict(
        session.execute(sa.select(ArmRow.name, ArmRow.id).where(ArmRow.experiment_id == run.id)).all()
    )
    if name not in arms:
        raise NotRecorded(f"arm of {run.name!r}", name, arms)
    if run.state == "draft":
        raise RegistryError(f"experiment {run.name!r} is a draft: its arms serve nothing until it starts.")
    return arms[name]


def _none() -> Rows:
    return sa.select(sa.null()).where(sa.false())


def _lineage(
    session: Session,
    target: str,
    versions: _Versions,
    services: Rows,
    training_sets: Rows,
    *,
    features: Rows | None,
) -> Lineage:
    """The values of all rows named, and of everything behind the versions; `features` None means all of a service."""
    shown, members = _features(session, services, features)
    arms = _arms(session, versions.serving)
    return Lineage(
        target=target,
        features=shown,
        services=members,
        training_sets=_training_sets(session, training_sets),
        versions=_versions(session, versions.shown),
        bentos=_bentos(session, versions.serving),
        arms=arms,
        readouts=_readouts(session, sorted({arm.run for arm in arms})),
    )


def _features(
    session: Session, services: Rows, only: Rows | None
) -> tuple[tuple[FeatureNode, ...], tuple[ServiceNode, ...]]:
    row = FeatureRow
    query = (
        sa.select(ServiceRow.digest, ServiceRow.name, row.digest, row.name, row.view, row.dtype)
        .join(ServiceMemberRow, ServiceMemberRow.service_digest == ServiceRow.digest)
        .join(row, row.digest == ServiceMemberRow.feature_digest)
        .where(ServiceRow.digest.in_(services))
        .order_by(ServiceRow.name, ServiceRow.digest, ServiceMemberRow.position)
    )
    found = session.execute(query if only is None else query.where(row.digest.in_(only))).all()
    features = {digest: FeatureNode(digest, name, view, dtype) for _, _, digest, name, view, dtype in found}
    members: dict[tuple[str, str], list[str]] = {}
    for service, service_name, digest, *_ in found:
        members.setdefault((service, service_name), []).append(digest)
    if only is not None:  # a feature in no service is still the one that was asked about
        alone = sa.select(row.digest, row.name, row.view, row.dtype).where(row.digest.in_(only))
        features |= {node[0]: FeatureNode(*node) for node in session.execute(alone)}
    return (
        tuple(features.values()),
        tuple(ServiceNode(digest, name, tuple(held)) for (digest, name), held in members.items()),
    )


def _training_sets(session: Session, digests: Rows) -> tuple[TrainingSetNode, ...]:
    row, joined = TrainingSetRow, TrainingSetServiceRow
    query = sa.select(row).where(row.digest.in_(digests)).order_by(row.interval_start, row.digest)
    services = sa.select(joined.training_set_digest, joined.service_digest).order_by(joined.position)
    built_from = _grouped(session, services.where(joined.training_set_digest.in_(digests)))
    return tuple(
        TrainingSetNode(
            made.digest,
            made.source,
            made.interval_start,
            made.interval_end,
            made.rows,
            made.event_digests,
            tuple(built_from.get(made.digest, ())),
        )
        for made in session.scalars(query)
    )


def _versions(session: Session, ids: Rows) -> tuple[VersionNode, ...]:
    row = VersionRow
    query = (
        sa.select(row.id, ModelRow.name, row.number, row.digest, row.training_set_digest)
        .join(ModelRow, ModelRow.id == row.model_id)
        .where(row.id.in_(ids))
        .order_by(ModelRow.name, row.number)
    )
    held = sa.and_(AliasRow.model_id == row.model_id, AliasRow.number == row.number)
    aliases = _grouped(session, sa.select(row.id, AliasRow.alias).join(AliasRow, held).where(row.id.in_(ids)))
    given = sa.select(InputRow.version_id, InputRow.service_digest).order_by(InputRow.position)
    services = _grouped(session, given.where(InputRow.version_id.in_(ids)))
    behind = _grouped(session, _UPSTREAM_REFS.where(UpstreamRow.version_id.in_(ids)))
    return tuple(
        VersionNode(
            f"{name}/{number}",
            digest,
            made,
            tuple(services.get(row_id, ())),
            tuple(behind.get(row_id, ())),
            tuple(sorted(aliases.get(row_id, ()))),
        )
        for row_id, name, number, digest, made in session.execute(query)
    )


_UPSTREAM_REFS = (
    sa.select(UpstreamRow.version_id, ModelRow.name + "/" + sa.cast(VersionRow.number, sa.Text))
    .join(VersionRow, VersionRow.id == UpstreamRow.upstream_id)
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .order_by(UpstreamRow.role)
)


def _grouped(session: Session, pairs: Rows) -> dict[Any, list[Any]]:
    """What hangs on each row: the second columns of `pairs` under the first."""
    grouped: dict[Any, list[Any]] = {}
    for owner, part in session.execute(pairs):
        grouped.setdefault(owner, []).append(part)
    return grouped


def _bentos(session: Session, versions: Rows) -> tuple[BentoNode, ...]:
    query = (
        sa.select(BentoRow.tag, BentoRow.digest, BentoRow.created_at, ModelRow.name, VersionRow.number)
        .join(BentoVersionRow, BentoVersionRow.bento_id == BentoRow.id)
        .join(VersionRow, VersionRow.id == BentoVersionRow.version_id)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(VersionRow.id.in_(versions))
        .order_by(BentoRow.id, ModelRow.name, VersionRow.number)
    )
    packed: dict[tuple[Any, ...], list[str]] = {}
    for *bento, name, number in session.execute(query):
        packed.setdefault(tuple(bento), []).append(f"{name}/{number}")
    return tuple(BentoNode(tag, digest, at, tuple(refs)) for (tag, digest, at), refs in packed.items())


def _arms(session: Session, versions: Rows) -> tuple[ArmNode, ...]:
    run = ExperimentRow
    query = (
        sa.select(
            run.id, run.name, ArmRow.name, run.state, BindingRow.parameter, ModelRow.name, VersionRow.number
        )
        .join(ArmRow, ArmRow.experiment_id == run.id)
        .join(BindingRow, BindingRow.arm_id == ArmRow.id)
        .join(VersionRow, VersionRow.id == BindingRow.version_id)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(VersionRow.id.in_(versions))
        .order_by(run.id, ArmRow.position, BindingRow.parameter)
    )
    return tuple(
        ArmNode(run_id, name, arm, state, parameter, f"{model}/{number}")
        for run_id, name, arm, state, parameter, model, number in session.execute(query)
    )


def _readouts(session: Session, runs: Sequence[int]) -> tuple[ReadoutNode, ...]:
    row = ReadoutRow
    query = (
        sa.select(row.id, row.experiment_id, ExperimentRow.name, row.created_at, row.verdict)
        .join(ExperimentRow, ExperimentRow.id == row.experiment_id)
        .where(row.experiment_id.in_(runs))
        .order_by(row.id)
    )
    return tuple(ReadoutNode(*node) for node in session.execute(query))
