"""The sample log: what models were given, for a share of the requests, so that it can be computed again offline.

An entry is one request: a header with a checksum, then, as zstd, what was asked (JSON) and for each model the ids
of the titles (int64) and the very float32 it was given, column after column, little-endian. Entries lie in the
segments of a `DurableLog`; the oldest segments go. The names and digests of the columns, which change only with
the declarations, are kept once in `layouts/<digest>.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from feature_repo.durable import sync_folder
from feature_repo.reader import OnlineReader
from models.data import Float32, Int64
from serving.segments import DurableLog

SUFFIX = ".samples"
LAYOUTS = "layouts"
MAX_SEGMENT_BYTES = 8 * 2**20
KEEP_SEGMENTS = 32
"""With segments of 8 MiB: what the log may take is 256 MiB, about 40,000 requests of 20 rows."""

SHOWN_ROWS, OTHER_ROWS = 14, 6
"""Rows of a ranker's matrix that are kept: of the first titles of the page, and of titles that were left out."""

_MAGIC = b"MSV1"
_HEAD = struct.Struct(
    "<4sIIII"
)  # magic, crc32 of the rest of the head, crc32 of the body, its bytes, unpacked
_CRC_FROM = 8


class DamagedSamples(ValueError):
    """A segment or a layout is altered in a place where no crash can have left something half-written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. Move it away to go on without the samples in it.")


@dataclass(frozen=True)
class Given:
    """What one model was given: row i of `values` (n, F), NaN where null, is of `title_ids[i]`.

    What is about the user alone is one row without a title.
    """

    service: str
    title_ids: Int64  # (n,), or (0,)
    values: Float32  # (n, F), or (1, F)

    @classmethod
    def of_user(cls, service: str, values: Float32) -> Self:
        """A vector (F,) of the user."""
        return cls(service, np.empty(0, dtype=np.int64), values[None, :])

    def some(self, shown: Int64) -> Self:
        """The rows of some titles: the first `SHOWN_ROWS` of `shown`, and others spread over the rest."""
        if len(self.title_ids) <= SHOWN_ROWS + OTHER_ROWS:
            return self
        on_page = np.isin(self.title_ids, shown[:SHOWN_ROWS])
        others = np.flatnonzero(~on_page)
        spread = others[np.linspace(0, len(others) - 1, OTHER_ROWS).astype(np.int64)]
        rows = np.union1d(np.flatnonzero(on_page), spread)
        return type(self)(self.service, self.title_ids[rows], self.values[rows])


@dataclass(frozen=True)
class Layout:
    """The columns a service's models are given: `table:feature` and digest, in order."""

    service: str
    features: tuple[str, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(cls, reader: OnlineReader, service: str) -> Self:
        """As the snapshot has them."""
        digests = reader.digests(service)
        return cls(service, tuple(digests), tuple(digests.values()))

    def to_json(self) -> str:
        """One text a layout."""
        return json.dumps([self.service, self.features, self.digests])

    @property
    def digest(self) -> str:
        """sha256 over it (16 hex digits)."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Vectors:
    """What one model was given, and how its columns are called."""

    layout: Layout
    title_ids: Int64
    values: Float32


@dataclass(frozen=True)
class Sample:
    """One request: who asked when, of which state of the online store, and what each model was given for it."""

    request_id: str
    user_id: int
    at: datetime
    source: str
    generation: str
    as_of: datetime
    sequence: int  # the last write to the record that was seen
    vectors: tuple[Vectors, ...]


def sampled(request_id: str, share: float) -> bool:
    """Whether a request is among the `share` (0..1) that are logged: the same for the same id, everywhere.

    >>> [sampled("3f0c", share) for share in (0.0, 0.6, 1.0)]
    [False, True, True]
    """
    return xxhash.xxh3_64_intdigest(request_id.encode()) < share * 2**64


def sample_of(
    request_id: str, user_id: int, at: datetime, reader: OnlineReader, given: Sequence[Given], shown: Int64
) -> Sample:
    """What is logged of one request; `shown` are the titles of its page."""
    vectors = (
        Vectors(Layout.of(reader, part.service), part.title_ids, part.values)
        for part in (whole.some(shown) for whole in given)
    )
    return Sample(
        request_id, user_id, at, reader.source, reader.generation, reader.as_of, reader.sequence, tuple(vectors)
    )  # fmt: skip


def encode(sample: Sample) -> bytes:
    """One entry."""
    about = {
        "request_id": sample.request_id,
        "user_id": sample.user_id,
        "at": sample.at.isoformat(),
        "source": sample.source,
        "generation": sample.generation,
        "as_of": sample.as_of.isoformat(),
        "sequence": sample.sequence,
        "vectors": [[v.layout.digest, len(v.title_ids), *v.values.shape] for v in sample.vectors],
    }
    text = json.dumps(about).encode()
    parts = [len(text).to_bytes(4, "little"), text]
    for vectors in sample.vectors:
        parts += [vectors.title_ids.astype("<i8").tobytes(), vectors.values.T.astype("<f4").tobytes()]
    raw = b"".join(parts)
    body = bytes(pa.compress(raw, codec="zstd", asbytes=True))
    rest = (zlib.crc32(body), len(body), len(raw))
    return _HEAD.pack(_MAGIC, zlib.crc32(_HEAD.pack(_MAGIC, 0, *rest)[_CRC_FROM:]), *rest) + body


class SampleLog:
    """Appends samples from any thread; `append` returns once they are on disk.

    `share` (0..1) of the requests is logged, chosen by a hash of their ids.
    """

    def __init__(self, folder: Path, *, name: str, share: float, max_segment_bytes: int = MAX_SEGMENT_BYTES,
                 keep: int = KEEP_SEGMENTS) -> None:  # fmt: skip
        """Log into `folder`; `name` is unique to this writer, and names sort by the time writers started."""
        self.share, self._folder = share, folder
        self._log = DurableLog(
            folder, name=name, suffix=SUFFIX, max_segment_bytes=max_segment_bytes, keep=keep
        )
        self._layouts: set[str] = set()
        self._writing_layouts = threading.Lock()

    def wants(self, request_id: str) -> bool:
        """Whether this request is one to log."""
        return sampled(request_id, self.share)

    def append(self, sample: Sample) -> None:
        """Log one request, durably.

        Raises:
            OSError: the disk refuses.
            LogClosed: the log has been closed.
        """
        with self._writing_layouts:
            for vectors in sample.vectors:
                self._remember(vectors.layout)
        self._log.append(encode(sample))

    def close(self) -> None:
        """End the segment."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _remember(self, layout: Layout) -> None:
        """Put a layout on disk before the first sample that names it."""
        if layout.digest in self._layouts:
            return
        path = self._folder / LAYOUTS / f"{layout.digest}.json"
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}-new")
        with draft.open("w", encoding="utf-8") as file:
            file.write(layout.to_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
        self._layouts.add(layout.digest)


def newest(folder: Path) -> Iterator[Sample]:
    """Every sample in `folder`, the newest segments first and each from its end. A missing folder has none.

    An entry that a crash cut short was never acknowledged and is left out.

    Raises:
        DamagedSamples: a segment or a layout is damaged other than by a crash.
    """
    layouts: dict[str, Layout] = {}
    for segment in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        for raw in reversed(list(_entries(segment))):
            yield _decode(raw, folder, layouts)


def _entries(segment: Path) -> Iterator[bytes]:
    try:
        content = segment.read_bytes()
    except FileNotFoundError:  # its turn to go came while we read
        return
    position = 0
    while len(content) - position >= _HEAD.size:
        magic, crc, body_crc, size, unpacked = _HEAD.unpack_from(content, position)
        start, stop = position + _HEAD.size, position + _HEAD.size + size
        known = magic == _MAGIC and zlib.crc32(content[position + _CRC_FROM : start]) == crc
        if known and stop > len(content):
            break
        if not known or zlib.crc32(content[start:stop]) != body_crc:
            if (known and stop == len(content)) or not any(content[position:]):
                break  # a file may grow before its blocks are written
            raise DamagedSamples(segment, f"the entry at byte {position} fails its checksum")
        yield pa.decompress(content[start:stop], decompressed_size=unpacked, codec="zstd", asbytes=True)
        position = stop


def _decode(raw: bytes, folder: Path, layouts: dict[str, Layout]) -> Sample:
    start = 4 + int.from_bytes(raw[:4], "little")
    about: dict[str, Any] = json.loads(raw[4:start])
    found = []
    for digest, titles, rows, columns in about["vectors"]:
        ids = np.frombuffer(raw, "<i8", titles, start)
        values = np.frombuffer(raw, "<f4", rows * columns, start + 8 * titles).reshape(columns, rows).T
        start += 8 * titles + 4 * rows * columns
        found.append(Vectors(_layout(folder, digest, layouts), ids, _own(values)))
    moments = {name: datetime.fromisoformat(about[name]) for name in ("at", "as_of")}
    return Sample(**{**about, **moments, "vectors": tuple(found)})


def _own(values: NDArray[np.float32]) -> Float32:
    return np.ascontiguousarray(values, dtype=np.float32)


def _layout(folder: Path, digest: str, known: dict[str, Layout]) -> Layout:
    if digest not in known:
        path = folder / LAYOUTS / f"{digest}.json"
        try:
            service, features, digests = json.loads(path.read_text("utf-8"))
            known[digest] = Layout(service, tuple(features), tuple(digests))
        except (OSError, ValueError) as problem:
            raise DamagedSamples(path, f"a layout that samples name cannot be read ({problem})") from problem
        if known[digest].digest != digest:
            raise DamagedSamples(path, "a layout that is not what its name says")
    return known[digest]
