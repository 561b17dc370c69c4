"""Who may call, how often and with how much; and the log of what they did."""

import itertools
import secrets
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import InvalidRecord, NotRecorded
from registry.database import Database, migrate
from registry.http.limits import Buckets
from registry.http.tokens import Role, Tokens

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def raw(database_url, backend):
    """Runs SQL past the code, as an attacker or a careless colleague would."""
    database = Database(database_url)

    def run(sql):
        with database.connection() as connection:
            result = connection.exec_driver_sql(sql)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    database.close()


# --- tokens ------------------------------------------------------------------------------------------------


def test_a_token_says_who_calls_and_is_nowhere_in_the_database(backend, raw):
    token = backend.tokens.create("ada", Role.ENGINEER, secrets.token_bytes)
    caller = backend.tokens.identify(token)
    assert (caller.name, caller.role) == ("ada", Role.ENGINEER)
    _, key, secret = token.split("_")
    assert caller.key == key
    stored = [str(cell) for row in raw("SELECT * FROM access_token") for cell in row]
    assert not any(secret in cell for cell in stored)


def test_the_same_secret_would_be_stored_differently_twice(tmp_path):
    """By its salt: who has read the table cannot see that two tokens are one."""
    database = Database(f"sqlite:///{tmp_path}/r.db")
    migrate(database)
    tokens = Tokens(database, lambda: NOW)
    counter = itertools.count()

    def random_bytes(size):
        return b"s" * size if size == 32 else next(counter).to_bytes(size)

    made = [tokens.create("ada", Role.VIEWER, random_bytes) for _ in range(2)]
    assert len({token.split("_")[2] for token in made}) == 1
    with database.connection() as connection:
        digests = {row[0] for row in connection.exec_driver_sql("SELECT digest FROM access_token")}
    assert len(digests) == 2
    database.close()


@pytest.mark.parametrize("place", [0, 4, 19, 20, 21, 50, 84])
def test_a_token_with_one_letter_changed_is_nobodys(backend, place):
    token = backend.tokens.create("ada", Role.VIEWER, secrets.token_bytes)
    other = "0" if token[place] != "0" else "1"
    assert backend.tokens.identify(token[:place] + other + token[place + 1 :]) is None
    assert backend.tokens.identify(token) is not None


@pytest.mark.parametrize(
    "text", ["", "mtn_", "mtn_0_0", f"mtn_{'0' * 16}_{'0' * 64}", "mtn_" + "é" * 81, "\0"]
)
def test_what_is_no_token_is_nobodys(backend, text):
    assert backend.tokens.identify(text) is None


def test_a_revoked_token_is_worthless_at_once_and_for_good(backend, base_url):
    token = backend.tokens.create("ada", Role.VIEWER, secrets.token_bytes)
    with httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/v1/whoami").json() == {"name": "ada", "role": "viewer"}
        backend.tokens.revoke(token.split("_")[1])
        assert client.get("/v1/whoami").status_code == 401
    with pytest.raises(NotRecorded, match="token"):
        backend.tokens.revoke("0" * 16)


def test_a_token_is_good_until_the_moment_it_expires(tmp_path):
    database, now = Database(f"sqlite:///{tmp_path}/r.db"), [NOW]
    migrate(database)
    tokens = Tokens(database, lambda: now[0])
    token = tokens.create("ada", Role.VIEWER, secrets.token_bytes, NOW + timedelta(days=1))
    now[0] = NOW + timedelta(days=1) - timedelta(microseconds=1)
    assert tokens.identify(token) is not None
    now[0] = NOW + timedelta(days=1)
    assert tokens.identify(token) is None
    with pytest.raises(InvalidRecord, match="never be good"):
        tokens.create("ada", Role.VIEWER, secrets.token_bytes, now[0])
    database.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE access_token SET role = 'admin'",
        "UPDATE access_token SET digest = 'x'",
        "UPDATE access_token SET expires_at = NULL WHERE expires_at IS NOT NULL",
        "UPDATE access_token SET revoked_at = NULL WHERE revoked_at IS NOT NULL",
        "DELETE FROM access_token",
        "UPDATE audit_entry SET name = 'somebody else'",
        "DELETE FROM audit_entry",
    ],
)
def test_the_database_itself_keeps_tokens_and_log_as_they_are(backend, raw, sql):
    token = backend.tokens.create(
        "ada", Role.VIEWER, secrets.token_bytes, backend.clock() + timedelta(days=1)
    )
    backend.audit.append(backend.tokens.identify(token), "promote", "x", 200)
    backend.tokens.revoke(token.split("_")[1])
    with pytest.raises(Exception, match="matinee: "):
        raw(sql)


def test_a_role_may_what_those_before_it_may():
    table = {(held, needed): held.covers(needed) for held in Role for needed in Role}
    assert [table[held, needed] for held in Role for needed in Role] == [
        True, False, False,
        True, True, False,
        True, True, True,
    ]  # fmt: skip


WRITES = [
    ("PUT", "/v1/models/m/aliases/a", {"version": 1, "reason": "x"}, Role.ENGINEER),
    ("DELETE", "/v1/models/m/aliases/a?reason=x", None, Role.ENGINEER),
    ("POST", "/v1/models/m/aliases/a/rollback", {"reason": "x"}, Role.ENGINEER),
    ("PUT", "/v1/models/m/versions/1/tags/k", {"value": "x"}, Role.ENGINEER),
    ("DELETE", "/v1/models/m/versions/1/tags/k", None, Role.ENGINEER),
    ("POST", "/v1/models/m/versions/1/metrics", {"metrics": [{"key": "auc", "value": 0.5}]}, Role.ENGINEER),
    ("DELETE", "/v1/models/m/versions/1", None, Role.ADMIN),
    ("DELETE", "/v1/models/m", None, Role.ADMIN),
    ("PUT", "/v1/uploads/u/x.exe", None, Role.ENGINEER),
    ("POST", "/v1/models/m/versions", {"upload": "nothing-was-sent"}, Role.ENGINEER),
    ("GET", "/v1/audit", None, Role.ADMIN),
    ("POST", "/api/2.0/mlflow/registered-models/create", {"name": "x:y"}, Role.ENGINEER),
    ("POST", "/api/2.0/mlflow/registered-models/rename", {"name": "m", "new_name": "n"}, Role.ENGINEER),
    ("PATCH", "/api/2.0/mlflow/registered-models/update", {"name": "m"}, Role.ENGINEER),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete", {"name": "m"}, Role.ADMIN),
    ("POST", "/api/2.0/mlflow/registered-models/set-tag", {"name": "m", "key": "k", "value": "v"}, Role.ENGINEER),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete-tag", {"name": "m", "key": "k"}, Role.ENGINEER),
    ("POST", "/api/2.0/mlflow/registered-models/alias", {"name": "m", "alias": "a", "version": "1"}, Role.ENGINEER),
    ("DELETE", "/api/2.0/mlflow/registered-models/alias", {"name": "m", "alias": "a"}, Role.ENGINEER),
    ("POST", "/api/2.0/mlflow/model-versions/create", {"name": "m", "source": "/x"}, Role.ENGINEER),
    ("PATCH", "/api/2.0/mlflow/model-versions/update", {"name": "m", "version": "1"}, Role.ENGINEER),
    ("POST", "/api/2.0/mlflow/model-versions/transition-stage", {"name": "m", "version": "1", "stage": "None"}, Role.ENGINEER),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete", {"name": "m", "version": "1"}, Role.ADMIN),
    ("POST", "/api/2.0/mlflow/model-versions/set-tag", {"name": "m", "version": "1", "key": "k"}, Role.ENGINEER),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete-tag", {"name": "m", "version": "1", "key": "k"}, Role.ENGINEER),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/m/1/x.json", None, Role.ENGINEER),
    ("GET", "/v1/webhooks", None, Role.ADMIN),
    ("POST", "/v1/webhooks", {"url": "ftp://nowhere", "kinds": ["alias_moved"], "name": "m"}, Role.ADMIN),
    ("PATCH", "/v1/webhooks/m", {"paused": True}, Role.ADMIN),
    ("DELETE", "/v1/webhooks/m", None, Role.ADMIN),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "needed"), WRITES)
def test_every_call_that_writes_takes_its_role_and_is_logged(calling, backend, method, path, body, needed):
    """No model `m` exists, so whoever may call is told 404 (or what is wrong with the value); nobody changes it."""
    for role, client in calling.items():
        seen = max((entry.id for entry in backend.audit.page(limit=10_000)), default=0)
        answer = client.request(method, path, json=body) if body else client.request(method, path)
        assert (answer.status_code == 403) is not role.covers(needed), answer.text
        assert answer.status_code < 500
        (entry,) = backend.audit.page(after=seen)
        assert (entry.name, entry.role, entry.status) == (role, role, answer.status_code)
        assert bool(entry.problem) is not answer.is_success


def test_every_path_that_is_not_a_get_is_among_those(viewer):
    """A new endpoint that writes is put on the list above, or this fails."""
    document = viewer.get("/openapi.json").json()
    writes = {
        (method.upper(), path)
        for path, ways in document["paths"].items()
        for method in ways
        if method != "get" and not path.endswith("get-latest-versions")
    }
    assert len(writes) == len(WRITES) - 2, "and reading the log and the webhooks, which are GETs"


@pytest.mark.parametrize(
    "path", ["/v1/models", "/api/2.0/mlflow/registered-models/search", "/v1/nothing", "/docs"]
)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic eDp5", "bearer  mtn_x_y"])
def test_nobody_reads_without_a_token(base_url, path, header):
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.get(base_url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    body = answer.json()
    assert (
        "UNAUTHENTICATED" in body.values() if path.startswith("/api") else body["error"] == "Unauthenticated"
    )


def test_health_and_the_description_of_the_api_are_open(base_url):
    assert httpx.get(base_url + "/health").json() == {"status": "ok"}
    assert httpx.get(base_url + "/openapi.json").is_success


# --- sizes and rates ---------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_not_read(engineer, backend):
    path, limit = "/v1/models/m/versions/1/tags/k", backend.limits.body
    padding = limit - len(b'{"value": ""}')
    for extra, status in ((0, 422), (1, 413)):  # at the limit it is read, and refused as too long a tag
        body = b'{"value": "' + b"x" * (padding + extra) + b'"}'
        assert engineer.put(path, content=body).status_code == status
        chunks = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        assert engineer.put(path, content=chunks).status_code == status, "also without a length said before"


def test_a_length_that_is_too_large_is_refused_before_any_of_it_comes(base_url, tokens):
    head = (
        "POST /api/2.0/mlflow/registered-models/create HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {tokens[Role.ENGINEER]}\r\nContent-Length: {1 << 40}\r\n\r\n"
    )
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "BAD_REQUEST" in answer


def test_a_stranger_sends_no_body_at_all(base_url):
    """The token is looked at first: who has none cannot make the server hold what they send."""
    answer = httpx.put(base_url + "/v1/models/m/versions/1/tags/k", content=b"x" * (1 << 19))
    assert answer.status_code == 401


def test_an_upload_has_a_limit_of_its_own(engineer, backend):
    path = "/api/2.0/mlflow-artifacts/artifacts/uploads/big/w.md"
    assert engineer.put(path, content=b"x" * backend.limits.upload).is_success
    assert engineer.put(path, content=b"x" * (backend.limits.upload + 1)).status_code == 413


@given(
    rate=st.floats(0.5, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 1), min_size=1, max_size=80),
)
def test_no_window_holds_more_than_the_burst_and_what_refilled(rate, burst, gaps):
    now = [0.0]
    buckets = Buckets(rate, burst, lambda: now[0])
    let_through = []
    for gap in gaps:
        now[0] += gap
        if not buckets.take("a"):
            let_through.append(now[0])
    for first, start in enumerate(let_through):
        for count, end in enumerate(let_through[first:], 1):
            assert count <= burst + (end - start) * rate + 1e-6


@given(rate=st.floats(0.5, 50), burst=st.integers(1, 20), asked=st.integers(1, 40))
def test_who_waits_as_long_as_told_is_let_through(rate, burst, asked):
    now = [0.0]
    buckets = Buckets(rate, burst, lambda: now[0])
    for place in range(asked):
        wait = buckets.take("a")
        assert (wait > 0) is (place >= burst)
        if wait:
            now[0] += wait + 1e-9
            assert buckets.take("a") == 0


def test_one_token_does_not_use_up_anothers_room_and_full_buckets_are_forgotten():
    now = [0.0]
    buckets = Buckets(rate=1, burst=2, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1]
    assert buckets.take("b") == 0
    now[0] = 2.0
    buckets.take("c")
    assert len(buckets) == 1, "a and b are full again"


# --- the log -----------------------------------------------------------------------------------------------


def test_reading_leaves_no_line_and_writing_leaves_one(engineer, viewer, admin, backend, draft, name):
    backend.registry.register(draft(name))
    before = admin.get("/v1/audit", params={"limit": 1000, "name": "engineer"}).json()
    for path in (f"/v1/models/{name}", "/v1/live", "/v1/versions"):
        viewer.get(path)
    engineer.put(f"/v1/models/{name}/aliases/shadow", json={"version": 1, "reason": "try"})
    (line,) = admin.get("/v1/audit", params={"limit": 1000, "name": "engineer"}).json()[len(before) :]
    assert (line["action"], line["target"], line["status"]) == ("promote", f"{name}@shadow to 1", 200)


def test_the_log_is_read_on_from_the_last_line_seen(admin, engineer, name):
    for _ in range(3):
        engineer.post("/api/2.0/mlflow/registered-models/create", json={"name": name})
    entries = [e for e in admin.get("/v1/audit", params={"limit": 1000}).json() if e["target"] == name]
    assert [(entry["status"], bool(entry["problem"])) for entry in entries] == [
        (200, False), (400, True), (400, True),
    ]  # fmt: skip
    rest = admin.get("/v1/audit", params={"after": entries[1]["id"], "limit": 1}).json()
    assert [entry["id"] for entry in rest] == [entries[2]["id"]]


def test_a_line_holds_what_a_caller_sent_even_where_no_database_would(backend):
    caller = backend.tokens.identify(backend.tokens.create("ada", Role.VIEWER, secrets.token_bytes))
    backend.audit.append(caller, "promote", "x\0y\ud800" + "z" * 2000, 422, "\0")
    entry = [entry for entry in backend.audit.page(limit=1000) if entry.token == caller.key][-1]
    assert entry.target.startswith("x␀y?zzz")
    assert len(entry.target) == 1000
