"""Where the files of a version registered over MLflow's protocol come from.

MLflow's own server believes the `source` a client sends and opens nothing. This one stores the bytes, so it must
get at them, and a path that a client names is not to be trusted: it would read any file of the server's machine.
Three sources are taken: another version, files sent ahead, and folders that whoever runs the server has opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from registry.access import UploadRow
from registry.errors import ArtifactRefused
from registry.http import problems
from registry.http.backend import Backend
from registry.http.gate import ARTIFACTS
from registry.http.problems import Refused
from registry.http.tokens import Caller
from registry.media import check_path
from registry.results import ModelVersion

UPLOADS = "uploads"
"""The folder of the artifact service that files are sent to: `uploads/<any name>/<path in the version>`."""
MOST_FILES = 1000
_VERSION = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<number>[1-9]\d{0,8})|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class Found:
    """What a source holds: files, and what else makes a version when it is a copy of one."""

    files: Mapping[str, Path | bytes]
    rest: Mapping[str, Any] = field(default_factory=dict)


def find(backend: Backend, source: str, caller: Caller) -> Found:
    """The files that `source` means.

    Raises:
        Refused: a kind of source that is not taken here, or a folder that is not open; says which are.
        NotRecorded: the version to copy, or the upload, is not there.
        ArtifactRefused: a link, or a file that could not be one of a version.
    """
    if match := _VERSION.fullmatch(source):
        place = f"/{match['number']}" if match["number"] else f"@{match['alias']}"
        return _copy(backend, backend.registry.get(match["name"] + place))
    if (served := served_path(source)) is not None:
        first, _, rest = served.partition("/")
        if first == UPLOADS and rest and "/" not in rest:
            return Found(uploaded(backend, rest, caller))
        return _copy(backend, backend.registry.get(served))
    if (path := _local(source)) is not None:
        return Found(_imported(backend.imports, path))
    raise Refused(problems.not_taken(f"source {source!r} is not one this registry can read. {_TAKEN}"))


def served_path(source: str) -> str | None:
    """The path within the artifact service that a source means, if it means one.

    >>> served_path("mlflow-artifacts:/uploads/x"), served_path("http://h:1/api/2.0/mlflow-artifacts/artifacts/a/3/")
    ('uploads/x', 'a/3')
    """
    parts = urlsplit(source)
    path = unquote(parts.path)
    if parts.scheme in {"http", "https"} and path.startswith(ARTIFACTS):
        return path.removeprefix(ARTIFACTS).strip("/")
    return path.strip("/") if parts.scheme == "mlflow-artifacts" else None


_TAKEN = (
    "It takes 'models:/name/3' or 'models:/name@alias' (a copy), 'mlflow-artifacts:/uploads/<name>' (files sent "
    f"there before: log_artifacts to {ARTIFACTS}/{UPLOADS}/<name>), and a folder of the server's machine that "
    "whoever runs the server opened with --import-root. See docs/mlflow.md."
)


def _copy(backend: Backend, version: ModelVersion) -> Found:
    """The same bytes, configuration, lineage and measurements under another name."""
    files = {file.path: backend.store.read(file.sha256) for file in version.files}
    kept = ("metrics", "params", "config", "seed", "signature", "training_set", "upstream")
    return Found(files, {name: getattr(version, name) for name in kept})


def uploaded(backend: Backend, folder: str, caller: Caller) -> dict[str, Path | bytes]:
    """The files that this caller has sent to a folder. Raises `Refused` where there are none."""
    mine = sa.select(UploadRow).where(UploadRow.token == caller.key, UploadRow.folder == folder)
    with backend.database.read() as session:
        sent = {row.path: row.sha256 for row in session.scalars(mine)}
    if not sent:
        raise Refused(
            problems.not_taken(f"with this token no file was sent to {UPLOADS}/{folder}; send them first.")
        )
    return {path: backend.store.read(sha256) for path, sha256 in sent.items()}


def _local(source: str) -> Path | None:
    """The path that a source means, if it means one; of a file: URL only one without a host."""
    parts = urlsplit(source)
    path = source if source.startswith("/") else ""
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        path = unquote(parts.path)
    return Path(path) if path and "\0" not in path else None


def _imported(roots: tuple[Path, ...], path: Path) -> dict[str, Path | bytes]:
    """The files under a folder that is open; links are refused wherever they lead."""
    folder = path.resolve()
    if not any(folder.is_relative_to(root) for root in roots):
        opened = ", ".join(map(str, roots)) or "none"
        raise Refused(
            problems.not_taken(f"folder {str(path)!r} is not open to clients; open are: {opened}. {_TAKEN}")
        )
    if not folder.is_dir():
        raise Refused(problems.not_taken(f"{str(path)!r} is not a folder of the server's machine."))
    entries = sorted(folder.rglob("*"))
    if links := [entry for entry in entries if entry.is_symlink()]:
        raise ArtifactRefused(f"{str(links[0])!r} is a symlink: put the file it points to in its place.")
    files = [entry for entry in entries if not entry.is_dir()]
    if not 1 <= len(files) <= MOST_FILES:
        raise ArtifactRefused(f"{str(path)!r} holds {len(files)} files; a version has 1 to {MOST_FILES}.")
    return {check_path(entry.relative_to(folder).as_posix()): entry for entry in files}
