from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from events.behaviour import Visits, daypart, examination, page_diversity, renewal_probability, watching
from events.logging_policy import first_different
from events.world import Pages, UnknownIds
from events.world_config import micros

AT = datetime(2026, 1, 20, 20, tzinfo=UTC)


def random_pages(world, n, size, seed):
    """Pages of available titles in random order, each with a random image of its title."""
    rng = np.random.default_rng(seed)
    on_offer = np.flatnonzero(world.catalogue.available_from < micros(AT)) + 1
    titles = np.stack([rng.permutation(on_offer)[:size] for _ in range(n)])
    first, after = world.catalogue.artwork_start[titles - 1], world.catalogue.artwork_start[titles]
    return titles, 1 + first + (rng.random(titles.shape) * (after - first)).astype(int)


@pytest.fixture(scope="module")
def responses(world):
    titles, artworks = random_pages(world, 20_000, 24, seed=1)
    members = np.random.default_rng(2).integers(1, 201, len(titles))
    return world.respond(members, Pages.numbered(titles, artworks), AT, np.random.default_rng(3))


def test_examination_falls_as_documented():
    # 1 / (1 + k / 8): certain at the first place, half at the ninth, a quarter at the twenty-fifth
    assert examination(np.array([0, 8, 24])).tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("event", ["hovers", "plays"])
def test_position_bias_is_recovered_from_pages_in_random_order(responses, event):
    position = np.arange(24)
    ids = getattr(responses, event)["impression_id"].to_numpy()
    seen = np.bincount((ids - 1) % 24, minlength=24)
    expected = examination(position) / examination(position).sum() * seen.sum()
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < 49.7  # the .999 quantile of chi-square with 23 degrees of freedom


def test_a_play_follows_a_hover_with_a_click_on_an_impression(responses):
    clicked = responses.hovers.filter(responses.hovers["clicked"])
    assert responses.plays["impression_id"].to_pylist() == clicked["impression_id"].to_pylist()
    assert set(clicked["impression_id"].to_pylist()) <= set(
        responses.impressions["impression_id"].to_pylist()
    )


def test_plays_of_a_session_follow_one_another(responses):
    plays = responses.plays.append_column(
        "page", pc.divide(pc.subtract(responses.plays["play_id"], 1), 24)
    ).to_pandas()
    ends = plays.event_timestamp + plays.watch_minutes.map(
        lambda minutes: np.timedelta64(int(minutes * 6e7), "us")
    )
    same_page = plays.page.eq(plays.page.shift(-1))
    assert (plays.event_timestamp.shift(-1)[same_page] >= ends[same_page]).all()


def test_a_play_is_known_only_after_it_has_ended(responses):
    plays = responses.plays.to_pandas()
    lag_minutes = (plays.created_timestamp - plays.event_timestamp).dt.total_seconds() / 60
    assert (lag_minutes >= plays.watch_minutes - 1e-6).all()


def test_watch_share_is_minutes_over_runtime_and_completed_from_nine_tenths(world, responses):
    plays = responses.plays.to_pandas()
    runtime = world.catalogue.runtime_minutes[plays.title_id - 1]
    np.testing.assert_allclose(plays.watch_share, plays.watch_minutes / runtime)
    assert plays.watch_share.between(0, 1).all()
    assert (plays.completed == (plays.watch_share >= 0.9)).all()


def test_the_oracle_beats_the_charts_and_the_charts_beat_chance(world, history):
    members = np.repeat(np.arange(1, 201), 5)
    on_offer = np.flatnonzero(world.catalogue.available_from < micros(AT)) + 1
    counts = np.bincount(history["plays"]["title_id"].to_numpy(), minlength=601)[on_offer]
    charts = np.tile(on_offer[np.argsort(-counts)[:12]], (len(members), 1))
    oracle = on_offer[np.argsort(-world.true_interest(members, on_offer, AT), axis=1)[:, :12]]
    chance, _ = random_pages(world, len(members), 12, seed=4)

    def plays(titles):
        pages = Pages.numbered(titles, world.catalogue.artwork_start[titles - 1] + 1)
        return world.respond(members, pages, AT, np.random.default_rng(5)).plays_per_page.mean()

    assert plays(oracle) > 1.4 * plays(charts) > 1.4 * 1.2 * plays(chance)


def test_a_better_image_is_hovered_over_more_and_once_hovered_over_played_more(world):
    """Same members, same titles: only the image differs."""
    titles, _ = random_pages(world, 4000, 12, seed=6)
    appeal, start = world.catalogue.artwork.appeal, world.catalogue.artwork_start
    order = [start[t] + np.argsort(appeal[start[t] : start[t + 1]]) for t in range(len(world.catalogue))]
    members = np.random.default_rng(7).integers(1, 201, len(titles))

    def hovers_and_clicked_share(place):
        artworks = 1 + np.array([order[t][place] for t in titles.ravel() - 1]).reshape(titles.shape)
        hovers = world.respond(members, Pages.numbered(titles, artworks), AT, np.random.default_rng(8)).hovers
        return hovers.num_rows, pc.mean(hovers["clicked"].cast("float64")).as_py()

    best, worst = hovers_and_clicked_share(-1), hovers_and_clicked_share(0)
    assert best[0] > 1.1 * worst[0]
    assert best[1] > worst[1] + 0.02


def test_when_the_evening_is_spent_the_rest_is_only_sampled(world):
    """Thirty films one after the other, all adored: no evening is that long."""
    titles, artworks = random_pages(world, 200, 30, seed=12)
    shape, members = titles.shape, np.arange(200)
    visits = Visits(
        members, titles - 1, artworks - 1, np.full(200, micros(AT)), np.zeros(shape), np.zeros(shape, bool)
    )
    minutes, share, begun = watching(
        world.catalogue,
        world.members,
        visits,
        np.ones(shape, bool),
        np.full(shape, 9.0),
        np.random.default_rng(1),
    )
    assert (share[:, 0] > 0).all()
    assert (share[:, 0] == 1).mean() > 0.5
    assert (minutes[:, -5:] <= 4).all()
    evening = world.members.evening_minutes * np.exp(4 * 0.3)  # four standard deviations of a long evening
    assert (minutes.sum(1) <= evening + 30 * 4).all()
    np.testing.assert_allclose(begun[:, -1], minutes[:, :-1].sum(1))


def test_a_session_takes_no_more_than_its_room_and_what_is_only_sampled(world):
    titles, artworks = random_pages(world, 200, 30, seed=12)
    shape, members = titles.shape, np.arange(200)
    room = np.linspace(0, 60, 200)
    visits = Visits(
        members, titles - 1, artworks - 1, np.full(200, micros(AT)), np.zeros(shape), np.zeros(shape, bool)
    )
    played, adored = np.ones(shape, bool), np.full(shape, 9.0)
    free, bound = (
        watching(world.catalogue, world.members, v, played, adored, np.random.default_rng(1))[0]
        for v in (visits, replace(visits, room=room))
    )
    assert (bound.sum(1) <= room + 30 * 4).all()
    assert (bound <= free).all()
    assert (bound.sum(1) < free.sum(1)).mean() > 0.9
    wide = replace(visits, room=np.full(200, 1e6))
    same = watching(world.catalogue, world.members, wide, played, adored, np.random.default_rng(1))[0]
    np.testing.assert_array_equal(same, free)


def test_the_same_generator_gives_the_same_responses(world):
    titles, artworks = random_pages(world, 50, 40, seed=9)
    members = np.arange(1, 51)
    first, second = (
        world.respond(members, Pages.numbered(titles, artworks), AT, np.random.default_rng(1))
        for _ in range(2)
    )
    assert first.plays.equals(second.plays)
    assert first.hovers.equals(second.hovers)


def test_empty_cells_leave_no_trace(world):
    titles, artworks = random_pages(world, 200, 10, seed=10)
    titles[:, 6:], artworks[:, 6:] = -1, -1
    responses = world.respond(
        np.arange(1, 201), Pages.numbered(titles, artworks), AT, np.random.default_rng(1)
    )
    assert pc.max(responses.impressions["position"]).as_py() == 5
    assert responses.impressions.num_rows == 200 * 6
    assert pc.min(responses.plays["title_id"]).as_py() >= 1
    np.testing.assert_allclose(
        responses.diversity,
        page_diversity(world.catalogue.genres[titles[:, :6] - 1], np.ones((200, 6), bool)),
        rtol=1e-6,
    )


def test_ids_that_are_not_of_this_world_are_named(world):
    titles, artworks = random_pages(world, 2, 3, seed=11)
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownIds, match=r"user_id 201: this world has 1 to 200"):
        world.respond([1, 201], Pages.numbered(titles, artworks), AT, rng)
    strange = titles.copy()
    strange[1, 1] = 601
    with pytest.raises(UnknownIds, match=r"title_id 601"):
        world.respond([1, 2], Pages.numbered(strange, artworks), AT, rng)
    with pytest.raises(ValueError, match=r"is no image of title_id"):
        world.respond([1, 2], Pages.numbered(titles[::-1], artworks), AT, rng)
    with pytest.raises(ValueError, match=r"do not match"):
        world.respond([1], Pages.numbered(titles, artworks), AT, rng)


def by_hand(genres, shown):
    """Mean distance over ordered pairs of different cells, weighted by how both are examined."""
    total = weights = 0.0
    for i in range(len(shown)):
        for j in range(len(shown)):
            if i != j and shown[i] and shown[j]:
                weight = 1 / (1 + i / 8) / (1 + j / 8)
                total += weight * (1 - float(genres[i] @ genres[j]))
                weights += weight
    return total / weights if weights else 0.0


@given(
    hnp.arrays(np.int8, (3, 6, 5), elements=st.integers(0, 1)),
    hnp.arrays(np.bool_, (3, 6)),
)
def test_page_diversity_agrees_with_a_double_loop(has_genre, shown):
    norm = np.sqrt(np.maximum(1, has_genre.sum(-1, keepdims=True)))
    genres = (has_genre / norm).astype(np.float32)
    expected = [by_hand(page, cells) for page, cells in zip(genres, shown, strict=True)]
    np.testing.assert_allclose(page_diversity(genres, shown), expected, atol=1e-5)


@given(
    hnp.arrays(np.int64, (4, 12), elements=st.integers(0, 8)),
    hnp.arrays(np.bool_, (4, 12)),
    st.integers(1, 9),
)
def test_a_page_takes_the_first_different_wanted_candidates(candidates, wanted, size):
    for row, page in enumerate(first_different(candidates, wanted, size)):
        once = list(dict.fromkeys(candidates[row][wanted[row]].tolist()))[:size]
        assert page.tolist() == once + [-1] * (size - len(once))


@pytest.mark.parametrize(
    ("local_hour", "part"), [(5, 3), (6, 0), (10, 0), (11, 1), (16, 1), (17, 2), (22, 2), (23, 3), (0, 3)]
)
def test_the_part_of_the_day_is_by_the_members_own_clock(world, local_hour, part):
    member = np.arange(len(world.members))
    utc_hour = (local_hour - world.members.utc_offset) % 24
    at = micros(datetime(2026, 1, 20, tzinfo=UTC)) + utc_hour * 3_600_000_000
    assert (daypart(world.members, member, at) == part).all()


@given(st.floats(0, 0.9), st.floats(0, 0.9), st.integers(1, 10))
def test_renewal_grows_with_satisfaction_and_with_diversity(world, satisfaction, diversity, visits):
    member = np.arange(200)

    def chance(more_satisfied=0.0, more_diverse=0.0):
        means = np.full(200, satisfaction + more_satisfied), np.full(200, diversity + more_diverse)
        return renewal_probability(world.members, member, *means, np.full(200, visits))

    assert (chance(more_satisfied=0.1) > chance()).all()
    assert (chance(more_diverse=0.1) > chance()).all()
    assert ((chance() > 0) & (chance() < 1)).all()


def test_renewals_are_drawn_from_the_means_over_a_members_sessions(world):
    ids, satisfaction, diversity = np.array([7, 3, 7]), np.array([0.2, 0.5, 0.6]), np.array([0.4, 0.5, 0.8])
    renewals = world.renewals(ids, satisfaction, diversity, np.random.default_rng(0))
    assert renewals.user_ids.tolist() == [3, 7]
    expected = renewal_probability(
        world.members, np.array([2, 6]), np.array([0.5, 0.4]), np.array([0.5, 0.6]), np.array([1, 2])
    )
    np.testing.assert_allclose(renewals.probability, expected)


def test_renewed_shares_match_their_probabilities(world):
    ids = np.arange(1, 201)
    flat = np.full(200, 0.4)
    renewed = np.mean(
        [world.renewals(ids, flat, flat, np.random.default_rng(k)).renewed.mean() for k in range(50)]
    )
    expected = world.renewals(ids, flat, flat, np.random.default_rng(0)).probability.mean()
    assert abs(renewed - expected) < 4 * math.sqrt(expected * (1 - expected) / 10_000)
