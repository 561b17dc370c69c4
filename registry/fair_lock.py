"""A lock on a file that processes and threads get in the order in which they asked for it.

SQLite's own way of waiting for its write lock is to try again, each time after a longer sleep, up to 0.1 s. Whoever
has just begun to wait tries often and wins, and among 64 writers one that has waited for long could wait until its
time was up (docs/decisions/0018). The kernel keeps a queue for `flock`, and gives the lock up when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from threading import Thread

from registry.errors import LedgerBusy


class FairLock:
    """An exclusive lock; `path` is made if need be, and holds the process id of whoever has the lock."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, after waiting for those who asked before.

        Raises:
            LedgerBusy: it did not come free within the time given; names the process that has it.
        """
        file = FileIO(self._path, "a+")
        try:
            self._take(file)
        except BaseException:
            file.close()
            raise
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would not, if a child was forked meanwhile
            file.close()

    def _take(self, file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(os.dup(file.fileno()))
        file.truncate(0)
        file.write(b"%d" % os.getpid())

    def _wait(self, descriptor: int) -> None:
        """Wait in the kernel's queue, in a thread: `flock` itself knows no time limit."""
        turn: Future[None] = Future()
        Thread(target=_queue, args=(descriptor, turn), daemon=True).start()
        with contextlib.suppress(TimeoutError):
            turn.result(self._seconds)
        if turn.cancel():
            raise LedgerBusy(self._path.read_text(), self._seconds)


def _queue(descriptor: int, turn: Future[None]) -> None:
    """Get the lock for whoever waits for `turn`; give it back if nobody does any more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if turn.set_running_or_notify_cancel():
            turn.set_result(None)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
