"""MLflow's artifact service: listing and downloading the files of versions, and sending files ahead of one.

A path is never opened: `ranker/3/weights.safetensors` is looked up in the ledger and read by its digest.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from registry.access import UploadRow
from registry.errors import ArtifactRefused, NotRecorded, RegistryError
from registry.http.backend import Backend
from registry.http.gate import ARTIFACTS, Call, calling
from registry.http.sources import UPLOADS
from registry.http.tokens import Role
from registry.http.v1 import MLFLOW_PROBLEMS, file_answer
from registry.http.views import Text
from registry.media import check_path
from registry.results import ModelVersion


def router(backend: Backend) -> APIRouter:
    """The artifact service over one ledger."""
    api = APIRouter(prefix=ARTIFACTS, tags=["mlflow"], responses=MLFLOW_PROBLEMS)

    @api.get("")
    def listing(path: Text = "") -> dict[str, Any]:
        """The files and folders directly under a path such as `ranker/3/tower`."""
        version, inner = _place(backend, path)
        return {"files": _entries(version, inner)}

    @api.get(
        "/{path:path}",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
    )
    def download(path: Text) -> Response:
        """One file, checked against its digest."""
        version, inner = _place(backend, path)
        return file_answer(version, inner, backend)

    @api.put("/{path:path}")
    async def upload(path: Text, request: Request, call: Annotated[Call, Depends(calling)]) -> dict[str, Any]:
        """Send a file to `uploads/<any name>/<path in the version>`; only the token that sent it can use it."""
        call.needs(Role.ENGINEER, "upload", path)
        body = await request.body()
        first, _, rest = path.partition("/")
        folder, _, inner = rest.partition("/")
        if first != UPLOADS or not folder or not inner:
            raise ArtifactRefused(
                f"{path!r}: files of a version never change. Send new ones to {UPLOADS}/<any name>/<path in the "
                f"version>, then create a version from 'mlflow-artifacts:/{UPLOADS}/<that name>'."
            )
        return await run_sync(receive, backend, folder, inner, body, call.caller.key)

    return api


def receive(backend: Backend, folder: str, path: str, body: bytes, token: str) -> dict[str, Any]:
    """Keep a file for a version to come: under `path`, in a folder of the token that sent it.

    Raises:
        ArtifactRefused: it cannot be a file of a version, or the folder's name could not be one.
    """
    stored = backend.store.put(body, check_path(path))
    row = UploadRow(
        token=token,
        folder=check_path(folder),
        path=path,
        sha256=stored.sha256,
        size=stored.size,
        at=backend.clock(),
    )
    with backend.database.referring() as session:
        backend.store.keep(stored, body, path)
        session.merge(row)
    return {"sha256": stored.sha256, "size": stored.size}


def _place(backend: Backend, path: str) -> tuple[ModelVersion, str]:
    """The version that a path begins with, and the path within it. A client may send it quoted once more."""
    try:
        return _version_at(backend, path)
    except RegistryError:
        if unquote(path) == path:
            raise
        return _version_at(backend, unquote(path))


def _version_at(backend: Backend, path: str) -> tuple[ModelVersion, str]:
    name, _, rest = path.strip("/").partition("/")
    number, _, inner = rest.partition("/")
    if not (number.isascii() and number.isdigit()):
        raise NotRecorded("path", path, ())
    return backend.registry.get(f"{name}/{number}"), inner


def _entries(version: ModelVersion, folder: str) -> list[dict[str, Any]]:
    """What is directly under `folder` (of the version itself: ''); a file's own path lists that file."""
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    files: list[dict[str, Any]] = []
    folders: dict[str, None] = {}
    for file in version.files:
        if file.path == folder:
            return [{"path": file.path.rpartition("/")[2], "is_dir": False, "file_size": file.size}]
        inner = file.path.removeprefix(prefix)
        if not file.path.startswith(prefix):
            continue
        if "/" in inner:
            folders[inner.partition("/")[0]] = None
        else:
            files.append({"path": inner, "is_dir": False, "file_size": file.size})
    return [*files, *({"path": name, "is_dir": True} for name in folders)]
