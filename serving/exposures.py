"""The exposure log: what was shown to whom, written once and on disk before the page is acknowledged.

One line per page, `<crc32 in hex> <page as JSON>`, in segments that only grow. A writer owns its segment by
a file lock, which the kernel drops if the process dies; a successor starts a new one, so only the last line
of a segment can be torn. Pages that wait at the same time share one fsync (group commit).
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
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


class ExposureLog:
    """Appends exposures from any thread; `append` returns once they are on disk.

    Raises:
        OSError: from `append`, when the disk refuses; the exposures are then not logged.
    """

    def __init__(self, folder: Path, *, name: str, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        """Log into `folder`; `name` is unique to this writer, such as its start time and process id."""
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = _Segments(folder, name, max_segment_bytes)
        self._queue: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._closed = False
        self._gate = threading.Lock()  # nothing is queued behind the closing mark
        self._writer = threading.Thread(target=self._write, name="exposure-log", daemon=True)
        self._writer.start()

    def append(self, record: ExposureRecord, timeout: float | None = None) -> None:
        """Log one page, durably.

        Raises:
            TimeoutError: the disk took longer than `timeout` seconds; the page may or may not be logged.
            LogClosed: the log has been closed.
        """
        done: Future[None] = Future()
        with self._gate:
            if self._closed:
                raise LogClosed("the exposure log is closed.")
            self._queue.put((encode(record), done))
        done.result(timeout)

    def close(self) -> None:
        """Write what is waiting and stop."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._writer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        waiting: list[tuple[bytes, Future[None]]] = []
        closing = False
        while not closing:
            entry = self._queue.get()
            while entry is not None:
                waiting.append(entry)
                if self._queue.empty():
                    break
                entry = self._queue.get()
            closing = entry is None
            self._commit(waiting)
            waiting.clear()
        self._segments.close()

    def _commit(self, waiting: list[tuple[bytes, Future[None]]]) -> None:
        if not waiting:
            return
        try:
            self._segments.append(b"".join(line for line, _ in waiting))
        except OSError as error:
            for _, done in waiting:
                done.set_exception(error)
            return
        for _, done in waiting:
            done.set_result(None)


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
