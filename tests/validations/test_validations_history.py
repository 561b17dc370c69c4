"""Verdicts are kept, one line each, where SQL can read them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from validations.history import ColumnTrend, GateHistory
from validations.report import Finding, GateReport, Sample

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


def report(table="plays", *, as_of=AS_OF, value="1.5"):
    sample = (Sample(3, (7, "tv", None), value), Sample(4, (), None))
    finding = Finding("watch_share", "between 0 and 1", "1 of 9 outside", "error", 1, 1 / 9, sample)
    return GateReport(table, as_of, "ab" * 32, 9, False, (finding,), 0.25, 12)


def test_what_was_appended_is_read_back_in_order(tmp_path):
    history = GateHistory(tmp_path / "gate")
    reports = [report(as_of=AS_OF + timedelta(days=day)) for day in range(3)]
    for one in reports:
        history.append(one)
    history.append(report("hovers"))
    assert history.all() == (report("hovers"), *reports)
    assert history.latest("plays") == reports[-1]


def test_a_table_never_checked_has_no_latest_report(tmp_path):
    assert GateHistory(tmp_path / "gate").latest("plays") is None
    assert GateHistory(tmp_path / "gate").all() == ()


@pytest.mark.parametrize("value", ["two\nlines", "\u2028 \u0085 \r", 'a "quote"', "é 電影"])
def test_any_value_fits_on_one_line(tmp_path, value):
    history = GateHistory(tmp_path)
    history.append(report(value=value))
    history.append(report())
    assert history.all() == (report(value=value), report())


def test_duckdb_reads_the_history(tmp_path):
    history = GateHistory(tmp_path)
    history.append(report())
    history.append(report("hovers"))
    with duckdb.connect() as connection:
        rows = connection.execute(
            'SELECT "table", rows, passed, findings[1]."column", findings[1].unexpected_count '
            f"FROM read_json('{tmp_path}/*.jsonl') ORDER BY 1"
        ).fetchall()
    assert rows == [("hovers", 9, False, "watch_share", 1), ("plays", 9, False, "watch_share", 1)]


def at(day, table="plays", **changed):
    moment = AS_OF + timedelta(days=day)
    return replace(report(table, as_of=moment), at=moment + timedelta(hours=3), **changed)


@pytest.fixture
def kept(tmp_path):
    """Five runs: plays on three days, failing on the second; hovers on one; one of before reports said when."""
    history = GateHistory(tmp_path / "it's a gate")
    warning = Finding("minutes", "PSI at most 0.2 from the reference", "PSI 0.3", "warning")
    info = replace(warning, severity="info")
    history.append(at(0, passed=True, findings=(), null_shares={"minutes": 0.1, "watch_share": 0.0}))
    history.append(at(1, null_shares={"minutes": 0.4, "watch_share": 0.0}, digest="cd" * 32))
    history.append(at(2, passed=True, findings=(warning, info), null_shares={"minutes": 0.2, "watch_share": 0.0},
                      reference="ranker/1", quarantined=3))  # fmt: skip
    history.append(at(1, "hovers", passed=True, findings=()))
    return history


def test_runs_are_listed_in_the_order_they_came_with_what_came_of_them(kept):
    plays = kept.runs("plays")
    assert [run.as_of.day for run in plays] == [1, 2, 3]
    assert [(run.passed, run.errors, run.warnings, run.infos) for run in plays] == [
        (True, 0, 0, 0), (False, 1, 0, 0), (True, 0, 1, 1),
    ]  # fmt: skip
    assert (plays[2].rows, plays[2].quarantined, plays[2].reference) == (9, 3, "ranker/1")
    assert (plays[1].digest, plays[1].seconds, plays[1].at) == (
        "cd" * 32,
        0.25,
        AS_OF + timedelta(days=1, hours=3),
    )


def test_a_listing_meets_every_condition_given(kept):
    def named(runs):
        return [(run.table, run.as_of.day) for run in runs]

    assert named(kept.runs()) == [("plays", 1), ("hovers", 2), ("plays", 2), ("plays", 3)]
    assert named(kept.runs(failed=True)) == [("plays", 2)]
    assert named(kept.runs("hovers", failed=True)) == []
    third_hour = AS_OF + timedelta(days=1, hours=3)
    assert named(kept.runs(since=third_hour)) == [("hovers", 2), ("plays", 2), ("plays", 3)]
    assert named(kept.runs(since=third_hour + timedelta(microseconds=1))) == [("plays", 3)]


@pytest.mark.parametrize("name", ["x' OR '1'='1", "plays'; DROP TABLE runs; --", "%", "play_"])
def test_a_table_is_a_name_and_never_sql(kept, name):
    assert kept.runs(name) == ()
    assert kept.trend(name) == ()
    assert len(kept.runs()) == 4


def test_the_trend_of_a_table_names_the_most_troubled_column_first(kept):
    watch, minutes = kept.trend("plays")
    assert watch == ColumnTrend(
        "watch_share", runs=3, found=1, errors=1, null_first=0.0, null_last=0.0, null_most=0.0
    )
    # two findings of one run are one run
    assert minutes == ColumnTrend(
        "minutes", runs=3, found=1, errors=0, null_first=0.1, null_last=0.2, null_most=0.4
    )
    since = kept.trend("plays", since=AS_OF + timedelta(days=2))
    assert [(one.column, one.runs, one.null_first) for one in since] == [
        ("minutes", 1, 0.2),
        ("watch_share", 1, 0.0),
    ]


def test_a_history_of_before_reports_said_when_is_still_read(tmp_path):
    history = GateHistory(tmp_path)
    old = report().to_dict()
    for later in ("at", "digest", "reference", "quarantined", "null_shares"):
        del old[later]
    (tmp_path / "plays.jsonl").write_text(json.dumps(old) + "\n")
    assert history.latest("plays") == report()
    (run,) = history.runs()
    assert (run.at, run.quarantined, run.reference, run.digest, run.errors) == (None, 0, "", "", 1)
    assert [one.column for one in history.trend("plays")] == ["watch_share"]
    history.append(at(0))
    assert [run.at for run in history.runs()] == [None, AS_OF + timedelta(hours=3)]


def test_a_history_without_runs_is_empty(tmp_path):
    assert GateHistory(tmp_path / "none").runs() == ()
    assert GateHistory(tmp_path / "none").trend("plays") == ()
