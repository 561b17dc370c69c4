"""17,470 real films from the `bokeh-sampledata` package (CC0): attributes only, no ratings and no votes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

_GENRES = {"Music": "Musical"}
_LANGUAGES = {"American English": "English", "British English": "English", "multiple languages": None}
_SUFFIX = re.compile(r"^(Jr|Sr|II|III|IV)\.?$")
_COLUMNS = '"imdbID", "Title", "Year", "Runtime", "Genre", "Director", "Cast", "Language", "Country"'


@dataclass(frozen=True)
class Film:
    """One film's published attributes; what is not known is None or an empty tuple."""

    imdb_id: str
    name: str
    release_year: int
    runtime_minutes: float | None
    genres: tuple[str, ...]
    directors: tuple[str, ...]
    cast_members: tuple[str, ...]
    languages: tuple[str, ...]
    countries: tuple[str, ...]


@cache
def films() -> tuple[Film, ...]:
    """Every film once, ordered by IMDb id; of two rows with one id the first is kept."""
    with as_file(files("bokeh_sampledata") / "_data" / "movies.db") as path:
        uri = f"file:{path}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as con:
            rows = con.execute(f'SELECT {_COLUMNS} FROM omdb ORDER BY "ID"').fetchall()
    once: dict[str, Film] = {}
    for row in rows:
        once.setdefault(row[0], _film(*row))
    return tuple(once[imdb_id] for imdb_id in sorted(once))


def _film(
    imdb_id: str,
    name: str,
    year: int,
    runtime: float | None,
    genre: str | None,
    director: str | None,
    cast: str | None,
    language: str | None,
    country: str | None,
) -> Film:
    return Film(
        imdb_id=imdb_id,
        name=name.strip(),
        release_year=int(year),
        runtime_minutes=runtime if runtime and runtime > 1 else None,  # one film is said to last a minute
        genres=_unique(_GENRES.get(name, name) for name in split_names(genre)),
        directors=_unique(split_names(director)),
        cast_members=_unique(split_names(cast)),
        languages=_unique(_LANGUAGES.get(name, name) for name in split_names(language)),
        countries=_unique(split_names(country)),
    )


def split_names(text: str | None) -> tuple[str, ...]:
    """The names in a comma-separated text; a suffix such as Jr. stays with its bearer.

    >>> split_names("Ed Begley, Jr., Brian Cox")
    ('Ed Begley, Jr.', 'Brian Cox')
    """
    names: list[str] = []
    for name in (part.strip() for part in (text or "").split(",")):
        if names and _SUFFIX.match(name):
            names[-1] += f", {name}"
        elif name:
            names.append(name)
    return tuple(names)


def _unique(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
