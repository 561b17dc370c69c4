"""What is written to the record between two snapshots is served without loading anything anew."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import deltas
from feature_repo.materialize import PROJECT, RECORD, entity_keys
from feature_repo.packed import pack
from feature_repo.record import Kind, Layout, View, ensure, opened, upsert
from serving.live import LiveSource
from serving.live_set import Folders

USER = 3


@pytest.fixture
def source(world):
    deltas.start(world.home / "online")
    return LiveSource(Folders.of(world.home, world.home), world.manifest())


def push(world, value, user_id=USER, reader=None):
    """A row of user_profile in which every feature is `value`, newer than the snapshot's."""
    reader = reader or world.reader
    table = reader.view.tables["user_profile"]
    layout = Layout(table.features, (Kind.FLOAT,) * len(table.features), table.digests)
    values = np.full((1, len(table.features)), value, dtype=np.float32)
    moment = pa.array([reader.as_of + timedelta(seconds=value)], pa.timestamp("us", "UTC"))
    with opened(world.home / "online" / RECORD, 5.0) as connection:
        ensure(connection, View(PROJECT, "user_profile"), layout)
        upsert(connection, View(PROJECT, "user_profile"), pa.table({
            "entity_key": entity_keys("user_id", np.array([user_id])), "entity_id": [user_id],
            "event_timestamp": moment, "created_timestamp": moment, "vector": pack(values, np.isfinite(values)),
        }))  # fmt: skip


def profile(live, user_id=USER):
    return np.nan_to_num(live.reader.vector("retrieval_user", user_id), nan=-1.0).tolist()


def test_a_push_is_served_after_a_look_and_a_request_in_flight_keeps_what_it_had(world, source):
    in_flight = source.current()
    before = profile(in_flight)
    push(world, 7)
    assert profile(source.current()) == before
    source.look()
    after = source.current()
    assert set(profile(after)) == {7.0}
    assert profile(in_flight) == before
    assert after.models is in_flight.models
    assert after.reader.generation == in_flight.reader.generation


def test_a_push_makes_a_new_member_known(world, source):
    push(world, 7, user_id=10**9)
    source.look()
    assert source.current().reader.knows_user(10**9)


def test_pushes_go_on_being_served_while_a_snapshot_is_refused(world, source):
    world.publish(as_of=world.reader.as_of + timedelta(days=1), digest="changed")
    source.look()
    assert "snapshot" in source.refusals
    push(world, 9, reader=source.current().reader)
    source.look()
    assert set(profile(source.current())) == {9.0}


def test_a_damaged_delta_log_is_refused_by_name_until_it_is_mended(world, source):
    push(world, 7)
    source.look()
    (segment,) = deltas.segments(world.home / "online")
    with (world.home / "online" / deltas.FOLDER / segment).open("ab") as file:
        file.write(bytes(200))
    source.look()
    assert segment in source.refusals["deltas"]
    assert set(profile(source.current())) == {7.0}
    push(world, 8)
    source.look()
    assert source.refusals == {}
    assert set(profile(source.current())) == {8.0}
