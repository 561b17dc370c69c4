"""The database under the ledger: engines, transactions, and the schema's version."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from registry import outbox
from registry.canonical import canonical
from registry.errors import LedgerBusy, NewerLedger
from registry.fair_lock import FairLock

BUSY_SECONDS = 30
"""How long SQLite itself waits for a lock; only a writer that is none of ours can keep us waiting there."""
QUEUE_SECONDS = 120
"""How long a writer of ours waits for those before it."""
_UPGRADE_LOCK = 0x6D6174696E6565  # "matinee"; any number shared by everyone who upgrades
_STORE_LOCK = 0x73746F72  # "stor"


class Database:
    """One database by URL, with transactions that read and transactions that write.

    A writing transaction takes SQLite's write lock when it begins (BEGIN IMMEDIATE). Taken later, the lock
    could be refused half-way, after another writer has made what was read stale. Writers queue up for it at a file
    beside the database (`registry.fair_lock`); PostgreSQL has queues of its own.
    """

    def __init__(self, url: str, queue_seconds: float = QUEUE_SECONDS) -> None:
        self._engine = _engine(url)
        self._writing = self._engine.execution_options(ledger_writes=True)
        # PostgreSQL would otherwise let each statement of a transaction see a state of its own.
        self._reading = (
            self._engine.execution_options(isolation_level="REPEATABLE READ")
            if self.dialect == "postgresql"
            else self._engine
        )
        file = self._engine.url.database if self.dialect == "sqlite" else None
        self._queue = FairLock(Path(f"{file}-queue"), queue_seconds) if file else None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the ledger and leaves it as it is."""
        with Session(self._reading) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes all happen when the block ends, or none of them; and the events they tell of.

        Raises:
            LedgerBusy: others wrote for too long.
        """
        with self._turn(), Session(self._writing) as session, session.begin():
            yield session
            outbox.write_out(session)

    @contextmanager
    def referring(self) -> Iterator[Session]:
        """As `write`, and no sweep runs meanwhile: a stored file that is there now is still there when we commit.

        Everything that makes a row refer to a stored file has to look here whether the file is there.
        """
        with self.write() as session:
            self._lock_store(session, sa.func.pg_advisory_xact_lock_shared)
            yield session

    @contextmanager
    def sweeping(self) -> Iterator[Session]:
        """As `write`, and nobody is `referring`: a stored file that no row speaks of now is nobody's."""
        with self.write() as session:
            self._lock_store(session, sa.func.pg_advisory_xact_lock)
            yield session

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A plain connection that leaves the ledger as it is."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """A plain connection in a writing transaction."""
        with self._turn(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def rebuilding(self) -> Iterator[sa.Connection]:
        """As `connection`, for changing the schema: every foreign key is checked when the block ends, not before.

        On SQLite a table is changed by writing it anew, and dropping the old one would take along what hangs on it.
        """
        with self._turn(), self._writing.connect() as connection:
            if self.dialect == "sqlite":
                _enforce_references(connection, on=False)
            try:
                with connection.begin():
                    yield connection
                    if self.dialect == "sqlite":
                        _refuse_dangling(connection)
            finally:
                if self.dialect == "sqlite":
                    _enforce_references(connection, on=True)

    def _turn(self) -> AbstractContextManager[None]:
        return self._queue.held() if self._queue else nullcontext()

    def _lock_store(self, session: Session, lock: Any) -> None:
        """One lock for each ledger, that is for each schema. On SQLite the write lock is it, once we have begun."""
        session.connection()
        if self.dialect == "postgresql":
            session.execute(sa.select(lock(_STORE_LOCK, sa.func.hashtext(sa.func.current_schema()))))

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()


def migrate(database: Database, revision: str = "head") -> None:
    """Bring the schema up, or down, to `revision`; whoever comes second waits, then finds it done.

    Everything happens in one transaction, so a step that fails leaves the schema and its rows as they were. Where
    nothing is to be done, nothing is locked.

    Raises:
        NewerLedger: it stands at a revision that only a newer matinee knows.
    """
    if _stands_at(database, revision):
        return
    with database.rebuilding() as connection:
        if database.dialect == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        config = migration_config(connection)
        current = MigrationContext.configure(connection).get_current_revision()
        earlier = ScriptDirectory.from_config(config).iterate_revisions(current or "base", "base")
        down = revision in {"base", *(step.revision for step in earlier)}
        (alembic.command.downgrade if down else alembic.command.upgrade)(config, revision)


def _stands_at(database: Database, revision: str) -> bool:
    with database.reading() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        script = ScriptDirectory.from_config(migration_config(connection))
    head = script.get_current_head()
    if current is not None and current not in {step.revision for step in script.walk_revisions()}:
        raise NewerLedger(current, str(head))
    return current == (head if revision == "head" else revision)


def migration_config(connection: sa.Connection) -> Config:
    """What Alembic needs to know, on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ValueError(f"the ledger lives in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}.")
    if parsed.get_backend_name() == "postgresql":
        return sa.create_engine(parsed, json_serializer=canonical, pool_pre_ping=True)
    if parsed.database in {None, "", ":memory:"}:
        raise ValueError("the ledger needs a file: sqlite:///path/to/registry.db.")
    Path(parsed.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, json_serializer=canonical)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin on its own, and late; `_begin_sqlite` does it
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    _log_ahead(connection)
    for pragma in (
        "foreign_keys = ON",
        "synchronous = FULL",  # an acknowledged write survives a power cut
        "recursive_triggers = ON",  # else INSERT OR REPLACE deletes past the triggers
        "case_sensitive_like = ON",  # as on PostgreSQL; ILIKE folds case
    ):
        connection.execute(f"PRAGMA {pragma}")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the journal into a write-ahead log. Where two turn that of a new file at once, SQLite refuses one without a wait."""
    patience = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the low byte says what kind
                raise
            if time.monotonic() > patience:
                raise LedgerBusy("", BUSY_SECONDS) from error
            time.sleep(0.01)
        else:
            return


def _enforce_references(connection: sa.Connection, *, on: bool) -> None:
    """Past SQLAlchemy, which would begin a transaction first, and within one the pragma does nothing."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - so on SQLite; tells the type checker
    raw.execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")


def _refuse_dangling(connection: sa.Connection) -> None:
    if dangling := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        tables = ", ".join(sorted({row[0] for row in dangling}))
        raise sa.exc.IntegrityError(
            f"{len(dangling)} rows of {tables} refer to nothing", None, ValueError(tables)
        )


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("ledger_writes", False)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
            raise
        raise LedgerBusy("", BUSY_SECONDS) from error
