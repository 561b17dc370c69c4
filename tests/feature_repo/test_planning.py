from __future__ import annotations

import random
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from raw_events import NOON, days
from slow_features import RandomEvents

import feature_repo.planning
from events.sources import WORLD
from feature_repo.arithmetic import Ref
from feature_repo.compile import compile_table
from feature_repo.compute import DifferentRows, offline_path, plan, recorded, run
from feature_repo.declarations import Derived, UnknownFeature
from feature_repo.families import declare
from feature_repo.measures import derived
from feature_repo.planning import needed
from validations.expectations import Between

DECLARED = declare(WORLD)
EVENTS = RandomEvents(WORLD, seed=3)
ENTITY_TABLES = [table.name for table in DECLARED.stored if table.keep == 1]


def planned(declared, folder, as_ofs=(NOON,), events="events"):
    return plan(declared, as_ofs, lambda _: events, folder)


def compute(declared, folder, **more):
    return run(planned(declared, folder, **more), "world", EVENTS.register, threads=1)


@pytest.fixture(scope="module")
def computed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    compute(DECLARED, folder)
    return folder


@pytest.fixture
def offline(computed_once, tmp_path):
    """The computed tables of the whole world, for one test to change."""
    for table in DECLARED.stored:
        path = offline_path(tmp_path / "offline", table.name, NOON)
        path.parent.mkdir(parents=True)
        path.write_bytes(offline_path(computed_once, table.name, NOON).read_bytes())
    return tmp_path / "offline"


def with_table(changed, among=DECLARED.stored):
    tables = tuple(changed if t.name == changed.name else t for t in among)
    return replace(DECLARED, tables=tables, services=DECLARED.services if among == DECLARED.tables else ())


def with_features(table, **changed):
    """The table with some features replaced, by name; None takes one out."""
    kept = (changed.get(f.name, f) for f in table.features)
    return replace(table, features=tuple(feature for feature in kept if feature is not None))


def other_window(table, name, like):
    """The feature `name`, computed as `like` is; a window of its own keeps the two apart."""
    return replace(table[name], computation=table[like].computation, over=1000)


def step_of(steps, table):
    (found,) = [step for step in steps if step.table.name == table]
    return found


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def randomly_changed(table, chance):
    """Some features computed as others are, some gone, some renamed, some new, all in another order."""
    read = {feature.name for derived_ in table.features for feature in derived_.reads}
    plain = [f for f in table.features if not isinstance(f.computation, Derived)]
    features = {f.name: f for f in table.features}
    for feature in chance.sample(plain, chance.randrange(4)):
        other = chance.choice(plain)
        apart = other.over if chance.random() < 0.3 else 1000 + chance.randrange(1000)
        features[feature.name] = replace(feature, computation=other.computation, over=apart)
    for name in chance.sample(sorted(set(features) - read), chance.randrange(4)):
        del features[name]
    for name in chance.sample(sorted(set(features) - read), chance.randrange(3)):
        features[name] = replace(features[name], name=f"{name}_renamed")
    for number in range(chance.randrange(3)):
        other = chance.choice(plain)
        features[f"new_{number}"] = replace(other, name=f"new_{number}", over=(other.over or 0) + 1)
    order = list(features.values())
    chance.shuffle(order)
    return replace(table, features=tuple(order))


@pytest.mark.parametrize("seed", range(12))
def test_completing_a_file_gives_the_bytes_of_computing_it_whole(offline, tmp_path, seed):
    chance = random.Random(seed)
    table = randomly_changed(DECLARED.table(ENTITY_TABLES[seed % len(ENTITY_TABLES)]), chance)
    declared = with_table(table)
    step = step_of(planned(declared, offline), table.name)
    assert step.keep
    run([step], "world", EVENTS.register, threads=1)
    whole = step_of(planned(declared, tmp_path / "whole"), table.name)
    assert not whole.keep
    run([whole], "world", EVENTS.register, threads=1)
    assert step.path.read_bytes() == whole.path.read_bytes()


def test_one_changed_feature_is_the_only_one_computed(offline):
    table = DECLARED.table("user_activity")
    changed = with_table(
        with_features(table, hover_count_14d=other_window(table, "hover_count_14d", "hover_count_3d"))
    )
    before, after = table["hover_count_14d"].digest, changed.table("user_activity")["hover_count_14d"].digest
    steps = planned(changed, offline)
    assert [step.table.name for step in steps if not step.fresh] == ["user_activity"]
    step = step_of(steps, "user_activity")
    assert step.compute == ("hover_count_14d",)
    assert (
        str(step) == f"compute user_activity as of 2026-01-20T120000Z (1 of {len(table.features)} features)"
    )
    assert step.reason == f"user_activity:hover_count_14d changed: {before[:4]}→{after[:4]}"


def test_what_is_derived_from_a_changed_feature_is_computed_again_and_nothing_else(offline):
    table = DECLARED.table("title_profile")
    changed = with_table(
        with_features(table, play_count_7d=other_window(table, "play_count_7d", "play_count_3d"))
    )
    assert set(step_of(planned(changed, offline), "title_profile").compute) == {
        "play_count_7d", "play_per_impression_7d", "play_momentum_3d_of_7d", "play_momentum_7d_of_14d",
    }  # fmt: skip


def test_a_user_title_feature_means_something_else_when_what_it_reads_does():
    table = DECLARED.table("title_profile")
    year = other_window(table, "release_year", "runtime_minutes")
    changed = with_table(with_features(table, release_year=year), DECLARED.tables)
    before, after = (d.table("user_title") for d in (DECLARED, changed))
    assert {n for n in before.names if before[n].digest != after[n].digest} == {
        f"release_year_gap_{n}d" for n in WORLD.windows
    }
    read = changed.service("ranking").digests
    assert read["user_title:release_year_gap_7d"] == after["release_year_gap_7d"].digest


def test_a_feature_that_a_user_title_feature_reads_cannot_be_taken_out():
    table = with_features(DECLARED.table("title_profile"), release_year=None)
    with pytest.raises(UnknownFeature, match="user_title:release_year_gap_1d: table 'title_profile'"):
        with_table(table, DECLARED.tables)


def test_only_the_relations_that_the_changed_feature_reads_are_filled(offline, monkeypatch):
    table = DECLARED.table("user_activity")
    changed = with_features(table, hover_count_14d=other_window(table, "hover_count_14d", "hover_count_3d"))
    relations = [(n, sql) for n, sql in feature_repo.planning.statements(WORLD, NOON)]
    filled = [name for name, _ in needed(relations, [compile_table(changed, WORLD, ("hover_count_14d",))])]
    assert filled == ["known_catalogue", "known_users", "known_hovers"]


def test_a_table_of_events_is_computed_whole_since_its_rows_have_no_key(offline, tmp_path):
    table = DECLARED.table("recent_plays")
    declared = with_table(with_features(table, title_id=replace(table["title_id"], over=1000)))
    step = step_of(planned(declared, offline), "recent_plays")
    assert (step.compute, dict(step.keep)) == (table.names, {})
    run([step], "world", EVENTS.register, threads=1)
    whole = step_of(planned(declared, tmp_path / "whole"), "recent_plays")
    run([whole], "world", EVENTS.register, threads=1)
    assert step.path.read_bytes() == whole.path.read_bytes()


def test_a_renamed_feature_is_copied_and_not_computed(offline):
    table = DECLARED.table("user_activity")
    renamed = replace(table["hover_count_14d"], name="hovers_in_a_week")
    changed = with_table(with_features(table, hover_count_14d=renamed))
    step = step_of(planned(changed, offline), "user_activity")
    assert not step.compute
    assert (
        str(step) == f"rewrite user_activity as of 2026-01-20T120000Z (0 of {len(table.features)} features)"
    )
    assert step.reason == "user_activity:hovers_in_a_week is new; user_activity:hover_count_14d is gone"
    before = pq.read_table(step.path, partitioning=None)["hover_count_14d"]
    run([step], "world", EVENTS.register, threads=1)
    assert pq.read_table(step.path, partitioning=None)["hovers_in_a_week"].equals(before)


def test_taking_a_feature_out_computes_nothing(offline):
    table = DECLARED.table("user_activity")
    step = step_of(planned(with_table(with_features(table, hover_count_14d=None)), offline), "user_activity")
    assert (step.fresh, step.compute, step.reason) == (False, (), "user_activity:hover_count_14d is gone")
    run([step], "world", EVENTS.register, threads=1)
    assert "hover_count_14d" not in pq.read_schema(step.path).names


def test_many_changes_are_counted_and_the_first_are_named(offline):
    table = DECLARED.table("user_taste")
    step = step_of(planned(with_table(replace(table, features=table.features[6:])), offline), "user_taste")
    assert step.reason.count("is gone") == 4
    assert step.reason.endswith("and 2 more")


def test_words_and_expectations_are_no_reason_to_compute(offline):
    table = DECLARED.table("user_activity")
    reworded = replace(
        table["hover_count_14d"], description="said otherwise", expect=(Between(0, 7),), unit="x", owner="y"
    )
    assert all(
        step.fresh for step in planned(with_table(with_features(table, hover_count_14d=reworded)), offline)
    )


def test_other_events_or_another_making_of_them_compute_a_table_whole(offline, monkeypatch):
    steps = planned(DECLARED, offline, events="later")
    assert all(step.compute == step.table.names and not step.keep for step in steps)
    assert "events known by then" in steps[0].reason

    def otherwise(source, as_of):
        made = dict(statements(source, as_of))
        return tuple((made | {"known_hovers": made["known_hovers"] + " WHERE dwell_seconds < 600"}).items())

    statements = feature_repo.planning.statements
    monkeypatch.setattr(feature_repo.planning, "statements", otherwise)
    stale = {step.table.name for step in planned(DECLARED, offline) if not step.fresh}
    assert stale == {"user_profile", "user_activity", "title_profile", "title_activity"}


def test_another_as_of_is_another_file(offline):
    steps = planned(DECLARED, offline, as_ofs=(NOON - days(1), NOON))
    assert [step.fresh for step in steps] == [False] * len(DECLARED.stored) + [True] * len(DECLARED.stored)
    assert steps[0].reason == "there is no file yet that says what it holds"


def test_a_plan_writes_nothing_and_is_the_same_twice(offline):
    before = content(offline)
    changed = with_table(with_features(DECLARED.table("user_activity"), hover_count_14d=None))
    assert planned(changed, offline) == planned(changed, offline)
    assert content(offline) == before


def test_features_in_another_order_are_written_again_but_not_computed(offline):
    table = DECLARED.table("user_taste")
    turned = replace(table, features=table.features[::-1])
    step = step_of(planned(with_table(turned), offline), "user_taste")
    assert (step.fresh, step.compute, step.reason) == (False, (), "its features stand in another order")
    run([step], "world", EVENTS.register, threads=1)
    assert pq.read_schema(step.path).names[3:] == list(turned.names)
    assert step_of(planned(with_table(turned), offline), "user_taste").fresh


def test_a_file_that_lost_rows_is_not_completed(offline):
    table = DECLARED.table("user_activity")
    path = offline_path(offline, "user_activity", NOON)
    whole = pq.read_table(path, partitioning=None)
    pq.write_table(whole.slice(1), path)  # the footer, and with it the digests, stays
    before = path.read_bytes()
    changed = with_table(
        with_features(table, hover_count_14d=other_window(table, "hover_count_14d", "hover_count_3d"))
    )
    with pytest.raises(DifferentRows, match=f"{whole.num_rows} entities computed, {whole.num_rows - 1} in"):
        compute(changed, offline)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.partial*"))


def test_a_file_from_before_digests_were_kept_a_feature_is_computed_whole(offline):
    path = offline_path(offline, "user_taste", NOON)
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.replace_schema_metadata({"matinee_digest": "0123"}), path)
    assert recorded(path) is None
    step = step_of(planned(DECLARED, offline), "user_taste")
    assert step.compute == step.table.names
    assert not step.keep


def test_arithmetic_over_what_the_table_derives_itself_is_refused():
    table = DECLARED.table("title_profile")
    twice = derived("x", Ref("title_profile", "play_per_impression_7d"), "d", "u", frozenset(), ())
    with pytest.raises(
        ValueError, match="title_profile:x reads 'play_per_impression_7d', which is derived too"
    ):
        replace(table, features=(*table.features, twice))
