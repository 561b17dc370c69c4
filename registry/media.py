"""Which files the store takes. The name says what a file is, and the bytes must agree.

Anything that runs when it is read stays out: pickles, and the archives that carry them.
"""

from __future__ import annotations

import json
import pickletools
import struct
from collections.abc import Mapping
from pathlib import PurePosixPath

from registry.errors import ArtifactRefused

TYPES: Mapping[str, str] = {
    ".safetensors": "application/vnd.safetensors",
    ".json": "application/json",
    ".arrow": "application/vnd.apache.arrow.file",
    ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_RUNS_WHEN_READ = {
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"PK\x03\x04": "a zip archive, as torch.save writes around a pickle",
    b"\x93NUMPY": "a .npy file, which may hold pickled objects",
    b"\x1f\x8b": "compressed",
}
_LARGEST_HEADER = 100 << 20  # of a safetensors file, the format's own limit


def check_path(path: str) -> str:
    """`path`, if it is a plain relative path within a version.

    Raises:
        ArtifactRefused: it is absolute, climbs with `..`, or is not written the one usual way.
    """
    parts = path.split("/")
    unusual = any(part in {"", ".", ".."} or part != part.strip() for part in parts)
    if unusual or "\\" in path or ":" in path or not path.isprintable() or len(path) > 250:
        raise ArtifactRefused(
            f"{path!r} cannot be a file of a version. Use a relative path such as 'tower/weights.safetensors': "
            "no '..', no leading '/', no backslash, no colon, at most 250 characters."
        )
    return path


def media_type(name: str) -> str:
    """What a file called `name` must hold.

    Raises:
        ArtifactRefused: files of this kind are not stored.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in TYPES:
        raise ArtifactRefused(
            f"{name!r}: files ending in {suffix or 'nothing'!r} are not stored. Stored are: {', '.join(TYPES)}. "
            "Save weights as safetensors and a vector index as its vectors."
        )
    return TYPES[suffix]


def check_content(name: str, content: bytes) -> str:
    """The media type of a whole file, once its bytes are seen to be that.

    Raises:
        ArtifactRefused: the bytes are a pickle, or are not what the name says.
    """
    expected = media_type(name)
    if expected == _SAFETENSORS and _safetensors_problem(content) is None:
        return expected  # its header's length may be spelt like a pickle's first bytes; no pickle goes on with a NUL
    for magic, what in _RUNS_WHEN_READ.items():
        if content.startswith(magic):
            raise ArtifactRefused(
                f"{name!r} is {what}: loading it could run code. Save it as safetensors or Arrow."
            )
    if problem := _CHECKS.get(expected, _text_problem)(content):
        raise ArtifactRefused(f"{name!r} is not {expected}: {problem}.")
    return expected


def _safetensors_problem(content: bytes) -> str | None:
    if len(content) < 8:
        return "it is shorter than the length of its header"
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(len(content) - 8, _LARGEST_HEADER):
        return f"its header claims {length} bytes"
    try:
        header = json.loads(content[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        return f"its header cannot be read ({error})"
    if max(ends, default=0) != len(content) - 8 - length:
        return "its tensors do not fill it"
    return None


def _json_problem(content: bytes) -> str | None:
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"it cannot be read ({error})"
    return None


def _arrow_problem(content: bytes) -> str | None:
    whole = content.startswith(b"ARROW1\0\0") and content.endswith(b"ARROW1")
    return None if whole else "an Arrow file begins and ends with ARROW1 (write it with pyarrow.ipc.new_file)"


def _parquet_problem(content: bytes) -> str | None:
    return (
        None
        if content.startswith(b"PAR1") and content.endswith(b"PAR1")
        else "Parquet begins and ends with PAR1"
    )


def _png_problem(content: bytes) -> str | None:
    whole = content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    return None if whole else "a PNG begins with its signature and ends with IEND"


def _text_problem(content: bytes) -> str | None:
    if _is_pickle(content):
        return "it is a pickle of the oldest kind, which is written in letters"
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason} at byte {error.start})"
    return "it holds NUL bytes" if "\0" in text else None


def _is_pickle(content: bytes) -> bool:
    """Whether the whole of `content` is opcodes of a pickle; nothing is executed."""
    try:
        *_, (_, _, last) = pickletools.genops(content)
    except (ValueError, OverflowError):
        return False
    return last == len(content.rstrip()) - 1


_SAFETENSORS = "application/vnd.safetensors"
_CHECKS = {
    _SAFETENSORS: _safetensors_problem,
    "application/json": _json_problem,
    "application/vnd.apache.arrow.file": _arrow_problem,
    "application/vnd.apache.parquet": _parquet_problem,
    "image/png": _png_problem,
}
