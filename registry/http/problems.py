"""What the ledger refuses, said over HTTP: a status, a code and a reason, in the words of either protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry import errors

MLFLOW_STATUS: Mapping[str, int] = {
    "BAD_REQUEST": 400, "INVALID_PARAMETER_VALUE": 400, "RESOURCE_ALREADY_EXISTS": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "RESOURCE_DOES_NOT_EXIST": 404, "ENDPOINT_NOT_FOUND": 404, "RESOURCE_CONFLICT": 409,
    "REQUEST_LIMIT_EXCEEDED": 429, "INTERNAL_ERROR": 500,
    "TEMPORARILY_UNAVAILABLE": 503,
}  # fmt: skip
"""MLflow's error codes that we use, each with the status its own server answers with."""


@dataclass(frozen=True)
class Problem:
    """An answer that is not what was asked for. `code` is the name of the refusal, `mlflow` MLflow's for it."""

    status: int
    code: str
    message: str
    mlflow: str
    problems: Sequence[Mapping[str, str]] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The answer's body in our API."""
        return {"error": self.code, "message": self.message, "problems": list(self.problems), **self.extra}

    def to_mlflow(self) -> dict[str, str]:
        """The answer's body in MLflow's protocol, which has no fields beside the message."""
        return {"error_code": self.mlflow, "message": self.message}

    @property
    def mlflow_status(self) -> int:
        """The status MLflow's own server goes with that code; a body too large has no code of its own there."""
        return MLFLOW_STATUS[self.mlflow] if self.status != 413 else 413


class Refused(Exception):
    """Raised on the way to an answer that is a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


_STATUS: Sequence[tuple[type[errors.RegistryError], int, str]] = (
    (errors.AliasMoved, 409, "RESOURCE_CONFLICT"),
    (errors.StillReferenced, 409, "RESOURCE_CONFLICT"),
    (errors.DefinitionConflict, 409, "RESOURCE_CONFLICT"),
    (errors.NameTaken, 409, "RESOURCE_ALREADY_EXISTS"),
    (errors.NothingToRollBack, 409, "RESOURCE_CONFLICT"),
    (errors.ExperimentState, 409, "RESOURCE_CONFLICT"),
    (errors.ArtifactCorrupt, 409, "RESOURCE_CONFLICT"),
    (errors.LedgerBusy, 503, "TEMPORARILY_UNAVAILABLE"),
    (errors.NoEvidence, 422, "RESOURCE_CONFLICT"),
    (errors.NotRecorded, 404, "RESOURCE_DOES_NOT_EXIST"),
    (errors.ArtifactRefused, 422, "INVALID_PARAMETER_VALUE"),
    (errors.QuerySyntax, 422, "INVALID_PARAMETER_VALUE"),
    (errors.InvalidPageToken, 422, "INVALID_PARAMETER_VALUE"),
    (errors.InvalidReference, 422, "INVALID_PARAMETER_VALUE"),
    (errors.InvalidRecord, 422, "INVALID_PARAMETER_VALUE"),
)
_FIELDS: Mapping[type[errors.RegistryError], str] = {
    errors.AliasMoved: "expect",
    errors.QuerySyntax: "query",
    errors.InvalidPageToken: "page_token",
}


def of_refusal(error: errors.RegistryError) -> Problem:
    """What a refusal of the ledger looks like from outside; one that we do not know of is a plain 400."""
    for kind, status, mlflow in _STATUS:
        if isinstance(error, kind):
            field_name = _FIELDS.get(kind)
            named = [{"field": field_name, "reason": str(error)}] if field_name else []
            return Problem(status, kind.__name__, str(error), mlflow, named, _extra(error))
    return Problem(400, type(error).__name__, str(error), "BAD_REQUEST")


def _extra(error: errors.RegistryError) -> dict[str, Any]:
    """What a program needs to go on: where the alias is now, what is lacking, what refers to it."""
    match error:
        case errors.AliasMoved():
            return {"current": error.found, "expected": error.expected}
        case errors.NoEvidence():
            return {"lacks": list(error.lacks)}
        case errors.StillReferenced():
            return {"referrers": list(error.referrers)}
        case errors.QuerySyntax():
            return {"position": error.position}
    return {}


def of_validation(found: Sequence[Mapping[str, Any]]) -> Problem:
    """What pydantic found wrong with a request: each field with its reason. Values given are not repeated."""
    problems = [
        {"field": ".".join(str(part) for part in entry["loc"]), "reason": str(entry["msg"])}
        for entry in found
    ]
    message = "; ".join(f"{entry['field']}: {entry['reason']}" for entry in problems)
    return Problem(422, "InvalidRequest", message, "INVALID_PARAMETER_VALUE", problems)


def forbidden(name: str, role: str, needed: str, action: str) -> Problem:
    """A token whose role is not enough."""
    message = f"{name!r} is {role}, and to {action} takes {needed}. Ask for a token with that role."
    return Problem(403, "Forbidden", message, "PERMISSION_DENIED")


def unauthenticated() -> Problem:
    """No token, or none that is good."""
    message = (
        "send a token as 'Authorization: Bearer mtn_…' (MLflow reads it from MLFLOW_TRACKING_TOKEN). The one "
        "sent is missing, unknown, expired or revoked; `matinee registry token create` makes one."
    )
    return Problem(401, "Unauthenticated", message, "UNAUTHENTICATED", headers={"WWW-Authenticate": "Bearer"})


def too_large(limit: int) -> Problem:
    """A body over the limit."""
    message = f"the body of this request is larger than {limit} bytes, which is the most taken here."
    return Problem(413, "BodyTooLarge", message, "BAD_REQUEST")


def too_many(wait: float) -> Problem:
    """A token that asks too often."""
    seconds = max(1, int(wait + 1))
    message = f"this token asks too often; there is room again in {wait:.2f} s."
    return Problem(
        429, "TooManyRequests", message, "REQUEST_LIMIT_EXCEEDED", headers={"Retry-After": str(seconds)}
    )


def internal(reference: str) -> Problem:
    """An error of ours, which is in the server's log under `reference`."""
    message = f"an error of the server's own; its log has the details under {reference}."
    return Problem(500, "InternalError", message, "INTERNAL_ERROR")


def not_taken(message: str) -> Problem:
    """A value that MLflow's protocol allows and this registry does not take."""
    return Problem(422, "NotTaken", message, "INVALID_PARAMETER_VALUE")


def exists(message: str) -> Problem:
    """A name that is taken."""
    return Problem(409, "AlreadyExists", message, "RESOURCE_ALREADY_EXISTS")


def conflict(message: str) -> Problem:
    """A step that the state of things does not allow."""
    return Problem(409, "Conflict", message, "RESOURCE_CONFLICT")
