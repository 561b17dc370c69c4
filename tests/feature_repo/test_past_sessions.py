from __future__ import annotations

import random
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from raw_events import GENRES, NOON, SECOND, Play, days, play, register

from events.sources import WORLD
from feature_repo.compute import offline_path, plan, run
from feature_repo.declarations import FeatureService
from feature_repo.families import declare
from feature_repo.training_set import NoEvents, snapshot_matrix, training_set

DECLARED = declare(WORLD)
SESSIONS = DECLARED.table("user_session")
SERVICE = FeatureService("sessions", (SESSIONS,), "only what the user has just been watching")
AS_OFS = [NOON - days(1), NOON]
MINUTE = timedelta(minutes=1)


def some_plays(seed: int) -> list[Play]:
    """Bouts of plays in the two days after the first snapshot, some heard of late, of titles new and old."""
    chance = random.Random(seed)
    found = []
    for _ in range(12):
        start, user = NOON - days(1) + chance.random() * days(2), chance.choice([1, 2])
        for _ in range(chance.choice([1, 3, 8])):
            start += chance.choice([MINUTE, 29 * MINUTE, 30 * MINUTE, 31 * MINUTE])
            late = chance.choice([0, 0, 5, 45]) * MINUTE
            found.append(play(start, start + late, user_id=user, title_id=chance.choice([*GENRES, 99])))
    return found


def spine(labels: list[tuple[int, datetime]]) -> pa.Table:
    return pa.table({
        "user_id": pa.array([user for user, _ in labels], pa.int64()), "title_id": pa.array([10] * len(labels), pa.int64()),
        "event_timestamp": pa.array([moment for _, moment in labels], pa.timestamp("us", tz="UTC")),
    })  # fmt: skip


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    steps = plan(DECLARED, AS_OFS, lambda _: "events", folder, ["title_profile"])
    run(steps, "world", lambda connection: register(connection, []), threads=1)
    return folder


def sessions_of(plays, labels, offline, service=SERVICE):
    return training_set(spine(labels), service, DECLARED, offline, AS_OFS,
                        events=lambda connection: register(connection, plays), threads=1)  # fmt: skip


def by_hand(plays: list[Play], user: int, at: datetime, offline) -> list[float]:
    """The table's features, one play at a time; `raw_events` numbers plays in the order of the list."""
    known = [(p.at, i, p) for i, p in enumerate(plays) if p.user_id == user and p.at < at and p.learned < at]
    known = sorted(known, key=lambda one: one[:2])[-50:]
    count, since = 0, at
    for happened, _, _ in reversed(known):
        if since - happened > 30 * MINUTE:
            break
        count, since = count + 1, happened
    if not known or at - known[-1][0] > days(1):
        return [np.nan, count] + [np.nan] * len(WORLD.genres)
    happened, _, last = known[-1]
    table = DECLARED.table("title_profile")
    ids, values = snapshot_matrix(offline_path(offline, table.name, max(m for m in AS_OFS if m <= at)), table)
    names = [f"in_{f.name.removeprefix('last_genre_')}" for f in SESSIONS.features[2:]]
    flags = [values[list(ids).index(last.title_id), table.names.index(name)] if last.title_id in ids else np.nan for name in names]  # fmt: skip
    return [(at - happened) / MINUTE, count, *flags]


@pytest.mark.parametrize("seed", range(4))
def test_each_label_has_the_session_of_its_own_moment(offline, seed):
    plays = some_plays(seed)
    chance = random.Random(-seed)
    moments = [chance.choice([p.at, p.learned, p.at + 30 * MINUTE, p.at + days(1)]) for p in plays]
    labels = [(p.user_id, moment + chance.choice([0, 0, 1]) * SECOND / 1_000_000) for p, moment in zip(plays, moments, strict=True)]  # fmt: skip
    made = sessions_of(plays, labels, offline)
    expected = np.array([by_hand(plays, user, at, offline) for user, at in labels], dtype=np.float32)
    np.testing.assert_array_equal(made.features, expected)
    assert made.names == tuple(f"user_session:{name}" for name in SESSIONS.names)


def test_the_play_that_a_label_is_of_and_all_later_ones_are_not_in_its_session(offline):
    before = play(NOON - 10 * MINUTE, title_id=11)
    label = [(1, NOON)]
    alone = sessions_of([before], label, offline).features
    canaries = [
        play(NOON, title_id=10), play(NOON + SECOND, title_id=10), play(NOON - MINUTE, NOON, title_id=10),
        play(NOON - MINUTE, NOON + MINUTE, title_id=10), play(NOON - MINUTE, user_id=2, title_id=10),
    ]  # fmt: skip
    np.testing.assert_array_equal(sessions_of([before, *canaries], label, offline).features, alone)
    assert alone[0, :2].tolist() == [10, 1]


def test_sessions_stand_in_their_place_among_the_other_features(offline):
    titles = DECLARED.table("title_profile")
    service = FeatureService("both", (SESSIONS, titles), "sessions and titles")
    made = sessions_of([play(NOON - MINUTE)], [(1, NOON)], offline, service)
    assert made.features[0, made.names.index("user_session:minutes_since_last_play")] == 1
    ids, values = snapshot_matrix(offline_path(offline, titles.name, NOON), titles)
    np.testing.assert_array_equal(made.features[0, len(SESSIONS.names) :], values[list(ids).index(10)])


def test_the_digest_covers_the_sessions(offline):
    label = [(1, NOON)]
    first, again, other, irrelevant = (
        sessions_of(plays, label, offline).digest
        for plays in ([play(NOON - MINUTE)], [play(NOON - MINUTE)], [play(NOON - 2 * MINUTE)], [play(NOON - MINUTE), play(NOON)])
    )  # fmt: skip
    assert first == again == irrelevant
    assert other != first


def test_without_events_sessions_are_refused(offline):
    with pytest.raises(NoEvents, match="pass events=lake.register"):
        training_set(spine([(1, NOON)]), SERVICE, DECLARED, offline, AS_OFS)


def test_a_label_without_any_play_has_no_minutes_and_none_in_session(offline):
    made = sessions_of([], [(1, NOON)], offline)
    assert made.features[0, 1] == 0
    assert np.isnan(np.delete(made.features[0], 1)).all()
