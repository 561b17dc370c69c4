"""What every request passes before it is understood: who it is from, how often, how large; and the audit log.

A plain ASGI layer, so that a body is read only once its sender is known and allowed to send it.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.http import problems
from registry.http.audit import AuditLog
from registry.http.limits import Buckets, Limits
from registry.http.problems import Problem, Refused
from registry.http.tokens import Caller, Role, Tokens

_log = logging.getLogger(__name__)

MLFLOW = "/api/2.0/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
UPLOADS = "/v1/uploads/"
OPEN = frozenset({"/health", "/openapi.json"})
"""What needs no token: whether the server is up, and what it offers."""


@dataclass
class Call:
    """One request on its way: whose, and what it does; endpoints say so as they learn it."""

    caller: Caller
    action: str = ""
    target: str = ""
    problem: str = ""

    def needs(self, role: Role, action: str, target: str = "") -> None:
        """Go on if the caller may do `action`, and enter it in the audit log; raises `Refused` (403)."""
        self.action, self.target = action, target or self.target
        if not self.caller.role.covers(role):
            raise Refused(problems.forbidden(self.caller.name, self.caller.role, role, action))


async def calling(request: Request) -> Call:
    """The call that a request is, as `Gate` made it."""
    call: Call = request.scope["state"]["call"]
    return call


class Gate:
    """Lets a request through to `app` and keeps the log of what it did.

    A line is in the log before the answer leaves, so nobody is told of a change that is not in it.
    """

    def __init__(
        self, app: ASGIApp, tokens: Tokens, audit: AuditLog, buckets: Buckets, limits: Limits
    ) -> None:
        self._app, self._tokens, self._audit = app, tokens, audit
        self._buckets, self._limits = buckets, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            call = Call(await self._admit(scope))
            body = await _whole(scope, receive, self._limit(scope))
        except Refused as refused:
            await _answer(send, scope, refused.problem)
            return
        scope.setdefault("state", {})["call"] = call
        await self._serve(scope, call, _replay(body, receive), send)

    async def _admit(self, scope: Scope) -> Caller:
        scheme, _, token = _header(scope, b"authorization").partition(" ")
        caller = await run_sync(self._tokens.identify, token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refused(problems.unauthenticated())
        if wait := self._buckets.take(caller.key):
            raise Refused(problems.too_many(wait))
        return caller

    def _limit(self, scope: Scope) -> int:
        upload = scope["method"] == "PUT" and scope["path"].startswith((ARTIFACTS, UPLOADS))
        return self._limits.upload if upload else self._limits.body

    async def _serve(self, scope: Scope, call: Call, receive: Receive, send: Send) -> None:
        began = False

        async def note(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                if call.action:
                    line = (call.caller, call.action, call.target, message["status"], call.problem)
                    await run_sync(self._audit.append, *line)
                began = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            reference = uuid.uuid4().hex
            _log.exception("%s %s failed, reference %s", scope["method"], scope["path"], reference)
            if began:  # half an answer is out: the connection breaks, so that it is not taken for a whole one
                raise
            call.problem = f"{type(error).__name__}, an error of the server's own: {reference}"
            await self._confess(scope, note, send, problems.internal(reference))

    async def _confess(self, scope: Scope, note: Send, send: Send, problem: Problem) -> None:
        """Answer with an error of ours; where it is the log that cannot be written, without a line in it."""
        try:
            await _answer(note, scope, problem)
        except SQLAlchemyError:
            _log.exception("no line in the audit log for %s %s", scope["method"], scope["path"])
            await _answer(send, scope, problem)


def written(problem: Problem, path: str) -> tuple[int, Mapping[str, Any]]:
    """Status and body of a problem, in the words of the protocol that `path` belongs to."""
    if path.startswith(MLFLOW):
        return problem.mlflow_status, problem.to_mlflow()
    return problem.status, problem.to_dict()


async def _answer(send: Send, scope: Scope, problem: Problem) -> None:
    status, body = written(problem, scope["path"])
    headers = [(b"content-type", b"application/json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    if problem.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _whole(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, read to its end; refused as soon as it is seen or said to be larger than `limit`."""
    said = _header(scope, b"content-length")
    if said.isdigit() and int(said) > limit:
        raise Refused(problems.too_large(limit))
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise Refused(problems.too_large(limit))
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""
