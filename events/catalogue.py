"""The world's catalogue: real films and labelled simulated ones, their latent traits and their artwork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.films import Film, films
from events.schema import THEME_COLUMNS
from events.sources import FILM_GENRES, FILM_LANGUAGES
from events.world_config import DAY, HOUR, WorldConfig, micros, stream

N_HIDDEN = 6
"""Idiosyncratic taste factors: nothing a model may see is a function of them."""

REAL_SHARE = 0.8735  # 17,470 real films among 20,000 titles
_ARRIVING_REAL, _ARRIVING_SIMULATED = 0.03, 0.9  # share that becomes available inside the window
_GENRE_THEME = {
    "Action": "action", "Adventure": "action", "War": "action", "Western": "action", "Sport": "action",
    "Romance": "romance", "Musical": "romance", "Comedy": "humour", "Family": "humour", "Animation": "humour",
    "Horror": "darkness", "Thriller": "darkness", "Crime": "darkness", "Mystery": "darkness",
    "Drama": "face_share", "Biography": "face_share", "Documentary": "text_share", "History": "warmth",
    "Fantasy": "brightness", "Sci-Fi": "action",
}  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """The titles of a world; row i is the title with `title_id` i + 1. Arrays marked † no model may see."""

    films: tuple[Film, ...]
    simulated: NDArray[np.bool_]  # (T,)
    known_at: NDArray[np.int64]  # (T,) microseconds; when we hear of the title
    available_from: NDArray[np.int64]  # (T,) microseconds
    genres: NDArray[np.float32]  # (T, 20) unit rows, zero where no genre is known
    languages: NDArray[np.float32]  # (T, 9) 0/1; the last column is any language not named
    era: NDArray[np.float32]  # (T,) standardised release year
    runtime_minutes: NDArray[np.float64]  # (T,) † complete, also where the attribute is not known
    hidden: NDArray[np.float32]  # (T, 6) † partly shared by the films of one director
    quality: NDArray[np.float32]  # (T,) † how well it is liked once it plays
    fame: NDArray[np.float32]  # (T,) † how much it draws, whoever looks
    artwork_start: NDArray[np.int64]  # (T + 1,) first row of each title's artwork
    artwork: Artwork

    def __len__(self) -> int:
        return len(self.films)


@dataclass(frozen=True)
class Artwork:
    """All images, grouped by title; row j is the image with `artwork_id` j + 1."""

    title: NDArray[np.int64]  # (A,) row of its title
    themes: NDArray[np.float32]  # (A, 8) each 0..1, in the order of THEME_COLUMNS
    appeal: NDArray[np.float32]  # (A,) † title-independent quality of the image


def build_catalogue(config: WorldConfig) -> Catalogue:
    """The catalogue of a world: real films first, then simulated titles that recombine their attributes."""
    rng = stream(config, "catalogue")
    real = _real_films(config, rng)
    invented = _simulated_films(real, config.n_titles - len(real), rng)
    every = (*real, *invented)
    simulated = np.arange(len(every)) >= len(real)
    known_at, available_from = _arrivals(config, simulated, rng)
    genres = genre_matrix(every)
    counts = rng.integers(5, 11, len(every))
    return Catalogue(
        films=every,
        simulated=simulated,
        known_at=known_at,
        available_from=available_from,
        genres=genres,
        languages=_language_matrix(every),
        era=_era(every),
        runtime_minutes=_runtimes(every, rng),
        hidden=_hidden_traits(every, genres, rng),
        quality=rng.normal(size=len(every)).astype(np.float32),
        fame=_fame(every, rng),
        artwork_start=np.concatenate([[0], np.cumsum(counts)]),
        artwork=_artwork(genres, counts, rng),
    )


def _real_films(config: WorldConfig, rng: np.random.Generator) -> tuple[Film, ...]:
    known = films()
    wanted = min(len(known), round(config.n_titles * REAL_SHARE))
    chosen = np.sort(rng.permutation(len(known))[:wanted])
    return tuple(known[index] for index in chosen)


def _simulated_films(real: Sequence[Film], wanted: int, rng: np.random.Generator) -> tuple[Film, ...]:
    """Titles that never were: story attributes of one real film, people of another, runtime of a third."""
    story, people, length = rng.integers(len(real), size=(3, wanted))
    years = rng.integers(2015, 2027, wanted)
    return tuple(
        Film(
            imdb_id="",
            name=f"Simulated title {len(real) + 1 + index}: {', '.join(real[s].genres) or 'no genre'}",
            release_year=int(year),
            runtime_minutes=real[r].runtime_minutes,
            genres=real[s].genres,
            directors=real[p].directors,
            cast_members=real[p].cast_members,
            languages=real[s].languages,
            countries=real[s].countries,
        )
        for index, (s, p, r, year) in enumerate(zip(story, people, length, years, strict=True))
    )


def _arrivals(
    config: WorldConfig, simulated: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each title is heard of and becomes available, in microseconds.

    The old stock is announced the day before the history starts; a newcomer 6 to 48 hours before it is available.
    """
    start, n = micros(config.start), len(simulated)
    newcomer = rng.random(n) < np.where(simulated, _ARRIVING_SIMULATED, _ARRIVING_REAL)
    old = start - DAY * (1 + rng.gamma(1.5, 300, n)).astype(np.int64)
    new = start + (rng.random(n) * config.arriving_days * DAY).astype(np.int64) // HOUR * HOUR
    notice = (rng.uniform(6, 48, n) * HOUR).astype(np.int64)
    stocked = start - DAY + np.arange(n)  # one import, a microsecond a title
    known_at = np.where(newcomer, np.maximum(new - notice, stocked), stocked)
    return known_at, np.where(newcomer, new, old)


def genre_matrix(titles: Sequence[Film]) -> NDArray[np.float32]:
    """(T, 20) unit-norm genre indicators, in the order of FILM_GENRES."""
    index = {genre: column for column, genre in enumerate(FILM_GENRES)}
    found = np.zeros((len(titles), len(FILM_GENRES)), np.float32)
    for row, film in enumerate(titles):
        found[row, [index[genre] for genre in film.genres]] = 1
    return np.asarray(found / np.maximum(1, np.sqrt(found.sum(1, keepdims=True))), np.float32)


def _language_matrix(titles: Sequence[Film]) -> NDArray[np.float32]:
    index = {language: column for column, language in enumerate(FILM_LANGUAGES)}
    found = np.zeros((len(titles), len(FILM_LANGUAGES) + 1), np.float32)
    for row, film in enumerate(titles):
        found[row, [index.get(language, len(FILM_LANGUAGES)) for language in film.languages]] = 1
    return found


def _era(titles: Sequence[Film]) -> NDArray[np.float32]:
    years = np.array([film.release_year for film in titles], np.float32)
    return np.asarray((years - 1998) / 17, np.float32)


def _runtimes(titles: Sequence[Film], rng: np.random.Generator) -> NDArray[np.float64]:
    known = np.array([film.runtime_minutes or np.nan for film in titles])
    return np.where(np.isnan(known), rng.normal(98, 12, len(titles)).clip(60), known)


def _hidden_traits(
    titles: Sequence[Film], genres: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """(T, 6) standard normal: 45 % the first director's hand, 15 % the genres', the rest the title's own."""
    names = [film.directors[0] if film.directors else film.name for film in titles]
    _, director = np.unique(names, return_inverse=True)
    hand = rng.normal(size=(director.max() + 1, N_HIDDEN))[director]
    school = genres @ rng.normal(size=(genres.shape[1], N_HIDDEN))
    own = rng.normal(size=(len(titles), N_HIDDEN))
    return np.asarray(np.sqrt(0.45) * hand + np.sqrt(0.15) * school + np.sqrt(0.4) * own, np.float32)


def _fame(titles: Sequence[Film], rng: np.random.Generator) -> NDArray[np.float32]:
    """Standard normal: recent films, large casts and English draw more, and much is luck."""
    recent = _era(titles)
    cast = np.log1p([len(film.cast_members) for film in titles])
    english = np.array(["English" in film.languages for film in titles])
    raw = 0.5 * recent + 0.4 * (cast - 2) + 0.4 * english + rng.normal(size=len(titles))
    return np.asarray((raw - raw.mean()) / raw.std(), np.float32)


def _artwork(genres: NDArray[np.float32], counts: NDArray[np.int64], rng: np.random.Generator) -> Artwork:
    """5 to 10 images a title: each plays up one theme of its genres, or by chance another."""
    title = np.repeat(np.arange(len(counts)), counts)
    leaning = np.zeros((len(FILM_GENRES), len(THEME_COLUMNS)), np.float32)
    for row, genre in enumerate(FILM_GENRES):
        leaning[row, THEME_COLUMNS.index(_GENRE_THEME[genre])] = 1
    pull = (genres @ leaning)[title] * 1.5 + rng.gumbel(size=(len(title), len(THEME_COLUMNS)))
    theme = pull.argmax(1)
    drawn = rng.beta(2, 5, size=pull.shape)
    drawn[np.arange(len(title)), theme] = rng.beta(6, 2, len(title))
    themes = drawn.astype(np.float32)
    liked = rng.normal(size=len(THEME_COLUMNS))  # what draws the eye whatever the film: creative quality
    appeal = (themes - themes.mean(0)) @ liked + rng.normal(scale=0.35, size=len(title))
    return Artwork(title, themes, np.asarray(appeal / appeal.std(), np.float32))


def titles_table(catalogue: Catalogue) -> pa.Table:
    """Every title in the columns of the `titles` event table."""
    every, when = catalogue.films, pa.timestamp("us", "UTC")
    return pa.table({
        "title_id": np.arange(1, len(every) + 1),
        "name": [film.name for film in every],
        "kind": pa.array(["film"] * len(every)),
        "origin": np.where(catalogue.simulated, "simulated", "real"),
        "release_year": [float(film.release_year) for film in every],
        "runtime_minutes": pa.array([film.runtime_minutes for film in every], pa.float64()),
        **{name: _names(every, name) for name in ("genres", "cast_members", "directors", "languages", "countries")},
        "imdb_id": pa.array([film.imdb_id or None for film in every]),
        "available_from": pa.array(catalogue.available_from, when),
        "event_timestamp": pa.array(catalogue.known_at, when),
        "created_timestamp": pa.array(catalogue.known_at + HOUR // 4, when),
    })  # fmt: skip


def _names(titles: Sequence[Film], attribute: str) -> pa.Array:
    """Lists of names; not known is null, not an empty list."""
    return pa.array([list(getattr(film, attribute)) or None for film in titles], pa.list_(pa.string()))


def artworks_table(catalogue: Catalogue) -> pa.Table:
    """Every image in the columns of the `artworks` event table; it becomes known with its title."""
    art, when = catalogue.artwork, pa.timestamp("us", "UTC")
    known_at = catalogue.known_at[art.title]
    return pa.table({
        "artwork_id": np.arange(1, len(art.title) + 1),
        "title_id": art.title + 1,
        "theme": np.array(THEME_COLUMNS)[art.themes.argmax(1)],
        **{name: art.themes[:, column].astype(np.float64) for column, name in enumerate(THEME_COLUMNS)},
        "event_timestamp": pa.array(known_at, when),
        "created_timestamp": pa.array(known_at + HOUR // 4, when),
    })  # fmt: skip
