"""New titles in the simulated world: knowing how good an image is saves the weeks it takes to find out. Simulated."""

from __future__ import annotations

import numpy as np
import pytest

from events.audience import memberships_on, visits_on
from events.behaviour import visit
from events.history import audience_after, told
from events.schema import THEME_COLUMNS
from events.traces import Pages
from events.world import World, WorldConfig
from events.world_config import DAY, micros
from matinee.simulation.new_titles import Offered, Showings, compared, of_day
from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_train import train_artwork
from models.creative_quality import train_creative_quality
from models.signature import Signature

CONFIG = WorldConfig(n_members=500, n_titles=800, days=10, later_days=14, seed=0)
NO_CONTEXT = Signature((), ())
IMAGE = Signature(tuple(THEME_COLUMNS), tuple(THEME_COLUMNS))


@pytest.fixture(scope="module")
def lively():
    return World(CONFIG)


@pytest.fixture(scope="module")
def images(lively):
    art = lively.catalogue.artwork
    return ArtworkImages.of(np.arange(1, len(art.title) + 1), art.title + 1, art.themes)


@pytest.fixture(scope="module")
def old(lively, images):
    """The images of titles that the history offered."""
    known = lively.catalogue.available_from[images.title_id - 1] < micros(CONFIG.end)
    return ArtworkImages(images.artwork_id[known], images.title_id[known], images.features[known])


@pytest.fixture(scope="module")
def taught(lively, old):
    """Creative quality and a policy from what the history's uniform images taught."""
    rows = []
    for day, _ in told(lively):
        shown = day.tables["impressions"]
        played = np.isin(shown["impression_id"].to_numpy(), day.tables["plays"]["impression_id"].to_numpy())
        columns = (
            shown[name].to_numpy()
            for name in ("impression_id", "user_id", "title_id", "artwork_id", "artwork_propensity")
        )
        rows.append([*columns, played])  # fmt: skip
    ids, users, titles, artworks, propensity, played = (
        np.concatenate(part) for part in zip(*rows, strict=True)
    )
    log = ArtworkLog(
        ids,
        users,
        titles,
        artworks,
        np.zeros((len(ids), 0), np.float32),
        played.astype(np.float32),
        propensity,
    )
    quality = train_creative_quality(old, log, IMAGE)
    return quality, train_artwork(old, log, NO_CONTEXT, IMAGE, quality)


@pytest.fixture(scope="module")
def traffic(lively, old):
    """Six new titles on each page of the days after the history, among those that are there by then."""
    audience, rng, days = audience_after(lively), np.random.default_rng(1), []
    for number in range(CONFIG.later_days):
        begins = micros(CONFIG.end) + number * DAY
        there = np.flatnonzero(lively.catalogue.available_from < begins) + 1
        new = np.setdiff1d(there, old.title_id)
        _, audience = memberships_on(lively, audience, begins)
        coming = visits_on(lively, audience, begins)
        each = min(6, len(new))
        titles = np.array([rng.choice(new, each, replace=False) for _ in coming.at], dtype=np.int64).reshape(
            len(coming.at), each
        )
        places = np.array([rng.choice(24, each, replace=False) for _ in coming.at], dtype=np.int64).reshape(
            len(coming.at), each
        )
        days.append(Showings(
            np.repeat(coming.user_ids, each), titles.ravel(), places.ravel(), np.repeat(coming.at, each),
            np.zeros((titles.size, 0), np.float32),
        ))  # fmt: skip
    return days


@pytest.mark.slow
def test_informed_priors_beat_uninformed_ones_on_new_titles_in_weeks_saved(lively, images, taught, traffic):
    """Seed 0; about 40 new titles and 25,000 impressions of them. Both policies see the same traffic and chance."""
    quality, policy = taught
    assert quality.validity.usable
    found = compared(lively, policy, images, quality.score(images.features), traffic)
    assert found.titles > 30
    assert found.informed.lift[0] > 0.3 > found.uninformed.lift[0] == pytest.approx(0, abs=0.02)
    assert found.informed.lift.mean() > found.uninformed.lift.mean() + 0.1
    assert found.informed.regret.mean() < found.uninformed.regret.mean()
    assert found.informed.share_of_best.mean() > found.uninformed.share_of_best.mean()
    assert found.saved is not None
    assert found.saved.weeks > 0.5


def test_a_policy_without_the_score_starts_from_uniform_choice(taught, images, old):
    quality, policy = taught
    new = np.setdiff1d(images.title_id, old.title_id)[0]
    offered = images.artwork_id[images.title_id == new]
    present, nobody = np.ones((1, len(offered)), np.bool_), np.zeros((1, 0), np.float32)
    scores = quality.score(images.features)
    uninformed = policy.knowing(images, scores, informed=False).probabilities(nobody, offered[None], present)
    assert uninformed[0] == pytest.approx(1 / len(offered), abs=1e-6)
    informed = policy.knowing(images, scores).probabilities(nobody, offered[None], present)
    assert informed[0].argmax() == scores[images.title_id == new].argmax()


def test_what_was_learnt_stays_when_new_images_come_in(taught, images, old):
    quality, policy = taught
    after = policy.knowing(images, quality.score(images.features))
    rows = np.searchsorted(after.artwork_ids, old.artwork_id)
    assert (after.belief.mean[rows] == policy.belief.mean).all()
    assert (after.belief.precision[rows] == policy.belief.precision).all()
    assert after.absorbed == policy.absorbed
    assert policy.knowing(old, quality.score(old.features)) is policy


def test_the_true_chance_is_how_often_it_is_played(lively, images):
    """Drawn many times by the world's own behaviour, one showing on a page of its own."""
    title = int(images.title_id[0])
    mine = images.artwork_id[images.title_id == title]
    at, n, position = micros(CONFIG.end) + DAY // 2, 40_000, 3
    one = Showings(
        np.array([5]), np.array([title]), np.array([position]), np.array([at]), np.zeros((1, 0), np.float32)
    )
    offered: Offered = of_day(lively, images, one)
    titles, artworks = (np.full((n, position + 1), -1, np.int64) for _ in range(2))
    titles[:, position], artworks[:, position] = title, mine[1]
    pages = Pages.numbered(titles, artworks)
    seen = lively.visits(np.full(n, 4), pages, np.full(n, at))
    played = visit(lively.catalogue, lively.members, seen, np.random.default_rng(0)).played[:, position]
    chance = offered.chance[0, list(offered.ids[0]).index(mine[1])]
    assert played.mean() == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / n))
