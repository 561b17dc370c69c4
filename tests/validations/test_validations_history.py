"""Verdicts are kept, one line each, where SQL can read them."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from validations.history import GateHistory
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
