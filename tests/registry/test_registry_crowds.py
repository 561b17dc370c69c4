"""Sixty-four writers at once: distinct numbers, no gaps, nothing lost, and no reader sees a model without its champion."""

import fcntl
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from registry import AliasMoved, ArtifactStore, LedgerBusy, VersionDraft
from registry.database import Database
from registry.fair_lock import FairLock
from registry.ledger import Registry, utc_now

WRITERS, EACH, MODELS = 64, 100, 4
FORK = multiprocessing.get_context("fork")  # spawning would mostly time imports


@pytest.fixture
def ledger(url, tmp_path):
    registry = Registry(Database(url), ArtifactStore(str(tmp_path / "artifacts")), utc_now, frozenset())
    for model in range(MODELS):
        registry.register(VersionDraft(f"m{model}", {"w.json": b"{}"}))
        registry.promote(f"m{model}/1", by="ada", reason="first")
    registry.close()  # a connection must not be shared with a forked child
    yield registry
    registry.close()


def crowd(*works):
    """Run each work in a process of its own, all from one moment on; what they return, in order."""
    start, answers = FORK.Barrier(len(works)), FORK.SimpleQueue()

    def run(place, work):
        try:
            start.wait()
            answers.put((place, work(), None))
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises
            answers.put((place, None, repr(error)))

    processes = [FORK.Process(target=run, args=(place, work)) for place, work in enumerate(works)]
    for process in processes:
        process.start()
    found = sorted((answers.get() for _ in works), key=lambda answer: answer[0])
    for process in processes:
        process.join()
    assert [error for *_, error in found if error] == []
    return [answer for _, answer, _ in found]


def writer(ledger, number, each):
    def work():
        return [
            ledger.register(
                VersionDraft(f"m{(number + step) % MODELS}", {"w.json": b"[%d, %d]" % (number, step)})
            ).ref
            for step in range(each)
        ]

    return work


@pytest.mark.endurance
def test_sixty_four_writers_of_a_hundred_versions_lose_and_repeat_nothing(ledger):
    refs = [
        ref for refs in crowd(*(writer(ledger, number, EACH) for number in range(WRITERS))) for ref in refs
    ]
    each_model = WRITERS * EACH // MODELS
    expected = {f"m{model}/{number}" for model in range(MODELS) for number in range(2, each_model + 2)}
    assert len(refs) == 6400
    assert Counter(refs) == Counter(expected)
    assert [(m.versions, m.latest) for m in ledger.models()] == [(each_model + 1, each_model + 1)] * MODELS
    report = ledger.fsck(older_than=timedelta(0))
    assert (report.findings, report.artifacts, report.gone) == ((), 6401, {})


def mover(ledger, number, stop):
    """Moves champions by compare-and-set until told to stop; how often it won, by model."""

    def work():
        chance, won = random.Random(number), Counter()
        while not stop.is_set():
            name = f"m{chance.randrange(MODELS)}"
            stands, newest = ledger.get(f"{name}@champion").number, ledger.get(name).number
            target = chance.randint(1, newest)
            try:
                ledger.promote(f"{name}/{target}", expect=stands, by=f"mover {number}", reason="crowd")
            except AliasMoved:
                continue
            won[name] += target != stands
        return won

    return work


def reader(ledger, stop):
    """Asks for champions until told to stop; how often."""

    def work():
        asked = 0
        while not stop.is_set():
            version = ledger.get(f"m{asked % MODELS}@champion")
            assert "champion" in version.aliases, f"{version.ref} was found as champion and does not say so"
            asked += 1
        return asked

    return work


@pytest.mark.endurance
def test_while_writers_register_and_champions_move_no_reader_misses_a_champion(ledger):
    stop, left = FORK.Event(), FORK.Value("i", 40)

    def registering(number):
        write = writer(ledger, number, 12)

        def work():
            try:
                return write()
            finally:
                with left.get_lock():
                    left.value -= 1
                    if left.value == 0:
                        stop.set()

        return work

    answers = crowd(
        *(registering(number) for number in range(40)),
        *(mover(ledger, number, stop) for number in range(6)),
        *(reader(ledger, stop) for _ in range(4)),
    )
    refs, won, asked = answers[:40], answers[40:46], answers[46:]
    assert len({ref for one in refs for ref in one}) == 40 * 12
    assert min(asked) > 0
    moves = sum(won, Counter())
    assert moves.total() > 0
    for model in range(MODELS):
        assert len(ledger.alias_history(f"m{model}")) == 1 + moves[f"m{model}"], (
            "a move was lost, or overwritten unseen"
        )
    assert ledger.fsck(older_than=timedelta(0)).findings == ()


def test_writers_get_a_fair_lock_in_the_order_in_which_they_asked(tmp_path):
    path, served = tmp_path / "queue", []
    lock = FairLock(path, 30)

    def take(number):
        with lock.held():
            served.append(number)

    with lock.held():
        waiting = []
        for number in range(8):
            waiting.append(threading.Thread(target=take, args=(number,)))
            waiting[-1].start()
            until_asked(path, number + 1)
    for thread in waiting:
        thread.join()
    assert served == list(range(8))


def until_asked(path, waiting):
    """Wait till exactly so many wait for the lock, by the kernel's own list of locks."""
    inode = f":{path.stat().st_ino} "
    while True:
        with Path("/proc/locks").open(encoding="ascii") as locks:
            if sum("->" in line and inode in line for line in locks) == waiting:
                return
        time.sleep(0.005)


def test_whoever_waits_too_long_is_told_which_process_is_writing_and_leaves_the_queue(tmp_path):
    lock = FairLock(tmp_path / "queue", 0.05)
    with lock.held(), pytest.raises(LedgerBusy, match=f"process {os.getpid()} is writing"), lock.held():
        pass
    until_asked(tmp_path / "queue", 0)  # the one that gave up has had its turn by now
    with FairLock(tmp_path / "queue", 1).held():
        pass


def test_a_child_forked_while_the_lock_is_held_does_not_hold_on_to_it(tmp_path):
    lock = FairLock(tmp_path / "queue", 30)
    with lock.held():
        child = FORK.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with (tmp_path / "queue").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if anybody has it
    finally:
        child.kill()
        child.join()


def test_a_writer_that_is_none_of_ours_is_waited_for_and_then_named_as_something_else(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/r.db")
    stranger = Database(f"sqlite:///{tmp_path}/r.db")
    with stranger._writing.connect() as connection:
        connection.begin()
        with database.read() as session:
            session.connection().exec_driver_sql("PRAGMA busy_timeout = 50")
        with pytest.raises(LedgerBusy, match="something else is writing"), database.write() as session:
            session.connection()
    with database.write() as session:
        session.connection()
    for opened in (database, stranger):
        opened.close()
