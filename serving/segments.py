"""Logs that are on disk before their writer goes on: entries appended from any thread to segments that only grow.

A writer owns its segment by a file lock, which the kernel drops if the process dies; a successor starts a new
one, so only the last entry of a segment can be torn. Entries that wait at the same time share one fsync (group
commit).
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from feature_repo.durable import sync_folder


class LogClosed(RuntimeError):
    """An entry came after the log was closed."""


class _Entry:
    """An entry on its way to the disk: on it once `written`, or never, because of `fault`."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.written = False
        self.fault: OSError | None = None


class DurableLog:
    """Appends entries from any thread; `append` returns once they are on disk.

    Whoever finds the disk free writes for all who wait at that moment, so a lone entry needs no other thread.
    """

    def __init__(
        self, folder: Path, *, name: str, suffix: str, max_segment_bytes: int, keep: int | None = None
    ) -> None:
        """Log into `folder`; `name` is unique to this writer, such as its start time and process id.

        With `keep`, starting a segment removes all but the last so many, those that a writer still holds excepted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = _Segments(folder, name, suffix, max_segment_bytes, keep)
        self._what = suffix.removeprefix(".")
        self._waiting: list[_Entry] = []
        self._queue = threading.Lock()  # guards `_waiting`
        self._disk = threading.Lock()  # guards `_segments` and `_closed`
        self._closed = False

    def append(self, content: bytes) -> None:
        """Log one entry, durably.

        Raises:
            OSError: the disk refuses; the entry is then not logged, or not acknowledged.
            LogClosed: the log has been closed.
        """
        entry = _Entry(content)
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

    def _commit(self) -> None:
        if self._closed:
            raise LogClosed(f"the log of {self._what} is closed.")
        with self._queue:
            entries, self._waiting = self._waiting, []
        try:
            self._segments.append(b"".join(entry.content for entry in entries))
        except OSError as fault:
            for entry in entries:
                entry.fault = fault
        else:
            for entry in entries:
                entry.written = True


class _Segments:
    """The open segment of one writer, replaced by a new one when full or after a failed write."""

    def __init__(self, folder: Path, name: str, suffix: str, max_bytes: int, keep: int | None) -> None:
        self._folder, self._name, self._suffix = folder, name, suffix
        self._max_bytes, self._keep = max_bytes, keep
        self._number = 0
        self._open: IO[bytes] | None = None

    def append(self, content: bytes) -> None:
        segment = self._open or self._start()
        try:
            _write_all(segment, content)
            os.fsync(segment.fileno())
        except OSError:
            self.close()  # it may end in half an entry: never write behind that
            raise
        if segment.tell() >= self._max_bytes:
            self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _start(self) -> IO[bytes]:
        path = self._folder / f"{self._name}-{self._number:05d}{self._suffix}"
        draft = path.with_suffix(".new")  # no reader sees the segment before it is locked
        self._number += 1
        segment = draft.open("xb", buffering=0)
        fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path)
        sync_folder(self._folder)
        self._open = segment
        if self._keep is not None:
            self._prune(self._keep)
        return segment

    def _prune(self, keep: int) -> None:
        for old in sorted(self._folder.glob(f"*{self._suffix}"))[:-keep]:
            with suppress(FileNotFoundError):  # another writer was quicker
                if is_closed(old):
                    old.unlink()


def is_closed(segment: Path) -> bool:
    """Whether no writer holds the segment."""
    with segment.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _write_all(segment: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[segment.write(rest) :]
