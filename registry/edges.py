"""The part of the chain that never changes, in memory: which training sets and versions a service reaches.

A feature may have been read by every version there ever was, and fetching ten thousand rows takes longer than a
question may. These rows do not change, so what was read once is still true; only more of them come, and versions
that nothing refers to go. A handful of counts tells whether that happened since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry.lineage import BentoNode, FeatureNode, ServiceNode, TrainingSetNode, VersionNode
from registry.schema import (
    Base,
    BentoRow,
    BentoVersionRow,
    FeatureRow,
    InputRow,
    ModelRow,
    ServiceMemberRow,
    ServiceRow,
    TrainingSetRow,
    TrainingSetServiceRow,
    UpstreamRow,
    VersionRow,
)

Places = Sequence[int]
Read = Callable[[sa.Executable], Any]


@dataclass(frozen=True)
class Edges:
    """Versions by name and number, training sets by interval, Bentos by age; by place, what leads from one to the other.

    `versions` say nothing of aliases, which move, and `training_sets` nothing of event digests, which are long.
    """

    stamp: tuple[int, ...]
    versions: tuple[VersionNode, ...]
    rows: Places  # the row id of each version
    place: Mapping[int, int]  # and back
    training_sets: tuple[TrainingSetNode, ...]
    joined: Mapping[str, Places]  # service → training sets built from it
    taught: Mapping[str, Places]  # training set → versions
    read: Mapping[
        str, Places
    ]  # service → versions that have it as an input, or were taught by a set built from it
    behind: Mapping[int, Places]  # version → versions trained behind it
    bentos: tuple[tuple[BentoNode, Places], ...]  # each with its versions

    def training_sets_of(self, services: Iterable[str]) -> tuple[TrainingSetNode, ...]:
        """The training sets built from any of these services."""
        found = sorted(set().union(*(self.joined.get(service, ()) for service in services)))
        return tuple([self.training_sets[place] for place in found])

    def with_followers(self, versions: Iterable[int]) -> set[int]:
        """The versions at these places and, as far as that goes, those that were trained behind them."""
        found = newest = set(versions)
        while newest and self.behind:
            newest = {place for one in newest for place in self.behind.get(one, ())} - found
            found |= newest
        return found

    def reading(self, services: Iterable[str]) -> set[int]:
        """The places of the versions that any of these services taught something."""
        return set().union(*(self.read.get(service, ()) for service in services))

    def bentos_of(self, versions: set[int]) -> tuple[BentoNode, ...]:
        """The Bentos that hold any of the versions at these places, with those of their versions."""
        found = []
        for bento, held in self.bentos:
            if versions.issuperset(held):
                found.append(bento)
            elif here := [ref for ref, place in zip(bento.versions, held, strict=True) if place in versions]:
                found.append(bento._replace(versions=tuple(here)))
        return tuple(found)


@dataclass(frozen=True)
class Service:
    """A feature service with all of its features, in order."""

    node: ServiceNode
    features: tuple[FeatureNode, ...]


class KnownEdges:
    """What is known of one ledger: its edges, read again when there are others, and services, which never change.

    Safe to share between threads.
    """

    def __init__(self, most: int = 256) -> None:
        self._edges: Edges | None = None
        self._services: dict[str, Service] = {}
        self._most = most  # services that are kept; one of 550 features takes about 10 kB

    def of(self, session: Session) -> Edges:
        """The edges as they are in this transaction."""
        edges, stamp = self._edges, tuple(session.connection().execute(_STAMP).one())
        if edges is None or edges.stamp != stamp:
            self._edges = edges = read_edges(session, stamp)
        return edges

    def services(self, session: Session, digests: Sequence[str]) -> list[Service]:
        """The services with these digests."""
        known = self._services
        if missing := [digest for digest in digests if digest not in known]:
            known = known | {service.node.digest: service for service in read_services(session, missing)}
            self._services = dict(list(known.items())[-self._most :])
        return [known[digest] for digest in digests]


def read_services(session: Session, digests: Sequence[str]) -> list[Service]:
    """The services with these digests, in one query."""
    found: dict[tuple[str, str], list[FeatureNode]] = {}
    for service, service_name, *feature in session.connection().execute(_MEMBERS, {"keys": digests}):
        found.setdefault((service, service_name), []).append(FeatureNode._make(feature))
    return [
        Service(ServiceNode(digest, name, tuple(feature.digest for feature in held)), tuple(held))
        for (digest, name), held in found.items()
    ]


def read_edges(session: Session, stamp: tuple[int, ...]) -> Edges:
    """All of them, in six queries."""
    read = session.connection().execute  # rows as they are: the session would look for objects in them
    versions, place, behind = _versions(read)
    training_sets = _training_sets(read)
    joined = _inverted((made.services, at) for at, made in enumerate(training_sets))
    taught = _inverted(((node.training_set,), at) for at, node in enumerate(versions) if node.training_set)
    inputs = _inverted((node.services, at) for at, node in enumerate(versions))
    return Edges(
        stamp=stamp,
        versions=versions,
        rows=tuple(place),
        place=place,
        training_sets=training_sets,
        joined=joined,
        taught=taught,
        read={
            service: sorted(
                {*inputs.get(service, ()), *_through(joined.get(service, ()), training_sets, taught)}
            )
            for service in inputs.keys() | joined.keys()
        },
        behind=behind,
        bentos=_bentos(read(_PACKED), versions, place),
    )


def _versions(read: Read) -> tuple[tuple[VersionNode, ...], dict[int, int], dict[int, list[int]]]:
    """Versions in order, the place of each row id, and the places of those behind each place."""
    services, upstream, rows = grouped(read(_INPUTS)), grouped(read(_UPSTREAM)), read(_VERSIONS).all()
    refs = {row_id: f"{name}/{number}" for row_id, name, number, _, _ in rows}
    place = {row_id: at for at, row_id in enumerate(refs)}
    nodes = tuple(
        VersionNode(refs[row_id], digest, made, tuple(services.get(row_id, ())),
                    tuple(refs[one] for one in upstream.get(row_id, ())), ())
        for row_id, _, _, digest, made in rows
    )  # fmt: skip
    return nodes, place, _inverted(((place[one] for one in upstream[row]), place[row]) for row in upstream)


def _training_sets(read: Read) -> tuple[TrainingSetNode, ...]:
    built = grouped(read(_BUILT))
    return tuple(
        TrainingSetNode(digest, source, start, end, rows, {}, tuple(built.get(digest, ())))
        for digest, source, start, end, rows in read(_TRAINING_SETS)
    )


def _through(
    places: Places, training_sets: Sequence[TrainingSetNode], taught: Mapping[str, Places]
) -> Iterator[int]:
    """The versions that the training sets at these places taught."""
    for place in places:
        yield from taught.get(training_sets[place].digest, ())


def _bentos(
    packed: Iterable[Any], versions: Sequence[VersionNode], place: Mapping[int, int]
) -> tuple[tuple[BentoNode, Places], ...]:
    held: dict[tuple[str, str, datetime], list[int]] = {}
    for tag, digest, at, row_id in packed:
        held.setdefault((tag, digest, at), []).append(place[row_id])
    return tuple(
        (BentoNode(*bento, tuple(versions[at].ref for at in sorted(places))), tuple(sorted(places)))
        for bento, places in held.items()
    )


def grouped(pairs: Iterable[Any]) -> dict[Any, list[Any]]:
    """What hangs on each row: the second columns of `pairs` under the first."""
    found: dict[Any, list[Any]] = {}
    for owner, part in pairs:
        found.setdefault(owner, []).append(part)
    return found


def _inverted(pairs: Iterable[tuple[Iterable[Any], int]]) -> dict[Any, list[int]]:
    """From (keys, place) to key → places."""
    inverted: dict[Any, list[int]] = {}
    for keys, place in pairs:
        for key, at in zip(keys, repeat(place), strict=False):
            inverted.setdefault(key, []).append(at)
    return inverted


_COUNTED: Sequence[type[Base]] = (VersionRow, TrainingSetRow, ServiceRow, BentoRow)
_STAMP = sa.select(
    sa.select(sa.func.coalesce(sa.func.sum(ModelRow.next_version), 0)).scalar_subquery(),  # ever registered
    *(sa.select(sa.func.count()).select_from(row).scalar_subquery() for row in _COUNTED),
)
_VERSIONS = (
    sa.select(
        VersionRow.id, ModelRow.name, VersionRow.number, VersionRow.digest, VersionRow.training_set_digest
    )
    .join(ModelRow, ModelRow.id == VersionRow.model_id)
    .order_by(ModelRow.name, VersionRow.number)
)
_INPUTS = sa.select(InputRow.version_id, InputRow.service_digest).order_by(
    InputRow.version_id, InputRow.position
)
_UPSTREAM = sa.select(UpstreamRow.version_id, UpstreamRow.upstream_id).order_by(
    UpstreamRow.version_id, UpstreamRow.role
)
_BUILT = sa.select(TrainingSetServiceRow.training_set_digest, TrainingSetServiceRow.service_digest).order_by(
    TrainingSetServiceRow.training_set_digest, TrainingSetServiceRow.position
)
_TRAINING_SETS = sa.select(
    TrainingSetRow.digest,
    TrainingSetRow.source,
    TrainingSetRow.interval_start,
    TrainingSetRow.interval_end,
    TrainingSetRow.rows,
).order_by(TrainingSetRow.interval_start, TrainingSetRow.digest)
_PACKED = (
    sa.select(BentoRow.tag, BentoRow.digest, BentoRow.created_at, BentoVersionRow.version_id)
    .join(BentoVersionRow, BentoVersionRow.bento_id == BentoRow.id)
    .order_by(BentoRow.id)
)
_MEMBERS = (
    sa.select(
        ServiceRow.digest,
        ServiceRow.name,
        FeatureRow.digest,
        FeatureRow.name,
        FeatureRow.view,
        FeatureRow.dtype,
    )
    .join(ServiceMemberRow, ServiceMemberRow.service_digest == ServiceRow.digest)
    .join(FeatureRow, FeatureRow.digest == ServiceMemberRow.feature_digest)
    .where(ServiceRow.digest.in_(sa.bindparam("keys", expanding=True)))
    .order_by(ServiceMemberRow.service_digest, ServiceMemberRow.position)
)
