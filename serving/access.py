"""Who may ask: with a token set, whoever sends it. Health and metrics are open to all that reach the port."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from pydantic import SecretStr

from serving import asgi
from serving.asgi import App, Receive, Scope, Send, headers_of
from serving.edge import Edge

OPEN = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""What orchestrators and Prometheus ask without a token."""
_CHALLENGE = (b"www-authenticate", b'Bearer realm="matinee"')
UNAUTHORISED = "send the API token as `Authorization: Bearer <token>`."


class Access:
    """ASGI middleware: 401 for whoever does not send the token, if there is one."""

    def __init__(self, app: App, edge: Callable[[], Edge] = Edge) -> None:
        """Guard `app` with the token of `edge()`."""
        self.app, self.token = app, edge().api_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app do so."""
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._may(scope):
            await asgi.refuse(send, 401, UNAUTHORISED, [_CHALLENGE])
            return
        await self.app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        return self.token is None or bears(self.token, headers_of(scope).get(b"authorization", b""))


def bears(token: SecretStr, authorization: bytes) -> bool:
    """Whether an Authorization header carries the token; takes as long for any wrong one of a length."""
    scheme, _, sent = authorization.partition(b" ")
    digests = (hashlib.sha256(text).digest() for text in (sent.strip(), token.get_secret_value().encode()))
    return hmac.compare_digest(*digests) and scheme.lower() == b"bearer"
