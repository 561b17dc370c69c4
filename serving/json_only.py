"""What is refused before a body is parsed: other media types than JSON, and bodies that are too long."""

from __future__ import annotations

from serving import asgi
from serving.asgi import App, Receive, Scope, Send, headers_of

MAX_BODY_BYTES = 64 * 1024


class JsonOnly:
    """ASGI middleware: a POST carries JSON (415 otherwise) with a declared, bounded length (411, 413)."""

    def __init__(self, app: App) -> None:
        """Guard `app`."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app do so."""
        if scope["type"] == "http" and scope["method"] == "POST":
            refusal = refuse(headers_of(scope))
            if refusal is not None:
                await asgi.refuse(send, *refusal)
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
