"""The tables of the ledger's HTTP edge: who may call, who did what, and what the MLflow protocol adds.

They hang on the same metadata as the ledger's own tables, so one chain of migrations makes them all.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from registry.schema import Base

ROLES = ("viewer", "engineer", "admin")


class TokenRow(Base):
    """A token's salted hash; the token itself is never stored. Of a row only `revoked_at` changes, once."""

    __tablename__ = "access_token"
    __table_args__ = (sa.CheckConstraint(f"role IN {ROLES}", name="role"),)
    key: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    salt: Mapped[str]
    digest: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """One call that changed something, or tried to; append-only."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index(None, "at"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    token: Mapped[str] = mapped_column(ForeignKey("access_token.key"))
    name: Mapped[str]
    role: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    status: Mapped[int]
    problem: Mapped[str]


class ModelTagRow(Base):
    """A note on a registered model, as the MLflow protocol has them; it may be rewritten."""

    __tablename__ = "registered_model_tag"
    __table_args__ = (Index(None, "key", "model_id"),)
    model_id: Mapped[int] = mapped_column(ForeignKey("registered_model.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class UploadRow(Base):
    """A file sent ahead of the version it will belong to; its bytes are in the artifact store."""

    __tablename__ = "upload"
    token: Mapped[str] = mapped_column(ForeignKey("access_token.key"), primary_key=True)
    folder: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[datetime]
