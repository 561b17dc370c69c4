from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_events import GENRES, NOON, SECOND, Play, by_hand, days, play, register, rows

from events.sources import WORLD
from feature_repo.compile import compile_table
from feature_repo.families import declare
from feature_repo.known import NaiveTime, known_at

DECLARED = declare(WORLD)
SQL = {table.name: compile_table(table, WORLD) for table in DECLARED.stored}


def snapshot(warehouse, plays, as_of=NOON, entity="user", **others):
    """Entity id → its features, from all the tables of that entity that hold one row of it."""
    register(warehouse, plays, **others)
    known_at(warehouse, WORLD, as_of)
    found: dict[int, dict[str, object]] = {}
    for table in DECLARED.stored:
        if table.entity.name == entity and table.keep == 1:
            for row in warehouse.sql(SQL[table.name]).to_arrow_table().to_pylist():
                found.setdefault(row[table.entity.join_key], {}).update(row)
    return found


@pytest.mark.parametrize(("happened", "counted"), [
    pytest.param(NOON - SECOND,           True,  id="just before as_of"),
    pytest.param(NOON,                    False, id="exactly at as_of"),
    pytest.param(NOON - days(7),          True,  id="at the far edge"),
    pytest.param(NOON - days(7) - SECOND, False, id="just past the far edge"),
])  # fmt: skip
def test_a_seven_day_window_includes_its_start_and_not_its_end(warehouse, happened, counted):
    on_time = play(happened, learned=NOON - days(30))  # so that only the window decides
    assert snapshot(warehouse, [on_time])[1]["play_count_7d"] == int(counted)


@pytest.mark.parametrize(("learned", "counted"), [
    pytest.param(NOON - SECOND, True, id="heard of just before as_of"),
    pytest.param(NOON, False, id="heard of at as_of"),
    pytest.param(NOON + days(1), False, id="heard of a day late"),
])  # fmt: skip
def test_an_event_counts_only_once_it_was_known(warehouse, learned, counted):
    late = play(NOON - days(2), learned=learned)
    table = snapshot(warehouse, [late])
    assert table[1]["play_count_7d"] == int(counted)
    assert snapshot(warehouse, [late], entity="title")[10]["play_count_7d"] == int(counted)


def test_the_far_edge_is_kept_to_the_microsecond(warehouse):
    edge = NOON - days(7)
    inside = play(edge, learned=NOON - days(30))
    outside = play(edge.replace(microsecond=0) - SECOND / 1_000_000, learned=NOON - days(30))
    assert snapshot(warehouse, [inside, outside])[1]["play_count_7d"] == 1


def test_the_same_moment_in_another_time_zone_gives_the_same_features(warehouse):
    plays = [play(NOON - days(d)) for d in (0.1, 1, 5, 13)]
    tokyo = NOON.astimezone(ZoneInfo("Asia/Tokyo"))
    assert snapshot(warehouse, plays, as_of=tokyo) == snapshot(warehouse, plays, as_of=NOON)


def test_an_as_of_without_a_time_zone_is_refused(warehouse):
    register(warehouse, [])
    with pytest.raises(NaiveTime, match="Write it in UTC"):
        known_at(warehouse, WORLD, datetime(2026, 1, 20))


moments = st.one_of(
    st.integers(1, 20 * 86_400).map(lambda s: NOON - s * SECOND),
    st.sampled_from([NOON - days(n) for n in (0, 1, 3, 7, 14, 28)]),  # the edges
)
plays_strategy = st.lists(
    st.builds(
        lambda at, late, user, title, minutes, share, done: Play(at, at + late * SECOND, user, title, minutes, share, done),
        moments, st.sampled_from([0, 60, 86_400]), st.sampled_from([1, 2]), st.sampled_from(list(GENRES)),
        st.none() | st.integers(0, 200_000).map(lambda n: n / 1024), st.none() | st.integers(0, 1024).map(lambda n: n / 1024),
        st.sampled_from([None, True, False]),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plays=plays_strategy)
def test_compiled_sql_agrees_with_counting_by_hand(warehouse, plays):
    table = snapshot(warehouse, plays)
    for n in WORLD.windows:
        for user, expected in by_hand(plays, NOON, n).items():
            for name, value in expected.items():
                assert table[user][name] == (
                    None if value is None else pytest.approx(value, rel=1e-6, abs=1e-6)
                ), name


def test_no_feature_changes_when_the_future_does(warehouse):
    past = [play(NOON - days(d), title_id=t) for d, t in ((0.5, 10), (3, 11), (9, 12))]
    future = [
        play(NOON + days(d), user_id=u, title_id=10, watch_minutes=999.0) for d in (0, 0.1, 5) for u in (1, 2)
    ]
    for table in SQL:
        assert snapshot(warehouse, past + future, table=table) == snapshot(warehouse, past, table=table), (
            table
        )


def test_nothing_counted_is_zero_and_a_share_of_nothing_is_unknown(warehouse):
    nobody = snapshot(warehouse, [])[2]
    assert nobody["play_count_28d"] == 0
    assert nobody["completed_share_28d"] is None
    assert nobody["play_per_impression_28d"] is None


def test_the_order_of_rows_cannot_change_a_feature(warehouse):
    plays = [
        play(NOON - days(0.01 * i), watch_minutes=0.1 * i, watch_share=(i % 7) / 7) for i in range(1, 200)
    ]
    assert snapshot(warehouse, plays) == snapshot(warehouse, plays[::-1])


def test_a_title_is_not_in_the_catalogue_before_it_is_available(warehouse):
    when = {"event_timestamp": NOON - days(3), "created_timestamp": NOON - days(3)}
    titles = rows(
        "titles",
        {"title_id": 20, "name": "now", "available_from": NOON - SECOND, **when},
        {"title_id": 21, "name": "soon", "available_from": NOON, **when},
    )
    assert set(snapshot(warehouse, [], entity="title", titles=titles)) == {20}


def recent_plays(warehouse, plays, as_of=NOON):
    """(user, when it happened, when it became known, play, title) of every play kept, in order."""
    register(warehouse, plays)
    known_at(warehouse, WORLD, as_of)
    return warehouse.sql(SQL["recent_plays"]).fetchall()


def test_plays_are_kept_at_their_own_time_oldest_first_and_ties_in_the_order_of_their_ids(warehouse):
    tie, late = NOON - days(1), play(NOON - days(40), NOON - SECOND, title_id=11)
    plays = [play(tie, title_id=12), play(tie, title_id=11), play(NOON - days(2), title_id=10), late]
    assert recent_plays(warehouse, plays) == [
        (1, late.at, late.learned, 3, 11), (1, NOON - days(2), NOON - days(2), 2, 10), (1, tie, tie, 0, 12), (1, tie, tie, 1, 11),
    ]  # fmt: skip


def test_a_play_not_known_by_then_is_not_kept(warehouse):
    plays = [play(NOON - days(1), NOON), play(NOON), play(NOON - SECOND, user_id=2)]
    assert [(user, play_id) for user, _, _, play_id, _ in recent_plays(warehouse, plays)] == [(2, 2)]


def test_of_each_user_the_fifty_newest_plays_are_kept(warehouse):
    plays = [play(NOON - k * SECOND, user_id=1 + k % 2) for k in range(1, 121)]
    kept = recent_plays(warehouse, plays)
    assert [at for user, at, *_ in kept if user == 2] == [NOON - k * SECOND for k in range(99, 0, -2)]
    assert len(kept) == 100


def test_the_co_watch_sketch_estimates_shared_viewers():
    """⟨a, b⟩/K has mean |A∩B|/(|A||B|) over random signs (Alon, Matias & Szegedy 1996); here with 400 columns."""
    from feature_repo.known import _sign

    viewers = {"a": range(1, 40), "b": range(20, 60), "c": range(100, 140)}
    with duckdb.connect() as connection:

        def sketch(users):
            columns = ", ".join(f"avg({_sign(i)})" for i in range(400))
            ids = ", ".join(f"({u})" for u in users)
            return connection.sql(f"SELECT {columns} FROM (VALUES {ids}) t(user_id)").fetchall()[0]

        a, b, c = (sketch(v) for v in viewers.values())
    overlap = sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / 400
    apart = sum(float(x) * float(y) for x, y in zip(a, c, strict=True)) / 400
    shared = len(set(viewers["a"]) & set(viewers["b"])) / (39 * 40)
    noise = 3 * (1 / (39 * 40) / 400) ** 0.5
    assert overlap == pytest.approx(shared, abs=noise)
    assert apart == pytest.approx(0, abs=noise)
