"""Webhooks: endpoints that are told of events, and how far each has been told.

The secret of one is shown when it is made and never again; no value here holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from registry import outbox
from registry.database import Database
from registry.errors import InvalidRecord, NameTaken, NotRecorded
from registry.messaging import OutboxRow, WebhookKindRow, WebhookRow
from registry.outbox import Kind, known_kind
from registry.refs import check_name
from registry.signing import Randomness, new_secret

MOST = 100
"""Webhooks of one ledger; a dispatcher has a connection to each of them at once."""
_KEY_BYTES = 8
_LONGEST_URL = 2000


@dataclass(frozen=True)
class Webhook:
    """A webhook and the state of its deliveries.

    `acknowledged` is the last event the endpoint answered with 2xx, `lag` how many events of its kinds are behind
    that. `attempts` counts those in a row that failed; `last_error` says how the last one did, '' if it did not.
    """

    key: str
    name: str
    url: str
    kinds: tuple[Kind, ...]
    created_at: datetime
    paused_at: datetime | None
    acknowledged: int
    lag: int
    attempts: int
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str
    next_attempt_at: datetime | None


class Webhooks:
    """The webhooks of one ledger."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        url: str,
        kinds: Sequence[str],
        random_bytes: Randomness,
        *,
        name: str | None = None,
        after: int | None = None,
    ) -> tuple[Webhook, str]:
        """Make a webhook; it and its secret, which nothing can show again.

        Args:
            url: where events are posted to; http or https, without a user or password.
            kinds: the kinds of events it is told of, at least one.
            random_bytes: makes its key and its secret.
            name: how people name it; the URL's host if left out.
            after: the event it begins behind, 0 for all there ever were; the newest if left out.

        Raises:
            InvalidRecord: the URL, the name, a kind or `after` cannot be one; or there are 100 webhooks already.
            NameTaken: there is a webhook of that name.
        """
        host = check_url(url)
        wanted = sorted({known_kind(kind) for kind in kinds}, key=list(Kind).index)
        if not wanted:
            raise InvalidRecord(f"a webhook needs a kind of event at least. There are: {', '.join(Kind)}.")
        name = check_name("webhook", host if name is None else name)
        secret = new_secret(random_bytes)
        key = random_bytes(_KEY_BYTES).hex()
        with self._database.write() as session:
            _check_room(session, name)
            row = WebhookRow(
                key=key,
                name=name,
                url=url,
                secret=secret,
                created_at=self._clock(),
                acknowledged=_start(session, after),
                attempts=0,
                last_error="",
            )
            session.add(row)
            _flush_unseen(session)
            session.add_all(WebhookKindRow(webhook_key=key, kind=kind.value) for kind in wanted)
        return self.get(name), secret

    def all(self) -> tuple[Webhook, ...]:
        """Every webhook, by name."""
        with self._database.read() as session:
            return _read(session, sa.select(WebhookRow).order_by(WebhookRow.name))

    def get(self, name: str) -> Webhook:
        """The webhook of a name. Raises `NotRecorded`, naming those there are."""
        with self._database.read() as session:
            return _read(session, sa.select(WebhookRow).where(WebhookRow.key == row_of(session, name).key))[0]

    def pause(self, name: str) -> Webhook:
        """Send nothing more until `resume`; what is on its way arrives. Paused already is fine. Raises `NotRecorded`."""
        with self._database.write() as session:
            row = row_of(session, name)
            row.paused_at = row.paused_at or self._clock()
        return self.get(name)

    def resume(self, name: str) -> Webhook:
        """Go on after the last event acknowledged, at once, whatever back-off was running. Raises `NotRecorded`."""
        with self._database.write() as session:
            row = row_of(session, name)
            row.paused_at = row.next_attempt_at = None
        return self.get(name)

    def delete(self, name: str) -> None:
        """Forget a webhook and its secret. Raises `NotRecorded`."""
        with self._database.write() as session:
            row = row_of(session, name)
            session.execute(sa.delete(WebhookRow).where(WebhookRow.key == row.key))


def check_url(url: str) -> str:
    """The host of a URL that can be posted to.

    Raises:
        InvalidRecord: it is not http or https, has no host, has a user or password, or letters no URL has.
    """
    if not 1 <= len(url) <= _LONGEST_URL or not all("!" <= letter <= "~" for letter in url):
        raise InvalidRecord(f"a webhook's URL has 1 to {_LONGEST_URL} ASCII letters and no spaces.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidRecord(f"a webhook's URL cannot be read: {error}.") from error
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise InvalidRecord("a webhook's URL begins with http:// or https:// and a host.")
    if parts.username is not None or parts.password is not None:
        raise InvalidRecord(
            "a webhook's URL has no user and password: they would be listed with it, and the signature says who sends."
        )
    return host.replace(":", ".")[:200]


def _check_room(session: Session, name: str) -> None:
    names = session.scalars(sa.select(WebhookRow.name)).all()
    if name in names:
        raise NameTaken("webhook", name)
    if len(names) >= MOST:
        raise InvalidRecord(f"there are {MOST} webhooks, which is the most; delete one first.")


def _start(session: Session, after: int | None) -> int:
    newest = outbox.newest(session)
    if after is None:
        return newest
    if not 0 <= after <= newest:
        raise InvalidRecord(f"a webhook cannot begin behind event {after}: the newest is {newest}.")
    return after


def _flush_unseen(session: Session) -> None:
    """Insert the row with the secret; an error of the database would show it among its parameters."""
    try:
        session.flush()
    except StatementError as error:
        error.hide_parameters = True
        raise


def row_of(session: Session, name: str) -> WebhookRow:
    """The row of a webhook, secret and all. Raises `NotRecorded`, naming those there are."""
    row = session.scalars(sa.select(WebhookRow).where(WebhookRow.name == name)).first()
    if row is None:
        raise NotRecorded("webhook", name, session.scalars(sa.select(WebhookRow.name)).all())
    return row


def _read(session: Session, rows: sa.Select[WebhookRow]) -> tuple[Webhook, ...]:
    """The webhooks of `rows`, with how far behind each is: three queries, however many."""
    behind = (
        sa.select(WebhookRow.key, sa.func.count())
        .join(WebhookKindRow, WebhookKindRow.webhook_key == WebhookRow.key)
        .join(
            OutboxRow,
            sa.and_(OutboxRow.kind == WebhookKindRow.kind, OutboxRow.id > WebhookRow.acknowledged),
        )
        .group_by(WebhookRow.key)
    )
    lags: dict[str, int] = {key: count for key, count in session.execute(behind)}  # noqa: C416 - dict() would not type-check
    kinds: dict[str, set[str]] = {}
    for row in session.scalars(sa.select(WebhookKindRow)):
        kinds.setdefault(row.webhook_key, set()).add(row.kind)
    return tuple(
        Webhook(
            key=row.key,
            name=row.name,
            url=row.url,
            kinds=tuple(kind for kind in Kind if kind in kinds[row.key]),
            created_at=row.created_at,
            paused_at=row.paused_at,
            acknowledged=row.acknowledged,
            lag=lags.get(row.key, 0),
            attempts=row.attempts,
            last_attempt_at=row.last_attempt_at,
            last_status=row.last_status,
            last_error=row.last_error,
            next_attempt_at=row.next_attempt_at,
        )
        for row in session.scalars(rows)
    )
