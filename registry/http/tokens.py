"""Who may call: tokens with a role, shown once and stored as salted hashes.

A token is `mtn_<key>_<secret>`. The key finds the row; the secret has 256 random bits, so one round of SHA-256
over salt and secret is enough: there is nothing to guess, and a page of versions does not wait for a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from registry.access import TokenRow
from registry.database import Database
from registry.errors import InvalidRecord, NotRecorded
from registry.refs import check_name

_TOKEN = re.compile(r"mtn_(?P<key>[0-9a-f]{16})_(?P<secret>[0-9a-f]{64})")
_KEY_BYTES, _SALT_BYTES, _SECRET_BYTES = 8, 16, 32

Randomness = Callable[[int], bytes]
"""Gives so many random bytes, as `secrets.token_bytes` does."""


class Role(StrEnum):
    """What a token may do; each may also do what those before it may."""

    VIEWER = "viewer"
    ENGINEER = "engineer"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may.

        >>> Role.ENGINEER.covers(Role.VIEWER), Role.ENGINEER.covers(Role.ADMIN)
        (True, False)
        """
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Caller:
    """Who a request comes from."""

    key: str
    name: str
    role: Role


@dataclass(frozen=True)
class Token:
    """A token as the ledger knows it; the secret is not among it."""

    key: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Tokens:
    """The tokens of one ledger."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, name: str, role: Role, random_bytes: Randomness, expires_at: datetime | None = None
    ) -> str:
        """Make a token for `name` and return it; nothing can show it again.

        Raises:
            InvalidRecord: the name cannot be one, or `expires_at` is not in the future.
        """
        check_name("token", name)
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidRecord(f"a token that expires at {expires_at} would never be good: it is {now} now.")
        key, salt, secret = (random_bytes(n).hex() for n in (_KEY_BYTES, _SALT_BYTES, _SECRET_BYTES))
        row = TokenRow(
            key=key,
            name=name,
            role=role.value,
            salt=salt,
            digest=_digest(salt, secret),
            created_at=now,
            expires_at=expires_at,
        )
        with self._database.write() as session:
            session.add(row)
        return f"mtn_{key}_{secret}"

    def identify(self, text: str) -> Caller | None:
        """Whose token `text` is; None where it is nobody's, or expired, or revoked.

        What is compared takes the same time however much of it is right, and also where no row has the key.
        """
        match = _TOKEN.fullmatch(text)
        if match is None:
            return None
        with self._database.read() as session:
            row = session.get(TokenRow, match["key"])
            salt, stored = (row.salt, row.digest) if row else ("", "0" * 64)
            right = hmac.compare_digest(_digest(salt, match["secret"]), stored)
            if row is None or not right or not _good(row, self._clock()):
                return None
            return Caller(row.key, row.name, Role(row.role))

    def revoke(self, key: str) -> None:
        """Make a token worthless from now on. Revoked already, it stays so. Raises `NotRecorded`."""
        with self._database.write() as session:
            row = session.get(TokenRow, key)
            if row is None:
                raise NotRecorded("token", key, session.scalars(sa.select(TokenRow.key)).all())
            if row.revoked_at is None:
                row.revoked_at = self._clock()

    def all(self) -> tuple[Token, ...]:
        """Every token there ever was, oldest first."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(TokenRow).order_by(TokenRow.created_at, TokenRow.key))
            return tuple(
                Token(row.key, row.name, Role(row.role), row.created_at, row.expires_at, row.revoked_at)
                for row in rows
            )


def _good(row: TokenRow, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _digest(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()
