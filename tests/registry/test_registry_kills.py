"""Whatever moment a process is killed at: what was acknowledged is there, whole; the rest is at most an orphan."""

import itertools
import os
import random
import signal
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import ArtifactStore, VersionDraft
from registry.database import Database
from registry.ledger import Registry, utc_now

ROUNDS, CHILDREN = 25, 4  # 100 kills


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "artifacts")


@pytest.fixture
def ledger(url, folder):
    """A ledger that has run once, so that its children need not learn their SQL anew, and whose clock is two hours ahead."""
    registry = Registry(
        Database(url), ArtifactStore(folder), lambda: utc_now() + timedelta(hours=2), frozenset()
    )
    registry.register(VersionDraft("warm", {"w.json": b"{}"}))
    registry.close()
    yield registry
    registry.close()


def in_a_child(work) -> tuple[int, int]:
    """Fork a process that does `work` with a pipe to us; its id, and our end. The ledger's connections are closed by now."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(ours)
            work(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    return child, ours


def read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def content(name: str) -> dict[str, bytes]:
    return {
        "config.json": b'{"of": "%s"}' % name.encode(),
        "notes.md": b"# " + name.encode(),
        "shared.json": b"{}",
    }


@pytest.mark.endurance
def test_a_hundred_kills_at_any_moment_lose_nothing_that_was_acknowledged(ledger):
    moments = random.Random(0)
    acknowledged: dict[str, str] = {}
    interrupted = 0
    for round_ in range(ROUNDS):
        children = []
        for place in range(CHILDREN):
            who = f"{round_}.{place}"

            def register_for_ever(pipe, who=who):
                for step in itertools.count():
                    name = f"{who}.{step}"
                    version = ledger.register(
                        VersionDraft(f"m{step % 2}", content(name), params={"who": who, "step": step})
                    )
                    os.write(pipe, f"{version.ref} {name}\n".encode())

            children.append(in_a_child(register_for_ever))
        for child, pipe in children:
            time.sleep(moments.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            assert killed(child)
            lines = read_all(pipe).decode().splitlines()
            interrupted += 1
            for ref, name in map(str.split, lines):
                assert ref not in acknowledged, "a number was given out twice"
                acknowledged[ref] = name
    assert interrupted == ROUNDS * CHILDREN
    assert acknowledged, "the children came to write something"
    check(ledger, acknowledged)
    before = ledger.fsck(sweep=True)
    assert before.errors == ()
    assert before.gone == {}, "no number was lost"
    assert {found.kind.name for found in before.findings} <= {"orphan-file", "unfinished"}
    assert ledger.fsck().findings == ()
    check(ledger, acknowledged)


def check(ledger, acknowledged):
    for ref, name in acknowledged.items():
        version = ledger.get(ref)
        assert {file.path: ledger.read(ref, file.path) for file in version.files} == content(name)
        assert version.params == {"who": name.rpartition(".")[0], "step": name.rpartition(".")[2]}
    for model in ledger.models():
        assert model.versions == model.latest, f"numbers of {model.name} are 1 to n"


def before_a_file_has_its_name(ledger):
    ledger._artifacts._files.mv = die


def after_storing(ledger):
    put = ledger._artifacts.put
    ledger._artifacts.put = lambda *given: (put(*given), die())


def in_the_transaction(ledger):
    ledger._clock = die


def before_the_commit(_):
    sa.event.listen(Session, "before_commit", die)


def after_the_commit(_):
    sa.event.listen(Session, "after_commit", die)


@pytest.mark.parametrize(
    ("place", "left", "versions"),
    [
        (before_a_file_has_its_name, ["unfinished"], 0),
        (after_storing, ["orphan-file"], 0),
        (in_the_transaction, ["orphan-file"], 0),
        (before_the_commit, ["orphan-file"], 0),
        (after_the_commit, [], 1),
    ],
)
def test_a_registration_killed_at_a_chosen_place_is_whole_or_not_there(ledger, place, left, versions):
    def register(_):
        place(ledger)  # in the child only
        ledger.register(VersionDraft("ranker", {"w.json": b"[1]"}))

    child, pipe = in_a_child(register)
    assert killed(child)
    assert read_all(pipe) == b""
    assert [(model.name, model.versions) for model in ledger.models() if model.name == "ranker"] == [
        ("ranker", 1)
    ] * versions
    assert [found.kind.name for found in ledger.fsck(sweep=True).findings] == left
    assert ledger.fsck().findings == ()
    assert ledger.register(VersionDraft("ranker", {"w.json": b"[1]"})).number == 1
    assert ledger.read("ranker/1", "w.json") == b"[1]"


def test_a_sweep_killed_between_files_and_rows_is_finished_by_the_next(url, folder, ledger):
    ledger.register(VersionDraft("ranker", {"w.json": b"[1]"}))
    ledger.delete("ranker/1")
    later = Registry(
        Database(url), ArtifactStore(folder), lambda: utc_now() + timedelta(hours=9), frozenset()
    )
    ledger.close()

    def sweep(_):
        delete = later._artifacts.delete
        later._artifacts.delete = lambda entry: (delete(entry), die())
        later.fsck(sweep=True)

    child, pipe = in_a_child(sweep)
    assert killed(child)
    os.close(pipe)
    report = later.fsck(sweep=True)
    assert [found.kind.name for found in report.findings] == ["orphan-row"]
    assert (report.swept.files, report.swept.artifacts) == (0, 1)
    assert later.fsck().findings == ()
    later.close()


def test_a_writer_killed_in_its_transaction_keeps_nobody_waiting(ledger):
    def hold_on(pipe):
        def wait():
            os.write(pipe, b"in it\n")
            time.sleep(60)

        ledger._clock = wait
        ledger.register(VersionDraft("ranker", {"w.json": b"[1]"}))

    child, pipe = in_a_child(hold_on)
    with os.fdopen(pipe, "rb") as file:
        assert file.readline() == b"in it\n"
        os.kill(child, signal.SIGKILL)
        assert killed(child)
    assert ledger.register(VersionDraft("ranker", {"w.json": b"[2]"})).number == 1
