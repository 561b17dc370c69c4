"""MovieLens latest-small as raw events: 100,836 ratings from 1996 to 2018 (Harper and Konstan, 2015).

A rating is the trace of a watch: it becomes a play with a `rating` and no watch columns, at the moment
it was given. Film attributes come from the `bokeh-sampledata` films, joined by IMDb id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from events.films import Film, films

FOLDER = "ml-latest-small"

GENRES = {"Children": "Family", "Film-Noir": "Crime", "IMAX": None, "(no genres listed)": None}
"""Spellings of MovieLens that differ from FILM_GENRES: children's films are family films, film noir is
crime; IMAX is a format, not a genre."""

_YEAR = re.compile(r"\s*\((\d{4})(?:\s*[-\N{EN DASH}]\s*(?:\d{4})?)?\)\s*$")
_TRAILING_ARTICLE = re.compile(
    r"^(?P<rest>[^()]*), (?P<article>The|An?|L[ae]s?|L'|Un|Une|Das|Der|Die|Dem|Den|El|Los|Il|Lo|I|Gli|Det|En|O|Os)"
    r"(?P<more>\s*\(.*)?$"
)
_WHEN = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class _Movie:
    movie_id: int
    name: str
    year: int | None
    genres: tuple[str, ...]
    film: Film | None
    imdb_id: str
    first_rated: datetime | None


def movielens(data: Path) -> Iterator[tuple[str, pa.Table]]:
    """The event tables of the data set in `data`/ml-latest-small: titles, users, plays.

    A title is available from the start of its release year, but no later than its first rating; a user
    is known from their first rating on.
    """
    folder = data / FOLDER
    ratings = csv.read_csv(folder / "ratings.csv").sort_by([
        ("timestamp", "ascending"), ("userId", "ascending"), ("movieId", "ascending"),
    ])  # fmt: skip
    moments = _moments(ratings["timestamp"])
    yield "titles", _titles(_movies(folder, ratings))
    yield "users", _users(ratings)
    yield "plays", pa.table({
        "play_id": pa.array(range(1, len(ratings) + 1)),
        "user_id": ratings["userId"],
        "title_id": ratings["movieId"],
        "rating": ratings["rating"],
        "event_timestamp": moments,
        "created_timestamp": moments,
    })  # fmt: skip


def clean_title(title: str) -> tuple[str, int | None]:
    """The name in reading order, without its year; and the year, or None where none is given.

    >>> clean_title("Matrix, The (1999)")
    ('The Matrix', 1999)
    >>> clean_title("Postman, The (Postino, Il) (1994)")
    ('The Postman (Il Postino)', 1994)
    """
    found = _YEAR.search(title)
    name = _YEAR.sub("", title).strip()
    name = re.sub(r"\(([^()]*)\)", lambda inner: f"({_article_first(inner[1])})", name)
    return _article_first(name), int(found[1]) if found else None


def _article_first(name: str) -> str:
    found = _TRAILING_ARTICLE.match(name)
    if found is None:
        return name
    space = "" if found["article"].endswith("'") else " "
    return f"{found['article']}{space}{found['rest']}{found['more'] or ''}"


def our_genres(text: str) -> tuple[str, ...]:
    """MovieLens genres ("Children|Film-Noir") in our spelling, each once."""
    mapped = (GENRES.get(genre, genre) for genre in text.split("|"))
    return tuple(dict.fromkeys(genre for genre in mapped if genre))


def _movies(folder: Path, ratings: pa.Table) -> list[_Movie]:
    by_imdb = {film.imdb_id: film for film in films()}
    links = csv.read_csv(
        folder / "links.csv", convert_options=csv.ConvertOptions(column_types={"imdbId": pa.string()})
    )
    imdb = dict(zip(links["movieId"].to_pylist(), links["imdbId"].to_pylist(), strict=True))
    first = ratings.group_by("movieId").aggregate([("timestamp", "min")])
    first_rated = dict(zip(first["movieId"].to_pylist(), first["timestamp_min"].to_pylist(), strict=True))
    movies = []
    for row in csv.read_csv(folder / "movies.csv").to_pylist():
        name, year = clean_title(row["title"])
        imdb_id = f"tt{int(imdb[row['movieId']]):07d}"
        film, seconds = by_imdb.get(imdb_id), first_rated.get(row["movieId"])
        rated = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
        movies.append(_Movie(row["movieId"], name, year, our_genres(row["genres"]), film, imdb_id, rated))
    return movies


def _titles(movies: list[_Movie]) -> pa.Table:
    available = [_available_from(movie) for movie in movies]
    years = [movie.year or (movie.film.release_year if movie.film else None) for movie in movies]
    return pa.table({
        "title_id": [movie.movie_id for movie in movies],
        "name": [movie.name for movie in movies],
        "kind": ["film"] * len(movies),
        "origin": ["real"] * len(movies),
        "release_year": pa.array(years, pa.float64()),
        "runtime_minutes": pa.array([movie.film and movie.film.runtime_minutes for movie in movies], pa.float64()),
        "genres": pa.array([list(movie.genres) or None for movie in movies], pa.list_(pa.string())),
        **{name: _of_film(movies, name) for name in ("cast_members", "directors", "languages", "countries")},
        "imdb_id": [movie.imdb_id for movie in movies],
        "available_from": pa.array(available, _WHEN),
        "event_timestamp": pa.array(available, _WHEN),
        "created_timestamp": pa.array(available, _WHEN),
    })  # fmt: skip


def _of_film(movies: list[_Movie], attribute: str) -> pa.Array:
    found = [list(getattr(movie.film, attribute)) if movie.film else None for movie in movies]
    return pa.array([names or None for names in found], pa.list_(pa.string()))


def _available_from(movie: _Movie) -> datetime:
    """The start of the release year or the first rating, whichever is earlier; neither known: long ago."""
    year = movie.year or (movie.film.release_year if movie.film else None)
    released = [datetime(year, 1, 1, tzinfo=UTC)] if year else []
    rated = [movie.first_rated] if movie.first_rated else []
    return min([*released, *rated], default=_EPOCH)


_EPOCH = datetime(1995, 1, 1, tzinfo=UTC)  # before the first rating of the data set


def _users(ratings: pa.Table) -> pa.Table:
    first = ratings.group_by("userId").aggregate([("timestamp", "min")]).sort_by("userId")
    moments = _moments(first["timestamp_min"])
    return pa.table({"user_id": first["userId"], "event_timestamp": moments, "created_timestamp": moments})


def _moments(seconds: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.multiply(seconds, 1_000_000).cast(_WHEN)
