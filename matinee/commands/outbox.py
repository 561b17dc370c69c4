"""`matinee registry watch` and `deliver`: events as they come, for people, for programs and for webhooks."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from matinee.session import AsJson, Source
from matinee.settings import Settings
from matinee.workspace import Workspace
from registry.outbox import LARGEST_PAGE, Event, Kind

if TYPE_CHECKING:
    from registry.delivery import Outcome, Parcel
    from registry.dispatch import Dispatcher

_IN_SUBJECT = frozenset({"name", "number", "alias", "experiment", "arm", "table", "digest", "service_digest"})
"""What a line for people leaves out: its subject says it, or only a program wants it."""

Interval = Annotated[float, typer.Option(min=0.01, help="Seconds between looks at the ledger.")]


def watch(after: Annotated[int, typer.Option(min=0, help="The last event already seen; 0 for all there are.")] = 0,
          kind: Annotated[list[Kind] | None, typer.Option(help="Of this kind only; may be given again.")] = None,
          once: Annotated[bool, typer.Option("--once", help="Print what there is and end.")] = False,
          interval: Interval = 0.5, source: Source = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Print events of the ledger, a line each, as they come; --json prints JSON Lines."""
    from registry.outbox import follow

    settings = Settings() if source is None else Settings(source=source)
    stop = _told_to_stop()
    with Workspace.of(settings).registry() as registry:
        for event in follow(
            lambda seen: registry.events(seen, LARGEST_PAGE, kind or ()),
            after,
            lambda: not once and not stop.wait(interval),
        ):
            typer.echo(json.dumps(event.to_dict(), ensure_ascii=False) if as_json else _line(event))
            if stop.is_set():
                break


def deliver(once: Annotated[bool, typer.Option("--once", help="Deliver what is due and end; exit code 1 if anything was not taken.")] = False,
            interval: Interval = 0.5, source: Source = None) -> None:  # fmt: skip
    """Deliver events to webhooks, as `registry serve` does too; any number of processes may."""
    import asyncio

    stop = _told_to_stop()
    with dispatcher(source) as found:
        if not once:
            asyncio.run(found.run(stop, interval))
            return
        tally = asyncio.run(found.once())
    typer.echo(f"{tally.delivered} delivered, {tally.failed} not taken")
    raise typer.Exit(1 if tally.failed else 0)


@contextmanager
def dispatcher(source: str | None) -> Iterator[Dispatcher]:
    """A dispatcher for a source's ledger, which prints every attempt."""
    import random

    from registry.database import Database, migrate
    from registry.dispatch import Dispatcher
    from registry.ledger import utc_now
    from registry.posting import Poster

    settings = Settings() if source is None else Settings(source=source)
    with closing(Database(Workspace.of(settings).registry_url)) as database:
        migrate(database)
        yield Dispatcher(database, Poster(), utc_now, random.SystemRandom(), _print_attempt)


def _print_attempt(parcel: Parcel, outcome: Outcome) -> None:
    event = parcel.event
    typer.echo(f"{parcel.name}  {event.id} {event.kind} {event.subject}  {outcome.said or outcome.status}")


def _told_to_stop() -> threading.Event:
    """Set at Ctrl-C or SIGTERM, so that a line is printed whole and a delivery is settled before the end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _line(event: Event) -> str:
    held = {name: value for name, value in event.payload.to_dict().items() if name not in _IN_SUBJECT}
    said = ", ".join(f"{name}={_short(value)}" for name, value in held.items() if value not in ("", None, {}))
    return f"{event.id:>6}  {event.at:%Y-%m-%d %H:%M:%S}  {event.kind:<18}  {event.subject}  {said}".rstrip()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
