"""Who is let in: so many at once, the others in order, nobody for too long; who is not is told when to come again."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from serving.admission import Admission, Admitted, Limits, Shed, since_arrival

PATIENCE_S = 20.0


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def limits(at_once=2, waiting=2, longest_wait_ms=600_000):
    return Limits(at_once=at_once, waiting=waiting, longest_wait_ms=longest_wait_ms)


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


class Requests:
    """Requests that are worked on until they are told to end; `served` in the order they were let in."""

    def __init__(self, admission):
        self.admission, self.served, self.ends = admission, [], {}
        self.tasks = {}

    def come(self, *names):
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._one(name))

    async def _one(self, name):
        async with self.admission.turn():
            self.served.append(name)
            await self.ends[name].wait()

    async def end(self, *names):
        for name in names:
            self.ends[name].set()
            await settled()


def test_so_many_are_worked_on_the_next_wait_in_order_and_the_rest_are_turned_away_at_once():
    async def story():
        requests = Requests(Admission(limits()))
        requests.come(*"abcde")
        await settled()
        assert requests.served == ["a", "b"]
        assert (requests.admission.running, requests.admission.waiting) == (2, 2)
        with pytest.raises(Shed, match="too many requests \\(full\\); try again in 1 s") as shed:
            await requests.tasks["e"]
        assert shed.value.retry_after_s == 1
        await requests.end("b")
        assert requests.served == ["a", "b", "c"]
        await requests.end("a", "c", "d")
        assert requests.served == list("abcd")
        assert (requests.admission.running, requests.admission.waiting) == (0, 0)

    run(story())


def test_who_has_waited_too_long_is_turned_away_and_the_next_are_not_held_up():
    async def story():
        requests = Requests(Admission(limits(at_once=1, waiting=1, longest_wait_ms=20)))
        requests.come("a", "b")
        with pytest.raises(Shed, match="waited"):
            await requests.tasks["b"]
        requests.come("c")
        await settled()
        await requests.end("a", "c")
        assert requests.served == ["a", "c"]
        assert (requests.admission.running, requests.admission.waiting) == (0, 0)

    run(story())


def test_a_place_is_free_again_after_a_failure_and_after_a_client_that_left():
    async def story():
        requests = Requests(Admission(limits(at_once=1, waiting=3)))

        async def failing():
            async with requests.admission.turn():
                raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            await failing()
        requests.come("a", "b", "c")
        await settled()
        requests.tasks["b"].cancel()  # while it waits
        await settled()
        requests.ends["a"].set()
        await asyncio.sleep(0)
        requests.tasks["c"].cancel()  # at the moment at which its turn comes
        await settled()
        assert (requests.admission.running, requests.admission.waiting) == (0, 0)
        requests.come("d")
        await settled()
        assert requests.served[-1] == "d"
        await requests.end("d")

    run(story())


@pytest.mark.parametrize("seed", range(5))
def test_however_they_come_and_go_the_bounds_hold_and_nobody_is_lost(seed):
    rng = random.Random(seed)

    async def story():
        admission, at_work, most, outcomes = (
            Admission(limits(at_once=3, waiting=4, longest_wait_ms=3)),
            [0],
            [0],
            [],
        )

        async def one():
            try:
                async with admission.turn():
                    at_work[0] += 1
                    most[0] = max(most[0], at_work[0])
                    assert admission.waiting <= 4
                    try:
                        await asyncio.sleep(rng.random() * 0.004)
                    finally:
                        at_work[0] -= 1
                outcomes.append("served")
            except Shed as shed:
                outcomes.append(shed.reason)
            except asyncio.CancelledError:
                outcomes.append("left")

        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(one()))
            if rng.random() < 0.2:
                rng.choice(tasks).cancel()
            await asyncio.sleep(rng.random() * 0.002)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most[0] == 3
        assert (at_work[0], admission.running, admission.waiting) == (0, 0, 0)
        assert set(outcomes) <= {"served", "full", "waited", "left"}
        assert outcomes.count("served") > 0

    run(story())


def test_retry_after_tells_how_long_the_queue_takes():
    now = [0.0]

    async def story():
        admission = Admission(limits(at_once=2, waiting=2), lambda: now[0])
        for _ in range(200):  # each takes 3 s
            async with admission.turn():
                now[0] += 3.0
        requests = Requests(admission)
        requests.come(*"abcde")
        await settled()
        with pytest.raises(Shed) as shed:
            await requests.tasks["e"]
        assert shed.value.retry_after_s == 6  # 4 requests of 3 s, 2 at once
        await requests.end(*"abcd")

    run(story())


# --- as middleware ---------------------------------------------------------------------------------------


def post(path="/page", method="POST"):
    return {"type": "http", "method": method, "path": path, "headers": []}


def test_a_post_beyond_capacity_is_answered_503_with_retry_after_and_health_passes():
    async def story():
        end, heard = asyncio.Event(), []

        async def app(scope, receive, send):
            if scope["method"] == "POST":
                await end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            heard.append(message)

        guarded = Admitted(app, limits(at_once=1, waiting=0))
        first = asyncio.create_task(guarded(post(), None, send))
        await settled()
        await guarded(post(), None, send)
        start, body = heard
        headers = dict(start["headers"])
        assert (start["status"], headers[b"retry-after"]) == (503, b"1")
        assert json.loads(body["body"]) == {"error": "too many requests (full); try again in 1 s."}
        heard.clear()
        await guarded(post("/healthz", "GET"), None, send)
        await guarded({"type": "lifespan", "method": ""}, None, send)
        assert [message["status"] for message in heard] == [200, 200]
        end.set()
        await first
        assert heard[-1]["status"] == 200

    run(story())


def test_the_time_that_a_request_waited_counts_towards_its_deadline():
    async def story():
        clock = asyncio.get_running_loop().time
        seen, gate = [], asyncio.Event()

        async def app(scope, receive, send):
            await gate.wait()
            seen.append(since_arrival(clock))

        guarded = Admitted(app, limits(at_once=1, waiting=1))
        began = clock()
        tasks = [asyncio.create_task(guarded(post(), None, None)) for _ in range(2)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*tasks)
        assert all(0.05 <= waited <= clock() - began + 0.01 for waited in seen)
        assert since_arrival(clock) == 0

    run(story())


def test_limits_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MATINEE_ADMIT_AT_ONCE", "7")
    assert Limits().at_once == 7
    monkeypatch.setenv("MATINEE_ADMIT_AT_ONCE", "0")
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Limits()
