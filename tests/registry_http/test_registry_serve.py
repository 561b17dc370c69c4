"""`matinee registry`: a process of its own, and a client in another that knows its URL and a token, no more."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import alembic.command
import httpx
import pytest
import sqlalchemy as sa

from registry import VersionDraft, open_registry
from registry.database import Database, migration_config
from registry.http import Role, open_backend

MATINEE = [sys.executable, "-m", "matinee", "registry"]
CLIENT = """
import sys, mlflow
from mlflow import MlflowClient
client = MlflowClient(registry_uri=sys.argv[1])
mlflow.set_registry_uri(sys.argv[1])
print(client.get_model_version_by_alias("ranker", "shadow").version)
print(mlflow.artifacts.download_artifacts("models:/ranker@shadow", dst_path="fetched"))
"""


@pytest.fixture
def environment(tmp_path):
    """The environment of a workspace of the built-in source."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MATINEE_", "MLFLOW_"))}
    workspaces = tmp_path / "workspaces"
    return {
        **kept,
        "MATINEE_WORKSPACES": str(workspaces),
        "MATINEE_WORLD": "tiny",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextlib.contextmanager
def serving(environment, *options):
    """The URL at which `matinee registry serve` says that it listens; interrupted at the end."""
    command = [*MATINEE, "serve", "--port", "0", *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        assert said.startswith("registry at http://127.0.0.1:"), said
        yield said.removeprefix("registry at ").strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        process.wait(timeout=30)


def told(environment, *arguments):
    done = subprocess.run([*MATINEE, *arguments], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_the_plain_client_works_knowing_the_registrys_url_only(environment, tmp_path):
    token = json.loads(told(environment, "token", "create", "ada", "--role", "engineer", "--json"))["token"]
    home = Path(environment["MATINEE_WORKSPACES"]) / "world"
    with open_registry(f"sqlite:///{home}/registry.db", str(home / "artifacts")) as ledger:
        ledger.register(VersionDraft("ranker", {"report.md": b"# Hello"}))
        ledger.promote("ranker/1", "shadow", by="ada", reason="try")
    with serving(environment) as url:
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, url], cwd=tmp_path, check=True, capture_output=True, text=True,
            env={**environment, "MLFLOW_TRACKING_TOKEN": token, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        )  # fmt: skip
        assert client.stdout.splitlines()[0] == "1"
        assert (tmp_path / "fetched/report.md").read_text() == "# Hello"
        told(environment, "token", "revoke", token.split("_")[1])
        answer = httpx.get(url + "/v1/whoami", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, "revoked in another process, refused in this one"


@pytest.mark.slow
def test_limits_are_options_and_tokens_are_listed_without_their_secrets(environment):
    token = told(environment, "token", "create", "a job", "--role", "viewer", "--days", "1").strip()
    listed = told(environment, "token", "list", "--json")
    (found,) = json.loads(listed)
    assert (found["name"], found["role"], found["revoked_at"]) == ("a job", "viewer", None)
    assert token.split("_")[2] not in listed
    with serving(environment, "--rate", "0.01", "--burst", "2") as url:
        headers = {"Authorization": f"Bearer {token}"}
        answers = [httpx.get(url + "/v1/whoami", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 50 <= int(answers[2].headers["retry-after"]) <= 101


def test_the_tables_go_down_with_data_in_and_come_up_again(database_url, tmp_path, request):
    url = (
        f"sqlite:///{tmp_path}/r.db"
        if database_url.startswith("sqlite")
        else request.getfixturevalue("new_schema")()
    )
    ours = {"access_token", "audit_entry", "registered_model_tag", "upload"}
    for _ in range(2):
        with open_backend(url, str(tmp_path / "artifacts")) as backend:
            caller = backend.tokens.identify(backend.tokens.create("ada", Role.ADMIN, secrets.token_bytes))
            backend.audit.append(caller, "promote", "x", 200)
            assert [entry.id for entry in backend.audit.page()] == [1]
        database = Database(url)
        with database.connection() as connection:
            assert ours <= set(sa.inspect(connection).get_table_names())
            alembic.command.downgrade(migration_config(connection), "0002")
            assert not ours & set(sa.inspect(connection).get_table_names())
        database.close()
