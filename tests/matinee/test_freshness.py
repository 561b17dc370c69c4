"""How fresh what is served is: ages against promises, coverage, deltas and the gate."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta

import pytest

from events.sources import SOURCES
from feature_repo.families import declare
from feature_repo.freshness import Freshness
from feature_repo.snapshot import microseconds
from matinee.freshness import status_of
from matinee.pushing import push_plays
from matinee.session import opened

DAY = datetime.fromisoformat("2026-01-15T00:00:00+00:00")


@pytest.mark.parametrize(
    ("age", "breached"),
    [
        (timedelta(0), False),
        (timedelta(hours=30), False),
        (timedelta(hours=30, microseconds=1), True),
        (timedelta(hours=-5), False),
    ],
)
def test_a_table_is_fresh_for_as_long_as_promised_and_not_a_microsecond_longer(age, breached):
    table = Freshness("user_profile", microseconds(DAY), 30)
    assert table.breached(DAY + age) == breached
    assert table.age_hours(DAY + age) == pytest.approx(age.total_seconds() / 3600)


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_every_table_promises_to_be_fresh_until_the_next_snapshot_of_its_source(source):
    for table in declare(source).stored:
        hours = source.period / timedelta(hours=1)
        assert table.slo_hours > hours
        assert table.slo_hours <= 1.25 * hours


@pytest.fixture
def own_day(a_day, environment, tmp_path, monkeypatch):
    """A copy of the day's workspace, whose events may change."""
    shutil.copytree(a_day, tmp_path / "copy" / "world")
    for name in ("MATINEE_WORLD", "MATINEE_THREADS"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("MATINEE_WORKSPACES", str(tmp_path / "copy"))
    with opened("world") as day:
        yield day


@pytest.mark.slow
def test_status_says_how_old_and_how_complete_each_table_is(opened_day):
    at = opened_day.as_of + timedelta(hours=30)
    status = status_of(opened_day, at)
    tables = {table.table: table for table in status.tables}
    assert set(tables) == {table.name for table in opened_day.workspace.declarations.stored}
    assert (status.as_of, status.source, status.writes, status.fault) == (opened_day.as_of, "world", 0, "")
    computed = [table for table in status.tables if table.table != "recent_plays"]
    assert {(table.age_hours, table.breached, table.gate) for table in computed} == {(30.0, False, True)}
    assert {table.coverage for table in computed} == {1.0}
    with opened_day.desk.events() as connection:  # with those that became known after the day's as_of
        (plays,) = connection.sql(
            "SELECT count(DISTINCT user_id), max(event_timestamp) FROM plays"
        ).fetchall()
    kept = tables["recent_plays"]
    assert (kept.entities, kept.newest_row, kept.newest) == (plays[0], plays[1], plays[1])
    assert kept.age_hours == pytest.approx((at - kept.newest) / timedelta(hours=1), abs=1e-3)
    later = status_of(opened_day, at + timedelta(microseconds=1))
    assert set(later.breached) == {table.table for table in computed}


@pytest.mark.slow
def test_a_push_makes_the_kept_events_younger_and_nothing_else(own_day):
    with own_day.desk.events() as connection:
        like = connection.sql("SELECT * REPLACE (NULL AS impression_id) FROM plays LIMIT 1").to_arrow_table()
    newest = next(t.newest for t in status_of(own_day, own_day.as_of).tables if t.table == "recent_plays")
    happened = newest + timedelta(minutes=5)
    values = {"play_id": 10**9, "event_timestamp": happened, "created_timestamp": happened}
    for name, value in values.items():
        place = like.schema.get_field_index(name)
        like = like.set_column(place, like.schema.field(place), [[value]])
    at = happened + timedelta(minutes=55)
    before = status_of(own_day, at)
    push_plays(own_day.workspace, like, received_at=at, record=False)
    after = status_of(own_day, at)
    assert (after.sequence, after.writes) == (before.sequence + 1, 1)
    was, now = ({t.table: t for t in status.tables} for status in (before, after))
    assert now["recent_plays"].newest == now["recent_plays"].newest_row == happened
    assert now["recent_plays"].age_hours == pytest.approx(55 / 60, abs=1e-3)
    assert {n: t for n, t in was.items() if n != "recent_plays"} == {
        n: t for n, t in now.items() if n != "recent_plays"
    }


@pytest.mark.slow
def test_the_command_tells_programs_and_people_and_fails_on_a_breach(a_day, shell):
    fine = json.loads(shell("matinee features status --json").stdout)
    assert (fine["breached"], fine["against"]) == ([], "the day's as_of")
    late = shell("matinee features status --at 2026-02-01", fails=True).stdout
    assert "breached" in late
    assert "the time given" in late
