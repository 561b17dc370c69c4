"""What the HTTP edge stands on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from registry.artifacts import ArtifactStore
from registry.database import Database
from registry.http.audit import AuditLog
from registry.http.limits import Buckets, Limits
from registry.http.tokens import Tokens
from registry.ledger import Registry, open_registry, utc_now
from registry.webhooks import Webhooks


@dataclass(frozen=True)
class Backend:
    """The ledger, and what the edge keeps beside it in the same database.

    `imports` are folders of the server's own machine that a version may be made from; none unless said so.
    """

    registry: Registry
    database: Database
    store: ArtifactStore
    tokens: Tokens
    audit: AuditLog
    buckets: Buckets
    limits: Limits
    clock: Callable[[], datetime]
    webhooks: Webhooks
    imports: tuple[Path, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the database's connections back."""
        self.registry.close()
        self.database.close()


def open_backend(
    url: str,
    artifacts: str,
    *,
    limits: Limits | None = None,
    imports: Sequence[Path] = (),
    clock: Callable[[], datetime] = utc_now,
    seconds: Callable[[], float] = time.monotonic,
) -> Backend:
    """Open the ledger at a database URL for serving, its schema brought up to date.

    Args:
        url: as for `registry.open_registry`.
        artifacts: as for `registry.open_registry`.
        limits: what one token may ask for.
        imports: folders whose files may become versions by their path (see `registry.http.sources`).
        clock: what time it is.
        seconds: a clock that never goes back; rates are measured by it.
    """
    limits = limits or Limits()
    registry = open_registry(url, artifacts, clock=clock)
    database = Database(url)
    return Backend(
        registry=registry,
        database=database,
        store=ArtifactStore(artifacts),
        tokens=Tokens(database, clock),
        audit=AuditLog(database, clock),
        buckets=Buckets(limits.rate, limits.burst, seconds),
        limits=limits,
        clock=clock,
        webhooks=Webhooks(database, clock),
        imports=tuple(path.resolve() for path in imports),
    )
