"""A training as it stands between two epochs, on disk: one safetensors file, replaced as a whole and never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

_KEY = "checkpoint"  # of the JSON in the file's metadata


class OtherRun(ValueError):
    """A checkpoint of a training with other settings, other data or other hardware."""

    def __init__(self, path: Path, held: Mapping[str, str], run: Mapping[str, str]) -> None:
        other = [f"{name} {held.get(name, 'unknown')} there, {run.get(name, 'unknown')} here"
                 for name in sorted(held.keys() | run.keys()) if held.get(name) != run.get(name)]  # fmt: skip
        super().__init__(
            f"{path} is a checkpoint of another training ({'; '.join(other)}). "
            "Train as then to go on with it, or remove it to begin anew."
        )


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(f"{path} is no whole checkpoint ({problem}); remove it to begin anew.")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands: `run` tells it from others, `tensors` and `state` (a JSON value) are what it needs to go on."""

    run: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Put `checkpoint` in the place of what `path` held: whoever dies when, the file is one or the other, whole."""
    document = json.dumps({"run": dict(checkpoint.run), "state": dict(checkpoint.state)})
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()
    }
    content = safetensors.torch.save(tensors, {_KEY: document})
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)  # noqa: PTH105  (a draft is replaced by no other name)
    _sync(path.parent)


def read(path: Path, run: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint at `path`, None where there is none.

    Raises:
        OtherRun: it is not of `run`.
        DamagedCheckpoint: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            document = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        found = Checkpoint(document["run"], tensors, document["state"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as problem:
        raise DamagedCheckpoint(path, problem) from problem
    if dict(found.run) != dict(run):
        raise OtherRun(path, found.run, run)
    return found


def data_digest(*parts: Any) -> str:
    """16 hex digits over arrays, texts, numbers, and dataclasses and sequences of them, in order."""
    digest = hashlib.sha256()
    for part in parts:
        _update(digest, part)
    return digest.hexdigest()[:16]


def _update(digest: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        digest.update(f"{part.dtype.str}{part.shape}".encode())
        for start in range(0, len(part), _ROWS):
            digest.update(np.ascontiguousarray(part[start : start + _ROWS]).data)
    elif is_dataclass(part):
        for field in fields(part):
            digest.update(field.name.encode())
            _update(digest, getattr(part, field.name))
    elif isinstance(part, list | tuple):
        digest.update(struct.pack("<q", len(part)))
        for one in part:
            _update(digest, one)
    else:
        digest.update(repr(part).encode())


_ROWS = 16_384  # read at once, so that of a mapped array no more is held


def _sync(folder: Path) -> None:
    """Make the names in `folder` as durable as the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
