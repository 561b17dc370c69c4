from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.checks import arrow_schema, required
from events.lake import Lake, MissingColumn, UnknownColumn, UnknownTable
from events.schema import TABLES, THEME_COLUMNS

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def play(play_id=1, **changes):
    row = {
        "play_id": play_id, "user_id": 1, "title_id": 1, "watch_minutes": 30.0, "watch_share": 0.5,
        "completed": False, "event_timestamp": NOON, "created_timestamp": NOON + SECOND,
    }  # fmt: skip
    return row | changes


def batch(*rows):
    return pa.Table.from_pylist(list(rows))


def append(lake, *rows, table="plays", received_at=NOON + timedelta(days=1)):
    return lake.append(table, batch(*rows), received_at=received_at)


def rows_of(lake, table="plays"):
    with duckdb.connect() as con:
        lake.register(con)
        return con.sql(f"FROM {table} ORDER BY ALL").to_arrow_table().to_pylist()


def quarantined(lake, table="plays"):
    folder = lake.quarantine / table
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def files(lake):
    return {path: path.read_bytes() for path in lake.root.parent.rglob("*.parquet")}


def test_a_good_row_comes_back_as_it_went_in_with_null_for_what_it_left_out(lake):
    ingest = append(lake, play())
    assert (ingest.accepted, ingest.quarantined, ingest.repeated) == (1, 0, 0)
    left_out = dict.fromkeys(["impression_id", "artwork_id", "rating", "device"])
    assert rows_of(lake) == [play() | left_out]


def test_a_part_lies_in_the_folder_of_its_utc_day_and_is_named_by_its_content(lake):
    before_midnight = NOON.replace(hour=23, minute=59)
    append(
        lake, play(1, event_timestamp=before_midnight, created_timestamp=before_midnight),
        play(2, event_timestamp=before_midnight + 60 * SECOND, created_timestamp=before_midnight + 60 * SECOND),
    )  # fmt: skip
    paths = sorted(path.relative_to(lake.root).as_posix() for path in lake.root.rglob("*.parquet"))
    assert [path.rsplit("/", 1)[0] for path in paths] == ["plays/day=2026-01-05", "plays/day=2026-01-06"]
    assert all(len(path.rsplit("part-", 1)[1]) == len(".parquet") + 32 for path in paths)


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        pytest.param({"user_id": None}, "user_id: null", "user_id null is null", id="null in a required column"),
        pytest.param({"watch_share": 1.01}, "watch_share: out of range", "1.01", id="above its range"),
        pytest.param({"user_id": -1}, "user_id: out of range", "-1", id="below its range"),
        pytest.param({"rating": 0.4}, "rating: out of range", "0.4 is not in [0.5, 5]", id="a rating too low"),
        pytest.param({"watch_minutes": float("nan")}, "watch_minutes: not finite", "nan", id="not a number"),
        pytest.param({"title_id": "x7"}, "title_id: wrong type", "x7 is no BIGINT", id="a word for an id"),
        pytest.param({"title_id": 2.5}, "title_id: wrong type", "2.5 is no BIGINT", id="half an id"),
        pytest.param({"completed": 7}, "completed: wrong type", "7 is no BOOLEAN", id="seven for a flag"),
        pytest.param({"device": ["tv"]}, "device: wrong type", "is no VARCHAR", id="a list for a text"),
        pytest.param({"event_timestamp": "soon"}, "event_timestamp: wrong type", "soon", id="a word for a time"),
        pytest.param(
            {"created_timestamp": NOON - SECOND}, "created_timestamp: before event_timestamp", "11:59:59",
            id="known before it happened",
        ),
        pytest.param(
            {"created_timestamp": NOON + timedelta(days=1, seconds=1)}, "created_timestamp: after receipt",
            "2026-01-06 12:00:01", id="from the future",
        ),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_kept_aside_with_column_rule_and_value(lake, change, rule, said):
    assert append(lake, play()).accepted == 1
    ingest = append(lake, play(2, **change))
    assert (ingest.accepted, ingest.quarantined) == (0, 1)
    assert ingest.reasons[rule] == 1
    (kept,) = quarantined(lake)
    assert rule in kept["rules"]
    assert said in kept["reason"]
    assert rule.split(":")[0] in kept["reason"]
    assert [row["play_id"] for row in rows_of(lake)] == [1]


def test_a_word_that_is_not_allowed_is_refused(lake):
    user = {"membership_id": 1, "user_id": 1, "event_timestamp": NOON, "created_timestamp": NOON}
    ingest = append(
        lake,
        user | {"status": "renewed"},
        user | {"membership_id": 2, "status": "lapsed"},
        table="memberships",
    )
    assert ingest.reasons == {"status: not one of": 1}
    assert "status lapsed is not one of" in quarantined(lake, "memberships")[0]["reason"]


def test_bounds_and_receipt_are_inclusive(lake):
    edges = play(1, watch_share=1.0, created_timestamp=NOON + timedelta(days=1))
    same_moment = play(2, watch_share=0.0, created_timestamp=NOON)
    assert append(lake, edges, same_moment).accepted == 2


def test_of_rows_sharing_a_key_the_first_good_one_counts(lake):
    ingest = append(lake, play(1, user_id=None), play(1, user_id=2), play(1, user_id=3))
    assert (ingest.accepted, ingest.quarantined) == (1, 2)
    assert ingest.reasons == {"user_id: null": 1, "play_id: duplicate in batch": 1}
    assert [row["user_id"] for row in rows_of(lake)] == [2]


def test_a_key_that_is_in_the_lake_with_other_values_is_refused(lake):
    append(lake, play(1, user_id=2))
    ingest = append(lake, play(1, user_id=3), play(5))
    assert ingest.reasons == {"play_id: duplicate in lake": 1}
    assert ingest.accepted == 1
    assert [row["user_id"] for row in rows_of(lake)] == [2, 1]


def test_the_same_batch_twice_changes_no_file(lake):
    rows = [play(1), play(2, watch_share=None), play(3, watch_share=9.0), play(4, title_id=None)]
    append(lake, *rows)
    before = files(lake)
    again = append(lake, *rows)
    assert (again.accepted, again.repeated, again.quarantined) == (0, 2, 2)
    assert files(lake) == before


def test_the_same_rows_in_other_batches_are_not_written_again(lake):
    append(lake, play(1), play(2))
    assert append(lake, play(2), play(3)).repeated == 1
    assert [row["play_id"] for row in rows_of(lake)] == [1, 2, 3]


def test_a_batch_half_written_before_a_crash_is_completed_by_appending_it_again(lake):
    tomorrow = {"event_timestamp": NOON + timedelta(days=1), "created_timestamp": NOON + timedelta(days=1)}
    append(lake, play(1), play(2, **tomorrow))
    next((lake.root / "plays" / "day=2026-01-06").glob("*.parquet")).unlink()
    ingest = append(lake, play(1), play(2, **tomorrow))
    assert (ingest.accepted, ingest.repeated) == (1, 1)
    assert [row["play_id"] for row in rows_of(lake)] == [1, 2]


def test_an_unfinished_file_is_never_read(lake):
    append(lake, play(1))
    folder = lake.root / "plays" / "day=2026-01-05"
    (folder / ".part-00.parquet.1.tmp").write_bytes(b"torn")
    assert len(rows_of(lake)) == 1


def test_unknown_tables_and_columns_are_named_with_what_was_meant(lake):
    with pytest.raises(UnknownTable, match="Did you mean 'plays'"):
        append(lake, play(), table="play")
    with pytest.raises(UnknownColumn, match="'watch_minuets'.*Did you mean 'watch_minutes'"):
        append(lake, play(watch_minuets=3))


def test_a_batch_that_lacks_a_required_column_is_refused_whole(lake):
    row = play()
    del row["user_id"]
    with pytest.raises(MissingColumn, match="lacks user_id"):
        append(lake, row)
    assert not files(lake)


def test_a_receipt_without_time_zone_is_refused(lake):
    with pytest.raises(ValueError, match="no time zone"):
        append(lake, play(), received_at=datetime(2026, 1, 6))  # the point of the test


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_has_a_view_with_the_contracts_types(lake, table):
    with duckdb.connect() as con:
        lake.register(con)
        assert con.sql(f"FROM {table}").to_arrow_table().schema == arrow_schema(TABLES[table])


def test_a_filled_view_has_the_contracts_types_too(lake):
    append(lake, play())
    with duckdb.connect() as con:
        lake.register(con)
        assert con.sql("FROM plays").to_arrow_table().schema == arrow_schema(TABLES["plays"])


def test_the_digest_before_a_moment_does_not_see_later_days(lake):
    append(lake, play(1))
    at_midnight = datetime(2026, 1, 6, tzinfo=UTC)
    before, whole = lake.digest("plays", at_midnight), lake.digest("plays")
    append(lake, play(2, event_timestamp=at_midnight, created_timestamp=at_midnight))
    assert lake.digest("plays", at_midnight) == before
    assert lake.digest("plays") != whole
    assert lake.digest("plays", at_midnight + SECOND) == lake.digest("plays")


def test_a_late_event_changes_the_digest_of_its_day(lake):
    append(lake, play(1))
    before = lake.digest("plays", datetime(2026, 1, 6, tzinfo=UTC))
    append(lake, play(2, created_timestamp=NOON + timedelta(hours=20)))
    assert lake.digest("plays", datetime(2026, 1, 6, tzinfo=UTC)) != before


def test_describe_counts_rows_days_and_quarantine(lake):
    later = NOON + timedelta(hours=13)
    append(lake, play(1), play(2, event_timestamp=later, created_timestamp=later), play(3, watch_share=2.0))
    summary = {item.table: item for item in lake.describe()}["plays"]
    assert (summary.rows, summary.days, summary.quarantined) == (2, 2, 1)
    assert (summary.first_event, summary.last_event) == (NOON, later)
    assert summary.bytes == sum(path.stat().st_size for path in lake.root.rglob("part-*.parquet"))
    empty = {item.table: item for item in lake.describe()}["hovers"]
    assert (empty.rows, empty.first_event) == (0, None)


def test_required_columns_are_those_that_may_not_be_null():
    assert required(TABLES["artworks"]) == ("artwork_id", "title_id", "event_timestamp", "created_timestamp")
    assert set(THEME_COLUMNS) <= {column.name for column in TABLES["artworks"].columns}


values = st.fixed_dictionaries({
    "play_id": st.integers(0, 6),
    "user_id": st.one_of(st.none(), st.integers(-1, 1)),
    "title_id": st.just(1),
    "watch_share": st.one_of(st.none(), st.sampled_from([-0.1, 0.0, 0.5, 1.0, 1.1])),
    "event_timestamp": st.sampled_from([NOON, NOON + SECOND]),
    "created_timestamp": st.sampled_from([NOON, NOON + SECOND, NOON + timedelta(days=2)]),
})  # fmt: skip


def good(row, received_at):
    """The contract of a play, by hand, for the columns above."""
    share = row["watch_share"]
    return (
        row["user_id"] is not None
        and row["user_id"] >= 0
        and (share is None or 0 <= share <= 1)
        and row["event_timestamp"] <= row["created_timestamp"] <= received_at
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=3))
def test_every_row_is_accepted_repeated_or_quarantined_as_by_hand(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("lake")
    lake, received_at = Lake(folder / "events", folder / "quarantine"), NOON + timedelta(days=1)
    kept: dict[int, dict] = {}
    schema = pa.schema([
        (name, pa.int64()) for name in ("play_id", "user_id", "title_id")
    ] + [("watch_share", pa.float64())] + [
        (name, pa.timestamp("us", "UTC")) for name in ("event_timestamp", "created_timestamp")
    ])  # fmt: skip
    for rows in batches:
        fresh, repeated = {}, 0
        for row in rows:
            if good(row, received_at) and row["play_id"] not in fresh:
                fresh[row["play_id"]] = row
        repeated = sum(kept.get(key) == row for key, row in fresh.items())
        new = {key: row for key, row in fresh.items() if key not in kept}
        ingest = lake.append("plays", pa.Table.from_pylist(rows, schema=schema), received_at=received_at)
        assert (ingest.accepted, ingest.repeated) == (len(new), repeated)
        assert ingest.accepted + ingest.repeated + ingest.quarantined == len(rows)
        kept |= new
    assert {row["play_id"]: {name: row[name] for name in schema.names} for row in rows_of(lake)} == kept
