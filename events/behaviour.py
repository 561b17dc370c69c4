"""How members behave: what they look at, hover over, play, finish and, in the end, pay for again.

Pure functions on arrays: S sessions, L cells of a page. One behaviour serves the history and every
later test; `docs/world.md` tells its story and equations under the names used here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from events.catalogue import Catalogue
from events.members import Members
from events.sources import FILM_GENRES

Floats = NDArray[np.float64]

AFFINITY, DRAW, REPUTATION, SEEN = 1.25, 0.4, 0.2, 3.0
HOVER_BASE, HOVER_INTEREST, HOVER_IMAGE = -1.55, 0.8, 0.35
PLAY_BASE, PLAY_INTEREST, PLAY_IMAGE = -0.4, 0.95, 0.45
RENEW_BASE, RENEW_SATISFACTION, RENEW_DIVERSITY, RENEW_VISITS = 2.6, 3.0, 1.8, 0.15
USUAL_SATISFACTION, USUAL_DIVERSITY, USUAL_VISITS = 0.49, 0.73, 4.0
ABSENT_LOGIT = -0.7  # of a member without a session in the period
COMPLETED_SHARE = 0.9

_MORNING, _AFTERNOON, _EVENING, _NIGHT = range(4)
_MOODS = {
    _MORNING: {"Family": 0.5, "Animation": 0.5, "Documentary": 0.3, "Horror": -0.5},
    _AFTERNOON: {"Family": 0.4, "Comedy": 0.3, "Sport": 0.4, "Adventure": 0.2},
    _EVENING: {"Drama": 0.2, "Action": 0.2, "Romance": 0.2},
    _NIGHT: {"Horror": 0.6, "Thriller": 0.4, "Sci-Fi": 0.3, "Family": -0.6},
}


def _mood_matrix() -> NDArray[np.float32]:
    moods = np.zeros((len(_MOODS), len(FILM_GENRES)), np.float32)
    for part, liked in _MOODS.items():
        moods[part, [FILM_GENRES.index(genre) for genre in liked]] = list(liked.values())
    return moods


MOODS = _mood_matrix()
"""(4, 20): what the hour of the day adds to the interest in a genre."""


@dataclass(frozen=True)
class Visits:
    """S sessions at the front page: rows of members, titles and images, not ids; -1 marks an empty cell."""

    member: NDArray[np.int64]  # (S,)
    title: NDArray[np.int64]  # (S, L)
    artwork: NDArray[np.int64]  # (S, L)
    at: NDArray[np.int64]  # (S,) microseconds
    draw: Floats  # (S, L) what the title draws today, whoever looks
    seen: NDArray[np.bool_]  # (S, L) watched to the end before
    room: Floats | None = None  # (S,) minutes a session may take; else the evening alone bounds it


@dataclass(frozen=True)
class Outcome:
    """What came of the visits, cell by cell; minutes and shares are 0 where nothing was played."""

    hovered: NDArray[np.bool_]  # (S, L)
    dwell_seconds: Floats  # (S, L)
    played: NDArray[np.bool_]  # (S, L)
    watch_minutes: Floats  # (S, L)
    watch_share: Floats  # (S, L)
    started_after_minutes: Floats  # (S, L) from the session's start to the play's
    satisfaction: Floats  # (S,) 0..1
    diversity: Floats  # (S,) 0..1


def examination(position: NDArray[np.int64]) -> Floats:
    """Probability that the cell at `position` (0 is the first) is looked at: 1 / (1 + position / 8)."""
    return np.asarray(1 / (1 + position / 8))


def page_diversity(genres: NDArray[np.float32], shown: NDArray[np.bool_]) -> Floats:
    """(S,) mean genre distance 1 − g_i · g_j over pairs of cells, weighted by their examination.

    `genres` is (S, L, 20) with unit rows. A page of fewer than two titles has no diversity: 0.
    """
    weight = examination(np.arange(shown.shape[1])) * shown
    total = np.einsum("sl,slg->sg", weight, genres)
    pairs = weight.sum(1) ** 2 - (weight**2).sum(1)
    alike = (total**2).sum(1) - ((weight**2) * (genres**2).sum(2)).sum(1)
    return np.asarray(np.where(pairs > 0, 1 - alike / np.where(pairs > 0, pairs, 1), 0.0))


def affinity(members: Members, member: NDArray[np.int64], title: NDArray[np.int64]) -> Floats:
    """(S, L) latent affinity of each session's member for the titles in its cells; variance 1 overall."""
    product = np.einsum("sd,sld->sl", members.taste[member], members.traits[title])
    return np.asarray(product, np.float64)


def image_appeal(catalogue: Catalogue, members: Members, visits: Visits) -> Floats:
    """(S, L): the image's own quality plus how its themes meet the member's; variance about 1."""
    themes = catalogue.artwork.themes[visits.artwork] - catalogue.artwork.themes.mean(0)
    personal = np.einsum("sd,sld->sl", members.theme_taste[visits.member], themes)
    return np.asarray(0.7 * catalogue.artwork.appeal[visits.artwork] + 1.2 * personal)


def daypart(members: Members, member: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) 0 morning (6 to 11), 1 afternoon (to 17), 2 evening (to 23), 3 night, by the member's clock."""
    hour = (at // 3_600_000_000 + members.utc_offset[member]) % 24
    return np.asarray((np.digitize(hour, [6, 11, 17, 23]) - 1) % 4, np.int64)


def interest(catalogue: Catalogue, members: Members, visits: Visits, liking: Floats) -> Floats:
    """(S, L) how much each cell's title calls to the member here and now; `liking` is its affinity."""
    mood = MOODS[daypart(members, visits.member, visits.at)]
    in_the_mood = np.einsum("sg,slg->sl", mood, catalogue.genres[visits.title])
    reputation = catalogue.quality[visits.title]
    return np.asarray(
        AFFINITY * liking + DRAW * visits.draw + REPUTATION * reputation + in_the_mood - SEEN * visits.seen
    )


def visit(catalogue: Catalogue, members: Members, visits: Visits, rng: np.random.Generator) -> Outcome:
    """Let each session run: examine, hover, play, watch, be satisfied or not."""
    shown = visits.title >= 0
    liking = affinity(members, visits.member, visits.title)
    call = interest(catalogue, members, visits, liking)
    image = image_appeal(catalogue, members, visits)
    looked = shown & (rng.random(shown.shape) < examination(np.arange(shown.shape[1])))
    hover_logit = HOVER_BASE + HOVER_INTEREST * call + HOVER_IMAGE * image
    hovered = looked & (rng.random(shown.shape) < expit(hover_logit))
    play_logit = PLAY_BASE + PLAY_INTEREST * call + PLAY_IMAGE * image
    played = hovered & (rng.random(shown.shape) < expit(play_logit))
    dwell = np.exp(0.8 + 0.25 * call + 0.6 * rng.normal(size=shown.shape)).clip(0.2, 120) * hovered
    dwell = dwell.round(3)  # milliseconds, as a client reports; the last bit of exp is the processor's own
    enjoyed = 0.7 * liking + 0.6 * catalogue.quality[visits.title] + 0.6 * rng.normal(size=shown.shape)
    minutes, share, begun = watching(catalogue, members, visits, played, enjoyed, rng)
    return Outcome(
        hovered=hovered,
        dwell_seconds=dwell,
        played=played,
        watch_minutes=minutes,
        watch_share=share,
        started_after_minutes=begun,
        satisfaction=-np.expm1(-(share * expit(1.2 * enjoyed)).sum(1)),
        diversity=page_diversity(catalogue.genres[visits.title], shown),
    )


def watching(
    catalogue: Catalogue,
    members: Members,
    visits: Visits,
    played: NDArray[np.bool_],
    enjoyed: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """(S, L) minutes, share of the runtime, and minutes after the session's start of every play.

    Plays follow one another in page order. When the evening is spent, the rest are only sampled.
    """
    runtime = catalogue.runtime_minutes[visits.title]
    on_the_go = (members.device[visits.member] == "mobile")[:, None]
    wished = 0.55 + 0.4 * enjoyed + 0.2 * rng.normal(size=played.shape) - 0.15 * on_the_go
    wished_minutes = runtime * wished.clip(0.02, 1) * played
    evening = members.evening_minutes[visits.member] * rng.lognormal(0, 0.3, len(visits.member))
    if visits.room is not None:
        evening = np.minimum(evening, visits.room)
    sample = np.minimum(runtime, rng.uniform(1, 4, played.shape))
    spent = np.cumsum(wished_minutes, axis=1) - wished_minutes
    minutes = np.minimum(wished_minutes, np.maximum(evening[:, None] - spent, sample)) * played
    return minutes, minutes / runtime, np.cumsum(minutes, axis=1) - minutes


def renewal_probability(
    members: Members,
    member: NDArray[np.int64],
    satisfaction: Floats,
    diversity: Floats,
    visits: NDArray[np.int64],
) -> Floats:
    """Probability that a member renews, given the means over its sessions of the period and their number.

    Where `visits` is 0 the means are not looked at.
    """
    lived = (
        RENEW_SATISFACTION * (satisfaction - USUAL_SATISFACTION)
        + RENEW_DIVERSITY * members.variety[member] * (diversity - USUAL_DIVERSITY)
        + RENEW_VISITS * (np.minimum(visits, 8) - USUAL_VISITS)
    )
    return np.asarray(expit(RENEW_BASE + members.loyalty[member] + np.where(visits > 0, lived, ABSENT_LOGIT)))
