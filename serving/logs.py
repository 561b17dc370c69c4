"""Structured logs: one JSON object a line, each line of a request with its id."""

from __future__ import annotations

import json
import logging
import logging.config
import re
import uuid
from contextvars import ContextVar, Token
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

OURS = ("serving", "models", "experiments", "feature_repo", "events")
_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
_MAX_MESSAGE = 4_000


@dataclass(frozen=True)
class RequestId:
    """What a request is called in answers and logs; `given` by the client, or made here."""

    value: str
    given: bool


_CURRENT: ContextVar[RequestId | None] = ContextVar("matinee_request_id", default=None)


def request_id_of(header: bytes | None) -> RequestId:
    """The id in an X-Request-Id header if it is well formed (8 to 64 of A-Za-z0-9._-), else a new one.

    >>> request_id_of(b"checkout-7f3a").value
    'checkout-7f3a'
    >>> request_id_of(b"no spaces").given
    False
    """
    text = (header or b"").decode("latin-1")
    if _WELL_FORMED.fullmatch(text):
        return RequestId(text, given=True)
    return RequestId(uuid.uuid4().hex, given=False)


def enter(request_id: RequestId) -> Token[RequestId | None]:
    """From here on, in this context and those copied from it, log lines carry the id."""
    return _CURRENT.set(request_id)


def leave(token: Token[RequestId | None]) -> None:
    """Undo `enter`."""
    _CURRENT.reset(token)


def current() -> str | None:
    """The id of the request that is being answered, if any."""
    request_id = _CURRENT.get()
    return None if request_id is None else request_id.value


def page_id() -> str:
    """A page's own id, which no other page has: the request's if it was made here, else a new one.

    A client may send the same id twice; exposures of two pages must not be taken for one's.
    """
    request_id = _CURRENT.get()
    return uuid.uuid4().hex if request_id is None or request_id.given else request_id.value


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request id, and fields given as `extra`."""

    def __init__(self, service: str) -> None:
        """Lines of `service`."""
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "service": self.service,
            "message": record.getMessage()[:_MAX_MESSAGE],
        }
        if (request_id := current()) is not None:
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class BadRequests(logging.Filter):
    """A request that does not fit its schema is the client's mistake: no trace, no error, nothing of what it sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, those of bad requests in one line."""
        problem = record.exc_info[1] if record.exc_info else None
        if isinstance(problem, ValidationError):
            where = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['type']}"
                for e in problem.errors(include_input=False)[:5]
            )
            record.msg, record.args = "request refused: %s", (where[:500],)
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.exc_info = record.exc_text = None
        return True


def config(service: str) -> dict[str, Any]:
    """For `logging.config.dictConfig`: all that a worker writes, BentoML's lines too, as JSON on standard output."""
    handled = {"handlers": ["json"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines, "service": service}},
        "filters": {"bad requests": {"()": BadRequests}},
        "handlers": {
            "json": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "json",
                "filters": ["bad requests"],
            }
        },
        "root": {"handlers": ["json"], "level": "WARNING"},
        "loggers": {
            "bentoml": handled | {"level": "INFO"},
            "uvicorn.error": handled | {"level": "WARNING"},
            **{name: {"level": "INFO"} for name in OURS},
        },
    }


def configure(service: str) -> None:
    """Let this process log so."""
    logging.config.dictConfig(config(service))
