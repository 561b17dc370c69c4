"""Writers are killed at random moments, two hundred times; what they had acknowledged is there, and whole."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing import forkserver

import crash_writers as crash
import numpy as np
import pytest
import small_store as small

from feature_repo.materialize import PROJECT, RECORD, publish_record
from feature_repo.reader import OnlineReader
from feature_repo.record import View, opened, rows_since

ROUNDS = 100
WRITES = 2.5  # a writer is killed within the time that so many take
LONGER, SHORTER = (
    1.12,
    1 / 1.08,
)  # that time follows the machine's speed: in balance at WRITES, with two in five killed too soon


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that have already imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crash_writers"])
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the server of Python 3.11 does not look for modules where we do
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


def in_the_record(online) -> int:
    """The number in the record, which is one and the same in every row of every table. Opening it repairs the log."""
    found = set()
    with opened(online / RECORD, 10.0) as connection:
        for table in crash.PUSHED:
            rows = rows_since(connection, View(PROJECT, table.name), small.MONDAY)
            assert rows.num_rows == len(small.JOIN_KEYS[table.entity.name])
            found |= {number for vector in rows["vector"].to_pylist() for number in vector}
    assert len(found) == 1, f"rows of several writes: {sorted(found)}"
    return int(found.pop())


def served(reader) -> int:
    numbers = np.unique(reader.matrix("ranking", 20, np.array(small.TITLES))[:, crash.STORED])
    assert len(numbers) == 1, f"rows of several writes: {numbers.tolist()}"
    return int(numbers[0])


def killed_after(processes, online, action: str, first: int, delay: float) -> list[int]:
    """Numbers acknowledged by a writer that was killed `delay` seconds after it began."""
    readable, writable = processes.Pipe(duplex=False)
    child = processes.Process(
        target=crash.write_until_killed, args=(online, action, first, writable), daemon=True
    )
    child.start()
    writable.close()
    assert readable.recv_bytes() == b""
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return list(received(readable))


def seconds_of(online, action: str) -> float:
    """What one write takes, 2 and 3 being the numbers."""
    began = time.perf_counter()
    crash.ACTIONS[action](online, 2 if action == "push" else 3)
    return time.perf_counter() - began


def received(readable):
    with readable:
        while True:
            try:
                yield int.from_bytes(readable.recv_bytes(), "little")
            except EOFError:
                return


@pytest.mark.endurance
def test_killed_two_hundred_times_no_acknowledged_write_is_lost_and_no_row_is_torn(processes, tmp_path):
    online, chance = tmp_path / "online", random.Random(20_261_124)
    crash.materialize_and_publish(online, 1)
    longest = {action: WRITES * seconds_of(online, action) for action in crash.ACTIONS}
    stop, found = processes.Event(), processes.Queue()
    beside = processes.Process(target=crash.read_until, args=(online, stop, found), daemon=True)
    beside.start()
    newest = owed = 3
    acknowledged = repaired = 0
    for _ in range(ROUNDS):
        for action in ("push", "materialize"):
            acks = killed_after(processes, online, action, newest + 1, chance.uniform(0, longest[action]))
            acknowledged += len(acks)
            longest[action] *= SHORTER if acks else LONGER
            before = served(OnlineReader.open(online))
            assert before >= max(acks, default=owed), "an acknowledged write is not served"
            newest = in_the_record(online)
            assert newest >= before, "readers saw what the record does not have"
            repaired += newest > before
            after = OnlineReader.open(online)  # a day that was stopped before it was published waits for that
            owed = served(after)
            assert owed == newest or (owed >= before and set(after.waiting) >= {t.name for t in crash.PUSHED})
    publish_record(crash.DECLARED, online, PROJECT, small.catalogue())
    assert served(OnlineReader.open(online)) == newest
    stop.set()
    reads, seen, wrong = found.get(timeout=10)
    beside.join()
    told = f"{acknowledged} writes acknowledged, {repaired} repaired, {reads} reads beside them"
    print(f"\n{2 * ROUNDS} kills, {told}")  # noqa: T201 - with `pytest -s`
    assert wrong == []
    assert seen <= newest
    assert acknowledged > ROUNDS
    assert reads > ROUNDS
