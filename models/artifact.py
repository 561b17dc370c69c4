"""A model as a folder of safetensors and JSON, under one digest.

The folder holds `<part>.safetensors` (named arrays), `<part>.json`, and `manifest.json` with the kind of
the model and the SHA-256 of every other file. Equal content gives equal bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from models.arrays import Arrays, decode_arrays, encode_arrays

MANIFEST = "manifest.json"
_PART = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")


class ArtifactError(ValueError):
    """A folder that is not a whole, unmixed model of the kind asked for."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {problem}")


@dataclass(frozen=True)
class Artifact:
    """What a model is made of: `arrays` by part and name, `documents` (JSON values) by part."""

    kind: str
    arrays: Mapping[str, Arrays]
    documents: Mapping[str, Any]


def save(artifact: Artifact, folder: Path) -> str:
    """Write `artifact` as a new folder, all of it or nothing, and return its digest.

    Raises:
        FileExistsError: `folder` exists and holds anything else than this very artifact.
    """
    files = encode(artifact)
    identity = digest_of({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    if folder.exists():
        if digest(folder) == identity:
            return identity
        raise FileExistsError(f"{folder} already holds something else; an artifact is never overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        draft.chmod(0o755)
        os.replace(draft, folder)  # noqa: PTH105  (Path.replace of a folder reads as if it replaced files)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return identity


def encode(artifact: Artifact) -> dict[str, bytes]:
    """The artifact's files by name, manifest included: equal artifacts give equal bytes."""
    files = {f"{part}.safetensors": encode_arrays(arrays) for part, arrays in artifact.arrays.items()}
    files |= {f"{part}.json": encode_document(value) for part, value in artifact.documents.items()}
    for name in files:
        if not _PART.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot name a part: use lower case, digits and underscores.")
    parts = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = encode_document({"format": 1, "kind": artifact.kind, "parts": parts})
    return files


def encode_document(value: object) -> bytes:
    """A JSON value as UTF-8, keys sorted; NaN and infinity are refused."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def load(folder: Path, kind: str) -> Artifact:
    """Read an artifact, verifying every byte against its manifest.

    Arrays are mapped, not copied: processes that load the same folder share its pages. They can be written to, which
    copies the pages written (`MAP_PRIVATE`); the file stays as it is.

    Raises:
        ArtifactError: no manifest, another kind, a part missing, unlisted, or from another version.
    """
    manifest = _manifest(folder)
    if manifest["kind"] != kind:
        raise ArtifactError(folder, f"holds a {manifest['kind']}, not a {kind}.")
    parts: dict[str, str] = manifest["parts"]
    _refuse_other_files(folder, set(parts))
    contents = {name: _verified(folder, name, expected) for name, expected in parts.items()}
    return Artifact(
        kind=kind,
        arrays={
            name.removesuffix(".safetensors"): decode_arrays(content)
            for name, content in contents.items()
            if name.endswith(".safetensors")
        },
        documents={
            name.removesuffix(".json"): json.loads(bytes(content))
            for name, content in contents.items()
            if name.endswith(".json")
        },
    )


def kind(folder: Path) -> str:
    """Which kind of model a folder says that it holds.

    Raises:
        ArtifactError: it has no manifest, or one of another format.
    """
    said: str = _manifest(folder)["kind"]
    return said


def digest(folder: Path) -> str:
    """SHA-256 (64 hex digits) over the names and contents of all files in `folder`."""
    return digest_of(file_digests(folder))


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in `folder`, by name."""
    if not folder.is_dir():
        raise ArtifactError(folder, "is not a folder.")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def arrays_digest(arrays: Arrays) -> NDArray[np.uint8]:
    """SHA-256 of `arrays` as 32 bytes: one part stores it to say which other part it belongs to.

    Of the arrays as safetensors packs them by itself, which does not change with how files of ours are laid out.
    """
    packed = safetensors.numpy.save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    return np.frombuffer(hashlib.sha256(packed).digest(), dtype=np.uint8)


def digest_of(parts: Mapping[str, str]) -> str:
    """The digest of a folder with these files, by name and SHA-256 of content."""
    lines = "".join(f"{name} {parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(folder, f"is no model: it has no {MANIFEST}.")
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if manifest.get("format") != 1:
        raise ArtifactError(folder, f"has format {manifest.get('format')!r}; this release reads format 1.")
    return manifest


def _refuse_other_files(folder: Path, parts: set[str]) -> None:
    found = {file.name for file in folder.iterdir()} - {MANIFEST}
    if missing := sorted(parts - found):
        raise ArtifactError(folder, f"lacks {', '.join(missing)}.")
    if unlisted := sorted(found - parts):
        raise ArtifactError(folder, f"holds {', '.join(unlisted)}, which its manifest does not list.")


def _verified(folder: Path, name: str, expected: str) -> memoryview:
    if not _PART.fullmatch(name):
        raise ArtifactError(folder, f"lists a part named {name!r}.")
    content = _mapped(folder / name)
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise ArtifactError(
            folder, f"{name} belongs to another version or is damaged ({found[:12]}…, not {expected[:12]}…)."
        )
    return content


def _mapped(path: Path) -> memoryview:
    """A file's bytes; the mapping lives as long as anything that looks into it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
