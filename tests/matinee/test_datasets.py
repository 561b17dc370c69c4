from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from events.lake import Lake
from events.schema import TABLES
from events.sources import MOVIELENS, WORLD
from feature_repo.families import declare
from matinee.datasets import CANDIDATES, FirstPlays, choice_pairs, first_plays, ranking_spine
from matinee.desk import Desk
from matinee.periods import Period, split
from models.data import Candidates, Histories, RetrievalPeriod

AS_OF = datetime(2026, 2, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def batch(table: str, *records: dict[str, object]) -> pa.Table:
    kinds = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "VARCHAR": pa.string(), "BOOLEAN": pa.bool_(),
             "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"), "VARCHAR[]": pa.list_(pa.string())}  # fmt: skip
    schema = pa.schema([(c.name, kinds[c.dtype.value]) for c in TABLES[table].columns])
    return pa.Table.from_pylist([{n: r.get(n) for n in schema.names} for r in records], schema=schema)


def at(moment: datetime, later: timedelta = timedelta(0), **row: object) -> dict[str, object]:
    return {**row, "event_timestamp": moment, "created_timestamp": moment + later}


@pytest.fixture
def desk(tmp_path):
    def made(source=WORLD, **tables: list[dict[str, object]]) -> Desk:
        lake = Lake(tmp_path / "events", tmp_path / "quarantine")
        for name, records in tables.items():
            ingest = lake.append(name, batch(name, *records), received_at=AS_OF + timedelta(days=365))
            assert not ingest.quarantined, ingest.reasons
        return Desk(source, lake, tmp_path / "offline", declare(source), threads=1)

    return made


def impression(i: int, moment: datetime, user: int = 1) -> dict[str, object]:
    return at(moment, impression_id=i, user_id=user, title_id=10 + i, position=float(i), surface="home")


def spine(desk: Desk):
    made = split(desk.source, AS_OF)
    return ranking_spine(desk, made, [*made.train, made.valid, made.test], rows=1000, seed=0).to_pylist()


def test_an_impression_is_a_play_when_it_led_to_one_and_carries_how_much_was_watched(desk):
    when = AS_OF - timedelta(days=2)
    rows = spine(desk(
        impressions=[impression(1, when), impression(2, when)],
        plays=[at(when + HOUR, play_id=1, impression_id=2, user_id=1, title_id=12, watch_share=0.25)],
    ))  # fmt: skip
    assert [(r["title_id"], r["play"], r["completion"]) for r in rows] == [(11, 0.0, None), (12, 1.0, 0.25)]
    assert [r["position"] for r in rows] == [1.0, 2.0]


def test_a_play_heard_of_only_after_as_of_is_no_label(desk):
    when = AS_OF - timedelta(days=2)
    late = at(
        when + HOUR, timedelta(days=3), play_id=1, impression_id=1, user_id=1, title_id=11, watch_share=0.9
    )
    (row,) = spine(desk(impressions=[impression(1, when)], plays=[late]))
    assert (row["play"], row["completion"]) == (0.0, None)


@pytest.mark.parametrize(("decided", "status", "label"), [
    pytest.param(timedelta(days=1), "renewed", 1.0, id="renewed within seven periods"),
    pytest.param(timedelta(days=1), "cancelled", 0.0, id="cancelled within seven periods"),
    pytest.param(timedelta(days=8), "renewed", None, id="decided too late to count"),
    pytest.param(-timedelta(days=1), "renewed", None, id="decided before it was shown"),
])  # fmt: skip
def test_retention_is_the_first_decision_on_the_membership_after_the_impression(desk, decided, status, label):
    when = AS_OF - timedelta(days=8)
    decision = at(when + decided, membership_id=1, user_id=1, status=status)
    made = split(WORLD, AS_OF)
    (row,) = spine(desk(impressions=[impression(1, max(when, made.train[0].start))], memberships=[decision]))
    assert row["retention"] == label


@pytest.mark.parametrize(("decided", "later"), [
    pytest.param(AS_OF + HOUR, timedelta(0), id="not yet taken"),
    pytest.param(AS_OF - HOUR, 2 * HOUR, id="taken, and heard of too late"),
])  # fmt: skip
def test_a_decision_not_known_by_as_of_leaves_retention_unknown(desk, decided, later):
    when = AS_OF - timedelta(days=2)
    decision = at(decided, later, membership_id=1, user_id=1, status="renewed")
    (row,) = spine(desk(impressions=[impression(1, when)], memberships=[decision]))
    assert row["retention"] is None


def test_without_impressions_a_play_stands_beside_candidates_the_user_never_played(desk):
    made = split(MOVIELENS, AS_OF)
    within = made.test.start + timedelta(days=9)
    mine = [at(within + i * HOUR, play_id=200 + i, user_id=1, title_id=100 + i, rating=5.0) for i in range(3)]
    offered = [(1, title, made.test) for title in range(100, 107)] + [
        (1, 500, made.valid),
        (2, 600, made.test),
    ]
    candidates = pa.table(
        [[u for u, _, _ in offered], [t for _, t, _ in offered], [p.start for *_, p in offered], [p.end for *_, p in offered]],
        schema=CANDIDATES,
    )  # fmt: skip
    rows = ranking_spine(desk(MOVIELENS, plays=mine), made, [made.test], 1000, 0, candidates).to_pylist()
    assert sorted(r["title_id"] for r in rows if r["play"] == 1) == [100, 101, 102]
    negatives = [(r["event_timestamp"], r["title_id"]) for r in rows if r["play"] == 0]
    # offered in this period to this user, and never played: 103 to 106 beside each of the three plays
    assert sorted(negatives) == sorted((within + i * HOUR, t) for i in range(3) for t in range(103, 107))


def test_rows_are_chosen_by_a_hash_so_the_same_ones_every_time(desk):
    made = split(WORLD, AS_OF)
    shown = [impression(i, made.test.start + i * timedelta(seconds=30)) for i in range(2000)]
    where = desk(impressions=shown)
    first, again = (ranking_spine(where, made, [made.test], 500, 0)["title_id"].to_pylist() for _ in range(2))
    other = ranking_spine(where, made, [made.test], 500, 1)["title_id"].to_pylist()
    assert first == again != other
    # 2000 rows kept with probability 1/4: within five standard deviations of 500
    assert abs(len(first) - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)


DAY = Period(AS_OF - timedelta(days=2), AS_OF - timedelta(days=1))


def period(watched=((), ()), played=(), titles=range(100, 140)) -> RetrievalPeriod:
    """Users 1 and 2 with what they watched before; `played` are (user's row, title id)."""
    ids = np.array(titles, dtype=np.int64)
    user, title = np.array(played, dtype=np.int64).reshape(-1, 2).T
    blank = np.zeros((2, 0), np.float32)
    return RetrievalPeriod(
        DAY.start, np.array([1, 2]), blank, Histories.of_lists(watched), ids, np.zeros((len(ids), 0), np.float32),
        user, np.searchsorted(ids, title),
    )  # fmt: skip


def play(
    number: int, user: int, title: int, after: timedelta, later: timedelta = timedelta(0)
) -> dict[str, object]:
    return at(DAY.start + after, later, play_id=number, user_id=user, title_id=title)


def test_a_first_play_is_within_the_period_of_a_title_that_was_there_and_unwatched(desk):
    made = desk(plays=[
        play(1, 1, 100, HOUR), play(2, 1, 100, 2 * HOUR),  # the second is no first play
        play(3, 1, 101, HOUR),  # watched before
        play(4, 1, 999, HOUR),  # not in the catalogue
        play(5, 1, 102, timedelta(0)), play(6, 1, 103, timedelta(days=1)),  # its start counts, its end does not
        play(7, 2, 104, HOUR, later=timedelta(days=3)),  # heard of after `as_of`
    ])  # fmt: skip
    found = first_plays(made, DAY, period(watched=((101,), ())), AS_OF, count=10, seed=0)
    start = int(DAY.start.timestamp() * 1e6)
    assert found.user.tolist() == [0, 0]
    assert found.title_id.tolist() == [102, 100]
    assert found.moment.tolist() == [start, start + 3_600_000_000]


def test_of_many_plays_every_user_has_one_before_any_has_two(desk):
    made = desk(plays=[
        *(play(number, 1, 100 + number, number * HOUR) for number in range(6)), play(9, 2, 130, HOUR),
    ])  # fmt: skip
    for seed in range(4):
        found = first_plays(made, DAY, period(), AS_OF, count=2, seed=seed)
        assert sorted(found.user.tolist()) == [0, 1]
    again = [first_plays(made, DAY, period(), AS_OF, count=3, seed=1).title_id.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_beside_a_play_stand_candidates_and_others_none_of_them_played_or_watched():
    data = period(watched=((101,), ()), played=[(0, 100), (0, 105), (1, 106)])
    candidates = Candidates(np.arange(102, 112), np.arange(10, 0, -1).astype(np.float32))
    plays = FirstPlays(np.array([0]), np.array([100]), np.array([7]))
    pairs = choice_pairs(plays, data, [candidates], (4, 5), np.random.default_rng(0))
    titles = pairs.title_id[0]
    assert titles[0] == 100
    assert set(titles[1:5]) <= set(range(102, 112)) - {105}
    assert set(titles[5:]) <= set(range(112, 140))
    assert (pairs.user_id == 1).all()
    assert (pairs.moment == 7).all()
    # of 9 candidates not played 4 stand there, of the 28 others (40 less 10 candidates, one watched, one played) 5
    np.testing.assert_allclose(np.exp(pairs.log_inclusion[0]), [1, *[4 / 9] * 4, *[5 / 28] * 5], rtol=1e-6)
    assert np.isnan(pairs.retrieval[0]).tolist() == [True, *[False] * 4, *[True] * 5]
    assert pairs.retrieval[0, 1:5].tolist() == [
        112 - title for title in titles[1:5]
    ]  # the scores given above


def test_a_list_with_too_few_titles_ends_early():
    data = period(played=[(1, 103)])
    candidates = Candidates(np.array([104, 103]), np.array([2.0, 1.0], np.float32))
    plays = FirstPlays(np.array([1]), np.array([103]), np.array([7]))
    pairs = choice_pairs(plays, data, [candidates], (3, 0), np.random.default_rng(0))
    assert pairs.title_id.tolist() == [[103, 104, -1, -1]]
    assert pairs.log_inclusion.tolist() == [[0, 0, np.inf, np.inf]]
    assert pairs.retrieval[0, :2].tolist() == [1.0, 2.0]
    assert np.isnan(pairs.retrieval[0, 2:]).all()
