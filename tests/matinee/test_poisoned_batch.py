"""A poisoned table is stopped at the gate, and the page goes on with what passed before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import duckdb
import pytest

from feature_repo.compute import offline_path
from feature_repo.reader import OnlineReader
from matinee.day import compute_features, publish, validate
from matinee.gatekeeping import GateFailed, NotValidated
from matinee.progress import Stage, Stages
from matinee.recommending import looker
from matinee.session import console

pytestmark = pytest.mark.slow

POISONS = {
    "a null where a count belongs": ("play_count_28d", "* REPLACE (CASE WHEN user_id IN (3, 5) THEN NULL ELSE play_count_28d END AS play_count_28d)"),
    "a value out of range": ("watch_minutes_sum_28d", "* REPLACE (CASE WHEN user_id = 7 THEN -5 ELSE watch_minutes_sum_28d END AS watch_minutes_sum_28d)"),
    "another type": ("play_count_7d", "* REPLACE ('many' AS play_count_7d)"),
    "a key twice": ("user_id", "* REPLACE (CASE WHEN user_id = 9 THEN 8 ELSE user_id END AS user_id)"),
    "a timestamp from the future": ("event_timestamp", "* REPLACE (CASE WHEN user_id = 11 THEN event_timestamp + INTERVAL 1 DAY ELSE event_timestamp END AS event_timestamp)"),
}  # fmt: skip


@pytest.fixture
def later(opened_day):
    """An hour on, features computed from the same events."""
    day = replace(opened_day, as_of=opened_day.as_of + timedelta(hours=1))
    compute_features(day, Stage("compute", Stages(console)), [day.as_of])
    path = offline_path(day.workspace.offline, "user_profile", day.as_of)
    whole = path.read_bytes()
    yield day
    path.write_bytes(whole)


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_table_is_stopped_and_the_page_serves_what_passed_before(opened_day, later, poison):
    column, change = POISONS[poison]
    path = offline_path(later.workspace.offline, "user_profile", later.as_of)
    bad = path.with_suffix(".bad")
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT {change} FROM read_parquet('{path}')) TO '{bad}' (FORMAT parquet)")
    bad.replace(path)

    with pytest.raises(GateFailed) as stopped:
        validate(later, Stage("gate", Stages(console)), [later.as_of])
    (report,) = stopped.value.reports
    found = [finding for finding in report.findings if finding.column == column or column in str(finding)]
    assert found, report.findings
    assert all(finding.unexpected_count for finding in found)
    assert any(finding.sample for finding in found)

    with pytest.raises(NotValidated, match="user_profile"):
        publish(later, Stage("materialize", Stages(console)))
    reader = OnlineReader.open(later.workspace.online)
    assert reader.as_of == opened_day.as_of
    with looker(opened_day) as look:
        page = look.page(17, 10)
    assert (page.source, page.as_of) == ("ranked", opened_day.as_of)


def test_what_passed_and_was_changed_afterwards_does_not_go_further(later):
    validate(later, Stage("gate", Stages(console)), [later.as_of])
    path = offline_path(later.workspace.offline, "user_profile", later.as_of)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{path}') WHERE user_id > 1) TO '{path}.less' (FORMAT parquet)"
        )
    path.with_name(f"{path.name}.less").replace(path)
    with pytest.raises(NotValidated, match="user_profile"):
        publish(later, Stage("materialize", Stages(console)))


def test_a_day_on_which_no_events_came_is_stopped_for_drift(opened_day):
    silent = replace(opened_day, as_of=opened_day.as_of + timedelta(days=1))
    compute_features(silent, Stage("compute", Stages(console)), [silent.as_of])
    with pytest.raises(GateFailed) as stopped:
        validate(silent, Stage("gate", Stages(console)), [silent.as_of])
    worst = [report.worst_first[0] for report in stopped.value.reports]
    assert all("null share" in finding.expectation for finding in worst), worst
    assert {report.table for report in stopped.value.reports} >= {"title_activity"}
