"""Digests of what a table says, whatever way its memory happens to be laid out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.compute import recorded_digest


class _Sink(Protocol):
    def update(self, data: bytes, /) -> None: ...


def digest_of(spine: pa.Table, features: Mapping[str, str], folder: Path, files: Iterable[Path],
              sessions: Iterable[str] = ()) -> str:  # fmt: skip
    """sha256 over the spine's content, the features in order, and the computed files and sessions used (16 hex digits).

    A file counts by its path under `folder` and the digest its step recorded, or by its bytes where there is none.
    """
    found = hashlib.sha256()
    add_content(found, spine)
    found.update(repr(list(features.items())).encode())
    for path in sorted(set(files)):
        inputs = recorded_digest(path) or hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(repr((path.relative_to(folder).as_posix(), inputs)).encode())
    for digest in sessions:
        found.update(digest.encode())
    return found.hexdigest()[:16]


def add_content(sink: _Sink, table: pa.Table) -> None:
    """Feed `table` to a hash: equal rows give equal bytes, however they are chunked, sliced or dictionary-encoded."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        plain = whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole
        sink.update(repr((name, str(plain.type), len(plain))).encode())
        for part in _parts(plain):
            sink.update(part)


def _parts(array: pa.Array) -> Iterator[bytes]:
    """Which values are there, then those values; nothing of what lies under a null or beyond a slice."""
    yield np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    there = array.drop_null()
    kind = there.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield pc.list_value_length(there).cast(pa.int64()).to_numpy().tobytes()
        yield from _parts(there.flatten())
    elif pa.types.is_struct(kind):
        for child in there.flatten():
            yield from _parts(child)
    elif _is_text(kind):
        yield pc.binary_length(there).cast(pa.int64()).to_numpy().tobytes()
        yield b"".join(value.as_buffer() for value in there)
    elif pa.types.is_boolean(kind):
        yield there.cast(pa.uint8()).to_numpy().tobytes()
    elif not pa.types.is_null(kind):
        yield _fixed(there)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())


def _fixed(array: pa.Array) -> bytes:
    """The bytes of values of one width.

    Raises:
        TypeError: they have no such width.
    """
    try:
        width = array.type.bit_width // 8
    except ValueError as problem:
        raise TypeError(f"a column of type {array.type} has no content digest.") from problem
    start = array.offset * width
    return memoryview(array.buffers()[1])[start : start + len(array) * width].tobytes() if len(array) else b""
