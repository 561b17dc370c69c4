"""Over real HTTP: news are taken up under load, overload is shed, and a service that is told to stop finishes what it took."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest

from serving.bento import build
from serving.champions import Champions
from serving.client import PageClient
from serving.exposure_table import read
from serving.openloop import Load, Outcome, Target, due_times, offer
from serving.rollout import Canary, Rollout, Shadow
from serving.running import Serving, free_port, served, stop, wait_until_ready
from serving.shadow_log import records
from serving.versions import described

EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
TAKEN_UP_WITHIN_S = 10
"""2 s are promised and measured; a busy machine is given more."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:_bentoml_sdk.*", "ignore:GitWildMatchPattern:DeprecationWarning"
    ),
]


@pytest.fixture
def how(world):
    """A built Bento of the small world, and how it is served."""

    def how(**changes):
        built = build(
            "homepage", world.versions, world.defaults(**changes), world.home, world.home / "bentos"
        )
        return Serving(built.tag, world.home, world.home / "bentos", port=free_port(), starts_at=EVENING)

    return how


@contextmanager
def running(how, world):
    with served(how, log=world.home / "serving.log") as url:
        yield url


def bodies(size=10):
    return (json.dumps({"user_id": user, "size": size}).encode() for user in itertools.cycle(range(1, 31)))


def crown(world, ref):
    folder = world.versions[ref]
    champion = described(ref, folder, {}).model_copy(
        update={"folder": folder.relative_to(world.home).as_posix()}
    )
    Champions(versions=(champion,)).write(world.home / "live" / "champions.json")


def until(client, holds):
    """Ask until a page is as expected; how long that took."""
    began = time.monotonic()
    while not holds(client.page(2, 3)):
        assert time.monotonic() - began < TAKEN_UP_WITHIN_S
        time.sleep(0.02)
    return time.monotonic() - began


def test_promotions_canaries_and_experiments_reach_a_running_service_under_load_and_no_answer_fails(
    world, how
):
    made = how()
    world.save_models(number=2, seed=2)  # later than the Bento, which does not hold them
    pages, faults, done = [], [], threading.Event()

    def asking(url):
        with PageClient(url) as client:
            for user in itertools.cycle(range(1, 31)):
                if done.is_set():
                    return
                try:
                    pages.append(client.page(user, 5))
                except Exception as fault:  # noqa: BLE001  (any is one too many)
                    faults.append(fault)

    with running(made, world) as url, PageClient(url) as client:
        before = client.page(2, 3)
        asker = threading.Thread(target=asking, args=(url,))
        asker.start()
        crown(world, "ranker/2")
        until(client, lambda page: page.versions.ranker == "ranker/2")
        canary = Canary(kind="ranker", ref="ranker/1", share=1.0)
        shadow = Shadow(kind="ranker", ref="ranker/1")
        Rollout(canaries=(canary,), shadows=(shadow,)).write(world.home / "live" / "rollout.json")
        until(client, lambda page: page.canary == ("ranker",) and page.versions.ranker == "ranker/1")
        world.go_live({"weights.diversity": 0.0}, {"weights.diversity": 1.0})
        until(client, lambda page: page.arms != ())
        generation = world.publish(seed=7)
        until(client, lambda page: page.generation == generation)
        after = client.page(2, 3)
        time.sleep(1.0)  # shadows judge between pages
        done.set()
        asker.join()
        metrics = httpx.get(f"{url}/metrics").text
    assert faults == []
    assert before.live_set != after.live_set
    of_set = {}
    for page in pages:  # one id, one set of declarations
        of_set.setdefault(page.live_set, set()).add((bool(page.arms), page.canary, page.versions.ranker))
    assert all(len(said) == 1 for said in of_set.values())
    assert 'matinee_refused{what="champions"} 0.0' in metrics
    assert len(list(records(world.home / "shadows"))) > 0
    logged = set(read(world.home / "exposures")["request_id"].to_pylist())
    assert {page.request_id for page in pages} <= logged


@pytest.mark.endurance
def test_beyond_capacity_the_admitted_are_answered_in_time_and_the_others_are_told_when_to_come_again(
    world, how, monkeypatch
):
    monkeypatch.setenv("MATINEE_ADMIT_WAITING", "8")
    budget_ms, seconds = 5_000, 5.0
    made = how(budget_ms=budget_ms)
    with running(made, world):
        target = Target(made.host, made.port)
        offer(target, bodies(), [0.05 * n for n in range(40)])  # warm
        rates, best = [10.0], 0.0
        while True:  # capacity: until goodput grows no more
            at = offered(target, rates[-1], 2.0)
            if at.good_per_s < 1.2 * best:
                break
            best = max(best, at.good_per_s)
            rates.append(2 * rates[-1])
        outcomes = offer(target, bodies(), due_times(3 * best, seconds, np.random.default_rng(1)).tolist())
    over = Load.of(outcomes, seconds, budget_ms)
    assert over.failed == 0
    assert over.shed_share > 0.2
    assert over.good_per_s > 0.3 * best  # .9 is wanted: benchmarks/overload.py; machines are shared
    assert over.p99_ms < budget_ms
    turned_away = [outcome for outcome in outcomes if outcome.status == 503]
    assert all(outcome.retry_after_s is not None and outcome.retry_after_s >= 1 for outcome in turned_away)


def offered(target, rate, seconds):
    outcomes = offer(target, bodies(), due_times(rate, seconds, np.random.default_rng(0)).tolist())
    return Load.of(outcomes, seconds, 5_000)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_told_to_stop_finishes_what_it_accepted_and_takes_no_more(world, how, told):
    made = how(budget_ms=60_000)
    patient = {"MATINEE_ADMIT_LONGEST_WAIT_MS": "60000"}  # whoever is let in to wait is answered
    with (world.home / "serving.log").open("wb") as log:
        process = subprocess.Popen(
            made.command, env=made.environment(dict(os.environ) | patient), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until_ready(made, process, world.home / "serving.log", 60)
        answered = asyncio.run(_asked_while_it_is_told(made, process, told))
        assert process.wait(60) in (0, -told)
    finally:
        stop(process)
    assert answered == [200] * len(answered)
    assert len(answered) == 24
    assert len(set(read(world.home / "exposures")["request_id"].to_pylist())) == len(answered)
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{made.base_url}/page", json={"user_id": 1})


async def _asked_while_it_is_told(made, process, told):
    """24 requests on as many connections, all sent and accepted, when the service is told."""
    request = Target(made.host, made.port).request(next(bodies()))
    connections = [await asyncio.open_connection(made.host, made.port) for _ in range(24)]
    for _, writer in connections:
        writer.write(request)
        await writer.drain()
    first = await connections[0][0].readuntil(b"\r\n\r\n")  # they have been accepted, and are being answered
    os.kill(process.pid, told)
    heads = [first, *[await reader.readuntil(b"\r\n\r\n") for reader, _ in connections[1:]]]
    for _, writer in connections:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return [int(head.split()[1]) for head in heads]


# --- the load itself -------------------------------------------------------------------------------------


def test_load_leaves_when_it_is_due_whatever_became_of_what_left_before():
    """A server that answers nobody until the last has come: latency counts from when each was due."""

    async def story():
        waiting, came = [], asyncio.Event()

        async def client(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            waiting.append(writer)
            if len(waiting) == 5:
                came.set()
            await came.wait()
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{"source":"ranked"}')
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(client, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        due = [0.0, 0.1, 0.2, 0.3, 0.4]
        found = await asyncio.to_thread(offer, Target("127.0.0.1", port), [b""] * 5, due)
        server.close()
        await server.wait_closed()
        return found

    outcomes = asyncio.run(story())
    assert [(one.status, one.source) for one in outcomes] == [(200, "ranked")] * 5
    for outcome in outcomes:
        assert outcome.due_s + outcome.took_s >= 0.4


def test_what_came_of_a_load_is_counted_by_kind():
    outcomes = (
        *[Outcome(0.0, 0.1, 200, "ranked")] * 6,
        Outcome(0.0, 0.9, 200, "ranked"),  # late
        Outcome(0.0, 0.1, 200, "popular"),
        Outcome(0.0, 0.0, 503, "", 1),
        Outcome(0.0, 10.0, 0),
    )
    load = Load.of(outcomes, 2.0, 500)
    assert (load.offered_per_s, load.answered_per_s, load.good_per_s) == (5.0, 4.0, 3.0)
    assert (load.shed_share, load.failed, load.p50_ms) == (0.1, 1, 100.0)


def test_independent_users_come_at_the_rate_asked_for():
    due = due_times(200, 50, np.random.default_rng(0))
    assert len(due) == pytest.approx(10_000, abs=400)  # 4 standard deviations
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution
    assert (due < 50).all()
