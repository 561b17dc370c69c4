"""Named arrays as safetensors bytes in which every array begins where PyTorch's own memory would.

A safetensors file is the length of its header (8 bytes, little-endian), the header as JSON, and the arrays' bytes, row
after row, without a gap (https://github.com/huggingface/safetensors, "Format"). Here the header ends in spaces and arrays
are followed by fillers, arrays of bytes themselves, so that a mapped file can be used as it lies: without a copy a process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
ALIGNED = 64
"""Bytes. PyTorch's own memory begins at multiples of this, and kernels sum in another order where memory does not."""
_FILLER = "filler!"
_METADATA = "__metadata__"
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_arrays(arrays: Arrays) -> bytes:
    """`arrays` as bytes, in the order of their names: equal arrays give equal bytes.

    Raises:
        ValueError: a name that the format uses itself, or a dtype that it has no name for.
    """
    header: dict[str, dict[str, Any]] = {}
    pieces: list[bytes] = []
    end = 0
    for name in sorted(arrays):
        content = _plain(name, arrays[name])
        header[name] = _entry(_NAMES[content.dtype.str], content.shape, end, content.nbytes)
        pieces.append(content.tobytes())
        end += content.nbytes
        if missing := -end % ALIGNED:
            header[f"{_FILLER}{end}"] = _entry("U8", (missing,), end, missing)
            pieces.append(bytes(missing))
            end += missing
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-(8 + len(told)) % ALIGNED)
    return b"".join((len(told).to_bytes(8, "little"), told, *pieces))


def decode_arrays(content: memoryview) -> Arrays:
    """The arrays of a safetensors file, whoever wrote it, as views into `content`; fillers left out."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(bytes(content[8 : 8 + length]))
    data = content[8 + length :]
    return {
        name: np.ndarray(told["shape"], _DTYPES[told["dtype"]], buffer=data, offset=told["data_offsets"][0])
        for name, told in header.items()
        if not _reserved(name)
    }


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if _reserved(name):
        raise ValueError(f"An array cannot be named {name!r}: the format uses that name itself.")
    content = np.asarray(array, order="C")
    content = content.astype(content.dtype.newbyteorder("<"), copy=False)
    if content.dtype.str not in _NAMES:
        raise ValueError(f"{name}: {content.dtype} cannot be stored; {', '.join(sorted(_NAMES))} can.")
    return content


def _entry(dtype: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}


def _reserved(name: str) -> bool:
    return name == _METADATA or name.startswith(_FILLER)
