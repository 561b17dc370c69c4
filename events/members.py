"""The world's members: what is known of them, and the latent tastes and habits no model may see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.catalogue import N_HIDDEN, Catalogue
from events.schema import THEME_COLUMNS
from events.sources import FILM_GENRES, FILM_LANGUAGES
from events.world_config import DAY, SECOND, WorldConfig, micros, stream

N_COMMUNITIES, COMMUNITY_SHARE = 12, 0.65
"""Members of one community share this much of the variance of their tastes: what co-watching reveals."""

GENRE_WEIGHT, HIDDEN_WEIGHT, LANGUAGE_WEIGHT, ERA_WEIGHT = 0.62, 0.55, 0.42, 0.36  # squares sum to 1
_JOINING = 0.15  # share of members who join inside the window
_COUNTRIES = (  # name, share, most spoken language, hours from UTC
    ("United States", 0.34, "English", -6), ("United Kingdom", 0.12, "English", 0), ("France", 0.1, "French", 1),
    ("Germany", 0.1, "German", 1), ("Spain", 0.08, "Spanish", 1), ("Mexico", 0.08, "Spanish", -6),
    ("Italy", 0.06, "Italian", 1), ("Japan", 0.05, "Japanese", 9), ("India", 0.07, "Hindi", 5),
)  # fmt: skip
_DEVICES = ("tv", "mobile", "web", "tablet")
_PEAKS = ((20.5, 2.0), (8.0, 1.5), (14.0, 2.5), (23.5, 1.5))  # local hour and spread of a daily habit
_GENRE_THEMES = np.random.default_rng(8).dirichlet(np.full(len(THEME_COLUMNS), 0.3), len(FILM_GENRES))


@dataclass(frozen=True)
class Members:
    """The members of a world; row i is the member with `user_id` i + 1. All but the first block is latent."""

    country: NDArray[np.str_]  # (M,)
    language: NDArray[np.str_]
    device: NDArray[np.str_]
    joined_at: NDArray[np.int64]  # microseconds; before the start for those already there

    taste: NDArray[np.float32]  # (M, D) affinity of member u for title t is taste[u] · traits[t]
    traits: NDArray[np.float32]  # (T, D)
    theme_taste: NDArray[np.float32]  # (M, 8) what they look for in an image
    activity: NDArray[np.float64]  # (M,) mean sessions a day
    utc_offset: NDArray[np.int64]  # (M,) hours
    habit: NDArray[np.float64]  # (M, 2) local hour of watching and its spread
    evening_minutes: NDArray[np.float64]  # (M,) time for one session: large for those who binge
    variety: NDArray[np.float64]  # (M,) weight on diversity when deciding to renew; mean 1
    loyalty: NDArray[np.float64]  # (M,) offset of the renewal logit
    billing_day: NDArray[np.float64]  # (M,) 0..1, phase of the membership period

    def __len__(self) -> int:
        return len(self.country)


def build_members(config: WorldConfig, catalogue: Catalogue) -> Members:
    """Draw the members of a world; their tastes are scaled so that affinity has variance 1 (see `docs/world.md`)."""
    rng, n = stream(config, "members"), config.n_members
    place = rng.choice(len(_COUNTRIES), n, p=np.array([share for _, share, _, _ in _COUNTRIES]))
    language = _languages(place, rng)
    community = rng.integers(N_COMMUNITIES, size=n)
    genre_taste = _shared(community, len(FILM_GENRES), rng)
    taste, traits = _taste_and_traits(catalogue, community, genre_taste, language, rng)
    joined = micros(config.start) - DAY + np.arange(n)  # one import, a microsecond a member
    arrives = micros(config.start) + (rng.random(n) * config.arriving_days * DAY).astype(np.int64)
    return Members(
        country=np.array([name for name, *_ in _COUNTRIES])[place],
        language=language,
        device=rng.choice(_DEVICES, n, p=[0.5, 0.25, 0.15, 0.1]),
        joined_at=np.where(rng.random(n) < _JOINING, arrives, joined),
        taste=taste,
        traits=traits,
        theme_taste=_theme_taste(genre_taste, rng),
        activity=config.sessions_per_day * rng.gamma(2.0, 0.5, n),
        utc_offset=np.array([offset for *_, offset in _COUNTRIES])[place],
        habit=np.array(_PEAKS)[rng.choice(len(_PEAKS), n, p=[0.6, 0.1, 0.15, 0.15])],
        evening_minutes=150 * rng.lognormal(0, 0.45, n),
        variety=rng.gamma(4, 0.25, n),
        loyalty=rng.normal(0, 0.5, n),
        billing_day=rng.random(n),
    )


def _languages(place: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.str_]:
    """Mostly the country's language; one member in eight prefers another."""
    usual = np.array([spoken for _, _, spoken, _ in _COUNTRIES])[place]
    return np.where(rng.random(len(place)) < 0.125, rng.choice(FILM_LANGUAGES, len(place)), usual)


def _shared(community: NDArray[np.int64], width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(M, width) standard normal, COMMUNITY_SHARE of the variance the community's."""
    together = rng.normal(size=(N_COMMUNITIES, width))[community]
    return np.asarray(
        np.sqrt(COMMUNITY_SHARE) * together + np.sqrt(1 - COMMUNITY_SHARE) * rng.normal(size=together.shape)
    )


def _taste_and_traits(
    catalogue: Catalogue,
    community: NDArray[np.int64],
    genre_taste: NDArray[np.float64],
    language: NDArray[np.str_],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stack the four parts of taste, each scaled so that its product with the traits has its weight as sd."""
    spoken = np.array([*FILM_LANGUAGES, "other"])
    languages = -0.8 + 0.3 * rng.normal(size=(len(language), len(spoken)))
    languages[:, 0] += 0.9  # English is widely understood
    languages[language[:, None] == spoken] = 1
    parts = (
        (genre_taste, catalogue.genres, GENRE_WEIGHT),
        (_shared(community, N_HIDDEN, rng), catalogue.hidden, HIDDEN_WEIGHT),
        (languages, catalogue.languages, LANGUAGE_WEIGHT),
        (_shared(community, 1, rng), catalogue.era[:, None], ERA_WEIGHT),
    )
    scaled = [_scaled(taste, traits, weight) for taste, traits, weight in parts]
    return np.hstack([taste for taste, _ in scaled]), np.hstack([traits for _, traits in scaled])


def _scaled(
    taste: NDArray[np.float64], traits: NDArray[np.float32], weight: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centred = traits - traits.mean(0)
    spread = (taste[:500] @ centred[:: max(1, len(centred) // 4000)].T).std()
    return np.asarray(taste * (weight / spread), np.float32), np.asarray(centred, np.float32)


def _theme_taste(genre_taste: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """(M, 8): a lover of action films looks for action in an image, on the whole."""
    from_genres = genre_taste @ _GENRE_THEMES
    raw = from_genres / from_genres.std() + 0.7 * rng.normal(size=from_genres.shape)
    return np.asarray(raw / raw.std(), np.float32)


def users_table(members: Members) -> pa.Table:
    """Every member in the columns of the `users` event table."""
    when = pa.timestamp("us", "UTC")
    return pa.table({
        "user_id": np.arange(1, len(members) + 1),
        "country": members.country,
        "preferred_language": members.language,
        "device": members.device,
        "event_timestamp": pa.array(members.joined_at, when),
        "created_timestamp": pa.array(members.joined_at + 5 * SECOND, when),
    })  # fmt: skip
