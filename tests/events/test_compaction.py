from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from events.compaction import MANY_PARTS
from events.parts import parts

START = datetime(2020, 1, 1, tzinfo=UTC)


def days_of_play(first, number):
    moments = [START + timedelta(days=first + day) for day in range(number)]
    return pa.table({
        "play_id": range(first, first + number), "user_id": [1] * number, "title_id": [2] * number,
        "event_timestamp": moments, "created_timestamp": moments,
    })  # fmt: skip


def play_ids(lake):
    with duckdb.connect() as con:
        lake.register(con)
        return [row[0] for row in con.sql("SELECT play_id FROM plays ORDER BY play_id").fetchall()]


@pytest.fixture
def long_history(lake):
    lake.append("plays", days_of_play(0, MANY_PARTS + 1), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    return lake


def test_many_day_parts_are_read_through_one_file_and_stay_the_record(long_history):
    assert len(long_history._files("plays")) == 1
    assert len(parts(long_history.root / "plays")) == MANY_PARTS + 1
    assert play_ids(long_history) == list(range(MANY_PARTS + 1))


def test_few_parts_are_not_compacted(lake):
    lake.append("plays", days_of_play(0, MANY_PARTS), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert len(lake._files("plays")) == MANY_PARTS


def test_parts_that_come_after_compaction_are_read_beside_it(long_history):
    long_history.append(
        "plays", days_of_play(MANY_PARTS + 1, 2), received_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert len(long_history._files("plays")) == 3
    assert play_ids(long_history) == list(range(MANY_PARTS + 3))


def test_a_key_inside_the_compact_file_is_still_found(long_history):
    again = long_history.append("plays", days_of_play(5, 1), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert (again.accepted, again.repeated) == (0, 1)


def test_deleting_the_compact_file_loses_nothing(long_history):
    summary = [item for item in long_history.describe() if item.table == "plays"]
    for compact in (long_history.root / "plays").glob("compact-*.parquet"):
        compact.unlink()
    assert play_ids(long_history) == list(range(MANY_PARTS + 1))
    assert [item for item in long_history.describe() if item.table == "plays"] == summary


def test_a_part_that_is_gone_is_not_read_from_the_compact_file(long_history):
    parts(long_history.root / "plays")[0].unlink()
    assert play_ids(long_history) == list(range(1, MANY_PARTS + 1))
