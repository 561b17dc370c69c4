"""The audience lives the history and goes on after it: same members, same rules, other pages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.audience import Audience, memberships_on, react, room, turns, visits_on, who_comes
from events.history import audience_after, ever_known, news_on, told
from events.traces import Pages
from events.world import World, WorldConfig
from events.world_config import DAY, MINUTE, micros

CONFIG = WorldConfig.tiny(days=4, later_days=6)


@pytest.fixture(scope="module")
def lively():
    return World(CONFIG)


@pytest.fixture(scope="module")
def after(lively):
    return audience_after(lively)


def digest_of(world: World) -> str:
    sha = hashlib.sha256()
    for day in world.simulate():
        for name in sorted(day.tables):
            for column in day.tables[name].column_names:
                values = day.tables[name][column]
                sha.update(f"{name}.{column}:{values.type}".encode() + repr(values.to_pylist()).encode())
    return sha.hexdigest()


@pytest.mark.parametrize(("config", "digest"), [
    (WorldConfig.tiny(), "17bafdb2130fd2741f8e224e0d87e986145dba978ed3c2bffbfc4c420a8db817"),
    (WorldConfig.tiny(seed=3, days=5, n_members=300, membership_days=2),
     "b86b46146a7a34e1d40aeba2c74ba5e72876691381373d24b4684cc9ee9e44a9"),
])  # fmt: skip
def test_the_history_is_bit_for_bit_what_it_was_before_the_audience_was_taken_out_of_it(config, digest):
    """The digests were taken from the code as it was before `events/audience.py`, hovers rounded to milliseconds."""
    assert digest_of(World(config)) == digest


def test_a_history_is_the_same_on_a_processor_with_fewer_vector_instructions():
    """NumPy's exp and its like differ in the last bit between AVX-512 and what came before it."""
    vectors = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not vectors:
        pytest.skip("numpy found no vector instructions on this processor that can be switched off")
    told = "import test_events_audience as t; print(t.digest_of(t.World(t.WorldConfig.tiny(days=3))))"
    plain = {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": " ".join(vectors),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    answer = subprocess.run(
        [sys.executable, "-c", told], env=plain, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == digest_of(World(WorldConfig.tiny(days=3)))


def page_of(world: World, sessions: int, seed: int = 0, size: int = 12) -> Pages:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice(len(world.catalogue), size, replace=False) for _ in range(sessions)])
    return Pages.numbered(rows + 1, world.catalogue.artwork_start[rows] + 1)


def live_a_day(world: World, audience: Audience, begins: int, seed: int = 0):
    memberships, audience = memberships_on(world, audience, begins)
    visits = visits_on(world, audience, begins)
    rng = np.random.default_rng(seed)
    responses, audience = react(world, audience, visits, page_of(world, len(visits.at)), rng)
    return memberships, visits, responses, audience


def state_of(audience: Audience) -> list[bytes]:
    parts = [getattr(audience.subscriptions, name) for name in audience.subscriptions.__dataclass_fields__]
    return [part.tobytes() for part in (*parts, audience.watched)]


def test_an_audience_repeats_from_its_seed(lively, after):
    first, second = (live_a_day(lively, after, micros(CONFIG.end)) for _ in range(2))
    assert first[0].equals(second[0])
    assert first[2].plays.equals(second[2].plays)
    assert state_of(first[3]) == state_of(second[3])


def test_a_day_that_is_lived_leaves_the_audience_it_began_with_as_it_was(lively, after):
    before = state_of(after)
    live_a_day(lively, after, micros(CONFIG.end))
    assert state_of(after) == before


def test_the_audience_after_the_history_is_that_of_its_last_day(lively, after):
    *_, (_, last) = told(lively)
    assert state_of(last) == state_of(after)


def test_nobody_comes_outside_a_running_membership(lively, after):
    begins, audience = micros(CONFIG.end), after
    for number in range(5):
        _, visits, _, audience = live_a_day(lively, audience, begins + number * DAY, number)
        s = audience.subscriptions
        inside = s.running[visits.member] | (visits.at < s.period_end[visits.member])
        assert inside.all()
        assert ((visits.at >= begins + number * DAY) & (visits.at < begins + (number + 1) * DAY)).all()
        assert (np.diff(visits.at) >= 0).all()


def test_memberships_after_the_history_go_on_from_its_periods(lively, after):
    begins = micros(CONFIG.end)
    due = after.subscriptions.running & (after.subscriptions.period_end < begins + DAY)
    events, following = memberships_on(lively, after, begins)
    decided = {
        user for user, status in zip(events["user_id"].to_pylist(), events["status"].to_pylist(), strict=True) if status != "started"
    }  # fmt: skip
    assert decided == set((np.flatnonzero(due) + 1).tolist())
    assert (following.subscriptions.visits[due] == 0).all()


def test_who_is_satisfied_comes_more_often(lively, after):
    content, sad = after.copied(), after.copied()
    content.subscriptions.mood[:] = 0.9
    sad.subscriptions.mood[:] = 0.1

    def sessions(audience):
        rngs = (np.random.default_rng(seed) for seed in range(20))
        return sum(
            len(who_comes(CONFIG, lively.members, audience.subscriptions, micros(CONFIG.end), rng)[0])
            for rng in rngs
        )

    # the rate is multiplied by exp(0.6 · mood): e^(0.6 · 0.8) = 1.62 times as many
    assert sessions(content) / sessions(sad) == pytest.approx(np.exp(0.6 * 0.8), rel=0.1)


def test_a_title_watched_to_the_end_is_remembered(lively, after):
    _, _, responses, following = live_a_day(lively, after, micros(CONFIG.end))
    finished = {
        (user - 1, title - 1)
        for user, title, share in zip(*(responses.plays[c].to_pylist() for c in ("user_id", "title_id", "watch_share")), strict=True)
        if share >= 0.9
    }  # fmt: skip
    new = following.watched & ~after.watched
    assert set(zip(*(rows.tolist() for rows in np.nonzero(new)), strict=True)) <= finished
    assert all(following.watched[member, title] for member, title in finished)


def test_titles_and_members_still_arrive_in_the_days_after_the_history(lively):
    known, end = ever_known(lively), micros(CONFIG.end)
    later = [news_on(known, end + number * DAY) for number in range(CONFIG.later_days)]
    assert sum(tables["titles"].num_rows for tables in later) > 10
    assert sum(tables["users"].num_rows for tables in later) > 5
    of_history = [day.tables["titles"]["title_id"].to_pylist() for day in lively.simulate()]
    arrived = {title for ids in of_history for title in ids}
    assert not arrived & {t for tables in later for t in tables["titles"]["title_id"].to_pylist()}


def test_turns_count_a_members_sessions_of_the_day():
    member = np.array([3, 1, 3, 3, 1, 2])
    by_hand = [sum(member[:place] == who) for place, who in enumerate(member)]
    assert turns(member).tolist() == by_hand


def test_no_further_arrivals_are_drawn_where_none_are_asked_for():
    assert WorldConfig.tiny().arriving_days == WorldConfig.tiny().days
    assert WorldConfig.tiny(later_days=3).end - WorldConfig.tiny().end == timedelta(0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, DAY - 1)), min_size=1, max_size=40))
def test_a_members_sessions_follow_one_another_and_have_a_day_between_them(sessions):
    member, at = (np.array(column, np.int64) for column in zip(*sessions, strict=True))
    rooms = room(member, at)
    assert (rooms >= 0).all()
    for who in np.unique(member):
        mine = member == who
        assert rooms[mine].sum() == pytest.approx(DAY / MINUTE)
        for start, minutes in zip(at[mine], rooms[mine], strict=True):
            later = at[mine][at[mine] > start]
            assert not len(later) or start + minutes * MINUTE <= later.min() + 1


def test_sessions_of_a_day_know_their_room(lively, after):
    visits = visits_on(lively, after, micros(CONFIG.end))
    np.testing.assert_array_equal(visits.room, room(visits.member, visits.at))
    second = visits.of_turn(1)
    np.testing.assert_array_equal(second.room, visits.room[visits.turn == 1])


def test_who_has_no_room_only_samples(lively, after):
    """A title that the evening has no time for is sampled, for four minutes at most."""
    visits = visits_on(lively, after, micros(CONFIG.end))
    pages = page_of(lively, len(visits.at))
    longest = [
        max(
            react(lively, after, coming, pages, np.random.default_rng(0))[0]
            .plays["watch_minutes"]
            .to_pylist()
        )
        for coming in (visits, replace(visits, room=np.zeros(len(visits.at))))
    ]
    assert longest[0] > 60
    assert longest[1] <= 4
