"""Health that tells the truth: alive, ready or why not, and Prometheus's numbers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer

from feature_repo.snapshot import NothingPublished, SnapshotError, pointer
from serving import asgi
from serving.asgi import App, Receive, Scope, Send


@dataclass(frozen=True)
class Readiness:
    """Whether a process should be sent requests. `refused` names news it declined; it goes on with what it had.

    Anybody who reaches the port may read this: it says what is wrong, and nothing of paths; the log has the rest.
    """

    generation: str
    problem: str | None = None
    refused: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """200 if ready, else 503."""
        return 200 if self.problem is None else 503

    def to_json(self) -> bytes:
        """The answer's body."""
        ready = self.problem is None
        why = {} if ready else {"reason": self.problem}
        said = {"ready": ready, **why, "generation": self.generation, "refused": list(self.refused)}
        return json.dumps(said).encode()


NOT_LOADED = Readiness("", "models and features are being loaded")


def readiness(
    online: Path, generation: str, refused: Collection[str], *, looking: bool, stopping: bool
) -> Readiness:
    """Ready while it may serve what is live and hears of what is new.

    A newer snapshot that was refused leaves a process ready, as the last good one is whole; a workspace without any
    snapshot does not: the process still could answer from memory, but nothing new will reach it, and its logs are lost.
    """
    problem: str | None
    if stopping:
        problem = "shutting down"
    elif not looking:
        problem = "the thread that takes up what is new has ended"
    else:
        problem = _missing(online)
    return Readiness(generation, problem, tuple(sorted(refused)))


def _missing(online: Path) -> str | None:
    try:
        pointer(online)
    except NothingPublished:
        return "the workspace has no snapshot of features"
    except SnapshotError:
        return "the workspace does not say which snapshot of features is current"
    return None


class State:
    """What a service process says of itself; it is asked anew each time."""

    def __init__(self) -> None:
        """Not loaded yet."""
        self.ask: Callable[[], Readiness] = lambda: NOT_LOADED


class Health:
    """ASGI middleware: answers /livez, /healthz, /readyz and /metrics."""

    def __init__(self, app: App, state: State) -> None:
        """Answer from `state`."""
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app do so."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} else None
        if path == "/readyz":
            ready = await asyncio.to_thread(self.state.ask)
            await asgi.answer(send, ready.status, ready.to_json())
        elif path == "/metrics":
            client = BentoMLContainer.metrics_client.get()
            numbers = await asyncio.to_thread(client.generate_latest)
            await asgi.answer(send, 200, numbers, client.CONTENT_TYPE_LATEST.encode())
        else:
            await self.app(scope, receive, send)
