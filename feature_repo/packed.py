"""Packed vectors: one Arrow `FixedSizeList<float32>[F]` a row, null kept apart from 0 and from NaN by validity bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Known = NDArray[np.bool_]


class NotFloat(TypeError):
    """A column that cannot be packed because it is not float32."""

    def __init__(self, column: str, found: object) -> None:
        super().__init__(f"column {column!r} is {found}; packed vectors hold FLOAT only.")


def pack(values: Float32, known: Known) -> pa.FixedSizeListArray:
    """(n, F) values and what is known of them as one array of n vectors; NaN lies under every null."""
    safe = np.asarray(values, dtype=np.float32)
    if not bool(np.isnan(safe[~known]).all()):  # already so in what `unpack` gave: no need for a copy
        safe = np.where(known, safe, np.float32(np.nan))
    bits = pa.py_buffer(np.packbits(known, axis=None, bitorder="little"))
    flat = pa.Array.from_buffers(pa.float32(), safe.size, [bits, pa.py_buffer(np.ascontiguousarray(safe))])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def unpack(vectors: pa.ChunkedArray | pa.Array) -> tuple[Float32, Known]:
    """The (n, F) values, NaN where null, and the (n, F) mask of what is known."""
    whole = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    width = whole.type.list_size
    flat = whole.flatten()
    values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)
    known = np.asarray(flat.is_valid().to_numpy(zero_copy_only=False)).reshape(-1, width)
    return values, known


def columns_to_matrix(table: pa.Table, names: Sequence[str]) -> tuple[Float32, Known]:
    """The FLOAT columns `names` side by side, as `unpack` gives them.

    Raises:
        NotFloat: a column has another type.
    """
    values = np.empty((table.num_rows, len(names)), dtype=np.float32)
    known = np.empty((table.num_rows, len(names)), dtype=np.bool_)
    for place, name in enumerate(names):
        column = table[name]
        if column.type != pa.float32():
            raise NotFloat(name, column.type)
        values[:, place] = column.to_numpy()
        known[:, place] = column.is_valid().to_numpy()
    return values, known
