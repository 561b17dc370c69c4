"""Writers and readers that tests start as processes of their own, and kill. Write k makes every number k."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401 - pyarrow would import it in each process
import pyarrow as pa
import small_store as small

from feature_repo import deltas
from feature_repo.materialize import PROJECT, RECORD, entity_keys, materialize
from feature_repo.packed import pack
from feature_repo.reader import OnlineReader
from feature_repo.record import View, opened, upsert

DECLARED = small.declarations(ttl_days=3650)
PUSHED = tuple(t for t in DECLARED.stored if t.entity.name in {"user", "title"} and t.name != "user_history")
STORED = slice(0, sum(len(t.features) for t in PUSHED))  # of the `ranking` matrix
SECOND = timedelta(seconds=1)
DIGESTS = [
    t.digest for t in DECLARED.tables
]  # now, and not in each of two hundred processes forked from here


def rows_of(table: Any, k: int, ids: Any = None) -> pa.Table:
    """Rows of the record in which every feature is k, as of k seconds after Monday."""
    ids = np.array(small.JOIN_KEYS[table.entity.name]) if ids is None else np.asarray(ids)
    values = np.full((len(ids), len(table.features)), k, dtype=np.float32)
    moment = pa.array([small.MONDAY + k * SECOND] * len(ids), pa.timestamp("us", "UTC"))
    return pa.table({
        "entity_key": entity_keys(table.entity.join_key, ids), "entity_id": pa.array(ids),
        "event_timestamp": moment, "created_timestamp": moment, "vector": pack(values, np.isfinite(values)),
    })  # fmt: skip


def push(online: Path, k: int) -> None:
    """One write of every row of four tables."""
    with opened(online / RECORD, 10.0) as connection:
        for table in PUSHED:
            upsert(connection, View(PROJECT, table.name), rows_of(table, k))


def materialize_and_publish(online: Path, k: int) -> None:
    """A day of which every number is k."""
    offline = small.write_constant(online.parent / "offline", DECLARED, small.MONDAY + k * SECOND, float(k))
    materialize(DECLARED, offline, online, PROJECT, small.catalogue())


ACTIONS = {"push": push, "materialize": materialize_and_publish}


def write_until_killed(online: Path, action: str, first: int, acks: Any) -> None:
    """Write first, first + 1, … and tell the connection `acks` of each write that has returned."""
    deltas.SEGMENT_BYTES, deltas.MANY_SEGMENTS = 1_000, 3  # so that the log is pruned and made anew under way
    k = first
    acks.send_bytes(b"")  # we begin
    while True:
        ACTIONS[action](online, k)
        acks.send_bytes(k.to_bytes(8, "little"))
        k += 1


def read_until(online: Path, stop: Any, found: Any) -> None:
    """Read every few milliseconds; put (reads, newest number seen, what was wrong) into the queue `found`."""
    reader, wrong, reads, newest = OnlineReader.open(online), [], 0, 0
    while not stop.is_set():
        try:
            reader.refresh()
            numbers = np.unique(reader.matrix("ranking", 10, np.array([100, 101, 104]))[:, STORED])
            if len(numbers) != 1 or numbers[0] < newest:
                wrong.append(f"after {newest}: {numbers.tolist()}")
            newest = int(numbers.max())
        except Exception as problem:  # noqa: BLE001 - told to the test
            wrong.append(repr(problem))
        reads += 1
        time.sleep(0.002)
    found.put((reads, newest, wrong[:5]))


def see_numbers(online: Path, until: int, seen: Any) -> None:
    """Look every 50 ms; put (number, the clock when it was first seen) for each number up to `until`."""
    reader, newest = OnlineReader.open(online), -1
    seen.put((-1, time.monotonic()))
    while newest < until:
        time.sleep(0.05)
        if reader.refresh():
            number = int(reader.vector("retrieval_user", 10)[0])
            if number != newest:
                seen.put((number, time.monotonic()))
            newest = number
