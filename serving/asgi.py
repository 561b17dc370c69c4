"""What every layer around the service shares: ASGI's types, and an answer that a layer gives by itself."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers by lower-case name; of one sent twice, the last."""
    return {name.lower(): value for name, value in scope["headers"]}


async def answer(
    send: Send, status: int, body: bytes, media_type: bytes = JSON, headers: Iterable[Header] = ()
) -> None:
    """Send a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    described = [(b"content-type", media_type), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, reason: str, headers: Iterable[Header] = ()) -> None:
    """Send `{"error": reason}`."""
    await answer(send, status, json.dumps({"error": reason}).encode(), headers=headers)
