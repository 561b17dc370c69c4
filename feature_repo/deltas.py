"""The delta log: what has been written to the record since the snapshots, in order, for readers to lay over them.

Layout under the online root: `deltas/<sequence>.log`, segments named after the write before their first entry. An
entry is one write, whole: a header with a checksum, then for each view the rows as the record now holds them, as an
Arrow stream. It is on disk before the write is acknowledged. Entries follow each other without a gap; one that a
crash cut short is the last, is ignored by readers and cut off by the next writer. Only who holds the record's lock
writes here, and all of it can be made again from the record (`record.opened`).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from feature_repo.durable import sync_folder

FOLDER = "deltas"
SEGMENT_BYTES = 1 << 20
"""A segment that has grown to this is followed by another; the last one is read whole by every writer."""

MANY_SEGMENTS = 8
"""A log of more than these is worth making anew, as one entry with each row once."""

_MAGIC = b"MDL1"
_HEAD = struct.Struct("<4sIQQQ")  # magic, crc32 of what follows it, after, sequence, bytes of the body
_CRC_FROM = 8


class DamagedDeltas(Exception):
    """A segment of the log that is altered, or a gap between entries."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"delta log {path} is not whole: {problem}. What came before is served; the next write to the record, or a"
            " new snapshot (`matinee features materialize`), mends it."
        )


@dataclass(frozen=True)
class Part:
    """The rows of one view in a write.

    `meaning` tells layouts apart (see `meaning_of`). `rows` has entity_id, event_timestamp, created_timestamp and the
    payload; of an entity all rows it has. `held_back` are writes whose rows are not among them, and how many they are:
    they came in bulk and wait for a snapshot.
    """

    view: str
    meaning: str
    rows: pa.Table
    held_back: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One write: takes those who know everything up to `after` to `sequence`."""

    after: int
    sequence: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Place:
    """How far someone has read: all up to `sequence`; the next entry would lie at `offset` of `segment`."""

    sequence: int
    segment: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Followed:
    """Entries after a place, the place after them, and what kept us from going on, if anything did."""

    entries: tuple[Entry, ...]
    place: Place
    fault: DamagedDeltas | None = None


def meaning_of(features: Sequence[str], digests: Sequence[str]) -> str:
    """What has to be equal for rows to fit a table: feature names and digests, in order (16 hex digits)."""
    return hashlib.sha256(json.dumps([list(features), list(digests)]).encode()).hexdigest()[:16]


def encode(entry: Entry) -> bytes:
    """An entry as it lies in the log."""
    body = b"".join(_encode_part(part) for part in entry.parts)
    head = _HEAD.pack(_MAGIC, 0, entry.after, entry.sequence, len(body))
    crc = zlib.crc32(body, zlib.crc32(head[_CRC_FROM:]))
    return _HEAD.pack(_MAGIC, crc, entry.after, entry.sequence, len(body)) + body


def segments(root: Path) -> tuple[str, ...]:
    """Names of the segments, oldest first."""
    try:
        return tuple(sorted(path.name for path in (root / FOLDER).iterdir() if path.suffix == ".log"))
    except FileNotFoundError:
        return ()


def segments_from(root: Path, after: int) -> tuple[str, ...]:
    """Those of which every entry comes after that write."""
    return tuple(name for name in segments(root) if _begins(name) >= after)


def _begins(name: str) -> int:
    return int(name.removesuffix(".log"))


def follow(root: Path, place: Place) -> Followed:
    """All entries after `place`. Those that were read before a fault are there with it."""
    followed = _follow(root, place)
    if followed.fault is None:
        return followed
    return _follow(
        root, Place(place.sequence)
    )  # the log may have been pruned, mended or made anew while we read


def _follow(root: Path, place: Place) -> Followed:
    names, found, fault = segments(root), [], None
    names = names[_first_to_read(root, names, place) :]
    for name in names:
        offset = place.offset if name == place.segment else 0
        scanned = _scan(root / FOLDER / name, offset)
        for entry in scanned.entries:
            if entry.after > place.sequence:
                fault = DamagedDeltas(
                    root / FOLDER / name, f"writes {place.sequence + 1} to {entry.after} are missing"
                )
                break
            if entry.sequence > place.sequence:
                found.append(entry)
                place = Place(entry.sequence, place.segment, place.offset)
        if fault is not None or (fault := _fault_of(scanned, last=name == names[-1])) is not None:
            break
        place = Place(place.sequence, name, scanned.end)
    return Followed(tuple(found), place, fault)


def reached(root: Path) -> int | None:
    """The last write up to which the log is whole, and cuts off what lies behind it; None for an empty log.

    For who holds the record's lock: what is cut off is to be appended again from the record.
    """
    sequence = None
    names = segments(root)
    for number, name in enumerate(names):
        path = root / FOLDER / name
        walk = _walked(path, _stamp(path))
        gap = sequence is not None and walk.first_after is not None and walk.first_after > sequence
        if not gap and walk.sequence is not None:
            sequence = max(sequence or 0, walk.sequence)
        if gap or not walk.whole:
            _cut_off(root, name, 0 if gap else walk.end, names[number + 1 :])
            break
    return sequence


def append(root: Path, entry: Entry, covered: int) -> None:
    """Add an entry and see it on disk. `covered` is what the oldest snapshot on disk holds: older segments go.

    For who holds the record's lock and has called `reached`.
    """
    names, raw = segments(root), encode(entry)
    last = root / FOLDER / names[-1] if names else None
    if last is None or last.stat().st_size >= SEGMENT_BYTES or _ends_by(last, covered):
        last = root / FOLDER / f"{entry.after:020d}.log"
    fresh = not last.exists()
    with last.open("ab") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        sync_folder(last.parent)
        _prune(root, covered)


def make_anew(root: Path, entry: Entry) -> None:
    """Replace the segments from `entry.after` on by one entry, which says all that they said.

    For who holds the record's lock.
    """
    path = root / FOLDER / f"{entry.after:020d}.log"
    fresh = path.with_suffix(".fresh")
    with fresh.open("wb") as file:
        file.write(encode(entry))
        file.flush()
        os.fsync(file.fileno())
    replaced = [name for name in segments_from(root, entry.after) if name != path.name]
    fresh.replace(path)
    for name in replaced:
        (root / FOLDER / name).unlink()
    sync_folder(path.parent)


def start(root: Path) -> None:
    """From now on writes are logged."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)


def started(root: Path) -> bool:
    """Whether writes are to be logged."""
    return (root / FOLDER).is_dir()


@dataclass(frozen=True)
class _Scanned:
    """Whole entries of a stretch of a segment, where they end, and what comes then: nothing, a torn one, damage."""

    path: Path
    entries: tuple[Entry, ...]
    end: int
    torn: bool = False
    damage: str = ""


@dataclass(frozen=True)
class _Walk:
    """A segment, its bodies checked but not decoded."""

    first_after: int | None
    sequence: int | None
    end: int
    whole: bool


def _scan(path: Path, offset: int) -> _Scanned:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read()
    except FileNotFoundError:  # pruned while we looked
        return _Scanned(path, (), offset)
    entries, end, damage = [], 0, ""
    for after, sequence, body, stop in _frames(raw):
        try:
            entries.append(Entry(after, sequence, tuple(_decode_parts(body))))
        except (pa.ArrowInvalid, KeyError, ValueError) as problem:
            damage = f"the entry at byte {offset + end} cannot be decoded ({problem})"
            break
        end = stop
    torn = not damage and end < len(raw)
    if torn and not _cut_short(raw[end:]):
        damage = f"the entry at byte {offset + end} fails its checksum"
    return _Scanned(path, tuple(entries), offset + end, torn, damage)


@lru_cache(maxsize=1024)
def _walked(path: Path, stamp: tuple[int, int, int]) -> _Walk:
    """Segments behind the last never change, so that a process reads each of them once."""
    del stamp
    raw = path.read_bytes()
    first, sequence, end = None, None, 0
    for after, reached_, _, stop in _frames(raw):
        if sequence is not None and after > sequence:
            break
        first = after if first is None else first
        sequence, end = reached_, stop
    return _Walk(first, sequence, end, end == len(raw))


def _frames(raw: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """(after, sequence, body, where it ends) of the whole entries at the start of `raw`."""
    position = 0
    while len(raw) - position >= _HEAD.size:
        magic, crc, after, sequence, size = _HEAD.unpack_from(raw, position)
        stop = position + _HEAD.size + size
        if magic != _MAGIC or stop > len(raw) or zlib.crc32(raw[position + _CRC_FROM : stop]) != crc:
            return
        yield after, sequence, raw[position + _HEAD.size : stop], stop
        position = stop


def _cut_short(raw: bytes) -> bool:
    """Whether `raw` is the beginning of an entry, as an append that is under way or was stopped leaves it."""
    if len(raw) < _HEAD.size:
        return _MAGIC.startswith(raw[: len(_MAGIC)])
    magic, _, _, _, size = _HEAD.unpack_from(raw)
    return bool(magic == _MAGIC and len(raw) < _HEAD.size + size)


def _fault_of(scanned: _Scanned, *, last: bool) -> DamagedDeltas | None:
    if scanned.damage:
        return DamagedDeltas(scanned.path, scanned.damage)
    if scanned.torn and not last:
        return DamagedDeltas(scanned.path, f"it is cut short at byte {scanned.end}")
    return None


def _first_to_read(root: Path, names: Sequence[str], place: Place) -> int:
    """The segment we were in, if it still is what it was; otherwise the last that begins at or before our place."""
    with suppress(FileNotFoundError):  # pruned since we listed them
        if place.segment in names and (root / FOLDER / place.segment).stat().st_size >= place.offset:
            return names.index(place.segment)
    begun = [number for number, name in enumerate(names) if _begins(name) <= place.sequence]
    return begun[-1] if begun else 0


def _encode_part(part: Part) -> bytes:
    about = json.dumps({"view": part.view, "meaning": part.meaning, "held_back": part.held_back})
    rows = part.rows.replace_schema_metadata({"part": about})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(sink.getvalue())


def _decode_parts(body: bytes) -> Iterator[Part]:
    source = pa.BufferReader(body)
    while source.tell() < len(body):
        rows = pa.ipc.open_stream(source).read_all()
        about = json.loads(rows.schema.metadata[b"part"])
        held_back = tuple((sequence, count) for sequence, count in about["held_back"])
        yield Part(about["view"], about["meaning"], rows.replace_schema_metadata(None), held_back)


def _ends_by(path: Path, covered: int) -> bool:
    sequence = _walked(path, _stamp(path)).sequence
    return sequence is not None and sequence <= covered


def _cut_off(root: Path, name: str, end: int, later: Sequence[str]) -> None:
    for other in reversed(later):
        (root / FOLDER / other).unlink()
    path = root / FOLDER / name
    if end:
        os.truncate(path, end)
    else:
        path.unlink()
    sync_folder(path.parent)


def _prune(root: Path, covered: int) -> None:
    """Remove segments whose entries all snapshots on disk hold: those before the last that begins by `covered`."""
    names = segments(root)
    begun = [name for name in names if _begins(name) <= covered]
    for name in begun[:-1]:
        (root / FOLDER / name).unlink()


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
