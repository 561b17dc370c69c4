"""Full disks and damaged files: a clear error, nothing half done, and the last good state goes on being served."""

from __future__ import annotations

import fcntl
import json
import random
import resource
import shutil
import subprocess
import threading

import crash_writers as crash
import numpy as np
import pytest
import small_store as small

from feature_repo import deltas
from feature_repo.materialize import PROJECT, RECORD, publish_record
from feature_repo.reader import OnlineReader
from feature_repo.record import (
    NotLogged,
    RecordBusy,
    RecordUnreadable,
    RecordUnwritable,
    View,
    opened,
    rows_since,
)
from feature_repo.snapshot import (
    CorruptSnapshot,
    NotPublished,
    OtherFormat,
    PublisherBusy,
    current,
    generations,
    publish_made,
)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system; the limit on a file's size is tested for all")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder):
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def served(online):
    reader = OnlineReader.open(online)
    assert reader.fault is None
    numbers = np.unique(reader.matrix("ranking", 20, np.array(small.TITLES))[:, crash.STORED])
    assert len(numbers) == 1
    return int(numbers[0])


def test_a_full_disk_refuses_writes_and_days_and_changes_nothing(small_disk, tmp_path):
    online = small_disk / "online"
    crash.materialize_and_publish(online, 1)
    crash.push(online, 2)
    day = small.write_constant(tmp_path / "day", crash.DECLARED, small.MONDAY + 4 * crash.SECOND, 4.0)
    before = current(online)
    fill(small_disk)
    with pytest.raises(RecordUnwritable, match=r"online\.duckdb: the write was not taken in.*No space left"):
        crash.push(online, 3)
    with pytest.raises(RecordUnwritable, match="No space left"):
        crash.materialize(crash.DECLARED, day, online, PROJECT, small.catalogue())
    with pytest.raises(NotPublished, match="the last one still serves: .*No space left"):
        publish_record(crash.DECLARED, online, PROJECT, small.catalogue())
    assert (served(online), current(online), generations(online)) == (2, before, (before,))
    assert not list((online / "snapshots").glob(".partial-*"))
    (small_disk / "ballast").unlink()
    crash.push(online, 5)
    assert served(online) == 5
    publish_record(crash.DECLARED, online, PROJECT, small.catalogue())
    assert served(online) == 5


@pytest.fixture
def largest_file():
    """Sets the largest size (bytes) that a file may get from now on; writing beyond it is an error of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def online(tmp_path):
    """A store in which every number is 2: 1 in the snapshot, 2 in the log."""
    crash.materialize_and_publish(tmp_path / "online", 1)
    crash.push(tmp_path / "online", 2)
    return tmp_path / "online"


def test_a_write_that_cannot_be_logged_says_so_and_is_seen_after_the_next(online, largest_file, monkeypatch):
    """The limit is put between the record and the log, where a disk may fill up too."""
    append = deltas.append
    (segment,) = deltas.segments(online)
    size = (online / deltas.FOLDER / segment).stat().st_size

    def append_to_a_full_disk(*arguments):
        largest_file(size + 20)
        append(*arguments)

    monkeypatch.setattr(deltas, "append", append_to_a_full_disk)
    with pytest.raises(
        NotLogged, match=r"write 3 is kept in .*online\.duckdb, but its delta log .*File too large"
    ):
        crash.push(online, 3)
    monkeypatch.undo()
    largest_file(resource.RLIM_INFINITY)
    assert served(online) == 2
    with opened(online / RECORD, 5.0):
        pass
    assert served(online) == 3


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(online, largest_file):
    before = current(online)
    with opened(online / RECORD, 5.0):
        pass  # so that publishing itself writes no more than the snapshot
    largest_file(600)
    with pytest.raises(NotPublished, match="File too large"):
        publish_made(online, big_contents, wait_s=1.0)
    largest_file(resource.RLIM_INFINITY)
    assert (current(online), generations(online), served(online)) == (before, (before,), 2)
    assert not list((online / "snapshots").glob(".*"))


def big_contents():
    from test_snapshot_files import contents

    return contents(day=9)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_record_is_refused_or_reads_as_it_was_written_and_the_snapshot_serves(online, seed):
    """64 bytes of noise anywhere in the file: DuckDB's checksums tell, or the place held nothing."""
    chance, path = random.Random(seed), online / RECORD
    raw = bytearray(path.read_bytes())
    where = chance.randrange(len(raw) if seed % 3 else 12_288)  # a third of them in the headers
    raw[where : where + 64] = chance.randbytes(64)
    path.write_bytes(raw)
    said = ""
    numbers = {2.0}
    try:
        with opened(path, 5.0) as connection:
            numbers = numbers_of(connection)
    except RecordUnreadable as problem:
        said = str(problem)
    assert numbers == {2.0}
    assert not said or (str(path) in said and "matinee features materialize" in said)
    assert served(online) == 2


def numbers_of(connection):
    views = [View(PROJECT, table.name) for table in crash.PUSHED]
    vectors = [rows_since(connection, view, small.MONDAY)["vector"].to_pylist() for view in views]
    return {number for table in vectors for vector in table for number in vector}


@pytest.mark.parametrize("where", [20, 4_120, 12_288])
def test_damage_to_the_headers_and_the_first_block_is_always_found(online, where):
    """Keeps the test above honest: it would also pass if noise were never noticed."""
    path = online / RECORD
    raw = bytearray(path.read_bytes())
    raw[where : where + 64] = bytes(range(64))
    path.write_bytes(raw)
    with pytest.raises(RecordUnreadable):
        crash.push(online, 3)
    assert served(online) == 2


def test_a_new_record_can_be_started_when_the_old_one_is_lost(online):
    (online / RECORD).write_bytes(b"not a database" * 1000)
    with pytest.raises(RecordUnreadable, match="move the file"):
        crash.push(online, 3)
    (online / RECORD).rename(online / "aside")
    crash.materialize_and_publish(online, 4)
    crash.push(online, 5)
    assert served(online) == 5


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"2026 x", b"../elsewhere 3", b"no-such-generation 3\n"])
def test_a_damaged_pointer_is_named_and_the_last_good_generation_serves(online, text):
    reader = OnlineReader.open(online)
    good = reader.generation
    (online / "CURRENT").write_bytes(text)
    with pytest.raises(CorruptSnapshot, match="CURRENT|no-such-generation"):
        reader.refresh()
    again = OnlineReader.open(online)
    assert (again.generation, again.vector("retrieval_user", 10)[0]) == (good, 2)
    assert isinstance(again.fault, CorruptSnapshot)
    publish_record(crash.DECLARED, online, PROJECT, small.catalogue())
    assert reader.refresh()
    assert reader.fault is None


def test_a_snapshot_of_another_format_says_what_to_do(online):
    manifest = online / "snapshots" / current(online) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))
    with pytest.raises(OtherFormat, match="written in format 1 and this version reads .*; publish again"):
        OnlineReader.open(online)


def test_a_second_publisher_waits_its_bound_and_changes_nothing(online):
    before = current(online)
    with (online / ".publishing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PublisherBusy, match=r"gave up after 0\.1 s"):
            publish_made(online, big_contents, wait_s=0.1)
    assert current(online) == before


def test_a_second_thread_waits_its_bound_too(online):
    holding, done = threading.Event(), threading.Event()

    def hold():
        with opened(online / RECORD, 1.0):
            holding.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(10)
    with (
        pytest.raises(RecordBusy, match=r"gave up after 0\.1 s and wrote nothing. Try again"),
        opened(online / RECORD, 0.1),
    ):
        pass
    done.set()
    thread.join()
