"""The log of writes after a snapshot: what readers see of it, what a crash leaves of it, and how it is mended."""

from __future__ import annotations

import random
from dataclasses import replace

import crash_writers as crash
import numpy as np
import pyarrow as pa
import pytest
import small_store as small
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import deltas
from feature_repo.deltas import DamagedDeltas, Entry, Part, Place, append, encode, follow, reached, segments
from feature_repo.materialize import PROJECT, RECORD, entity_keys, layout_of_table, publish_record
from feature_repo.reader import OnlineReader
from feature_repo.record import View, ensure, opened, upsert
from feature_repo.snapshot import UNKNOWN, microseconds, pointer


@pytest.fixture
def online(tmp_path):
    """A store in which every number is 1."""
    crash.materialize_and_publish(tmp_path / "online", 1)
    return tmp_path / "online"


def push(online, k, table="user_profile", ids=None, rows=None):
    declared = crash.DECLARED.table(table)
    with opened(online / RECORD, 5.0) as connection:
        upsert(connection, View(PROJECT, table), crash.rows_of(declared, k, ids) if rows is None else rows)


def minutes(reader, user_id=10):
    return reader.vector("retrieval_user", user_id)[0]


def publish_now(online):
    return publish_record(crash.DECLARED, online, PROJECT, small.catalogue())


def test_a_push_is_seen_after_a_refresh_and_not_by_a_pinned_reader(online):
    reader = OnlineReader.open(online)
    pinned = reader.pinned()
    push(online, 5, ids=[20, 77])
    assert minutes(reader, 20) == 1
    assert reader.refresh()
    assert not reader.refresh()
    assert [minutes(reader, i) for i in (10, 20, 77)] == [1, 5, 5]
    assert [minutes(pinned, i) for i in (10, 20)] == [1, 1]
    assert np.isnan(minutes(pinned, 77))


def test_an_entity_that_the_snapshot_does_not_know_becomes_known(online):
    reader = OnlineReader.open(online)
    assert not reader.knows_user(77)
    push(online, 5, ids=[77])
    reader.refresh()
    assert reader.knows_user(77)
    assert 77 in reader.view.tables["user_profile"].ids


def test_user_x_title_features_are_computed_from_what_was_pushed(online):
    reader = OnlineReader.open(online)
    push(online, 7, table="title_profile", ids=[101])
    reader.refresh()
    names = list(reader.digests("ranking"))
    matrix = reader.matrix("ranking", 10, np.array([100, 101]))
    gap = names.index("user_title:gap")  # |runtime - minutes|
    assert matrix[:, gap].tolist() == [0.0, 6.0]


def test_a_late_row_changes_nothing(online):
    push(online, 9, ids=[20])
    push(online, 3, ids=[20])
    reader = OnlineReader.open(online)
    assert minutes(reader, 20) == 9
    assert reader.moments("user_profile", np.array([20, 10, 5])).tolist() == [
        microseconds(small.MONDAY + 9 * crash.SECOND), microseconds(small.MONDAY + crash.SECOND), UNKNOWN,
    ]  # fmt: skip


def test_several_tables_of_one_write_are_seen_together(online):
    crash.push(online, 4)
    entries = follow(online, Place(pointer(online).sequence)).entries
    assert [sorted(part.view for part in entry.parts) for entry in entries] == [
        sorted(f"{PROJECT}/{table.name}" for table in crash.PUSHED)
    ]


def push_and_fail(online):
    rows = crash.rows_of(crash.DECLARED.table("user_profile"), 8)
    with opened(online / RECORD, 5.0) as connection:
        upsert(connection, View(PROJECT, "user_profile"), rows)
        raise ZeroDivisionError


def test_a_write_that_fails_is_not_logged(online):
    with pytest.raises(ZeroDivisionError):
        push_and_fail(online)
    assert not OnlineReader.open(online).refresh()
    push(online, 9)
    assert minutes(OnlineReader.open(online)) == 9


def test_a_null_that_is_pushed_is_null_and_its_neighbours_are_not(online):
    rows = crash.rows_of(crash.DECLARED.table("user_profile"), 6, [20])
    vector = pa.array([[None, 6.0]], pa.list_(pa.float32(), 2))
    push(online, 6, rows=rows.set_column(rows.column_names.index("vector"), "vector", vector))
    reader = OnlineReader.open(online)
    row = reader.vector("retrieval_user", 20)
    assert reader.known(row).tolist() == [False, True]
    assert row[1] == 6


def test_rows_of_another_project_are_not_served(online):
    table = crash.DECLARED.table("user_profile")
    with opened(online / RECORD, 5.0) as connection:
        ensure(connection, View("another", "user_profile"), layout_of_table(table))
        upsert(connection, View("another", "user_profile"), crash.rows_of(table, 8))
    assert minutes(OnlineReader.open(online)) == 1


def test_a_push_under_another_meaning_waits_for_the_snapshot_that_has_it(online):
    declared = small.declarations(ttl_days=3650, minutes_mean="y")
    table = declared.table("user_profile")
    with opened(online / RECORD, 5.0) as connection:
        ensure(connection, View(PROJECT, table.name), layout_of_table(table))
        upsert(connection, View(PROJECT, table.name), crash.rows_of(table, 8))
    reader = OnlineReader.open(online)
    assert minutes(reader) == 1
    publish_record(declared, online, PROJECT, small.catalogue())
    reader.refresh()
    assert minutes(reader) == 8


def test_a_write_in_bulk_is_not_laid_over_but_said_to_wait(online):
    with opened(online / RECORD, 5.0, bulk=True) as connection:
        upsert(
            connection, View(PROJECT, "user_profile"), crash.rows_of(crash.DECLARED.table("user_profile"), 8)
        )
    push(online, 9, ids=[20])
    reader = OnlineReader.open(online)
    assert reader.waiting == {"user_profile": 3}
    assert [minutes(reader, i) for i in (10, 20)] == [1, 9]
    publish_now(online)
    reader.refresh()
    assert (reader.waiting, [minutes(reader, i) for i in (10, 20)]) == ({}, [8, 9])


def test_the_moment_a_snapshot_is_as_of_is_not_moved_by_pushes(online):
    before = OnlineReader.open(online).as_of
    push(online, 5_000)
    publish_now(online)
    reader = OnlineReader.open(online)
    assert (reader.as_of, minutes(reader)) == (before, 5_000)


def damage_the_middle(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut_the_tail(path):
    path.write_bytes(path.read_bytes()[:-5])


def half_an_entry_more(path):
    with path.open("ab") as file:
        file.write(encode(Entry(99, 100, ()))[:-3])


def noise_at_the_end(path):
    with path.open("ab") as file:
        file.write(b"\\0" * 100)


def lose_it(path):
    path.unlink()


DAMAGE = [damage_the_middle, cut_the_tail, half_an_entry_more, noise_at_the_end, lose_it]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_next_writer_makes_a_damaged_log_again_from_the_record(online, damage):
    for k in range(2, 6):
        push(online, k, ids=[10 * (k - 1)])  # user 10 is 2, user 20 is 3, …
    (segment,) = segments(online)
    damage(online / deltas.FOLDER / segment)
    with opened(online / RECORD, 5.0):
        pass
    reader = OnlineReader.open(online)
    assert reader.fault is None
    assert [minutes(reader, i) for i in (10, 20, 30, 40)] == [2, 3, 4, 5]


def test_a_damaged_log_is_named_and_what_came_before_is_served(online):
    for k in (2, 3, 4):
        push(online, k, ids=[20])
    (segment,) = segments(online)
    path = online / deltas.FOLDER / segment
    first = len(encode(follow(online, Place(1)).entries[0]))
    raw = bytearray(path.read_bytes())
    raw[first + 60] ^= 1
    path.write_bytes(raw)
    reader = OnlineReader.open(online)
    assert minutes(reader, 20) == 2
    assert isinstance(reader.fault, DamagedDeltas)
    with pytest.raises(DamagedDeltas, match=f"{segment} is not whole: the entry at byte {first}"):
        reader.refresh()
    push(online, 5, ids=[10])
    assert reader.refresh()
    assert reader.fault is None
    assert [minutes(reader, i) for i in (10, 20)] == [5, 4]


def test_a_reader_goes_on_over_a_log_that_was_made_again_under_it(online):
    reader = OnlineReader.open(online)
    for k in (2, 3):
        push(online, k, ids=[20])
    reader.refresh()
    damage_the_middle(online / deltas.FOLDER / segments(online)[0])
    push(online, 4, ids=[20])
    reader.refresh()
    assert minutes(reader, 20) == 4


def test_a_missing_segment_is_a_gap_and_not_silence(online, monkeypatch):
    monkeypatch.setattr(deltas, "SEGMENT_BYTES", 1)
    for k in (2, 3, 4):
        push(online, k, ids=[20])
    assert len(segments(online)) == 3
    reader = OnlineReader.open(online)
    (online / deltas.FOLDER / segments(online)[1]).unlink()
    again = OnlineReader.open(online)
    assert minutes(again, 20) == 2
    assert "writes 3 to 3 are missing" in str(again.fault)
    assert minutes(reader, 20) == 4  # who had read it keeps it


def test_segments_that_every_snapshot_holds_are_removed(online):
    for k in range(2, 12):
        push(online, k)
        publish_now(online)
    assert len(segments(online)) <= 4
    assert minutes(OnlineReader.open(online)) == 11


def test_a_snapshot_of_equal_content_published_again_ends_the_pushes_before_it(online):
    """A push of the same moment as the day's row, then the day again: the generation's id is the same."""
    reader = OnlineReader.open(online)
    first = reader.generation
    day = crash.rows_of(crash.DECLARED.table("user_profile"), 1)
    other = crash.rows_of(crash.DECLARED.table("user_profile"), 5)["vector"]
    push(online, 1, rows=day.set_column(day.column_names.index("vector"), "vector", other))
    reader.refresh()
    assert minutes(reader) == 5
    crash.materialize_and_publish(online, 1)
    assert reader.refresh()
    assert (minutes(reader), reader.generation) == (1, first)


def test_a_reader_of_an_older_snapshot_still_finds_its_deltas(online):
    reader = OnlineReader.open(online)
    for k in (2, 3):
        push(online, k)
        publish_now(online)
    push(online, 4)
    assert reader.follow()
    assert minutes(reader) == 4


def test_a_record_that_was_lost_and_made_again_does_not_use_a_number_twice(online):
    push(online, 5)
    reader = OnlineReader.open(online)
    last = reader.sequence
    for path in online.glob("online.duckdb*"):
        path.unlink()
    crash.materialize_and_publish(online, 6)
    push(online, 7)
    reader.refresh()
    assert (minutes(reader), reader.sequence) == (7, last + 2)


def test_a_long_log_is_made_anew_with_each_row_once_and_readers_go_on(online, monkeypatch):
    monkeypatch.setattr(deltas, "SEGMENT_BYTES", 1)
    from_the_start, in_the_midst = OnlineReader.open(online), OnlineReader.open(online)
    for k in range(2, 3 + deltas.MANY_SEGMENTS):
        push(online, k, ids=[10 if k % 2 else 20])
        if k == 6:
            in_the_midst.refresh()
    assert len(segments(online)) == 1
    (entry,) = follow(online, Place(1)).entries
    assert [part.rows.num_rows for part in entry.parts] == [2]
    push(online, 90, ids=[30])
    for reader in (from_the_start, in_the_midst, OnlineReader.open(online)):
        reader.refresh()
        assert reader.fault is None
        assert [minutes(reader, i) for i in (10, 20, 30)] == [9, 10, 90]


def test_a_row_that_a_bulk_write_replaced_is_served_until_the_snapshot_that_holds_it(online, monkeypatch):
    """However often the log is made anew meanwhile."""
    monkeypatch.setattr(deltas, "SEGMENT_BYTES", 1)
    push(online, 5, ids=[20])
    with opened(online / RECORD, 5.0, bulk=True) as connection:
        upsert(
            connection, View(PROJECT, "user_profile"), crash.rows_of(crash.DECLARED.table("user_profile"), 8)
        )
    for k in range(9, 9 + 2 * deltas.MANY_SEGMENTS):
        push(online, k, ids=[10])
    assert len(segments(online)) < 2 * deltas.MANY_SEGMENTS
    reader = OnlineReader.open(online)
    assert [minutes(reader, i) for i in (10, 20, 30)] == [24, 5, 1]
    assert reader.waiting == {"user_profile": 3}
    publish_now(online)
    reader.refresh()
    assert [minutes(reader, i) for i in (10, 20, 30)] == [24, 8, 8]


def part(k):
    rows = pa.table({"entity_id": [k], "event_timestamp": [k], "vector": [[float(k)]]})
    return Part("p/v", "m", rows)


def test_a_place_in_a_segment_that_was_replaced_by_a_longer_one_is_found_again(tmp_path):
    deltas.start(tmp_path)
    append(tmp_path, Entry(0, 1, (part(1),)), 0)
    place = follow(tmp_path, Place(0)).place
    longer = Entry(0, 2, tuple(part(k) for k in range(9)))
    deltas.make_anew(tmp_path, longer)
    followed = follow(tmp_path, place)
    assert (followed.fault, followed.entries, followed.place.sequence) == (None, (longer,), 2)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_cut_off_or_flipped_the_log_gives_a_prefix_of_what_was_written(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("log")
    deltas.start(root)
    written = [Entry(k, k + 1, (part(k),)) for k in range(data.draw(st.integers(1, 5)))]
    for entry in written:
        append(root, entry, 0)
    path = root / deltas.FOLDER / segments(root)[0]
    raw = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:where]
    else:
        raw[where] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found = follow(root, Place(0)).entries
    assert list(found) == written[: len(found)]
    assert len(found) < len(written)
    assert (reached(root) or 0) == len(found)
    append(root, replace(written[-1], after=len(found)), 0)  # as the next writer mends it
    assert follow(root, Place(0)).place.sequence == len(written)
    assert follow(root, Place(0)).fault is None


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_over_deltas_sees_what_a_new_snapshot_would_hold(tmp_path, seed):
    """The law of the overlay, over random pushes of every kind of table, late ones and some past their time to live."""
    chance, online = random.Random(seed), tmp_path / "online"
    crash.materialize_and_publish(online, 100)
    follower = OnlineReader.open(online)
    for _ in range(12):
        table = chance.choice(crash.PUSHED)
        ids = np.array(chance.sample([*small.JOIN_KEYS[table.entity.name], 500, 501], 2))
        push(online, chance.choice([50, 99, 100, 101, 150, -400_000_000]), table.name, ids)
        if chance.random() < 0.5:
            follower.refresh()
    follower.refresh()
    over = everything(follower)
    publish_now(online)
    assert over == everything(OnlineReader.open(online))


def everything(reader):
    found = {}
    for name, table in reader.view.stored.items():
        ids = np.array([*range(10, 50, 10), *small.TITLES, *small.ARTWORKS, 500, 501])
        found[name] = [table.has(int(i)) for i in ids], table.moments_of(ids).tolist()
        if hasattr(table, "gather"):
            found[name] += (np.nan_to_num(table.gather(ids), nan=-1.0).tolist(),)
    return found


def test_entity_keys_of_the_pushes_are_those_of_the_batch():
    """Otherwise a push would add a second row instead of replacing the first."""
    table = crash.DECLARED.table("user_profile")
    keys = crash.rows_of(table, 1)["entity_key"].to_pylist()
    assert keys == entity_keys("user_id", np.array(small.USERS)).to_pylist()
