"""What is refused before a body is parsed: other media types than JSON, and bodies that are too long."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024


class JsonOnly:
    """ASGI middleware: a POST carries JSON (415 otherwise) with a declared, bounded length (411, 413)."""

    def __init__(self, app: App) -> None:
        """Guard `app`."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app do so."""
        if scope["type"] == "http" and scope["method"] == "POST":
            refusal = refuse({name.lower(): value for name, value in scope["headers"]})
            if refusal is not None:
                await answer(send, *refusal)
                return
        await self.app(scope, receive, send)


def refuse(headers: dict[bytes, bytes]) -> tuple[int, str] | None:
    """The status and reason with which a POST is refused, None if it may pass."""
    media_type = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        return 415, f"send application/json, not {media_type.decode('latin-1')!r}."
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        return 411, "send a Content-Length."
    if int(length) > MAX_BODY_BYTES:
        return 413, f"a body has at most {MAX_BODY_BYTES} bytes, not {int(length)}."
    return None


async def answer(send: Send, status: int, reason: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Say why there is no other answer; `more` are headers."""
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
