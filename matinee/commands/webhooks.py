"""`matinee registry webhook`: endpoints that are told of the ledger's events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.session import AsJson, Source, console, errors, print_json, print_table
from matinee.settings import Settings
from matinee.workspace import Workspace
from registry.outbox import Kind

if TYPE_CHECKING:
    from registry.webhooks import Webhook, Webhooks

app = typer.Typer(
    no_args_is_help=True, help="Webhooks: endpoints that are told of events, in order, at least once."
)

Name = Annotated[str, typer.Argument(help="The name, as in `webhook list`.")]


@contextmanager
def _webhooks(source: str | None) -> Iterator[Webhooks]:
    from registry.database import Database, migrate
    from registry.ledger import utc_now
    from registry.webhooks import Webhooks

    settings = Settings() if source is None else Settings(source=source)
    with closing(Database(Workspace.of(settings).registry_url)) as database:
        migrate(database)
        yield Webhooks(database, utc_now)


@app.command()
def create(url: Annotated[str, typer.Argument(help="Where events are posted to; http or https.")],
           kind: Annotated[list[Kind], typer.Option(help="A kind of event it is told of; may be given again.")],
           name: Annotated[str | None, typer.Option(help="How people name it; the URL's host if left out.")] = None,
           after: Annotated[int | None, typer.Option(min=0, help="Begin behind this event, 0 for all there ever were; the newest if left out.")] = None,
           source: Source = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Make a webhook and show its secret: this once, for the receiver to verify signatures with."""
    import secrets

    with _webhooks(source) as webhooks:
        webhook, secret = webhooks.create(url, kind, secrets.token_bytes, name=name, after=after)
    if as_json:
        print_json({**vars(webhook), "secret": secret})
        return
    typer.echo(secret)
    errors.print(
        f"webhook {webhook.name} begins behind event {webhook.acknowledged}; the secret is not shown again"
    )


@app.command("list")
def list_(source: Source = None, as_json: AsJson = False) -> None:
    """Every webhook: what it is told of, how far behind it is, how its last attempt went, when the next is."""
    with _webhooks(source) as webhooks:
        found = webhooks.all()
    if as_json:
        print_json([vars(webhook) for webhook in found])
        return
    columns = ("name", "url", "kinds", "state", "lag", "attempts", "last attempt", "said", "next attempt")
    print_table("webhooks", columns, [_row(webhook) for webhook in found])


@app.command()
def pause(name: Name, source: Source = None) -> None:
    """Send nothing more to it until `resume`; events wait."""
    with _webhooks(source) as webhooks:
        webhook = webhooks.pause(name)
    console.print(f"webhook {name} is paused behind event {webhook.acknowledged}", highlight=False)


@app.command()
def resume(name: Name, source: Source = None) -> None:
    """Go on where it stood, and at once where a back-off was running."""
    with _webhooks(source) as webhooks:
        webhook = webhooks.resume(name)
    console.print(f"webhook {name} goes on behind event {webhook.acknowledged}", highlight=False)


@app.command()
def delete(name: Name, source: Source = None) -> None:
    """Forget it and its secret."""
    with _webhooks(source) as webhooks:
        webhooks.delete(name)
    console.print(f"webhook {name} is deleted", highlight=False)


@app.command("test")
def probe(name: Name, source: Source = None) -> None:
    """Post a signed message of type `test` now and say what came of it; exit code 1 unless it was 2xx."""
    import asyncio

    from matinee.commands.outbox import dispatcher

    with dispatcher(source) as found:
        outcome = asyncio.run(found.probe(name))
    typer.echo(outcome.said or f"answered {outcome.status}")
    raise typer.Exit(0 if outcome.acknowledged else 1)


def _row(webhook: Webhook) -> list[object]:
    state = "paused" if webhook.paused_at else "failing" if webhook.attempts else "up"
    said = webhook.last_error or webhook.last_status
    return [
        webhook.name, webhook.url, ", ".join(webhook.kinds), state, webhook.lag, webhook.attempts,
        _moment(webhook.last_attempt_at), said, _moment(webhook.next_attempt_at),
    ]  # fmt: skip


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
