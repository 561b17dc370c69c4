"""The column types of the ledger, the same in meaning on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class Instant(TypeDecorator[datetime]):
    """A point in time, aware and in UTC on both sides, to the microsecond.

    SQLite keeps no zone, so it stores UTC digits, which sort as text in order of time.
    """

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        """PostgreSQL's own zoned timestamp where there is one."""
        zoned = TIMESTAMP(timezone=True) if dialect.name == "postgresql" else sa.DateTime()
        return dialect.type_descriptor(zoned)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: it would mean another instant on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                f"{value!r} has no time zone; the ledger keeps UTC. Use datetime(..., tzinfo=UTC)."
            )
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else value.replace(tzinfo=UTC)


def text_type() -> sa.Text:
    """Text compared by code point everywhere, so that a search sorts alike on every database."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
