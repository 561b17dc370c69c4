"""Rows that Feast's reads hold in memory: never older than the record, whoever wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.held import Keys, Memory, Wanted, state_of
from feature_repo.materialize import entity_keys
from feature_repo.packed import pack
from feature_repo.record import Kind, Layout, RecordBusy, View, drop, ensure, opened, opened_to_read, upsert

MOMENT = datetime(2026, 3, 2, tzinfo=UTC)
SETTLED = 60_000_000  # ns: a little more than a file must be old to have a state
FLOATS, OTHER = View("test", "floats"), View("test", "other")
LAYOUT = Layout(("a", "b"), (Kind.FLOAT, Kind.FLOAT), ("", ""))
EVERYTHING = 1e9


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "online.duckdb"
    for view in (FLOATS, OTHER):
        put(path, {1: 1.0, 2: 2.0}, view=view)
    return path


def put(path, values, *, view=FLOATS, moment=MOMENT, layout=LAYOUT):
    ids = np.array(list(values), dtype=np.int64)
    stamps = pa.array([moment] * len(ids), pa.timestamp("us", "UTC"))
    matrix = np.array([[v, -v] for v in values.values()], dtype=np.float32)
    with opened(path, 5.0) as connection:
        ensure(connection, view, layout)
        upsert(connection, view, pa.table({
            "entity_key": entity_keys("user_id", ids), "entity_id": ids, "event_timestamp": stamps,
            "created_timestamp": stamps, "vector": pack(matrix, np.ones_like(matrix, dtype=np.bool_)),
        }))  # fmt: skip


def keys_of(*ids):
    numbers = np.array(ids, dtype=np.int64)
    return Keys(numbers, lambda: entity_keys("user_id", numbers).to_pylist())


def later(seconds=60):
    """A clock by which every file is settled."""
    return lambda: time.time_ns() + int(seconds * 1e9)


def read(memory, path, *ids, views=(FLOATS,), limit=EVERYTHING):
    keys = keys_of(*ids)
    held = memory.read(path, [Wanted(view, keys) for view in views], wait_s=0.2, limit_bytes=limit)
    answers = []
    for each in held:
        places = each.find(keys)
        answers.append([None if place < 0 else float(each.floats[0][place, 0]) for place in places])
    return answers[0] if len(views) == 1 else answers


class Writing:
    """Another process that has the record open for writing."""

    def __init__(self, path):
        hold = f"""
            import sys
            from pathlib import Path
            from feature_repo.record import opened
            with opened(Path({str(path)!r}), 5.0):
                print("held", flush=True)
                sys.stdin.read()
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(hold)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip

    def __enter__(self):
        assert self.process.stdout.readline() == "held\n"

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_what_is_held_is_answered_while_another_process_writes_and_what_is_not_waits(record):
    memory = Memory(clock=later())
    for _ in range(2):
        assert read(memory, record, 2, 7, 1, 2) == [2.0, None, 1.0, 2.0]
    with Writing(record):
        assert read(memory, record, 2, 7, 1, 2) == [2.0, None, 1.0, 2.0]
        with pytest.raises(RecordBusy, match=r"gave up after 0\.2 s"):
            read(memory, record, 1, views=(OTHER,))
    assert read(memory, record, 1, views=(OTHER,)) == [1.0]


@pytest.mark.parametrize("clock", [time.time_ns, later()], ids=["as time goes by", "all files settled"])
def test_each_write_is_seen_by_the_next_read(record, clock):
    """By the machine's clock a file is too young to have a state; by the other it has one at once."""
    memory = Memory(clock=clock)
    for i in range(12):
        put(record, {1: float(i)}, moment=MOMENT + timedelta(seconds=i + 1))
        for _ in range(i % 4):
            assert read(memory, record, 1, 2) == [float(i), 2.0]


def test_a_write_of_another_process_is_seen(record):
    memory = Memory(clock=later())
    for _ in range(3):
        assert read(memory, record, 1) == [1.0]
    write = f"""
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from test_held_rows import MOMENT, put
        put(Path({str(record)!r}), {{1: 9.0}})
    """  # noqa: PTH120
    subprocess.run([sys.executable, "-c", textwrap.dedent(write)], check=True)
    assert read(memory, record, 1) == [9.0]


def test_a_view_that_was_not_written_to_stays_held_when_another_was(record):
    memory = Memory(clock=later())
    for _ in range(2):
        read(memory, record, 1, views=(FLOATS, OTHER))
    before = memory.read(record, [Wanted(OTHER, keys_of(1))], wait_s=0.2, limit_bytes=EVERYTHING)[0]
    put(record, {1: 5.0})
    assert read(memory, record, 1, views=(FLOATS, OTHER)) == [[5.0], [1.0]]
    assert memory.read(record, [Wanted(OTHER, keys_of(1))], wait_s=0.2, limit_bytes=EVERYTHING)[0] is before


def test_a_record_made_anew_in_the_place_of_another_is_read_anew(record):
    memory = Memory(clock=later())
    for _ in range(3):
        assert read(memory, record, 1, 2) == [1.0, 2.0]
    record.unlink()
    for view in (FLOATS, OTHER):
        put(record, {1: 3.0, 2: 4.0}, view=view)  # as many rows, of the same moments, in as many writes
    assert read(memory, record, 1, 2) == [3.0, 4.0]


def test_a_view_that_was_dropped_or_changed_is_not_answered_from_memory(record):
    memory = Memory(clock=later())
    for _ in range(3):
        read(memory, record, 1)
    with opened(record, 5.0) as connection:
        drop(connection, FLOATS)
    with pytest.raises(LookupError, match="has no table"):
        read(memory, record, 1)
    put(record, {1: 1.0, 2: 2.0}, layout=Layout(("b", "a"), LAYOUT.kinds, LAYOUT.digests))
    found = memory.read(record, [Wanted(FLOATS, keys_of(1))], wait_s=0.2, limit_bytes=EVERYTHING)[0]
    assert found.layout.features == ("b", "a")


def test_a_view_larger_than_the_limit_is_looked_up_each_time(record):
    memory = Memory(clock=later())
    for _ in range(3):
        keys = keys_of(1)
        held = memory.read(record, [Wanted(FLOATS, keys)], wait_s=0.2, limit_bytes=100.0)[0]
        assert held.rows.num_rows == 1


def test_the_first_read_of_a_view_takes_what_is_asked_for_and_the_second_all_of_it(record):
    memory = Memory(clock=later())
    counts = [
        memory.read(record, [Wanted(FLOATS, keys_of(1))], wait_s=0.2, limit_bytes=1000.0)[0].rows.num_rows for _ in range(3)
    ]  # fmt: skip
    assert counts == [1, 2, 2]


def test_a_file_just_written_has_no_state_yet_and_any_change_is_another_state(tmp_path):
    file, log = tmp_path / "online.duckdb", tmp_path / "online.duckdb.wal"
    file.write_bytes(b"12")
    written = file.stat().st_mtime_ns
    assert state_of(file, written + 1) is None
    states = [state_of(file, written + SETTLED)]
    os.utime(file, ns=(written, written + 1))
    states.append(state_of(file, written + SETTLED))
    file.write_bytes(b"123")
    os.utime(file, ns=(written, written + 1))
    states.append(state_of(file, written + SETTLED))
    log.write_bytes(b"")
    assert state_of(file, log.stat().st_mtime_ns + 1) is None
    states.append(state_of(file, log.stat().st_mtime_ns + SETTLED))
    assert None not in states
    assert len(set(states)) == 4


def test_looking_at_the_record_gives_up_no_lock_of_this_process(record):
    """On POSIX, closing any descriptor of a file gives up all locks of the process on it."""
    with opened(record, 5.0):
        assert state_of(record, later()()) is not None
        attempt = f"""
            from pathlib import Path
            from feature_repo.record import RecordBusy, opened_to_read
            try:
                with opened_to_read(Path({str(record)!r}), 0.0):
                    print("open")
            except RecordBusy:
                print("busy")
        """
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(attempt)], capture_output=True, text=True, check=True
        )
    assert told.stdout == "busy\n"
    with opened_to_read(record, 5.0):
        pass


def test_keys_that_are_not_one_number_are_found_by_their_bytes(record):
    memory, serialised = Memory(clock=later()), entity_keys("user_id", np.array([2, 9, 1])).to_pylist()
    for _ in range(3):
        held = memory.read(record, [Wanted(FLOATS, Keys(None, lambda: serialised))], wait_s=0.2, limit_bytes=EVERYTHING)[0]  # fmt: skip
        places = held.find(Keys(None, lambda: serialised))
        assert [None if p < 0 else float(held.floats[0][p, 0]) for p in places] == [2.0, None, 1.0]
