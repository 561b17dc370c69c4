"""The outbox: what happened to the ledger, written in the transaction in which it happened.

A transactional outbox (Richardson, Microservices Patterns, 2018): neither the change nor its event is there without
the other. Operations `tell` of what they do; `Database.write` writes it out at the end of their transaction.

*Order.* Whoever reads on from the last id seen must miss nothing, so ids have to come to light in their order. On
SQLite they do: there is one writer at a time. On PostgreSQL two transactions may draw ids and commit in another
order, and a reader that saw 8 before 7 was there would never look at 7. So events are written last in a transaction,
under a lock that is held until it has committed, and the id is the next after the largest that has: 1, 2, 3, … without
a gap, also after a roll-back. The database does not rely on that lock being taken: a trigger refuses any id but the
next after those that can be seen, and of two who see the same one, the primary key refuses the second.

*No deadlock.* The lock comes after every other of its transaction (the rows of models and experiments among them),
and who holds it waits for nothing: it inserts here and commits. A circle of waiting needs somebody who holds it and
waits. The price is that commits that carry an event queue up, on PostgreSQL too; those that carry none do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar, get_origin, get_type_hints

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry.canonical import JSON, plain
from registry.errors import InvalidRecord
from registry.messaging import OutboxRow

LARGEST_PAGE = 1000
_PENDING = "told in this transaction"
_LOCK = sa.text("SELECT pg_advisory_xact_lock(CAST(CAST('outbox' AS regclass) AS bigint))")
"""By the table's own number, so that each ledger of a database has a lock of its own."""


class Kind(StrEnum):
    """What an event tells of."""

    VERSION_CREATED = "version_created"
    VERSION_DELETED = "version_deleted"
    ALIAS_MOVED = "alias_moved"
    ARM_BOUND = "arm_bound"
    ARM_RELEASED = "arm_released"
    GATE_FAILED = "gate_failed"
    CONSISTENCY_FAILED = "consistency_failed"


@dataclass(frozen=True)
class Payload:
    """What every kind of payload has: a subject, and a form in JSON."""

    kind: ClassVar[Kind]

    @property
    def subject(self) -> str:
        """What the event is about, as people write it."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, JSON]:
        """The payload in JSON: each field under its name, moments in UTC as `2026-01-31T06:00:00Z`."""
        held = {part.name: getattr(self, part.name) for part in fields(self)}
        return {
            name: moment_text(value) if isinstance(value, datetime) else plain(value)
            for name, value in held.items()
        }


@dataclass(frozen=True)
class VersionCreated(Payload):
    """A version was registered. `training_set` and `services` are digests."""

    kind = Kind.VERSION_CREATED
    name: str
    number: int
    digest: str
    source: str
    training_set: str | None
    services: tuple[str, ...]
    by: str

    @property
    def subject(self) -> str:
        """`ranker/3`."""
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class VersionDeleted(Payload):
    """A version that nothing referred to was deleted."""

    kind = Kind.VERSION_DELETED
    name: str
    number: int
    digest: str

    @property
    def subject(self) -> str:
        """`ranker/3`."""
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class AliasTransition(Payload):
    """An alias moved (`AliasMoved` is the refusal). `move` is promote, rollback or remove; None: no version."""

    kind = Kind.ALIAS_MOVED
    name: str
    alias: str
    move: str
    from_number: int | None
    to_number: int | None
    by: str
    reason: str

    @property
    def subject(self) -> str:
        """`ranker@champion`."""
        return f"{self.name}@{self.alias}"


@dataclass(frozen=True)
class ArmBound(Payload):
    """An arm began to serve: `models` are pinned references by parameter, `values` plain ones."""

    kind = Kind.ARM_BOUND
    experiment: str
    arm: str
    models: Mapping[str, str]
    values: Mapping[str, JSON]
    by: str
    reason: str

    @property
    def subject(self) -> str:
        """`homepage_rows/treatment`."""
        return f"{self.experiment}/{self.arm}"


@dataclass(frozen=True)
class ArmReleased(ArmBound):
    """An arm that was bound serves no longer; `models` and `values` are what it served, `state` where the run went."""

    kind = Kind.ARM_RELEASED
    state: str = "stopped"


@dataclass(frozen=True)
class GateFailed(Payload):
    """The gate found something in a table; `findings` says in how many ways, the report what."""

    kind = Kind.GATE_FAILED
    source: str
    table: str
    as_of: datetime
    generation: str | None
    findings: int
    digest: str

    @property
    def subject(self) -> str:
        """`world/user_activity`; the table alone where no source was said."""
        return f"{self.source}/{self.table}" if self.source else self.table


@dataclass(frozen=True)
class ConsistencyFailed(Payload):
    """Features were served otherwise than they are computed offline."""

    kind = Kind.CONSISTENCY_FAILED
    source: str
    service: str
    service_digest: str
    features: tuple[str, ...]
    requests: int
    newest_request: datetime
    digest: str

    @property
    def subject(self) -> str:
        """`world/ranking`."""
        return f"{self.source}/{self.service}"


PAYLOADS: Mapping[Kind, type[Payload]] = {
    payload.kind: payload
    for payload in (
        VersionCreated, VersionDeleted, AliasTransition, ArmBound, ArmReleased, GateFailed, ConsistencyFailed,
    )
}  # fmt: skip
"""What an event of each kind carries."""


@dataclass(frozen=True)
class Event:
    """Something that happened. Ids have no gaps, so two that follow each other are neighbours."""

    id: int
    at: datetime
    payload: Payload

    @property
    def kind(self) -> Kind:
        """What it tells of."""
        return self.payload.kind

    @property
    def subject(self) -> str:
        """What it is about: `ranker/3`, `ranker@champion`, `experiment/arm`, `source/table`, `source/service`."""
        return self.payload.subject

    def to_dict(self) -> dict[str, JSON]:
        """The event in JSON."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "subject": self.subject,
            "at": moment_text(self.at),
            "payload": self.payload.to_dict(),
        }


def tell(session: Session, payload: Payload, at: datetime) -> None:
    """Say what this transaction does. The event is written when the transaction ends, or not at all."""
    session.info.setdefault(_PENDING, []).append((payload, at))


def write_out(session: Session) -> None:
    """Write what was told in this transaction, as the last thing it does (the module says why)."""
    pending: Sequence[tuple[Payload, datetime]] = session.info.pop(_PENDING, ())
    if not pending:
        return
    session.flush()  # every other lock is taken before ours
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_LOCK)
    last = newest(session)  # a statement of its own: it sees what the one before us has committed
    session.add_all(
        OutboxRow(
            id=number, kind=payload.kind.value, subject=payload.subject, at=at, payload=payload.to_dict()
        )
        for number, (payload, at) in enumerate(pending, last + 1)
    )
    session.flush()


def newest(session: Session) -> int:
    """The id of the newest event; 0 where there is none."""
    return session.scalar(sa.select(sa.func.coalesce(sa.func.max(OutboxRow.id), 0))) or 0


def events(session: Session, after: int, limit: int, kinds: Sequence[str]) -> tuple[Event, ...]:
    """The events behind id `after`, oldest first, at most `limit`; of `kinds`, or of every kind if that is empty.

    Raises:
        InvalidRecord: a kind there is not, or a limit outside 1 to 1000.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRecord(f"limit is {limit}; a page of events has 1 to {LARGEST_PAGE}.")
    found = sa.select(OutboxRow).where(OutboxRow.id > after).order_by(OutboxRow.id).limit(limit)
    if kinds:
        found = found.where(OutboxRow.kind.in_([known_kind(kind) for kind in kinds]))
    return tuple(event_of(row) for row in session.scalars(found))


def known_kind(kind: str) -> Kind:
    """`kind`, if there is such a kind of event.

    Raises:
        InvalidRecord: there is not; names those there are.
    """
    if kind not in set(Kind):
        raise InvalidRecord(f"{kind!r} is no kind of event. There are: {', '.join(Kind)}.")
    return Kind(kind)


def event_of(row: OutboxRow) -> Event:
    """The event that a row of the outbox holds."""
    payload = PAYLOADS[Kind(row.kind)]
    types = get_type_hints(payload)
    return Event(
        row.id, row.at, payload(**{name: _read(types[name], row.payload[name]) for name in row.payload})
    )


def follow(read: Callable[[int], Sequence[Event]], after: int, wait: Callable[[], bool]) -> Iterator[Event]:
    """Every event behind id `after` as it comes, in order, each once.

    Args:
        read: a page of the events behind an id, as `Registry.events` gives it.
        after: the last id already seen.
        wait: called when there is nothing new; returns when to look again, and False to end.
    """
    while True:
        page = read(after)
        for event in page:
            yield event
            after = event.id
        if not page and not wait():
            return


def moment_text(moment: datetime) -> str:
    """A moment in UTC, as `2026-01-31T06:00:00Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read(kind: object, value: JSON) -> object:
    if kind is datetime:
        return datetime.fromisoformat(value)
    return tuple(value) if get_origin(kind) is tuple else value
