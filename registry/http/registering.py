"""Registering a version over our own API: its files are sent ahead, then everything else in one request."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request

from registry.http import sources
from registry.http.artifacts import receive
from registry.http.backend import Backend
from registry.http.gate import Call
from registry.http.tokens import Role
from registry.http.v1 import PROBLEMS, Caller
from registry.http.views import DraftView, Text, UploadView, VersionView
from registry.records import Metric, VersionDraft
from registry.results import ModelVersion
from registry.signature import Input, Output, Signature

BYTES: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}  # fmt: skip


def router(backend: Backend) -> APIRouter:
    """Both steps, over one ledger."""
    api = APIRouter(prefix="/v1", tags=["v1"], responses=PROBLEMS)

    @api.put(
        "/uploads/{folder}/{path:path}",
        summary="Send a file ahead",
        response_model=UploadView,
        openapi_extra=BYTES,
    )
    async def upload(folder: Text, path: Text, request: Request, call: Caller) -> Any:
        """`folder` is any name; `path` is the file's in the version. Only the token that sent it can use it."""
        call.needs(Role.ENGINEER, "upload", f"{folder}/{path}")
        return await run_sync(receive, backend, folder, path, await request.body(), call.caller.key)

    @api.post(
        "/models/{name}/versions", summary="Register a version", response_model=VersionView, status_code=201
    )
    def register(name: Text, wanted: DraftView, call: Caller) -> ModelVersion:
        """The same contents, configuration and lineage again give the version there is."""
        call.needs(Role.ENGINEER, "create version", f"{name} from upload {wanted.upload}")
        version = backend.registry.register(_draft(backend, name, wanted, call))
        call.target = f"{version.ref} from upload {wanted.upload}"
        return version

    return api


def _draft(backend: Backend, name: str, wanted: DraftView, call: Call) -> VersionDraft:
    given = wanted.signature
    signature = Signature(
        tuple(Input(**dict(one)) for one in given.inputs),
        tuple(Output(**dict(one)) for one in given.outputs),
        given.framework,
    )
    return VersionDraft(
        name,
        sources.uploaded(backend, wanted.upload, call.caller),
        metrics=[Metric(**dict(metric)) for metric in wanted.metrics],
        signature=signature,
        created_by=call.caller.name,
        **{field: getattr(wanted, field) for field in (
            "params", "tags", "config", "seed", "training_set", "upstream", "source", "description",
        )},
    )  # fmt: skip
