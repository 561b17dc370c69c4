"""Several writers at once: no number is lost or repeated, no move is overwritten unseen."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from registry import AliasMoved, RegistryError, VersionDraft, open_registry, reading
from registry.database import Database


def test_threads_lose_and_repeat_no_number(ledger, draft):
    def write(writer):
        return [ledger.register(draft(f"m{n % 2}", weights=writer * 100 + n)).ref for n in range(10)]

    with ThreadPoolExecutor(8) as pool:
        refs = [ref for refs in pool.map(write, range(8)) for ref in refs]
    assert Counter(refs) == Counter(f"m{model}/{number}" for model in range(2) for number in range(1, 41))
    assert {model.name: (model.versions, model.latest) for model in ledger.models()} == {
        "m0": (40, 40), "m1": (40, 40),
    }  # fmt: skip


def write_in_a_process(url, artifacts, writer):
    with open_registry(url, artifacts) as ledger:
        return [
            ledger.register(VersionDraft("ranker", {"w.json": b"%d" % (writer * 100 + n)})).number
            for n in range(5)
        ]


def test_processes_lose_and_repeat_no_number(url, tmp_path):
    context = multiprocessing.get_context("fork")  # spawning would mostly time imports
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        jobs = [
            pool.submit(write_in_a_process, url, str(tmp_path / "artifacts"), writer) for writer in range(3)
        ]
        numbers = [number for job in jobs for number in job.result()]
    assert sorted(numbers) == list(range(1, 16))


def test_one_draft_registered_by_everybody_at_once_is_one_version(ledger, draft):
    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(lambda _: ledger.register(draft()).ref, range(8)))
    assert set(refs) == {"ranker/1"}
    assert [model.versions for model in ledger.models()] == [1]


@pytest.mark.parametrize("expect", [None, 1])
def test_of_two_promotions_that_expect_the_same_one_wins_and_one_is_told(ledger, draft, expect):
    for weights in range(9):
        ledger.register(draft(weights=weights))
    if expect is not None:
        ledger.promote(f"ranker/{expect}", by="ada", reason="before")

    def promote(number):
        try:
            return ledger.promote(
                f"ranker/{number}", expect=expect, by=f"writer {number}", reason="race"
            ).number
        except AliasMoved as lost:
            return (lost.expected, lost.found)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(promote, range(2, 10)))
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, int))
    assert sorted(outcomes, key=str) == sorted([winner] + [(expect, winner)] * 7, key=str)
    assert ledger.get("ranker@champion").number == winner
    assert [move.to_number for move in ledger.alias_history("ranker")][-1] == winner
    assert len(ledger.alias_history("ranker")) == 1 + (expect is not None)


def test_a_history_written_by_many_is_one_unbroken_walk(ledger, draft):
    for weights in range(4):
        ledger.register(draft(weights=weights))

    def wander(writer):
        for step in range(5):
            ledger.promote(f"ranker/{(writer + step) % 4 + 1}", by=f"writer {writer}", reason="race")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(wander, range(4)))
    moves = ledger.alias_history("ranker")
    assert [move.from_number for move in moves] == [None, *(move.to_number for move in moves[:-1])]
    assert ledger.get("ranker@champion").number == moves[-1].to_number


def test_a_version_is_not_deleted_while_an_alias_moves_onto_it(ledger, draft):
    for weights in range(10):
        ledger.register(draft(weights=weights))

    def attempt(step):
        number, delete = step
        try:
            if delete:
                ledger.delete(f"ranker/{number}")
            else:
                ledger.promote(f"ranker/{number}", f"alias{number}", by="ada", reason="race")
        except RegistryError as error:
            return type(error).__name__
        return "done"

    steps = [(number, delete) for number in range(1, 11) for delete in (False, True)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, steps))
    assert set(outcomes) <= {"done", "StillReferenced", "NotRecorded"}
    for number in range(10):
        assert outcomes[2 * number : 2 * number + 2].count("done") == 1, "either the alias or the deletion"


def test_a_reader_sees_one_state_however_many_questions_it_asks(ledger, draft, url):
    ledger.register(draft())
    database = Database(url)
    with database.read() as session:
        before = reading.models(session)
        ledger.register(draft(weights=1))
        ledger.promote("ranker/2", by="ada", reason="meanwhile")
        assert reading.models(session) == before
    with database.read() as session:
        assert reading.models(session)[0].aliases == {"champion": 2}
    database.close()
