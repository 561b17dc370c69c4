"""The OpenAPI description of a service: BentoML's, with the answers that our own layers give, and examples of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from serving import asgi
from serving.access import UNAUTHORISED
from serving.asgi import App, Receive, Scope, Send
from serving.json_only import MAX_BODY_BYTES

OPENAPI: Final = "3.1.0"
"""Pydantic's schemas are of this dialect: `null` is a type in it."""
_SUFFIX: Final = "IODescriptor"
"""What BentoML adds to the names of our types."""
_UNFIT: Final = {
    "error": "1 validation error for PageRequest",
    "detail": [
        {
            "type": "greater_than_equal",
            "loc": ["user_id"],
            "msg": "Input should be greater than or equal to 0",
            "url": "https://errors.pydantic.dev/2/v/greater_than_equal",
        }
    ],
}
ERRORS: Final[Mapping[int, Mapping[str, Any]]] = {
    400: _UNFIT,
    401: {"error": UNAUTHORISED},
    411: {"error": "send a Content-Length."},
    413: {"error": f"a body has at most {MAX_BODY_BYTES} bytes, not 70000."},
    415: {"error": "send application/json, not 'application/vnd.bentoml+pickle'."},
    429: {"error": "Too many requests"},
    500: {"error": "An unexpected error has occurred, please check the server log."},
    503: {"error": "overloaded"},
    504: {"error": "Not able to process the request in 10 seconds"},
}
"""What an endpoint may answer instead, by status, with an example."""
_PROBLEM: Final = {
    "type": "object",
    "title": "Problem",
    "description": "Why there is no answer; `detail` names the field and the reason where the request does not fit.",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "loc", "msg"],
                "properties": {
                    "type": {"type": "string"},
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "url": {"type": "string"},
                },
            },
        },
    },
}
_READY: Final = {"ready": True, "generation": "2026-03-02T000000Z-4be1", "refused": []}
_UNREADY: Final = {
    "ready": False,
    "reason": "shutting down",
    "generation": "2026-03-02T000000Z-4be1",
    "refused": [],
}
_REQUEST_ID: Final = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "what to call the request in logs; sent back, or a new one is",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{7,63}$"},
    "example": "checkout-7f3a",
}


class Description:
    """ASGI middleware: answers /docs.json."""

    def __init__(self, app: App, declared: Callable[[], Mapping[str, Any]]) -> None:
        """`declared()` is BentoML's description."""
        self.app, self.declared = app, declared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app do so."""
        if scope["type"] == "http" and scope["path"] == "/docs.json" and scope["method"] == "GET":
            await asgi.answer(send, 200, json.dumps(described(self.declared())).encode())
            return
        await self.app(scope, receive, send)


def described(declared: Mapping[str, Any]) -> dict[str, Any]:
    """BentoML's description with our errors, token, request id and examples."""
    declared = json.loads(json.dumps(declared).replace(_SUFFIX, ""))
    paths = {path: _path(path, dict(item)) for path, item in declared["paths"].items()}
    info = {key: value for key, value in declared["info"].items() if key != "contact"}
    components = {
        "schemas": {**_schemas(declared), "Problem": _PROBLEM},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    return {**declared, "openapi": OPENAPI, "info": info, "paths": paths, "components": components}


def _schemas(declared: Mapping[str, Any]) -> dict[str, Any]:
    ours = declared["components"]["schemas"]
    unused = {"TaskStatusResponse", "InvalidArgument", "NotFound", "InternalServerError"}
    return {name: schema for name, schema in ours.items() if name not in unused}


def _path(path: str, item: dict[str, Any]) -> dict[str, Any]:
    if "post" in item:
        return {"post": _operation(item["post"])}
    if path == "/readyz":
        return {"get": {**item["get"], "responses": {"200": _json(200, _READY), "503": _json(503, _UNREADY)}}}
    return item


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {"required": True, "content": _with_example(operation["requestBody"]["content"])}
    answered = operation["responses"]["200"]
    named = {"X-Request-Id": {"description": "the request's id", "schema": {"type": "string"}}}
    answers = {"200": {**answered, "headers": named, "content": _with_example(answered["content"])}}
    errors = {str(status): _problem(status, example) for status, example in ERRORS.items()}
    return {
        **operation,
        "parameters": [_REQUEST_ID],
        "requestBody": wanted,
        "responses": answers | errors,
        "security": [{}, {"token": []}],
    }


def _with_example(content: Mapping[str, Any]) -> dict[str, Any]:
    """The schema by reference, as BentoML's inlined one has lost every `null`, and its example beside it."""
    schema = content["application/json"]["schema"]
    referred = {"$ref": f"#/components/schemas/{schema['title']}"}
    return {"application/json": {"schema": referred, "example": schema["example"]}}


def _problem(status: int, example: Mapping[str, Any]) -> dict[str, Any]:
    made = _json(status, example)
    made["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Problem"}
    return made


def _json(status: int, example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"example": dict(example), "schema": {"type": "object"}}},
    }
