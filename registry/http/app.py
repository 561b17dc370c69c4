"""The application: both protocols behind one gate, and every refusal in the words of its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from registry.errors import RegistryError
from registry.http import artifacts, mlflow, outgoing, problems, registering, v1
from registry.http.backend import Backend
from registry.http.gate import MLFLOW, Call, Gate, written
from registry.http.problems import Problem, Refused

_BEARER = HTTPBearer(auto_error=False, description="A token of `matinee registry token create`.")
"""Says in the description of the API that it takes a token; `Gate` has looked at it before."""
_NO_CODE: Mapping[int, tuple[str, str]] = {
    404: ("NoSuchEndpoint", "ENDPOINT_NOT_FOUND"),
    405: ("MethodNotAllowed", "BAD_REQUEST"),
}


def create_app(backend: Backend, *, public_url: str | None = None) -> FastAPI:
    """The registry over HTTP: our API under `/v1`, MLflow's under `/api/2.0`.

    Args:
        backend: the ledger and what goes with it; the caller closes it.
        public_url: where clients reach this server, for the links in answers; as they called it if left out.
    """
    app = FastAPI(
        title="matinee registry",
        version="1",
        summary="Models, versions, aliases and where they come from.",
        openapi_url="/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    ours = (v1.router(backend), outgoing.router(backend), registering.router(backend))
    for router in (*ours, mlflow.router(backend, public_url), artifacts.router(backend)):
        app.include_router(router, dependencies=[Depends(_BEARER)])
    app.add_middleware(
        Gate, tokens=backend.tokens, audit=backend.audit, buckets=backend.buckets, limits=backend.limits
    )
    _handle_refusals(app)

    @app.get("/health", tags=["health"], summary="Whether the server is up")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _handle_refusals(app: FastAPI) -> None:
    @app.exception_handler(RegistryError)
    async def refused(request: Request, error: RegistryError) -> JSONResponse:
        return _answer(request, problems.of_refusal(error))

    @app.exception_handler(Refused)
    async def stopped(request: Request, error: Refused) -> JSONResponse:
        return _answer(request, error.problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found: Sequence[Any] = error.errors()
        return _answer(request, problems.of_validation(found))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        code, theirs = _NO_CODE.get(error.status_code, ("BadRequest", "BAD_REQUEST"))
        message = f"{request.method} {request.url.path}: {error.detail}. See /openapi.json for what there is."
        return _answer(
            request, Problem(error.status_code, code, message, theirs, headers=error.headers or {})
        )


def _answer(request: Request, problem: Problem) -> JSONResponse:
    call: Call | None = request.scope.get("state", {}).get("call")
    if call is not None:
        call.problem = problem.message
    path = request.scope["path"]
    status, body = written(problem, path)
    if path.startswith(MLFLOW) and problem.status == 405:
        status = 405
    return JSONResponse(body, status, headers=dict(problem.headers))
