"""The artifact store: files known by the SHA-256 of their bytes, through fsspec, checked on every read.

In a local folder, what `put` has returned from survives a power cut: the bytes are on disk before their name is, and
the names of the file and of the folders it lies in before anyone is told. That also goes for bytes that were there
already, since whoever wrote them may have died between the two.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.errors import ArtifactCorrupt, ArtifactRefused, NotRecorded
from registry.media import check_content

Kind = Literal["file", "link", "other"]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IN_PLACE = re.compile(r"sha256/(?P<shard>[0-9a-f]{2})/(?P<sha256>(?P=shard)[0-9a-f]{62})")
_PIECE = 1 << 20
_UNFINISHED = re.compile(r"sha256/[0-9a-f]{2}/\.[0-9a-f]{32}\.partial")


@dataclass(frozen=True)
class Artifact:
    """Stored bytes."""

    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Entry:
    """Something that lies in the store; `path` is relative to its root, `size` in bytes."""

    path: str
    size: int
    kind: Kind = "file"

    @property
    def sha256(self) -> str | None:
        """The digest it is filed under, if it is a file in its place."""
        match = _IN_PLACE.fullmatch(self.path) if self.kind == "file" else None
        return match["sha256"] if match else None

    @property
    def unfinished(self) -> bool:
        """Whether it is a write of `put` that goes on, or went on when its process was killed."""
        return self.kind == "file" and bool(_UNFINISHED.fullmatch(self.path))


class ArtifactStore:
    """Content-addressed files under `url`: a local folder, or any URL fsspec understands.

    Whoever hands something in gets its digest back, and reads by digest only: no path given by a caller is
    ever opened in the store. Files are small enough to be held in memory (weights, tables, reports).
    """

    def __init__(self, url: str) -> None:
        self._files: Any
        # A remembered listing would say that a file is there which a sweep has deleted since.
        self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._local = isinstance(self._files, LocalFileSystem)

    def put(self, content: Path | bytes, name: str) -> Artifact:
        """Store a file or bytes; `name` says what it is, as in `weights.safetensors`.

        Putting the same bytes again stores nothing new, and repairs a stored copy that went bad.

        Raises:
            ArtifactRefused: a symlink, something not a file, a pickle, or bytes that are not what `name` says; or
                the folder in the store that they belong to is a symlink.
        """
        data = _read_plain(content) if isinstance(content, Path) else bytes(content)
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data), check_content(name, data))
        place = self._place(artifact.sha256)
        if self._local:
            _refuse_linked(_folders(place))
        if not self.intact(artifact.sha256):
            self._write(place, data)
        if self._local:
            for folder in _folders(place):
                _sync(folder)
        return artifact

    def keep(self, artifact: Artifact, content: Path | bytes, name: str) -> None:
        """Make sure, within `Database.referring`, that what `put` gave is still there; a sweep may have taken it.

        Raises:
            ArtifactRefused: it is gone, and the file it came from has changed since.
        """
        if self.holds(artifact.sha256, artifact.size):
            return
        if self.put(content, name) != artifact:
            raise ArtifactRefused(f"{name} changed while it was being registered. Register it again.")

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

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file of this digest and size, in bytes, is in its place; its contents are not read."""
        try:
            found = self._files.info(self._place(sha256))
        except FileNotFoundError:
            return False
        return bool(found["type"] == "file" and not found.get("islink") and found["size"] == size)

    def measure(self, sha256: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of what is filed under a digest, read a piece at a time.

        Raises:
            NotRecorded: the store has none, or something there that is not a file.
            ArtifactCorrupt: it is a link to somewhere else.
        """
        place = self._place(sha256)
        try:
            found = self._files.info(place)
        except FileNotFoundError as error:  # or a link to nowhere
            raise NotRecorded("artifact", sha256) from error
        if found.get("islink"):
            raise ArtifactCorrupt(sha256, "that of a symlink")
        if found["type"] != "file":
            raise NotRecorded("artifact", sha256)
        digest, size = hashlib.sha256(), 0
        with self._files.open(place, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        return size, digest.hexdigest()

    def entries(self) -> Iterator[Entry]:
        """Everything that lies in the store, in no order; of folders only what is in them. Links are not followed."""
        if not self._files.exists(self._root):
            return
        for path, found in self._files.find(self._root, detail=True).items():
            relative = path.removeprefix(self._root).lstrip("/")
            yield Entry(relative, found["size"] or 0, _kind(found))

    def modified(self, entry: Entry) -> datetime | None:
        """When an entry was written by the store's own clock; None where it does not say, or the entry is gone."""
        try:
            at: datetime = self._files.modified(f"{self._root}/{entry.path}")
        except (FileNotFoundError, NotImplementedError):
            return None
        return at if at.tzinfo else at.replace(tzinfo=UTC)

    def delete(self, entry: Entry) -> None:
        """Delete an entry that `entries` gave; gone already is as good.

        Only under `Database.sweeping` is it certain that no version is about to need it.
        """
        try:
            self._files.rm_file(f"{self._root}/{entry.path}")
        except FileNotFoundError:
            return

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
            if self._local:
                os.fsync(file.fileno())  # the bytes are down before they have a name
        self._files.mv(beside, place)


def _kind(found: Mapping[str, Any]) -> Kind:
    if found.get("islink"):
        return "link"
    return "file" if found["type"] == "file" else "other"


def _folders(place: str) -> tuple[Path, Path, Path]:
    """The folders a local file of the store lies in, inmost first; the last is the store itself."""
    shard, sha256, root, *_ = Path(place).parents
    return shard, sha256, root


def _refuse_linked(folders: tuple[Path, ...]) -> None:
    """The store itself may be a link to a larger disk; a folder in it may not, for who knows what else writes there."""
    for folder in folders[:-1]:
        if folder.is_symlink():
            raise ArtifactRefused(
                f"{folder} in the artifact store is a symlink: put the folder it points to in its place."
            )


def _sync(folder: Path) -> None:
    """Make the names in `folder` as durable as the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_plain(path: Path) -> bytes:
    if path.is_symlink():
        raise ArtifactRefused(f"{path} is a symlink: hand in the file it points to.")
    if not path.is_file():
        raise ArtifactRefused(f"{path} is not a file.")
    return path.read_bytes()
