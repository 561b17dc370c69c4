from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from events.importing import batches, load
from events.schema import TABLES
from events.sources import FILM_GENRES, WORLD
from events.trends import draw_on
from events.world import World, WorldConfig
from events.world_config import micros

SHORT = WorldConfig.tiny(days=3)


def whole(config):
    days = list(World(config).simulate())
    return {name: pa.concat_tables([day.tables[name] for day in days]) for name in days[0].tables}


def test_equal_settings_give_equal_events_bit_for_bit():
    first, second = whole(SHORT), whole(SHORT)
    assert first.keys() == set(TABLES)
    assert all(first[name].equals(second[name]) for name in first)


def test_another_seed_gives_another_history():
    other = whole(SHORT.model_copy(update={"seed": SHORT.seed + 1}))
    assert not whole(SHORT)["plays"].equals(other["plays"])


def test_a_response_does_not_disturb_the_history():
    world = World(SHORT)
    before = next(iter(world.simulate())).tables["plays"]
    world.renewals(np.array([1]), np.array([0.5]), np.array([0.5]), np.random.default_rng(0))
    assert next(iter(world.simulate())).tables["plays"].equals(before)


def test_the_lake_takes_every_row_of_the_world(lake):
    ingests = load("world", lake, world=SHORT)
    assert {ingest.table for ingest in ingests} == set(TABLES)
    assert all(ingest.quarantined == 0 for ingest in ingests)
    expected = {name: table.num_rows for name, table in whole(SHORT).items()}
    assert {summary.table: summary.rows for summary in lake.describe()} == expected


def test_loading_the_world_twice_adds_nothing(lake):
    load("world", lake, world=SHORT)
    again = load("world", lake, world=SHORT)
    assert sum(ingest.accepted for ingest in again) == 0
    assert sum(ingest.repeated for ingest in again) == sum(table.num_rows for table in whole(SHORT).values())


def test_a_batch_holds_nothing_younger_than_its_receipt():
    for _, rows, received_at in batches("world", world=SHORT):
        if rows.num_rows:
            assert pc.max(rows["created_timestamp"]).as_py() <= received_at


def test_the_simulation_lies_between_its_start_and_end(world, history):
    for name in ("impressions", "plays", "hovers"):
        moments = history[name]["event_timestamp"]
        assert pc.min(moments).as_py() >= world.config.start
    assert pc.max(history["impressions"]["event_timestamp"]).as_py() < world.config.end


def test_every_day_has_sessions(world, history):
    days = pc.unique(pc.floor_temporal(history["impressions"]["event_timestamp"], unit="day"))
    assert len(days) == world.config.days


def test_invented_titles_are_labelled_and_real_ones_are_not(world):
    titles = world.titles().to_pandas()
    invented = titles.origin == "simulated"
    assert 0.1 < invented.mean() < 0.15
    names = [f"Simulated title {title_id}: " for title_id in titles.title_id]
    says_so = np.array([name.startswith(start) for name, start in zip(titles.name, names, strict=True)])
    assert (says_so == invented).all()
    assert (titles.imdb_id.isna() == invented).all()


def test_the_default_catalogue_has_every_real_film_once(world):
    full = World(WorldConfig()).titles()
    real = full.filter(pc.equal(full["origin"], "real"))
    assert full.num_rows == 20_000
    assert real.num_rows == pc.count_distinct(real["imdb_id"]).as_py() == 17_470


def test_titles_keep_arriving_while_the_world_runs(world, history):
    titles = history["titles"]
    arriving = pc.greater_equal(
        titles["available_from"], pa.scalar(world.config.start, pa.timestamp("us", "UTC"))
    )
    assert 40 < pc.sum(arriving).as_py() < 120


def test_nothing_is_shown_before_it_is_known_and_available(history):
    shown = history["impressions"].join(
        history["titles"].select(["title_id", "available_from", "created_timestamp"]),
        "title_id",
        right_suffix="_title",
    )
    assert pc.all(pc.less_equal(shown["available_from"], shown["event_timestamp"])).as_py()
    assert pc.all(pc.less_equal(shown["created_timestamp_title"], shown["event_timestamp"])).as_py()


def test_no_page_shows_a_title_twice(history):
    shown = history["impressions"]
    per_cell = shown.group_by(["request_id", "title_id"]).aggregate([([], "count_all")])
    assert per_cell.num_rows == shown.num_rows


def test_each_title_has_five_to_ten_images(world):
    counts = np.bincount(world.artworks()["title_id"].to_numpy())[1:]
    assert len(counts) == world.config.n_titles
    assert set(counts) == {5, 6, 7, 8, 9, 10}


def test_logged_propensities_of_a_titles_images_sum_to_one(world, history):
    shown = history["impressions"].to_pandas().drop_duplicates("artwork_id")
    images = world.artworks().to_pandas().merge(shown[["artwork_id", "artwork_propensity"]], on="artwork_id")
    complete = images.groupby("title_id").filter(lambda group: len(group) >= 5)
    per_title = complete.groupby("title_id").artwork_propensity
    number = np.bincount(world.artworks()["title_id"].to_numpy())[per_title.first().index]
    np.testing.assert_allclose(per_title.first() * number, 1)
    assert (per_title.nunique() == 1).all()


def test_images_are_shown_as_often_as_their_propensity_says(history):
    """Each title's first image against its propensity, over all titles: a binomial sum."""
    shown = history["impressions"].to_pandas()
    first = shown.groupby("title_id").artwork_id.transform("min")  # the first image, where it was ever shown
    usual = shown.groupby("title_id").artwork_id.transform("size") >= 60
    hits, chance = (shown.artwork_id == first)[usual], shown.artwork_propensity[usual]
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs(hits.sum() - chance.sum()) < 4 * spread


def test_a_small_share_of_sessions_is_heard_of_hours_late(world, history):
    shown = history["impressions"].to_pandas().drop_duplicates("request_id")
    late = (shown.created_timestamp - shown.event_timestamp) > timedelta(minutes=30)
    expected = world.config.late_share
    assert abs(late.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(late))
    assert late.sum() > 0


def test_no_event_is_known_before_it_happened(history):
    for table in history.values():
        assert pc.all(pc.greater_equal(table["created_timestamp"], table["event_timestamp"])).as_py()


def test_memberships_alternate_and_their_periods_abut(history):
    events = history["memberships"].to_pandas().sort_values(["user_id", "event_timestamp"])
    before = events.groupby("user_id").shift(1)
    known = before.status.notna()
    after_leaving = known & (before.status == "cancelled")
    assert (events.status[after_leaving] == "started").all()
    staying = known & ~after_leaving
    assert events.status[staying].isin(["renewed", "cancelled"]).all()
    assert (events.event_timestamp[staying] == before.period_end[staying]).all()
    assert events.membership_id.is_unique


def test_renewals_are_seen_on_every_day(world, history):
    events = history["memberships"].to_pandas()
    renewed = events[(events.status == "renewed") & (events.event_timestamp >= world.config.start)]
    assert renewed.event_timestamp.dt.date.nunique() == world.config.days


def test_only_members_with_a_running_membership_have_sessions(history):
    events = history["memberships"].to_pandas()
    running = events[events.status != "cancelled"][["user_id", "period_start", "period_end"]]
    sessions = (
        history["impressions"]
        .to_pandas()
        .drop_duplicates("request_id")[["request_id", "user_id", "event_timestamp"]]
    )
    pairs = sessions.merge(running, on="user_id")
    inside = pairs[
        (pairs.period_start <= pairs.event_timestamp) & (pairs.event_timestamp <= pairs.period_end)
    ]
    assert set(inside.request_id) == set(sessions.request_id)


def test_popularity_moves(world):
    """What draws on the last day is not what drew on the first: trends and releases."""
    start, end = (
        draw_on(world.trends, world.catalogue, micros(at)) for at in (world.config.start, world.config.end)
    )
    assert 0.3 < np.corrcoef(start, end)[0, 1] < 0.98


def test_every_lacked_column_is_null_and_no_other(history):
    for name, contract in TABLES.items():
        for column in contract.columns:
            table = history[name]
            filled = column.name in table.column_names and table[column.name].null_count < table.num_rows
            assert filled == WORLD.has(f"{name}.{column.name}"), f"{name}.{column.name}"


def test_genres_are_of_the_declared_vocabulary(world):
    found = {genre for genres in world.titles()["genres"].to_pylist() for genre in genres or ()}
    assert found <= set(FILM_GENRES)


@pytest.mark.parametrize("wrong", [{"n_members": 0}, {"late_share": 1.5}, {"dayz": 3}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        WorldConfig(**wrong)
