"""Every test of the ledger runs on SQLite and on PostgreSQL."""

import itertools
import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry import (
    FeatureRecord,
    Input,
    Metric,
    ServiceRecord,
    Signature,
    TrainingSetRecord,
    VersionDraft,
    open_registry,
)
from registry.database import Database, migrate
from registry.schema import Base

POSTGRES = os.environ.get("MATINEE_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
BACKENDS = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.service)]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "registry.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def new_postgres_schema():
    """Gives URLs of fresh, migrated schemas, and drops them all at the end."""
    server = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    try:
        server.connect().close()
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL at MATINEE_TEST_POSTGRES or its default: {error.orig}")
    made = []

    def new() -> str:
        schema = f"matinee_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        with server.connect() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
        made.append(schema)
        separator = "&" if "?" in POSTGRES else "?"
        return f"{POSTGRES}{separator}options=-csearch_path%3D{schema}%20-csynchronous_commit%3Doff"

    yield new
    with server.connect() as connection:
        for schema in made:
            connection.execute(sa.schema.DropSchema(schema, cascade=True))
    server.dispose()


@pytest.fixture(scope="session")
def postgres_url(new_postgres_schema):
    """One migrated schema, shared by tests that empty it behind them."""
    url = new_postgres_schema()
    database = Database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path, sqlite_template):
    """A migrated, empty database."""
    if request.param == "sqlite":
        shutil.copy(sqlite_template, tmp_path / "registry.db")
        yield f"sqlite:///{tmp_path}/registry.db"
        return
    url = request.getfixturevalue("postgres_url")
    yield url
    empty(url)


def empty(url: str) -> None:
    """Empty a PostgreSQL schema past the triggers; TRUNCATE would be far slower on tables this small."""
    tables = [table.name for table in Base.metadata.sorted_tables]
    counters = [table.name for table in Base.metadata.sorted_tables if table.autoincrement_column is not None]
    database = Database(url)
    with database.connection() as connection:
        connection.exec_driver_sql(
            "SET LOCAL session_replication_role = replica;"
            + "".join(f"DELETE FROM {table};" for table in tables)
            + "".join(f"ALTER SEQUENCE {table}_id_seq RESTART;" for table in counters)
        )
    database.close()


@pytest.fixture(scope="module", params=BACKENDS)
def module_url(request, tmp_path_factory, sqlite_template):
    """A migrated, empty database for the tests of one module that leave it as it is."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_postgres_schema")()
    path = tmp_path_factory.mktemp("module") / "registry.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


def ticking():
    """A clock that is one second later every time it is asked."""
    seconds = itertools.count()
    return lambda: NEW_YEAR + timedelta(seconds=next(seconds))


@pytest.fixture
def clock():
    return ticking()


@pytest.fixture(scope="module")
def module_ledger(module_url, tmp_path_factory):
    artifacts = str(tmp_path_factory.mktemp("artifacts"))
    with open_registry(module_url, artifacts, clock=ticking(), protected=()) as registry:
        yield registry


@pytest.fixture
def ledger(url, tmp_path, clock):
    """A ledger in which every alias moves freely."""
    with open_registry(url, str(tmp_path / "artifacts"), clock=clock, protected=()) as registry:
        yield registry


@pytest.fixture
def guarded(url, tmp_path, clock):
    """A ledger as it is opened by default: the champion moves on evidence only."""
    with open_registry(url, str(tmp_path / "artifacts"), clock=clock) as registry:
        yield registry


@pytest.fixture
def raw(url):
    """Runs SQL past the ledger's own code, as an attacker or a careless colleague would."""
    database = Database(url)

    def run(sql: str, **values: object) -> list[tuple]:
        with database.connection() as connection:
            result = connection.execute(sa.text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    database.close()


@pytest.fixture(scope="session")
def draft():
    """Makes a draft; two drafts with different `weights` are different versions; `service` is what it reads."""

    def make(name: str = "ranker", weights: int = 0, **rest: object) -> VersionDraft:
        files = {"model/config.json": b'{"layers": %d}' % weights, "report.md": b"# Offline evaluation"}
        rest.setdefault("metrics", [Metric("recall", 0.41, dataset="world", split="test", k=200)])
        if "service" in rest:
            rest["signature"] = Signature((Input("features", rest.pop("service")),))
        return VersionDraft(name, rest.pop("files", files), **rest)

    return make


@pytest.fixture(scope="session")
def lineage():
    """Records three features, a service over them and a training set built from it; returns the two digests."""

    def record(ledger, suffix: str = "") -> tuple[str, str]:
        features = [
            FeatureRecord(f"f{n}{suffix}", f"watch_minutes_sum_{n}d", "user_activity", "FLOAT", {"days": n})
            for n in (1, 7, 28)
        ]
        ledger.record_features(features)
        service = ledger.record_service(
            ServiceRecord(f"ranking{suffix}", tuple(feature.digest for feature in features))
        )
        ledger.record_training_set(training_set(f"t{suffix}", services=(service,)))
        return service, f"t{suffix}"

    return record


def training_set(digest: str = "t", **rest: object) -> TrainingSetRecord:
    start, end = NEW_YEAR - timedelta(days=28), NEW_YEAR
    known = {"rows": 1000, "as_of": NEW_YEAR, "event_digests": {"plays": "e1"}, **rest}
    return TrainingSetRecord(digest, "world", start, end, **known)


@pytest.fixture(name="training_set")
def _training_set():
    return training_set
