from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store as small

from feature_repo.materialize import (
    RECORD,
    MissingTable,
    NotMaterialized,
    entity_keys,
    materialize,
    publish_record,
)
from feature_repo.packed import NotFloat
from feature_repo.reader import OnlineReader
from feature_repo.record import RecordBusy, RecordUnreadable, View, lookup, opened


def run(home, day: int, seed: int = 0, declared=None):
    declared = declared or small.declarations()
    offline = small.write_offline(home / "offline", declared, small.MONDAY + day * small.DAY, seed)
    return materialize(declared, offline, home / "online", "test", small.catalogue())


def plays(home) -> list[float]:
    return OnlineReader.open(home / "online").vectors("retrieval_user", np.array(small.USERS))[:, 1].tolist()


def expected_plays(day: int, seed: int) -> list[float]:
    declared = small.declarations().table("user_profile")
    column = small.computed(declared, small.MONDAY + day * small.DAY, seed)["plays"]
    return column.to_numpy().tolist()


def test_repeating_with_the_same_inputs_changes_nothing(tmp_path):
    assert run(tmp_path, day=0).id == run(tmp_path, day=0).id


def test_a_newer_day_replaces_an_older_one_and_a_late_one_changes_nothing(tmp_path):
    run(tmp_path, day=1, seed=1)
    np.testing.assert_array_equal(plays(tmp_path), expected_plays(1, 1))
    newest = run(tmp_path, day=2, seed=2)
    late = run(tmp_path, day=0, seed=3)
    assert late.id == newest.id
    np.testing.assert_array_equal(plays(tmp_path), expected_plays(2, 2))


def test_a_day_computed_again_replaces_itself(tmp_path):
    run(tmp_path, day=0, seed=1)
    run(tmp_path, day=0, seed=2)
    np.testing.assert_array_equal(plays(tmp_path), expected_plays(0, 2))


@pytest.mark.parametrize(("age_days", "served"), [(3, True), (4, False)])
def test_a_row_is_served_until_it_is_older_than_its_time_to_live(tmp_path, age_days, served):
    declared = small.declarations(ttl_days=3)
    run(tmp_path, day=0, declared=declared)
    offline = small.write_offline(tmp_path / "offline", declared, small.MONDAY + age_days * small.DAY)
    path = offline["user_profile"]
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(
        rows.filter(pa.compute.not_equal(rows["user_id"], 20)), path
    )  # user 20 has a row of day 0 only
    materialize(declared, offline, tmp_path / "online", "test", small.catalogue())
    kept = OnlineReader.open(tmp_path / "online").view.tables["user_profile"].ids
    assert kept.tolist() == ([10, 20, 30] if served else [10, 30])


def test_a_generation_is_as_of_its_newest_table(tmp_path):
    declared = small.declarations()
    offline = small.write_offline(tmp_path / "offline", declared, small.MONDAY)
    offline |= {
        "title_profile": small.write_offline(tmp_path, declared, small.MONDAY + small.DAY)["title_profile"]
    }
    generation = materialize(declared, offline, tmp_path / "online", "test", small.catalogue())
    assert generation.as_of == small.MONDAY + small.DAY


def test_a_feature_that_changed_its_meaning_keeps_no_old_value(tmp_path):
    """User 20 is computed under the old meaning of `minutes` only: null, not a value that means something else."""
    run(tmp_path, day=0, seed=1)
    declared = small.declarations(minutes_mean="y")
    offline = small.write_offline(tmp_path / "offline", declared, small.MONDAY + small.DAY, 1)
    rows = pq.read_table(offline["user_profile"], partitioning=None)
    pq.write_table(rows.filter(pa.compute.not_equal(rows["user_id"], 20)), offline["user_profile"])
    materialize(declared, offline, tmp_path / "online", "test", small.catalogue())
    minutes, kept = OnlineReader.open(tmp_path / "online").vector("retrieval_user", 20)
    assert np.isnan(minutes)
    np.testing.assert_equal(kept, expected_plays(0, 1)[1])


def test_every_stored_table_needs_its_file(tmp_path):
    declared = small.declarations()
    offline = small.write_offline(tmp_path / "offline", declared, small.MONDAY)
    del offline["title_activity"]
    with pytest.raises(MissingTable, match="no offline file for feature table 'title_activity'"):
        materialize(declared, offline, tmp_path / "online", "test", small.catalogue())


def test_a_table_without_rows_is_not_published(tmp_path):
    with pytest.raises(NotMaterialized, match="user_profile"):
        publish_record(small.declarations(), tmp_path, "test", small.catalogue())


def test_a_column_of_another_type_is_refused_and_leaves_the_record_as_it_was(tmp_path):
    before = run(tmp_path, day=0, seed=1)
    offline = small.write_offline(tmp_path / "offline", small.declarations(), small.MONDAY + small.DAY, 2)
    rows = pq.read_table(offline["title_profile"], partitioning=None)
    place = rows.column_names.index("year")
    wrong = rows.set_column(place, "year", rows["year"].cast(pa.float64()))
    pq.write_table(wrong, offline["title_profile"])
    with pytest.raises(NotFloat, match="column 'year' is double"):
        materialize(small.declarations(), offline, tmp_path / "online", "test", small.catalogue())
    after = publish_record(small.declarations(), tmp_path / "online", "test", small.catalogue())
    assert after.id == before.id  # user_profile had been taken in before title_profile failed: rolled back


def test_projects_do_not_see_each_other(tmp_path):
    run(tmp_path, day=0, seed=1)
    other = small.write_offline(tmp_path / "other", small.declarations(), small.MONDAY + small.DAY, 2)
    materialize(small.declarations(), other, tmp_path / "online", "other", small.catalogue())
    assert (
        publish_record(small.declarations(), tmp_path / "online", "test", small.catalogue()).as_of
        == small.MONDAY
    )


def test_the_record_finds_rows_by_key_in_the_order_asked(tmp_path):
    run(tmp_path, day=0)
    keys = entity_keys("title_id", np.array([103, 999, 101])).to_pylist()
    with opened(tmp_path / "online" / RECORD, 1.0) as connection:
        found = lookup(connection, View("test", "title_profile"), keys)
    assert sorted(zip(found["place"].to_pylist(), found["entity_id"].to_pylist(), strict=True)) == [
        (0, 103),
        (2, 101),
    ]


def test_a_second_process_waits_its_bound_and_then_says_who_is_in_the_way(tmp_path):
    run(tmp_path, day=0)
    record = tmp_path / "online" / RECORD
    hold = f"""
        import sys
        from pathlib import Path
        from feature_repo.record import opened
        with opened(Path({str(record)!r}), 5.0):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(hold)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RecordBusy, match=r"gave up after 0\.2 s"), opened(record, 0.2):
            pass
        assert OnlineReader.open(tmp_path / "online").knows_user(10)  # readers are not in anyone's way
        holder.stdin.close()
    with opened(record, 0.2):
        pass


def test_a_damaged_record_is_named_and_the_snapshot_still_serves(tmp_path):
    run(tmp_path, day=0)
    record = tmp_path / "online" / RECORD
    record.write_bytes(b"not a database" * 1000)
    with pytest.raises(RecordUnreadable, match=r"online\.duckdb"), opened(record, 0.2):
        pass
    assert OnlineReader.open(tmp_path / "online").knows_user(10)
