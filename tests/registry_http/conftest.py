"""A real server on a free port over a real database: SQLite, and PostgreSQL where one is reachable."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

import itertools
import secrets
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa

from registry import (
    FeatureRecord,
    GateRecord,
    Input,
    Metric,
    ServiceRecord,
    Signature,
    TrainingSetRecord,
    VersionDraft,
)
from registry.http import Limits, Role, open_backend
from registry.http.server import bind, server, url_of

POSTGRES = os.environ.get("MATINEE_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
LEARNED = "learned"
"""A training set whose tables passed the gate: what a version learned from unless its test says otherwise."""
BACKENDS = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.service)]


@pytest.fixture(scope="session")
def new_schema():
    """Gives URLs of fresh PostgreSQL schemas, and drops them all at the end."""
    engine = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    try:
        engine.connect().close()
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL at MATINEE_TEST_POSTGRES or its default: {error.orig}")
    made = []

    def new() -> str:
        schema = f"matinee_http_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        with engine.connect() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
        made.append(schema)
        separator = "&" if "?" in POSTGRES else "?"
        return f"{POSTGRES}{separator}options=-csearch_path%3D{schema}%20-csynchronous_commit%3Doff"

    yield new
    with engine.connect() as connection:
        for schema in made:
            connection.execute(sa.schema.DropSchema(schema, cascade=True))
    engine.dispose()


@pytest.fixture(scope="module", params=BACKENDS)
def database_url(request, tmp_path_factory):
    """An empty database for the tests of one module, each of which uses model names of its own."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_schema")()
    return f"sqlite:///{tmp_path_factory.mktemp('ledger')}/registry.db"


def ticking():
    """A clock that is one second later every time it is asked."""
    seconds = itertools.count()
    return lambda: NEW_YEAR + timedelta(seconds=next(seconds))


@pytest.fixture(scope="module")
def import_root(tmp_path_factory):
    """The one folder of the server's machine that clients may name."""
    return tmp_path_factory.mktemp("open")


@pytest.fixture(scope="module")
def backend(database_url, tmp_path_factory, import_root):
    limits = Limits(rate=1e6, burst=10**6, body=1 << 18, upload=1 << 20)
    artifacts = str(tmp_path_factory.mktemp("artifacts"))
    with open_backend(database_url, artifacts, limits=limits, imports=[import_root], clock=ticking()) as made:
        made.registry.record_training_set(
            TrainingSetRecord(LEARNED, "world", NEW_YEAR - timedelta(days=28), NEW_YEAR, 1000, as_of=NEW_YEAR)
        )
        made.registry.record_gate(GateRecord("user_activity", NEW_YEAR, passed=True, source="world"))
        yield made


@pytest.fixture(scope="module")
def tokens(backend):
    """One token for each role, each in the name of its role."""
    return {role: backend.tokens.create(role.value, role, secrets.token_bytes) for role in Role}


@pytest.fixture(scope="module")
def base_url(backend):
    """Where a real server of `backend` listens."""
    listening, uvicorn = bind("127.0.0.1", 0), server(backend)
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listening]})
    thread.start()
    while not uvicorn.started:
        time.sleep(0.01)
    yield url_of(listening)
    uvicorn.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def calling(base_url, tokens):
    """HTTP clients by role."""
    made = {
        role: httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        for role, token in tokens.items()
    }
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def viewer(calling):
    return calling[Role.VIEWER]


@pytest.fixture(scope="module")
def engineer(calling):
    return calling[Role.ENGINEER]


@pytest.fixture(scope="module")
def admin(calling):
    return calling[Role.ADMIN]


@pytest.fixture(scope="session")
def draft():
    """Makes a draft; two drafts with different `weights` are different versions; `service` is what it reads."""

    def make(name, weights=0, **rest):
        files = {"tower/config.json": b'{"layers": %d}' % weights, "report.md": b"# Offline evaluation"}
        rest.setdefault("metrics", [Metric("recall", 0.41, dataset="world", split="test", k=200)])
        rest.setdefault("training_set", LEARNED)
        if "service" in rest:
            rest["signature"] = Signature((Input("features", rest.pop("service")),))
        return VersionDraft(name, rest.pop("files", files), **rest)

    return make


@pytest.fixture(scope="session")
def lineage():
    """Records a feature, a service over it and a training set built from it; returns the training set's digest."""

    def record(ledger, suffix, *, passed=True):
        ledger.record_features([FeatureRecord(f"f{suffix}", f"plays_{suffix}", "user_activity", "FLOAT")])
        service = ledger.record_service(ServiceRecord(f"ranking{suffix}", (f"f{suffix}",)))
        ledger.record_training_set(
            TrainingSetRecord(
                f"t{suffix}", f"world{suffix}", NEW_YEAR - timedelta(days=28), NEW_YEAR, 1000, as_of=NEW_YEAR,
                event_digests={"plays": "e1"}, services=(service,),
            )
        )  # fmt: skip
        ledger.record_gate(GateRecord("user_activity", NEW_YEAR, passed, source=f"world{suffix}"))
        return service, f"t{suffix}"

    return record


@pytest.fixture
def name():
    """A model name nobody else uses."""
    return f"model-{uuid.uuid4().hex[:10]}"
