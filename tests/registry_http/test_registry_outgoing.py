"""Events and webhooks over HTTP; and that both protocols write the events of what they change."""

import logging

import pytest
from mlflow import MlflowClient

from registry.http.views import EventView, WebhookView
from registry.outbox import Kind, newest

HOOK = {"url": "https://serving.example/hooks", "kinds": ["alias_moved", "version_created"]}


@pytest.fixture
def client(base_url, tokens, monkeypatch):
    """MLflow's own client, as an admin."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", tokens["admin"])
    return MlflowClient(tracking_uri=base_url, registry_uri=base_url)


@pytest.fixture
def since(backend):
    """The events of this test only."""
    with backend.database.read() as session:
        first = newest(session)
    return lambda: backend.registry.events(after=first, limit=1000)


@pytest.fixture
def hook(admin, name):
    """A webhook nobody else uses, and its secret."""
    answer = admin.post("/v1/webhooks", json={**HOOK, "name": name})
    assert answer.status_code == 201
    yield answer.json()
    admin.delete(f"/v1/webhooks/{name}")


# --- events ------------------------------------------------------------------------------------------------


def test_events_are_read_on_from_the_last_one_seen(viewer, engineer, backend, since, draft, name):
    backend.registry.register(draft(name))
    engineer.put(f"/v1/models/{name}/aliases/shadow", json={"version": 1, "reason": "try"})
    first, second = since()
    read = viewer.get("/v1/events", params={"after": first.id - 1}).json()
    assert read == [first.to_dict(), second.to_dict()]
    assert [EventView.model_validate(event).id for event in read] == [first.id, first.id + 1]
    assert viewer.get("/v1/events", params={"after": first.id}).json() == [second.to_dict()]
    assert viewer.get("/v1/events", params={"after": first.id - 1, "limit": 1}).json() == [first.to_dict()]
    kinds = {"after": first.id - 1, "kind": ["alias_moved", "arm_bound"]}
    assert viewer.get("/v1/events", params=kinds).json() == [second.to_dict()]
    assert second.payload.by == "engineer"


@pytest.mark.parametrize(
    ("params", "field"),
    [({"kind": "alias_moves"}, "query.kind.0"), ({"limit": 0}, "query.limit"), ({"limit": 1001}, "query.limit"), ({"after": -1}, "query.after")],
)  # fmt: skip
def test_a_page_of_events_that_cannot_be_is_refused_with_the_field(viewer, params, field):
    answer = viewer.get("/v1/events", params=params)
    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]


@pytest.mark.slow
def test_mlflows_client_writes_the_same_events(client, backend, since, draft, lineage, name):
    """Every call of its protocol that registers, deletes, or moves an alias or a stage."""
    _, training_set = lineage(backend.registry, name)
    backend.registry.register(draft(name, training_set=training_set))
    client.create_registered_model(f"{name}-copy")
    client.create_model_version(f"{name}-copy", f"models:/{name}/1")
    client.create_model_version(f"{name}-copy", f"models:/{name}/1")
    client.set_registered_model_alias(name, "shadow", "1")
    client.set_registered_model_alias(name, "shadow", "1")
    client.delete_registered_model_alias(name, "shadow")
    with pytest.warns(FutureWarning, match="deprecated"):
        client.transition_model_version_stage(name, "1", "Staging")
    with pytest.warns(FutureWarning, match="deprecated"):
        client.transition_model_version_stage(name, "1", "Production")
    client.delete_model_version(f"{name}-copy", "1")
    moves = [(e.subject, e.payload.move, e.payload.by) for e in since() if e.kind == Kind.ALIAS_MOVED]
    assert moves == [
        (f"{name}@shadow", "promote", "admin"),
        (f"{name}@shadow", "remove", "admin"),
        (f"{name}@challenger", "promote", "admin"),
        (f"{name}@champion", "promote", "admin"),
        (f"{name}@challenger", "remove", "admin"),
    ]
    versions = [(e.kind, e.subject) for e in since() if e.kind != Kind.ALIAS_MOVED]
    assert versions == [
        ("version_created", f"{name}/1"),
        ("version_created", f"{name}-copy/1"),
        ("version_deleted", f"{name}-copy/1"),
    ]


# --- webhooks ----------------------------------------------------------------------------------------------


def test_a_webhook_is_made_listed_paused_resumed_and_deleted(admin, backend, hook, name):
    made = hook["webhook"]
    assert (made["name"], made["url"], made["kinds"]) == (
        name,
        HOOK["url"],
        ["version_created", "alias_moved"],
    )
    assert WebhookView.model_validate(made) == WebhookView.model_validate(backend.webhooks.get(name))
    assert made in admin.get("/v1/webhooks").json()
    paused = admin.patch(f"/v1/webhooks/{name}", json={"paused": True}).json()
    assert paused["paused_at"] is not None
    assert admin.patch(f"/v1/webhooks/{name}", json={"paused": False}).json() == made
    assert admin.delete(f"/v1/webhooks/{name}").status_code == 204
    assert admin.delete(f"/v1/webhooks/{name}").status_code == 404


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"url": "ftp://x"}, 422, "http://"),
        ({"url": "http://ada:hush@x"}, 422, "no user and password"),
        ({"kinds": []}, 422, "body.kinds"),
        ({"kinds": ["alias_moves"]}, 422, "body.kinds.0"),
        ({"after": 10**9}, 422, "the newest is"),
        ({"name": "a/b"}, 422, "cannot be a name"),
        ({"secret": "whsec_mine"}, 422, "body.secret"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused_with_the_reason(admin, name, changed, status, says):
    answer = admin.post("/v1/webhooks", json={**HOOK, "name": name, **changed})
    assert (answer.status_code, says in answer.text) == (status, True)
    assert "hush" not in answer.text


def test_a_name_that_is_taken_is_a_conflict(admin, hook, name):
    answer = admin.post("/v1/webhooks", json={**HOOK, "name": name})
    assert (answer.status_code, answer.json()["error"]) == (409, "NameTaken")


def test_changes_of_webhooks_are_in_the_audit_log(admin, backend, hook, name):
    admin.patch(f"/v1/webhooks/{name}", json={"paused": True})
    admin.patch(f"/v1/webhooks/{name}", json={"paused": False})
    admin.delete(f"/v1/webhooks/{name}")
    lines = [line for line in backend.audit.page(limit=10_000) if line.target == name]
    assert [(line.action, line.status, line.name) for line in lines] == [
        ("create webhook", 201, "admin"),
        ("pause webhook", 200, "admin"),
        ("resume webhook", 200, "admin"),
        ("delete webhook", 204, "admin"),
    ]


def test_a_secret_is_shown_once_and_never_again(admin, backend, hook, name, caplog):
    secret = hook["secret"].removeprefix("whsec_")
    with caplog.at_level(logging.DEBUG):
        shown = [
            admin.get("/v1/webhooks").text,
            admin.patch(f"/v1/webhooks/{name}", json={"paused": True}).text,
            admin.post("/v1/webhooks", json={**HOOK, "name": name}).text,
            repr(backend.audit.page(limit=10_000)),
            repr(backend.webhooks.all()),
        ]
    assert not any(secret in text for text in [*shown, caplog.text])


def test_a_secret_is_in_no_log_where_a_webhook_cannot_be_written(admin, backend, name, caplog, monkeypatch):
    monkeypatch.setattr("registry.http.outgoing.secrets.token_bytes", lambda size: b"\x5a" * size)
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE webhook DROP COLUMN last_error")
    answer = admin.post("/v1/webhooks", json={**HOOK, "name": name})
    with backend.database.connection() as raw:
        raw.exec_driver_sql("ALTER TABLE webhook ADD COLUMN last_error TEXT NOT NULL DEFAULT ''")
    assert answer.status_code == 500
    assert "INSERT INTO webhook" in caplog.text
    assert "WlpaWlpa" not in caplog.text + answer.text, "0x5a over and over, in base64"
