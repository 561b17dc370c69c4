"""Tables that keep several rows of an entity: which stay, in what order, and how a reader sees them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store as small
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.declarations import USER
from feature_repo.materialize import (
    PROJECT,
    RECORD,
    NotServable,
    entity_keys,
    layout_of_table,
    materialize,
    publish_record,
)
from feature_repo.reader import OnlineReader
from feature_repo.record import Layout, View, ensure, lookup, opened, rows_since, upsert
from feature_repo.snapshot import UNKNOWN, microseconds
from validations.expectations import DType

MINUTE = timedelta(minutes=1)
KEEP = 3
PLAYS = replace(
    small.table(
        "recent_plays", USER, small.feature("play_id", DType.BIGINT), small.feature("title_id", DType.BIGINT)
    ),
    keep=KEEP,
)
VIEW, LAYOUT = View(PROJECT, "recent_plays"), layout_of_table(PLAYS)


def declared():
    whole = small.declarations()
    return replace(whole, tables=(*whole.tables, PLAYS))


def rows(*plays):
    """Of (user, minute, play, title[, created minute])."""
    plays = [(*play, play[1])[:5] for play in plays]
    users = np.array([p[0] for p in plays], dtype=np.int64)
    moments = [pa.array([_at(p[i]) for p in plays], pa.timestamp("us", "UTC")) for i in (1, 4)]
    return pa.table({
        "entity_key": entity_keys("user_id", users), "entity_id": pa.array(users),
        "event_timestamp": moments[0], "created_timestamp": moments[1],
        "f:play_id": pa.array([p[2] for p in plays], pa.int64()),
        "f:title_id": pa.array([p[3] for p in plays], pa.int64()),
    })  # fmt: skip


def _at(minute):
    return None if minute is None else small.MONDAY + minute * MINUTE


def push(online, *plays):
    with opened(online / RECORD, 5.0) as connection:
        ensure(connection, VIEW, LAYOUT)
        upsert(connection, VIEW, rows(*plays))


def computed(folder, *plays):
    """A small store materialized as of Monday, with these plays computed."""
    offline = small.write_offline(folder / "offline", small.declarations(), small.MONDAY)
    of_plays = rows(*plays)
    names = {"entity_id": "user_id", "f:play_id": "play_id", "f:title_id": "title_id"}
    renamed = [names.get(name, name) for name in of_plays.column_names]
    pq.write_table(of_plays.rename_columns(renamed).drop_columns("entity_key"), folder / "plays.parquet")
    paths = {**offline, "recent_plays": folder / "plays.parquet"}
    return materialize(declared(), paths, folder / "online", PROJECT, small.catalogue())


@pytest.fixture
def online(tmp_path):
    """Users 10 and 20 have played."""
    computed(tmp_path, (10, -30, 1, 100), (10, -20, 2, 101), (20, -10, 3, 102))
    return tmp_path / "online"


def seen(reader, user_id=10):
    recent = reader.recent(user_id)
    return list(
        zip(
            recent.moments.tolist(),
            *(recent.columns[n].tolist() for n in ("play_id", "title_id")),
            strict=True,
        )
    )


def expected(*plays):
    return [(microseconds(_at(minute)), play, title) for minute, play, title in plays]


def test_a_reader_gives_the_rows_kept_oldest_first(online):
    reader = OnlineReader.open(online)
    assert seen(reader) == expected((-30, 1, 100), (-20, 2, 101))
    assert seen(reader, 20) == expected((-10, 3, 102))
    assert (seen(reader, 30), list(reader.recent(30).columns)) == ([], ["play_id", "title_id"])
    assert reader.moments("recent_plays", np.array([10, 30])).tolist() == [microseconds(_at(-20)), UNKNOWN]


def test_a_pushed_row_is_added_and_beyond_the_limit_the_oldest_goes(online):
    reader = OnlineReader.open(online)
    pinned = reader.pinned()
    push(online, (10, 1, 4, 103))
    reader.refresh()
    assert seen(reader) == expected((-30, 1, 100), (-20, 2, 101), (1, 4, 103))
    push(online, (10, 2, 5, 104), (30, 2, 6, 104))
    reader.refresh()
    assert seen(reader) == expected((-20, 2, 101), (1, 4, 103), (2, 5, 104))
    assert seen(reader, 30) == expected((2, 6, 104))
    assert seen(pinned) == expected((-30, 1, 100), (-20, 2, 101))


def test_a_late_row_takes_its_place_in_time_or_none(online):
    push(online, (10, 1, 4, 103), (10, -25, 7, 104), (10, -40, 8, 104))
    assert seen(OnlineReader.open(online)) == expected((-25, 7, 104), (-20, 2, 101), (1, 4, 103))


def test_equal_rows_are_one_first_heard_of_when_the_earlier_was(online):
    push(online, (10, -20, 2, 101, 5), (10, 1, 4, 103, 9), (10, 1, 4, 103, 7), (10, 1, 4, 103, None))
    recent = OnlineReader.open(online).recent(10)
    assert recent.columns["play_id"].tolist() == [1, 2, 4]
    assert recent.created.tolist() == [microseconds(_at(m)) for m in (-30, -20, 7)]


def test_rows_of_one_moment_and_other_values_are_several(online):
    push(online, (10, 1, 5, 104), (10, 1, 4, 103))
    assert [play for _, play, _ in seen(OnlineReader.open(online))] == [2, 4, 5]


def test_streamed_rows_do_not_move_the_snapshots_moment(online):
    push(online, (10, 600, 9, 104))
    assert publish_record(declared(), online, PROJECT, small.catalogue()).as_of == small.MONDAY
    assert seen(OnlineReader.open(online))[-1:] == expected((600, 9, 104))


def test_kept_rows_do_not_move_it_even_when_they_came_with_the_batch(tmp_path):
    assert computed(tmp_path, (10, 600, 9, 104)).as_of == small.MONDAY


def test_each_row_has_its_own_time_to_live(online):
    """Of seven days, counted back from Monday."""
    week = 7 * 24 * 60
    push(online, (20, -week, 11, 104), (20, -week - 1, 12, 104))
    over = OnlineReader.open(online)
    publish_record(declared(), online, PROJECT, small.catalogue())
    for reader in (over, OnlineReader.open(online)):
        assert seen(reader, 20) == expected((-week, 11, 104), (-10, 3, 102))


def test_a_row_past_its_time_to_live_does_not_bring_back_what_the_snapshot_had(online):
    week = 7 * 24 * 60
    push(online, (40, -week - 1, 12, 104))
    reader = OnlineReader.open(online)
    assert seen(reader, 40) == []


def test_feast_reads_the_newest_of_the_rows_kept(online):
    push(online, (10, 1, 4, 103), (10, 1, 5, 102))
    with opened(online / RECORD, 5.0) as connection:
        found = lookup(connection, VIEW, entity_keys("user_id", np.array([20, 10, 99])).to_pylist())
    assert sorted(zip(found["place"].to_pylist(), found["f:play_id"].to_pylist(), strict=True)) == [
        (0, 3),
        (1, 5),
    ]


def test_keeping_fewer_rows_drops_the_oldest_of_those_held(online):
    push(online, (10, 1, 4, 103))
    with opened(online / RECORD, 5.0) as connection:
        ensure(connection, VIEW, replace(LAYOUT, keep=2))
        held = rows_since(connection, VIEW, small.MONDAY - small.DAY)
    assert held["f:play_id"].to_pylist() == [2, 4, 3]


def test_kept_rows_of_a_kind_that_no_snapshot_holds_are_refused_by_name(tmp_path):
    floats = replace(small.table("recent_scores", USER, small.feature("score")), keep=5)
    whole = small.declarations()
    wrong = replace(whole, tables=(*whole.tables, floats))
    with pytest.raises(NotServable, match="'recent_scores' keeps 5 rows of FLOAT. A snapshot holds"):
        publish_record(wrong, tmp_path, PROJECT, small.catalogue())
    with pytest.raises(ValueError, match="at least one row"):
        Layout((), (), (), keep=0)


one_play = st.tuples(
    st.sampled_from([10, 20]), st.integers(0, 6), st.integers(1, 3), st.just(100), st.integers(0, 9)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(one_play, min_size=1, max_size=5), max_size=4))
def test_what_is_kept_does_not_depend_on_how_or_in_what_order_rows_came(tmp_path_factory, batches):
    """By hand: equal rows merged, ordered by (event, play), the last KEEP of each user."""
    path = tmp_path_factory.mktemp("record") / RECORD
    with opened(path, 5.0) as connection:
        ensure(connection, VIEW, LAYOUT)
    for batch in batches:
        with opened(path, 5.0) as connection:
            upsert(connection, VIEW, rows(*batch))
    with opened(path, 5.0) as connection:
        held = rows_since(connection, VIEW, small.MONDAY).to_pylist()
    first_heard = {}
    for user, minute, play, title, created in (play for batch in batches for play in batch):
        key = (user, minute, play, title)
        first_heard[key] = min(first_heard.get(key, created), created)
    by_hand = []
    for user in (10, 20):
        mine = [(m, p, t, c) for (u, m, p, t), c in first_heard.items() if u == user]
        by_hand += [(user, _at(m), _at(c), p, t) for m, p, t, c in sorted(mine)[-KEEP:]]
    assert [tuple(row.values()) for row in held] == by_hand
