"""`matinee registry`: serving the ledger over HTTP, the tokens that open it, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.commands import outbox, webhooks
from matinee.session import AsJson, Source, console, errors, print_json, print_table
from matinee.settings import Settings
from matinee.workspace import Workspace

if TYPE_CHECKING:
    from registry.http import Backend

app = typer.Typer(
    no_args_is_help=True, help="The registry over HTTP: serve it, who may call it, and events as they come."
)
tokens = typer.Typer(no_args_is_help=True, help="Tokens: made once, shown once, revoked for good.")
app.add_typer(tokens, name="token")
app.add_typer(webhooks.app, name="webhook")
app.command()(outbox.watch)
app.command()(outbox.deliver)


@contextmanager
def _backend(source: str | None) -> Iterator[Backend]:
    from registry.http import open_backend

    settings = Settings() if source is None else Settings(source=source)
    workspace = Workspace.of(settings)
    with open_backend(workspace.registry_url, str(workspace.artifacts)) as backend:
        yield backend


@app.command()
def serve(source: Source = None, host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
          port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 5000,
          public_url: Annotated[str | None, typer.Option(help="Where clients reach it, if behind a proxy.")] = None,
          import_root: Annotated[list[Path] | None, typer.Option(help="Folder of this machine from which MLflow clients may register versions.", exists=True, file_okay=False)] = None,
          rate: Annotated[float, typer.Option(min=0.01, help="Requests per second and token.")] = 200,
          burst: Annotated[int, typer.Option(min=1, help="Requests at once and token.")] = 400,
          body: Annotated[int, typer.Option(min=1024, help="Bytes of a request's body.")] = 1 << 20,
          upload: Annotated[int, typer.Option(min=1024, help="Bytes of an uploaded file.")] = 256 << 20) -> None:  # fmt: skip
    """Serve the ledger: our API under /v1, MLflow's protocol for `MlflowClient(registry_uri=…)`; and deliver events."""
    import os
    import sys

    settings = Settings() if source is None else Settings(source=source)
    workspace = Workspace.of(settings)
    asked = {"artifacts": workspace.artifacts, "host": host, "port": port, "rate": rate, "burst": burst, "body": body,
             "upload": upload} | ({"public-url": public_url} if public_url else {})  # fmt: skip
    options = [f"--{name}={value}" for name, value in asked.items()]
    options += [f"--import-root={root.resolve()}" for root in import_root or ()]
    command = [sys.executable, "-m", "registry.http", *options]
    os.execve(sys.executable, command, {**os.environ, "MATINEE_REGISTRY_URL": workspace.registry_url})  # noqa: S606 - arguments of ours, no shell


@tokens.command()
def create(name: Annotated[str, typer.Argument(help="Whose it is: a person or a job; it stands in the audit log.")],
           role: Annotated[str, typer.Option(help="viewer reads, engineer also writes, admin also deletes and reads the audit log.")],
           days: Annotated[float | None, typer.Option(min=0, help="Good for so many days; for ever if left out.")] = None,
           source: Source = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Make a token and show it: this once, for only its salted hash is kept."""
    import secrets

    from registry.http import Role

    if role not in set(Role):
        raise typer.BadParameter(f"{role!r} is no role. There are: {', '.join(Role)}.")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with _backend(source) as backend:
        token = backend.tokens.create(name, Role(role), secrets.token_bytes, expires)
    if as_json:
        print_json({"name": name, "role": role, "token": token, "expires_at": expires})
        return
    typer.echo(token)
    errors.print(f"{role} token of {name}; it is not shown again. export MLFLOW_TRACKING_TOKEN={token[:12]}…")


@tokens.command("list")
def list_(source: Source = None, as_json: AsJson = False) -> None:
    """Every token there ever was: whose, what it may do, until when."""
    with _backend(source) as backend:
        found = backend.tokens.all()
    if as_json:
        print_json([vars(token) for token in found])
        return
    columns = ("key", "name", "role", "created", "expires", "revoked")
    rows = [
        [t.key, t.name, t.role.value, *(_day(at) for at in (t.created_at, t.expires_at, t.revoked_at))]
        for t in found
    ]
    print_table("tokens", columns, rows)


@tokens.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key, as in `token list`.")], source: Source = None
) -> None:
    """Make a token worthless from now on."""
    with _backend(source) as backend:
        backend.tokens.revoke(key)
    console.print(f"token {key} is revoked", highlight=False)


def _day(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"
