"""One writer and many readers, each a process: how soon a push is seen, and by all."""

from __future__ import annotations

import multiprocessing
import time

import crash_writers as crash
import pytest

READERS, PUSHES = 3, 5
BOUND_S = 5.0  # the promise is one second; machines that run tests are busy


@pytest.mark.slow
def test_a_push_is_seen_by_every_reader_process(tmp_path):
    online = tmp_path / "online"
    crash.materialize_and_publish(online, 1)
    context = multiprocessing.get_context("spawn")
    seen = [context.Queue() for _ in range(READERS)]
    readers = [
        context.Process(target=crash.see_numbers, args=(online, 1 + PUSHES, each), daemon=True)
        for each in seen
    ]
    for reader in readers:
        reader.start()
    for each in seen:
        assert each.get(timeout=60)[0] == -1  # it has opened the snapshot
    returned = {}
    for k in range(2, 2 + PUSHES):
        time.sleep(0.2)
        crash.push(online, k)
        returned[k] = time.monotonic()
    lags = []
    for each in seen:
        found = dict(each.get(timeout=60) for _ in range(PUSHES))
        assert sorted(found) == sorted(returned)
        lags += [when - returned[k] for k, when in found.items()]
    for reader in readers:
        reader.join()
    told = f"{1e3 * sum(lags) / len(lags):.0f} ms after the push returned, at most {1e3 * max(lags):.0f}"
    print(f"\n{READERS} readers that look every 50 ms saw it {told}")  # noqa: T201 - with `pytest -s`
    assert max(lags) < BOUND_S
