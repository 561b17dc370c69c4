"""Delivering an event to a webhook, step by step: claim it, post it, settle what came of it.

*At least once, in order.* `claim` takes the lease of a webhook (compare-and-set on its row, with an end) and the
first event behind the last one acknowledged. `settle` moves `acknowledged` on after a 2xx, and only while the lease
is still ours. So there is one delivery at a time for a webhook, by whichever dispatcher, and no event is passed over.
A dispatcher that dies in between leaves the lease to run out; then the same event goes out again under the same
`webhook-id`, by which a receiver knows it. A post ends within `POST_SECONDS`, and none begins unless so much of its
lease is left, so that two never overlap while the clocks of dispatchers differ by less than the rest.

*Again, with time between.* Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015): random between 0 and min(cap, base · 2ⁿ), for ever, because an event that is given up is one lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from registry.canonical import canonical
from registry.messaging import OutboxRow, WebhookKindRow, WebhookRow
from registry.outbox import Event, event_of, moment_text

POST_SECONDS = 10
LEASE = timedelta(seconds=30)
BASE_SECONDS = 1.0
CAP_SECONDS = 3600.0
_LONGEST_ERROR = 300


@dataclass(frozen=True)
class Parcel:
    """An event on its way to one webhook, under a lease that holds until `until`."""

    key: str
    name: str
    url: str
    secret: str = field(repr=False)
    event: Event
    attempts: int
    lease: str
    until: datetime

    @property
    def message_id(self) -> str:
        """The same in every attempt, and for no other event of any webhook."""
        return f"msg_{self.key}_{self.event.id}"


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: the status that was answered, or None and why there was none."""

    status: int | None
    error: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether the endpoint took the event; a redirect is no yes."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def said(self) -> str:
        """What went wrong, in words; '' if nothing did."""
        if self.acknowledged:
            return ""
        return f"answered {self.status}" if self.status is not None else self.error[:_LONGEST_ERROR]


def body_of(event: Event) -> bytes:
    """What is posted, in the shape that Standard Webhooks recommends: type, timestamp and data; and id and subject."""
    told = event.to_dict()
    return canonical(
        {
            "type": told["kind"],
            "timestamp": told["at"],
            "data": told["payload"],
            "id": told["id"],
            "subject": told["subject"],
        }
    ).encode()


def probe_body(at: datetime) -> bytes:
    """What is posted to see whether an endpoint is there: a message of type `test`, which is no event."""
    return canonical({"type": "test", "timestamp": moment_text(at), "data": {}}).encode()


def back_off(attempts: int, jitter: float) -> timedelta:
    """How long to wait after so many failed attempts in a row; `jitter` is uniform in [0, 1).

    >>> [back_off(attempts, 0.5).total_seconds() for attempts in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 1800.0]
    """
    exponent = min(attempts - 1, 32)  # far past the cap, and no overflow
    return timedelta(seconds=jitter * min(CAP_SECONDS, BASE_SECONDS * 2.0**exponent))


def due(session: Session, now: datetime) -> tuple[str, ...]:
    """The keys of webhooks that have an event to get and may get it now."""
    waiting = (
        sa.exists()
        .where(WebhookKindRow.webhook_key == WebhookRow.key)
        .where(OutboxRow.kind == WebhookKindRow.kind)
        .where(OutboxRow.id > WebhookRow.acknowledged)
    )
    return tuple(
        session.scalars(sa.select(WebhookRow.key).where(waiting, *_free(now)).order_by(WebhookRow.key))
    )


def claim(session: Session, key: str, lease: str, now: datetime) -> Parcel | None:
    """The next event of a webhook, ours to deliver until the lease ends; None if there is none or it may not go now."""
    until = now + LEASE
    row = session.scalars(
        sa.select(WebhookRow).where(WebhookRow.key == key, *_free(now)).with_for_update()
    ).first()
    if row is None:
        return None
    next_event = (
        sa.select(OutboxRow)
        .join(WebhookKindRow, WebhookKindRow.kind == OutboxRow.kind)
        .where(WebhookKindRow.webhook_key == key, OutboxRow.id > row.acknowledged)
        .order_by(OutboxRow.id)
        .limit(1)
    )
    found = session.scalars(next_event).first()
    if found is None:
        return None
    row.lease, row.lease_until = lease, until
    return Parcel(
        key=row.key,
        name=row.name,
        url=row.url,
        secret=row.secret,
        event=event_of(found),
        attempts=row.attempts,
        lease=lease,
        until=until,
    )


def settle(session: Session, parcel: Parcel, outcome: Outcome, now: datetime, jitter: float) -> bool:
    """Write down what came of a parcel and give its lease back; False if the lease was no longer ours.

    Then somebody else has the webhook, or nobody: what we know is of no use, and nothing is written.
    """
    ours = sa.update(WebhookRow).where(WebhookRow.key == parcel.key, WebhookRow.lease == parcel.lease)
    state: dict[str, object] = {
        "lease": None,
        "lease_until": None,
        "last_attempt_at": now,
        "last_status": outcome.status,
        "last_error": outcome.said,
    }
    if outcome.acknowledged:
        state |= {"acknowledged": parcel.event.id, "attempts": 0, "next_attempt_at": None}
    else:
        attempts = parcel.attempts + 1
        state |= {"attempts": attempts, "next_attempt_at": now + back_off(attempts, jitter)}
    return session.execute(ours.values(state).returning(WebhookRow.key)).first() is not None


def _free(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Not paused, not waiting after a failure, and nobody's."""
    return (
        WebhookRow.paused_at.is_(None),
        sa.or_(WebhookRow.next_attempt_at.is_(None), WebhookRow.next_attempt_at <= now),
        sa.or_(WebhookRow.lease.is_(None), WebhookRow.lease_until <= now),
    )
