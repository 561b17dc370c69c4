"""Threads that stages run on, so that whoever waits for a stage can stop waiting.

Python cannot end a thread. A stage that is not waited for any longer runs on, and its thread is free again when it
comes back; how many may be out like that is for the caller to bound.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")
IDLE_S = 30.0
"""A thread without work for so long ends."""


class Abandoned(TimeoutError):
    """The work took longer than it was waited for; it runs on."""


class Call(Generic[T]):
    """One piece of work on its way: done, or not waited for any longer."""

    def __init__(self, work: Callable[[], T], came_back: Callable[[], None]) -> None:
        self._work: Callable[[], T] | None = work
        self._came_back = came_back
        self._result: T | None = None
        self._problem: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self._state = threading.Lock()  # guards the two below
        self._finished = self._abandoned = False

    def do(self) -> None:
        """Do the work, in the thread that was chosen for it."""
        assert self._work is not None  # noqa: S101  (a call is done once)
        try:
            self._result = self._work()
        except BaseException as problem:  # noqa: BLE001  (it is raised where it is waited for)
            self._problem = problem
        self._work = None

    def finish(self) -> None:
        """Let the one who waits go on; if nobody does, say that it is back."""
        with self._state:
            self._finished = True
        if self._abandoned:
            self._result = self._problem = None
            self._came_back()
        self._done.release()

    def wait(self, seconds: float) -> T:
        """What the work returned or raised.

        Raises:
            Abandoned: it was not done within `seconds`.
        """
        if not self._done.acquire(timeout=max(0.0, seconds)):
            with self._state:
                self._abandoned = not self._finished
            if self._abandoned:
                raise Abandoned
        if self._problem is not None:
            raise self._problem
        return self._result  # type: ignore[return-value]  # it has been set, maybe to None


class Workers:
    """Threads made when they are needed and kept for the next work. Handing over costs some 20 µs."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()

    def start(self, work: Callable[[], T], came_back: Callable[[], None]) -> Call[T]:
        """Begin `work` in a thread; `came_back` is called if it ends after it has been abandoned."""
        context = copy_context()  # the request's id and span go along
        call = Call(lambda: context.run(work), came_back)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle)
            worker.start()
        worker.take(call)
        return call


class Inline(Workers):
    """No threads: the work is done before `start` returns, however long it takes. For replays, which no clock may disturb."""

    def start(self, work: Callable[[], T], came_back: Callable[[], None]) -> Call[T]:
        """Do `work` here and now."""
        call = Call(work, came_back)
        call.do()
        call.finish()
        return call


class _Worker(threading.Thread):
    """Waits to be taken from `idle`, works, and puts itself back."""

    def __init__(self, idle: deque[_Worker]) -> None:
        super().__init__(name="matinee-stage", daemon=True)
        self._idle = idle
        self._call: Call[object] | None = None
        self._go = threading.Lock()
        self._go.acquire()

    def take(self, call: Call[T]) -> None:
        self._call = call  # type: ignore[assignment]  # it is only done and finished
        self._go.release()

    def run(self) -> None:
        while self._go.acquire(timeout=IDLE_S) or not self._retired():
            call, self._call = self._call, None
            if call is None:
                continue
            call.do()
            self._idle.append(self)
            call.finish()
            del call  # nothing of the request stays here

    def _retired(self) -> bool:
        """Take itself out of the idle ones, unless somebody has just taken it to work."""
        try:
            self._idle.remove(self)
        except ValueError:
            return False
        return True
