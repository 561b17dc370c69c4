"""Who did what: one line for every call that changed something, or was refused when it tried to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from registry.access import AuditRow
from registry.database import Database
from registry.http.tokens import Caller

_LONGEST = 1000  # characters of a target or a problem; the rest is cut off


@dataclass(frozen=True)
class Entry:
    """One line of the log; `status` is the answer's HTTP status, `problem` its message where it was refused."""

    id: int
    at: datetime
    token: str
    name: str
    role: str
    action: str
    target: str
    status: int
    problem: str


class AuditLog:
    """The audit log of one ledger; the database itself refuses to change or delete a line."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def append(self, caller: Caller, action: str, target: str, status: int, problem: str = "") -> None:
        """Write one line; it is on disk when this returns."""
        row = AuditRow(
            at=self._clock(),
            token=caller.key,
            name=caller.name,
            role=caller.role.value,
            action=action,
            target=_storable(target),
            status=status,
            problem=_storable(problem),
        )
        with self._database.write() as session:
            session.add(row)

    def page(self, after: int = 0, limit: int = 100, name: str | None = None) -> tuple[Entry, ...]:
        """The lines behind line `after`, oldest first; with `name`, only what was done in that name."""
        query = sa.select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id).limit(limit)
        if name is not None:
            query = query.where(AuditRow.name == name)
        with self._database.read() as session:
            return tuple(
                Entry(
                    row.id, row.at, row.token, row.name, row.role, row.action, row.target, row.status,
                    row.problem,
                )
                for row in session.scalars(query)
            )  # fmt: skip


def _storable(text: str) -> str:
    """`text` as any database can hold it: what a caller sends may hold a NUL or half a surrogate pair."""
    return text.replace("\0", "␀").encode(errors="replace").decode()[:_LONGEST]
