"""The artifact store: files known by the SHA-256 of their bytes, through fsspec, checked on every read."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.errors import ArtifactCorrupt, ArtifactRefused, NotRecorded
from registry.media import check_content

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artifact:
    """Stored bytes."""

    sha256: str
    size: int
    media_type: str


class ArtifactStore:
    """Content-addressed files under `url`: a local folder, or any URL fsspec understands.

    Whoever hands something in gets its digest back, and reads by digest only: no path given by a caller is
    ever opened in the store. Files are small enough to be held in memory (weights, tables, reports).
    """

    def __init__(self, url: str) -> None:
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, content: Path | bytes, name: str) -> Artifact:
        """Store a file or bytes; `name` says what it is, as in `weights.safetensors`.

        Putting the same bytes again stores nothing new, and repairs a stored copy that went bad.

        Raises:
            ArtifactRefused: a symlink, something not a file, a pickle, or bytes that are not what `name` says.
        """
        data = _read_plain(content) if isinstance(content, Path) else bytes(content)
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data), check_content(name, data))
        if not self.intact(artifact.sha256):
            self._write(self._place(artifact.sha256), data)
        return artifact

    def read(self, sha256: str) -> bytes:
        """The bytes with this digest.

        Raises:
            NotRecorded: the store has none.
            ArtifactCorrupt: what it has under this digest is something else, or a link to somewhere else.
        """
        place = self._place(sha256)
        try:
            if self._files.info(place).get("islink"):
                raise ArtifactCorrupt(sha256, "that of a symlink")
            data: bytes = self._files.cat_file(place)
        except FileNotFoundError as error:
            raise NotRecorded("artifact", sha256) from error
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise ArtifactCorrupt(sha256, found)
        return data

    def intact(self, sha256: str) -> bool:
        """Whether the store has these bytes, unharmed."""
        try:
            self.read(sha256)
        except (NotRecorded, ArtifactCorrupt):
            return False
        return True

    def materialize(self, sha256: str, destination: Path) -> Path:
        """Write the bytes with this digest to `destination`, whole or not at all; returns it."""
        data = self.read(sha256)
        destination.parent.mkdir(parents=True, exist_ok=True)
        beside = destination.with_name(f".{uuid.uuid4().hex}.partial")
        beside.write_bytes(data)
        beside.replace(destination)  # replaces a link that stands there, rather than following it
        return destination

    def _place(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ArtifactRefused(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal.")
        return f"{self._root}/sha256/{sha256[:2]}/{sha256}"

    def _write(self, place: str, data: bytes) -> None:
        folder = place.rsplit("/", 1)[0]
        self._files.makedirs(folder, exist_ok=True)
        beside = f"{folder}/.{uuid.uuid4().hex}.partial"
        with self._files.open(beside, "wb") as file:
            file.write(data)
            file.flush()
            if isinstance(self._files, LocalFileSystem):
                os.fsync(file.fileno())  # the bytes are down before the ledger speaks of them
        self._files.mv(beside, place)


def _read_plain(path: Path) -> bytes:
    if path.is_symlink():
        raise ArtifactRefused(f"{path} is a symlink: hand in the file it points to.")
    if not path.is_file():
        raise ArtifactRefused(f"{path} is not a file.")
    return path.read_bytes()
