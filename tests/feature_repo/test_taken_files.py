from __future__ import annotations

import pytest
import small_store as small
from raw_events import NOON
from slow_features import RandomEvents

from events.sources import WORLD
from feature_repo.compute import offline_path, plan, run
from feature_repo.families import declare
from feature_repo.materialize import PROJECT, RECORD, layout_of_table, materialize
from feature_repo.record import View, drop, ensure, opened, opened_to_read
from feature_repo.taken import has_taken

DECLARED = declare(WORLD)
TASTE = DECLARED.table("user_taste")
VIEW = View(PROJECT, TASTE.name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    run(plan(DECLARED, [NOON], lambda _: "e", folder), "world", RandomEvents(WORLD, 5).register, threads=1)
    return {table.name: offline_path(folder, table.name, NOON) for table in DECLARED.stored}


def take_in(files, root):
    return materialize(DECLARED, files, root, PROJECT, small.catalogue())


def taken(root, files):
    with opened_to_read(root / RECORD, 5) as connection:
        return {
            t.name
            for t in DECLARED.stored
            if has_taken(connection, View(PROJECT, t.name), layout_of_table(t), files[t.name])
        }


def test_what_was_taken_in_stands_and_gives_the_same_generation(files, tmp_path):
    first = take_in(files, tmp_path)
    assert taken(tmp_path, files) == {table.name for table in DECLARED.stored}
    with opened(tmp_path / RECORD, 5) as connection:
        connection.execute(f"UPDATE {VIEW.table} SET created_timestamp = created_timestamp - INTERVAL 1 DAY")
    assert take_in(files, tmp_path).id == first.id
    with opened_to_read(tmp_path / RECORD, 5) as connection:  # a second reading would have put the day back
        ((created,),) = connection.execute(f"SELECT max(created_timestamp) FROM {VIEW.table}").fetchall()
    assert created < NOON


def test_another_file_of_a_table_is_taken_in(files, tmp_path):
    take_in(files, tmp_path / "online")
    run(
        plan(DECLARED, [NOON], lambda _: "later", tmp_path),
        "world",
        RandomEvents(WORLD, 5).register,
        threads=1,
    )
    later = files | {TASTE.name: offline_path(tmp_path, TASTE.name, NOON)}
    assert taken(tmp_path / "online", later) == {t.name for t in DECLARED.stored} - {TASTE.name}


@pytest.mark.parametrize("lost", ["dropped", "emptied", "dropped and made again"])
def test_a_view_that_lost_its_rows_takes_its_file_in_again(files, tmp_path, lost):
    first = take_in(files, tmp_path)
    with opened(tmp_path / RECORD, 5) as connection:
        if lost == "emptied":
            connection.execute(f"DELETE FROM {VIEW.table}")
        else:
            drop(connection, VIEW)
        if lost == "dropped and made again":
            ensure(connection, VIEW, layout_of_table(TASTE))
    assert TASTE.name not in taken(tmp_path, files)
    assert take_in(files, tmp_path).id == first.id
    assert TASTE.name in taken(tmp_path, files)


def test_a_record_from_before_files_were_noted_has_taken_none(files, tmp_path):
    take_in(files, tmp_path)
    with opened(tmp_path / RECORD, 5) as connection:
        connection.execute("DROP TABLE taken")
    assert taken(tmp_path, files) == set()
