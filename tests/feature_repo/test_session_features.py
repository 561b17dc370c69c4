from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raw_events import NOON

from feature_repo.arithmetic import Ref
from feature_repo.session import (
    NO_PLAYS,
    MinutesSincePlay,
    OfLastTitle,
    Plays,
    PlaysInSession,
    Session,
    evaluate,
    from_data,
    reading_sql,
    sessions_sql,
    to_data,
)

MICROSECOND, MINUTE, DAY = timedelta(microseconds=1), timedelta(minutes=1), timedelta(days=1)
FLAG = Ref("title_profile", "in_drama")
SINCE, ROW, DRAMA = MinutesSincePlay(1440), PlaysInSession(30), OfLastTitle(FLAG, 1440)
READINGS = (SINCE, ROW, DRAMA)
FLAGS = {1: 1.0, 2: 0.0, 3: None}
"""`in_drama` of each title; title 4 has no row."""


@dataclass(frozen=True)
class Play:
    """A play as far as sessions know it; `late` is how long it took us to hear of it."""

    when: datetime
    late: timedelta = timedelta(0)
    title_id: int = 1


def by_hand(plays: list[Play], at: datetime, newest: int = 50) -> list[float]:
    """What the words say, one play at a time; the later of two equal moments is the later in the list."""
    known = [p for p in plays if p.when < at and p.when + p.late < at]
    known = [p for _, p in sorted(enumerate(known), key=lambda pair: (pair[1].when, pair[0]))][-newest:]
    if not known:
        return [np.nan, 0, np.nan]
    last = known[-1]
    today = at - last.when <= DAY
    count, since = 0, at
    for play in reversed(known):
        if since - play.when > 30 * MINUTE:
            break
        count, since = count + 1, play.when
    flag = FLAGS.get(last.title_id)
    return [
        (at - last.when) / MICROSECOND / 60_000_000 if today else np.nan,
        count,
        np.nan if not today or flag is None else flag,
    ]


def micros(moment: datetime) -> int:
    return int((moment - datetime.fromtimestamp(0, tz=moment.tzinfo)) / MICROSECOND)


def by_numpy(plays: list[Play], at: datetime, newest: int = 50) -> np.ndarray:
    def stored(ref: Ref, title_id: int) -> np.float32:
        assert ref == FLAG
        value = FLAGS.get(title_id)
        return np.float32(np.nan if value is None else value)

    columns = (
        [micros(p.when) for p in plays], [micros(p.when + p.late) for p in plays],
        range(len(plays)), [p.title_id for p in plays],
    )  # fmt: skip
    held = Plays(*(np.array(column, dtype=np.int64) for column in columns))
    return evaluate(READINGS, Session.at(micros(at), held, newest), stored)


def by_sql(plays: list[Play], at: datetime, newest: int = 50, others: tuple[Play, ...] = ()) -> np.ndarray:
    """The same for user 1, in one table with what user 2 played."""
    moment = pa.timestamp("us", "UTC")
    rows = [(1, p) for p in plays] + [(2, p) for p in others]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("plays", pa.table({
            "user_id": pa.array([u for u, _ in rows], pa.int64()), "play_id": pa.array(range(len(rows)), pa.int64()),
            "title_id": pa.array([p.title_id for _, p in rows], pa.int64()),
            "event_timestamp": pa.array([p.when for _, p in rows], moment),
            "created_timestamp": pa.array([p.when + p.late for _, p in rows], moment),
        }))  # fmt: skip
        connection.register("moments", pa.table({"user_id": [1], "moment": pa.array([at], moment)}))
        connection.register(
            "flags", pa.table({"title_id": list(FLAGS), "flag": pa.array(FLAGS.values(), pa.float32())})
        )
        columns = ", ".join(f"CAST({reading_sql(r, 's', lambda _: 'f.flag')} AS FLOAT)" for r in READINGS)
        (row,) = connection.sql(f"""
            SELECT {columns} FROM moments m LEFT JOIN ({sessions_sql(READINGS, newest)}) s USING (user_id, moment)
            LEFT JOIN flags f ON f.title_id = s.title_id""").fetchall()
    return np.array([np.nan if value is None else value for value in row], dtype=np.float32)


ages = st.one_of(
    st.integers(-1, 90).map(lambda m: m * MINUTE),
    st.sampled_from([30 * MINUTE, 30 * MINUTE + MICROSECOND, 60 * MINUTE, 60 * MINUTE + MICROSECOND]),
    st.sampled_from([DAY, DAY + MICROSECOND, DAY - MICROSECOND, timedelta(0), MICROSECOND]),
    st.integers(0, 3 * 86_400_000_000).map(lambda us: us * MICROSECOND),
)
lateness = st.one_of(
    st.just(timedelta(0)),
    ages.map(lambda age: max(age, timedelta(0))),
    st.sampled_from([5 * MINUTE, -5 * MINUTE]),
)
watched = st.lists(
    st.builds(
        lambda age, late, title: Play(NOON - age, late, title), ages, lateness, st.sampled_from([1, 2, 3, 4])
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(watched, watched, st.sampled_from([1, 3, 50]))
@example([Play(NOON - 30 * MINUTE)], [], 50)
@example([Play(NOON - DAY)], [], 50)
@example([Play(NOON - MINUTE, title_id=t) for t in (1, 2)], [], 50)
@example([Play(NOON - MINUTE, MINUTE), Play(NOON)], [], 50)
@example([Play(NOON - 29 * k * MINUTE) for k in range(1, 50)], [Play(NOON - MINUTE)], 50)
def test_sql_and_numpy_say_what_counting_by_hand_says_bit_for_bit(plays, others, newest):
    expected = np.array(by_hand(plays, NOON, newest), dtype=np.float32)
    np.testing.assert_array_equal(by_numpy(plays, NOON, newest), expected)
    np.testing.assert_array_equal(by_sql(plays, NOON, newest, tuple(others)), expected)


BOTH = pytest.mark.parametrize("read", [by_numpy, by_sql])


@BOTH
@pytest.mark.parametrize(("age", "minutes", "count", "flag"), [
    pytest.param(MICROSECOND, 1 / 60_000_000, 1, 1, id="a microsecond ago"),
    pytest.param(timedelta(0), np.nan, 0, np.nan, id="at the very moment"),
    pytest.param(-MINUTE, np.nan, 0, np.nan, id="still to come"),
    pytest.param(30 * MINUTE, 30, 1, 1, id="30 minutes ago"),
    pytest.param(30 * MINUTE + MICROSECOND, np.float32(30 + 1 / 60_000_000), 0, 1, id="just over 30 minutes ago"),
    pytest.param(DAY, 1440, 0, 1, id="a day ago"),
    pytest.param(DAY + MICROSECOND, np.nan, 0, np.nan, id="just over a day ago"),
])  # fmt: skip
def test_a_play_counts_strictly_before_the_moment_and_up_to_its_limit(read, age, minutes, count, flag):
    np.testing.assert_array_equal(
        read([Play(NOON - age)], NOON), np.array([minutes, count, flag], dtype=np.float32)
    )


@BOTH
def test_a_play_heard_of_at_the_moment_or_later_was_not_known_then(read):
    plays = [
        Play(NOON - 20 * MINUTE),
        Play(NOON - 5 * MINUTE, 5 * MINUTE, 2),
        Play(NOON - MINUTE, MINUTE * 9, 2),
    ]
    assert read(plays, NOON).tolist() == [20, 1, 1]
    # a microsecond later the first of the two is known
    assert read(plays, NOON + MICROSECOND).tolist()[1:] == [2, 0]


@BOTH
def test_a_play_announced_before_it_happens_counts_only_once_it_has(read):
    plays = [Play(NOON - 20 * MINUTE), Play(NOON, -MINUTE, 2)]
    assert read(plays, NOON).tolist() == [20, 1, 1]
    assert read(plays, NOON + MICROSECOND).tolist()[1:] == [2, 0]


@BOTH
def test_a_session_ends_at_the_first_gap_of_more_than_thirty_minutes(read):
    chain = [Play(NOON - 10 * MINUTE), Play(NOON - 40 * MINUTE), Play(NOON - 70 * MINUTE - MICROSECOND), Play(NOON - 71 * MINUTE)]  # fmt: skip
    assert read(chain, NOON)[1] == 2


@BOTH
def test_no_more_than_the_fifty_newest_plays_make_a_session(read):
    assert read([Play(NOON - k * MINUTE) for k in range(1, 61)], NOON).tolist() == [1, 50, 1]
    # fifty plays 30 minutes apart reach back 25 hours, further than the day of the other features
    assert read([Play(NOON - 30 * k * MINUTE) for k in range(1, 61)], NOON).tolist() == [30, 50, 1]


@BOTH
def test_of_two_plays_at_one_moment_the_one_with_the_greater_id_is_the_last(read):
    both = [Play(NOON - MINUTE, title_id=1), Play(NOON - MINUTE, title_id=2)]
    assert read(both, NOON).tolist() == [1, 2, 0]
    assert read(both[::-1], NOON).tolist() == [1, 2, 1]


@BOTH
def test_a_user_without_plays_has_no_last_one_and_none_in_session(read):
    np.testing.assert_array_equal(read([], NOON), np.array([np.nan, 0, np.nan], dtype=np.float32))


def test_a_moment_without_a_known_play_has_no_row_to_join():
    assert Session.at(0, NO_PLAYS, 50).last_title is None


def test_a_reading_survives_as_data_and_other_data_is_refused():
    assert [from_data(to_data(reading)) for reading in READINGS] == list(READINGS)
    with pytest.raises(ValueError, match="no reading of a session"):
        from_data(["plays_in_session", "30"])
