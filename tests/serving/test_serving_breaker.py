"""What keeps failing is left alone and tried again; what is late is abandoned, and only so much of it."""

from __future__ import annotations

import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.breaker import CLOSED, Breaker, BreakerPolicy
from serving.deadline import Deadline, DeadlineExceeded, Stopwatch
from serving.guard import Guard, StageSkipped
from serving.workers import Abandoned, Workers

POLICY = BreakerPolicy(failures=3, wait_s=1.0, longest_s=8.0)
PATIENCE_S = 20.0
"""How long a test waits for a thread that is expected to come back."""


def failed(times, now=0.0, breaker=CLOSED):
    for _ in range(times):
        breaker = breaker.entered().failure(POLICY, now)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row_and_not_before():
    assert failed(2).admits(0.0)
    assert not failed(3).admits(0.0)
    assert failed(2, breaker=failed(2).succeeded()).admits(0.0)  # a success between them


def test_it_stays_open_for_its_time_and_then_lets_one_probe_in():
    opened = failed(3, now=10.0)
    assert not opened.admits(10.999)
    assert opened.admits(11.0)
    probing = opened.entered()
    assert not probing.admits(11.0)
    assert probing.succeeded() == CLOSED
    assert probing.left().admits(11.0)  # one who learnt nothing leaves the place to another


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest():
    breaker, waits = failed(3), []
    for _ in range(6):
        waits.append(breaker.wait_s)
        breaker = failed(1, now=breaker.until, breaker=breaker)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_failures_that_began_before_it_opened_do_not_keep_it_open():
    opened = failed(3, now=0.0)
    assert opened.failure(POLICY, 0.9) == opened


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=60))
def test_at_any_time_it_admits_if_closed_and_never_while_its_time_runs(steps):
    breaker, now, in_a_row = CLOSED, 0.0, 0
    for fails, passed in steps:
        now += passed
        if not breaker.admits(now):
            assert breaker.until is not None
            assert now < breaker.until
            continue
        breaker = breaker.entered()
        breaker = breaker.failure(POLICY, now) if fails else breaker.succeeded()
        in_a_row = in_a_row + 1 if fails else 0
        assert (breaker.until is not None) == (in_a_row >= POLICY.failures)
        assert breaker == Breaker() or breaker.failed == in_a_row


# --- threads ---------------------------------------------------------------------------------------------


def nothing():
    """Nobody wants to know that it came back."""


def test_work_returns_and_raises_as_if_it_were_called():
    workers = Workers()
    assert workers.start(lambda: 7, nothing).wait(PATIENCE_S) == 7
    with pytest.raises(ZeroDivisionError):
        workers.start(lambda: 1 // 0, nothing).wait(PATIENCE_S)
    assert workers.start(threading.get_ident, nothing).wait(PATIENCE_S) != threading.get_ident()


def test_one_thread_does_for_work_that_comes_one_after_the_other():
    workers = Workers()
    idents = {workers.start(threading.get_ident, nothing).wait(PATIENCE_S) for _ in range(200)}
    assert len(idents) == 1


def test_work_that_is_not_waited_for_says_when_it_is_back_and_keeps_nothing():
    class Heavy:
        pass

    workers, gate, back = Workers(), threading.Event(), threading.Event()
    heavy = Heavy()
    kept = weakref.ref(heavy)

    def work(heavy=heavy):
        gate.wait()
        return heavy

    call = workers.start(work, back.set)
    with pytest.raises(Abandoned):
        call.wait(0.01)
    assert not back.is_set()
    gate.set()
    assert back.wait(PATIENCE_S)
    del call, work, heavy
    deadline = time.monotonic() + PATIENCE_S
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.001)  # the thread is on its way back to sleep
    assert kept() is None


def test_what_work_returned_is_its_callers_alone():
    class Heavy:
        pass

    workers = Workers()
    kept = weakref.ref(workers.start(Heavy, nothing).wait(PATIENCE_S))
    deadline = time.monotonic() + PATIENCE_S
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert kept() is None


def test_threads_shared_by_many_do_each_ones_work():
    workers, found = Workers(), {}

    def ask(number):
        for _ in range(200):
            found[number] = workers.start(lambda: number * number, nothing).wait(PATIENCE_S)
            assert found[number] == number * number

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number * number for number in range(8)}


# --- the guard -------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Expected(LookupError):
    """What a stage may say without being at fault."""


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guard():
    return Guard(innocent=(Expected,), policy=POLICY)


def run(guard, work, clock=time.monotonic, budget_ms=60_000, ref="ranker/1", share=(0.0, 0.5), **more):
    watch = Stopwatch(Deadline.within(budget_ms, clock))
    return guard.run("rank", ref, work, watch, share, **more)


def broken(_):
    raise ValueError("broken")


def test_a_stage_that_keeps_failing_is_left_alone_then_probed_and_a_success_brings_it_back(guard, clock):
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            run(guard, broken, clock)
    with pytest.raises(StageSkipped, match="stage 'rank' was not tried: it kept failing"):
        run(guard, lambda _: 1, clock)
    assert guard.open == (("rank", "ranker/1"),)
    clock.now = 1.0
    assert run(guard, lambda _: 1, clock) == 1
    assert guard.open == ()
    assert run(guard, lambda _: 2, clock) == 2


def test_a_version_that_fails_is_not_held_against_another(guard, clock):
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            run(guard, broken, clock)
    assert run(guard, lambda _: 1, clock, ref="ranker/2") == 1


def test_what_is_expected_is_raised_and_not_counted(guard, clock):
    def unknown(_):
        raise Expected

    for _ in range(10):
        with pytest.raises(Expected):
            run(guard, unknown, clock)
    assert guard.open == ()


def test_a_slow_stage_is_abandoned_at_the_end_of_its_share_and_its_threads_are_bounded(guard):
    gate = threading.Event()
    guard.policy = BreakerPolicy(failures=1000)
    began = time.monotonic()
    for _ in range(guard.may_be_out):
        with pytest.raises(DeadlineExceeded):
            run(guard, lambda _: gate.wait(), budget_ms=20)
    assert time.monotonic() - began < PATIENCE_S  # and not for ever
    assert guard.out == {"rank": guard.may_be_out}
    with pytest.raises(StageSkipped, match="its threads have not come back"):
        run(guard, lambda _: 1)
    gate.set()
    deadline = time.monotonic() + PATIENCE_S
    while guard.out and time.monotonic() < deadline:
        time.sleep(0.001)
    assert run(guard, lambda _: 1) == 1


def test_a_stage_gets_what_earlier_ones_left_and_never_more_than_to_the_end_of_its_share(guard, clock):
    left = []
    run(guard, lambda watch: left.append(watch.deadline.left_s()), clock, budget_ms=1000, share=(0.3, 0.8))
    assert left == [pytest.approx(0.8)]  # earlier stages took nothing


def test_a_stage_that_was_left_no_fair_part_of_its_share_is_not_blamed_for_being_late(guard, clock):
    def late(_):
        raise DeadlineExceeded("rank", 1000)

    def run_at(moment):
        watch = Stopwatch(Deadline.within(1000, clock))
        clock.now += moment
        with pytest.raises(DeadlineExceeded):
            guard.run("rank", "ranker/1", late, watch, (0.2, 0.8))
        clock.now -= moment

    for _ in range(5):
        run_at(0.51)  # less than half of its 0.6 s
    assert guard.open == ()
    for _ in range(3):
        run_at(0.49)
    assert guard.open == (("rank", "ranker/1"),)


def test_a_stage_is_not_begun_when_its_share_is_over_unless_it_has_a_grace(guard, clock):
    watch = Stopwatch(Deadline.within(1000, clock))
    clock.now = 0.5
    with pytest.raises(DeadlineExceeded, match="over at stage 'log'"):
        guard.run("log", None, lambda _: 1, watch, (0.4, 0.5))
    assert guard.run("log", None, lambda _: 1, watch, (0.4, 0.5), 0.1) == 1


def test_a_mistake_in_the_code_surfaces(guard):
    with pytest.raises(TypeError):
        run(guard, lambda: None)
