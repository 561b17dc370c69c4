"""The tables of what leaves the ledger: its outbox, and the webhooks that events are delivered to.

They hang on the same metadata as the ledger's own tables, so one chain of migrations makes them all.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from registry.schema import Base


class OutboxRow(Base):
    """One event; append-only. Numbers and names, not keys: an event outlives what it tells of.

    Ids are 1, 2, 3, … without a gap, which a trigger enforces (see `registry.outbox`).
    """

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "kind", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    subject: Mapped[str]
    at: Mapped[datetime]
    payload: Mapped[Any]


class WebhookRow(Base):
    """Where events are delivered, how far that is, and who is at it; only the columns from `paused_at` on change.

    `acknowledged` is the last event that the endpoint answered with 2xx; it does not go back. `lease` names the
    dispatcher that delivers now, until `lease_until`. The secret stands here as it is, for it has to sign.
    """

    __tablename__ = "webhook"
    key: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    secret: Mapped[str]
    created_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]
    acknowledged: Mapped[int]
    attempts: Mapped[int]
    last_attempt_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str]
    next_attempt_at: Mapped[datetime | None]
    lease: Mapped[str | None]
    lease_until: Mapped[datetime | None]


class WebhookKindRow(Base):
    """A kind of event that a webhook is told of."""

    __tablename__ = "webhook_kind"
    webhook_key: Mapped[str] = mapped_column(ForeignKey("webhook.key", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
