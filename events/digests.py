"""Digests of what the lake holds: of rows, and of part names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import xxhash


def content_digest(table: pa.Table) -> str:
    """128 bits, in hex, over the schema and rows of `table`; how it is chunked does not matter."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        for batch in table.combine_chunks().to_batches():
            stream.write_batch(batch)
    return xxhash.xxh3_128_hexdigest(sink.getvalue())


def names_digest(parts: Iterable[Path]) -> str:
    """128 bits, in hex, over day and name of each part: names carry the digest of their content."""
    return xxhash.xxh3_128_hexdigest("\n".join(short_name(part) for part in parts).encode())


def short_name(part: Path) -> str:
    """`day=…/part-….parquet`: what tells one part of a table from another."""
    return f"{part.parent.name}/{part.name}"
