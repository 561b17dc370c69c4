"""Walking the chain both ways. A walk is a few queries, as many as it has steps, however much hangs on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import reading
from registry.deployment import newest
from registry.edges import Edges, KnownEdges, Service, grouped
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


def explain(session: Session, target: str | int, known: KnownEdges) -> Lineage:
    """Where a version, an arm, an experiment or a read-out comes from, and where its versions serve.

    Versions that these were trained behind are shown with what they were made from, and not where they serve.

    Raises:
        NotRecorded: the ledger has no such thing.
    """
    meant = _versions_of(session, target)
    versions = _versions(session, _with_upstream(session, meant))
    services = dict.fromkeys(digest for node in versions for digest in node.services)
    training_sets = {node.training_set for node in versions} - {None}
    features, members = _members(known.services(session, list(services)))
    return Lineage(
        target=str(target),
        features=features,
        services=members,
        training_sets=_training_sets(session, sorted(map(str, training_sets))),
        versions=versions,
        bentos=_bentos(session, meant),
        **_arms_and_readouts(session, _read(session, _BOUND_TO, ids=meant)),
    )


def impact(session: Session, target: str, known: KnownEdges) -> Lineage:
    """Everything that a feature, a service, a training set or a version reaches.

    `target` is `feature NAME`, `feature DIGEST`, `service DIGEST`, `training_set DIGEST`, or a version's
    reference; a bare digest or feature name will do. A name means every meaning the feature has had. A version
    reaches those that were trained behind it. Training sets come without the digests of their events, which are
    behind them and not before.

    Raises:
        NotRecorded: the ledger has no such thing.
    """
    kind, key = _what(session, target)
    edges = known.of(session)
    features, services = _touched(session, kind, key, known)
    digests = [service.digest for service in services]
    made, places = edges.training_sets_of(digests), edges.reading(digests)
    if kind == "training_set":
        made, places = tuple(m for m in edges.training_sets if m.digest == key), {*edges.taught.get(key, ())}
    if kind == "version":
        places = {edges.place[reading.version(session, parse_ref(key)).id]}
    reached = edges.with_followers(places)
    return Lineage(
        target=target,
        features=features,
        services=services,
        training_sets=made,
        versions=_with_aliases(session, edges, sorted(reached)),
        bentos=edges.bentos_of(reached),
        **_arms_and_readouts(session, _bound(session, edges, reached)),
    )


def _touched(
    session: Session, kind: str, key: str, known: KnownEdges
) -> tuple[tuple[FeatureNode, ...], tuple[ServiceNode, ...]]:
    """The features asked about, and the services they are in, with those of their features."""
    if kind == "service":
        return _members(known.services(session, [key]))
    if kind != "feature":
        return (), ()
    found = _read(session, _SERVICES_OF, key=key)
    alone = {row[0]: FeatureNode(*row) for row in _read(session, _FEATURES_CALLED, key=key)}
    members: dict[tuple[str, str], list[str]] = {}
    for service, name, digest in found:
        members.setdefault((service, name), []).append(digest)
    services = tuple(ServiceNode(digest, name, tuple(held)) for (digest, name), held in members.items())
    inside = dict.fromkeys(digest for service in services for digest in service.features)
    return tuple(alone[digest] for digest in {**inside, **dict.fromkeys(alone)}), services


def _with_aliases(session: Session, edges: Edges, places: Sequence[int]) -> tuple[VersionNode, ...]:
    nodes = {place: edges.versions[place] for place in places}
    for row_id, alias in _read(session, _ALIASES):
        if (place := edges.place.get(row_id)) in nodes:
            node = nodes[place]
            nodes[place] = node._replace(aliases=(*node.aliases, alias))
    return tuple(nodes.values())


def _with_upstream(session: Session, versions: Sequence[int]) -> list[int]:
    """`versions` and, as far as that goes, those that they were trained behind."""
    found, newest = list(versions), list(versions)
    while newest:
        behind = session.scalars(_BEHIND, {"ids": newest})
        newest = list(dict.fromkeys(row_id for row_id in behind if row_id not in found))
        found += newest
    return found


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


def _versions_of(session: Session, target: str | int) -> list[int]:
    """The row ids of the versions that `target` is or serves."""
    word, _, rest = str(target).partition(" ")
    if isinstance(target, int) or (word == "readout" and rest.isdecimal()):
        return _served(session, _readout_run(session, int(rest or target)))
    if word == "experiment" and rest:
        return _served(session, newest(session, rest).id)
    name, slash, arm = (rest if word == "arm" and rest else str(target)).partition("/")
    if slash and (word == "arm" or not arm.isdecimal()):
        run = newest(session, name)
        return _served(session, run.id, _arm(session, run, arm))
    ref = parse_ref(rest if word == "model" and rest else str(target))
    return [reading.version(session, ref).id]


def _served(session: Session, run: int, arm: int | None = None) -> list[int]:
    bound = sa.select(BindingRow.version_id).join(ArmRow).where(BindingRow.version_id.is_not(None))
    found = session.scalars(bound.where(ArmRow.experiment_id == run if arm is None else ArmRow.id == arm))
    return list(dict.fromkeys(row_id for row_id in found if row_id is not None))


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


def _members(services: Iterable[Service]) -> tuple[tuple[FeatureNode, ...], tuple[ServiceNode, ...]]:
    """Services by name, and all their features, each in the order of its service."""
    ordered = sorted(services, key=lambda service: (service.node.name, service.node.digest))
    features = {feature.digest: feature for service in ordered for feature in service.features}
    return tuple(features.values()), tuple(service.node for service in ordered)


def _training_sets(session: Session, digests: Sequence[str]) -> tuple[TrainingSetNode, ...]:
    services = grouped(_read(session, _BUILT_FROM, keys=digests))
    return tuple(
        TrainingSetNode._make([*made, tuple(services.get(made.digest, ()))])
        for made in _read(session, _TRAINING_SETS, keys=digests)
    )


def _versions(session: Session, ids: Sequence[int]) -> tuple[VersionNode, ...]:
    services, upstream, aliases = (
        grouped(_read(session, parts, ids=ids)) for parts in (_INPUTS, _UPSTREAM, _ALIASES_OF)
    )
    return tuple(
        VersionNode(f"{name}/{number}", digest, made, *(tuple(held.get(row_id, ())) for held in (services, upstream, aliases)))
        for row_id, name, number, digest, made in _read(session, _VERSIONS, ids=ids)
    )  # fmt: skip


class ArmsAndReadouts(TypedDict):
    """The last two parts of a lineage."""

    arms: tuple[ArmNode, ...]
    readouts: tuple[ReadoutNode, ...]


def _arms_and_readouts(session: Session, bound: Iterable[Any]) -> ArmsAndReadouts:
    """The arms of these bindings, and what came of their experiments."""
    arms = tuple(ArmNode._make([*arm, f"{model}/{number}"]) for _, *arm, model, number in bound)
    runs = sorted({arm.run for arm in arms})
    readouts = tuple(ReadoutNode._make(node) for node in _read(session, _READOUTS, ids=runs))
    return {"arms": arms, "readouts": readouts}


def _bound(session: Session, edges: Edges, versions: set[int]) -> list[Any]:
    """The bindings of the versions at some places. For very many all are looked at, which are few beside them."""
    if len(versions) <= MANY:
        return list(_read(session, _BOUND_TO, ids=[edges.rows[place] for place in versions]))
    return [row for row in _read(session, _BOUND) if edges.place.get(row[0]) in versions]


def _bentos(session: Session, versions: Sequence[int]) -> tuple[BentoNode, ...]:
    packed: dict[tuple[Any, ...], list[str]] = {}
    for *bento, name, number in _read(session, _PACKED, ids=versions):
        packed.setdefault(tuple(bento), []).append(f"{name}/{number}")
    return tuple(BentoNode._make([*bento, tuple(refs)]) for bento, refs in packed.items())


def _read(session: Session, query: sa.Executable, **values: object) -> Sequence[Any]:
    """The rows of a query as they are: the session would look for objects in them."""
    return session.connection().execute(query, values).all()


MANY = 500
"""More versions than this are not listed in a query."""
_IDS: sa.BindParameter[int] = sa.bindparam("ids", expanding=True)
_KEYS: sa.BindParameter[str] = sa.bindparam("keys", expanding=True)
_KEY: sa.BindParameter[str] = sa.bindparam("key")
_CALLED = sa.or_(FeatureRow.digest == _KEY, FeatureRow.name == _KEY)
_FEATURES_CALLED = sa.select(FeatureRow.digest, FeatureRow.name, FeatureRow.view, FeatureRow.dtype).where(
    _CALLED
)
_SERVICES_OF = (
    sa.select(ServiceRow.digest, ServiceRow.name, ServiceMemberRow.feature_digest)
    .join(ServiceMemberRow, ServiceMemberRow.service_digest == ServiceRow.digest)
    .where(ServiceMemberRow.feature_digest.in_(sa.select(FeatureRow.digest).where(_CALLED)))
    .order_by(ServiceRow.name, ServiceRow.digest, ServiceMemberRow.position)
)
_TRAINING_SETS = (
    sa.select(
        TrainingSetRow.digest, TrainingSetRow.source, TrainingSetRow.interval_start, TrainingSetRow.interval_end,
        TrainingSetRow.rows, TrainingSetRow.event_digests,
    )
    .where(TrainingSetRow.digest.in_(_KEYS))
    .order_by(TrainingSetRow.interval_start, TrainingSetRow.digest)
)  # fmt: skip
_BUILT_FROM = (
    sa.select(TrainingSetServiceRow.training_set_digest, TrainingSetServiceRow.service_digest)
    .where(TrainingSetServiceRow.training_set_digest.in_(_KEYS))
    .order_by(TrainingSetServiceRow.position)
)
_VERSIONS = (
    sa.select(
        VersionRow.id, ModelRow.name, VersionRow.number, VersionRow.digest, VersionRow.training_set_digest
    )
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .where(VersionRow.id.in_(_IDS))
    .order_by(ModelRow.name, VersionRow.number)
)
_INPUTS = (
    sa.select(InputRow.version_id, InputRow.service_digest)
    .where(InputRow.version_id.in_(_IDS))
    .order_by(InputRow.position)
)
_BEHIND = (
    sa.select(UpstreamRow.upstream_id).where(UpstreamRow.version_id.in_(_IDS)).order_by(UpstreamRow.role)
)
_UPSTREAM = (
    sa.select(UpstreamRow.version_id, ModelRow.name + "/" + sa.cast(VersionRow.number, sa.Text))
    .join(VersionRow, VersionRow.id == UpstreamRow.upstream_id)
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .where(UpstreamRow.version_id.in_(_IDS))
    .order_by(UpstreamRow.role)
)
_ALIASES = (
    sa.select(VersionRow.id, AliasRow.alias)
    .join(AliasRow, sa.and_(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number))
    .order_by(AliasRow.alias)
)
_ALIASES_OF = _ALIASES.where(VersionRow.id.in_(_IDS))
_PACKED = (
    sa.select(
        BentoRow.tag, BentoRow.digest, BentoRow.created_at, ModelRow.name, VersionRow.number,
    )
    .join(BentoVersionRow, BentoVersionRow.bento_id == BentoRow.id)
    .join(VersionRow, VersionRow.id == BentoVersionRow.version_id)
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .where(BentoVersionRow.version_id.in_(_IDS))
    .order_by(BentoRow.id, ModelRow.name, VersionRow.number)
)  # fmt: skip
_BOUND = (
    sa.select(
        BindingRow.version_id, ExperimentRow.id, ExperimentRow.name, ArmRow.name, ExperimentRow.state,
        BindingRow.parameter, ModelRow.name, VersionRow.number,
    )
    .join(ArmRow, ArmRow.id == BindingRow.arm_id)
    .join(ExperimentRow, ExperimentRow.id == ArmRow.experiment_id)
    .join(VersionRow, VersionRow.id == BindingRow.version_id)
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .order_by(ExperimentRow.id, ArmRow.position, BindingRow.parameter)
)  # fmt: skip
_BOUND_TO = _BOUND.where(BindingRow.version_id.in_(_IDS))
_READOUTS = (
    sa.select(
        ReadoutRow.id, ReadoutRow.experiment_id, ExperimentRow.name, ReadoutRow.created_at, ReadoutRow.verdict
    )
    .join(ExperimentRow, ExperimentRow.id == ReadoutRow.experiment_id)
    .where(ReadoutRow.experiment_id.in_(_IDS))
    .order_by(ReadoutRow.id)
)
