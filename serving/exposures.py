"""The exposure log: what was shown to whom, written once and on disk before the page is acknowledged.

One line per page, `<crc32 in hex> <page as JSON>`, in segments that only grow. A writer owns its segment by
a file lock, which the kernel drops if the process dies; a successor starts a new one, so only the last line
of a segment can be torn. Pages that wait at the same time share one fsync (group commit).
"""

from __future__ import annotations

import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Self

from pydantic import BaseModel, ConfigDict

from serving.answers import Page

SEGMENT_SUFFIX = ".exposures"
MAX_SEGMENT_BYTES = 64 * 2**20


class ExposureRecord(BaseModel):
    """One page as logged: the page itself, when and where it was shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_timestamp: datetime
    surface: str = "homepage"
    page: Page


class CorruptSegment(ValueError):
    """A segment is damaged in a place where no crash can have left a half-written line."""

    def __init__(self, segment: Path, line: int) -> None:
        super().__init__(
            f"{segment}: line {line} fails its checksum and is not the last one. Restore the file, or move it "
            "away to go on without the exposures in it."
        )


class LogClosed(RuntimeError):
    """An exposure came after the log was closed."""


def encode(record: ExposureRecord) -> bytes:
    """One checksummed line."""
    body = record.model_dump_json().encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def records(segment: Path) -> Iterator[ExposureRecord]:
    """The records of a segment; a torn last line was never acknowledged and is left out.

    Raises:
        CorruptSegment: another line than the last fails its checksum.
    """
    lines = segment.read_bytes().split(b"\n")  # a whole file ends in b""; a torn one in its rest
    for number, line in enumerate(lines[:-1], start=1):
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            if number < len(lines) - 1 or lines[-1]:
                raise CorruptSegment(segment, number)
            return
        yield ExposureRecord.model_validate_json(body)


class _Entry:
    """A line on its way to the disk: on it once `written`, or never, because of `fault`."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.written = False
        self.fault: OSError | None = None


class ExposureLog:
    """Appends exposures from any thread; `append` returns once they are on disk.

    Whoever finds the disk free writes for all who wait at that moment, so a lone page needs no other thread.
    """

    def __init__(self, folder: Path, *, name: str, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        """Log into `folder`; `name` is unique to this writer, such as its start time and process id."""
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = _Segments(folder, name, max_segment_bytes)
        self._waiting: list[_Entry] = []
        self._queue = threading.Lock()  # guards `_waiting`
        self._disk = threading.Lock()  # guards `_segments` and `_closed`
        self._closed = False

    def append(self, record: ExposureRecord) -> None:
        """Log one page, durably.

        Raises:
            OSError: the disk refuses; the page is then not logged, or not acknowledged.
            LogClosed: the log has been closed.
        """
        entry = _Entry(encode(record))
        with self._queue:
            self._waiting.append(entry)
        with self._disk:
            if not entry.written and entry.fault is None:
                self._commit()
        if entry.fault is not None:
            raise entry.fault

    def close(self) -> None:
        """End the segment; what was acknowledged is on disk already."""
        with self._disk:
            self._closed = True
            self._segments.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self) -> None:
        if self._closed:
            raise LogClosed("the exposure log is closed.")
        with self._queue:
            entries, self._waiting = self._waiting, []
        try:
            self._segments.append(b"".join(entry.line for entry in entries))
        except OSError as fault:
            for entry in entries:
                entry.fault = fault
        else:
            for entry in entries:
                entry.written = True


class _Segments:
    """The open segment of one writer, replaced by a new one when full or after a failed write."""

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self._folder = folder
        self._name = name
        self._max_bytes = max_bytes
        self._number = 0
        self._open: IO[bytes] | None = None

    def append(self, lines: bytes) -> None:
        segment = self._open or self._start()
        try:
            _write_all(segment, lines)
            os.fsync(segment.fileno())
        except OSError:
            self.close()  # it may end in half a line: never write behind that
            raise
        if segment.tell() >= self._max_bytes:
            self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _start(self) -> IO[bytes]:
        path = self._folder / f"{self._name}-{self._number:05d}{SEGMENT_SUFFIX}"
        draft = path.with_suffix(".new")  # no reader sees the segment before it is locked
        self._number += 1
        segment = draft.open("xb", buffering=0)
        fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path)
        sync_folder(self._folder)
        self._open = segment
        return segment


def _write_all(segment: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[segment.write(rest) :]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` as durable as the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
