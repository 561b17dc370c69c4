"""The policy that filled the pages of the history: a plain mixture, uniform over images.

It sees only what a real system sees (past plays, attributes, dates), never a latent trait. The order on
the page is random, which is what makes the examination curve and the images' effects identifiable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from events.catalogue import Catalogue
from events.world_config import DAY

SHARES = {"popular": 0.35, "genre": 0.35, "recent": 0.15, "explore": 0.15}
"""Where a cell's title comes from; shares hold before repeats on a page are taken out."""

POPULARITY_HALF_LIFE_DAYS = 7.0
_OVERSAMPLE = 2
_POPULAR, _GENRE, _RECENT, _EXPLORE = range(4)


@dataclass(frozen=True)
class Charts:
    """What the policy knows at the start of a day."""

    available: NDArray[np.int64]  # (N,) rows of the titles on offer
    popularity: NDArray[np.float64]  # (T,) decayed number of plays, smoothed
    genre_plays: NDArray[np.float64]  # (M, 20) plays of each member by genre, smoothed
    watched: NDArray[np.bool_]  # (M, T) watched to the end


def fill_pages(
    catalogue: Catalogue,
    charts: Charts,
    member: NDArray[np.int64],
    at: int,
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(S, size) rows of different titles, all available; fewer titles than `size` leave -1 at the end."""
    shape = (len(member), size * _OVERSAMPLE)
    source = rng.choice(len(SHARES), size=shape, p=list(SHARES.values()))
    on_offer = charts.available
    drawn = np.empty(shape, np.int64)
    for kind, weight in (
        (_POPULAR, charts.popularity[on_offer]),
        (_RECENT, _recency(catalogue, on_offer, at)),
        (_EXPLORE, np.ones(len(on_offer))),
    ):
        cells = source == kind
        drawn[cells] = on_offer[_draw(weight, int(cells.sum()), rng)]
    rows, _ = np.nonzero(source == _GENRE)
    drawn[source == _GENRE] = _by_genre(catalogue, charts, member[rows], rng)
    wanted = ~charts.watched[member[:, None], drawn]
    spare = _different(on_offer, len(member), size, rng)
    candidates = np.hstack([drawn, spare])
    return first_different(candidates, np.hstack([wanted, spare >= 0]), size)


def _recency(catalogue: Catalogue, on_offer: NDArray[np.int64], at: int) -> NDArray[np.float64]:
    age_days = (at - catalogue.available_from[on_offer]) / DAY
    return np.asarray(np.exp(-np.minimum(age_days, 700) / 10) + 1e-9)


def _draw(weight: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    cumulative = np.cumsum(weight)
    return np.asarray(np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right"), np.int64)


def _by_genre(
    catalogue: Catalogue, charts: Charts, member: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """A popular title of one of the member's genres, the genre drawn by its share of their plays."""
    cumulative = np.cumsum(charts.genre_plays[member], axis=1)
    cut = rng.random(len(member)) * cumulative[:, -1]
    genre = (cumulative <= cut[:, None]).sum(1)
    found = charts.available[_draw(charts.popularity[charts.available], len(member), rng)]
    for column in np.unique(genre):
        cells = genre == column
        of_genre = charts.available[catalogue.genres[charts.available, column] > 0]
        if len(of_genre):
            found[cells] = of_genre[_draw(np.sqrt(charts.popularity[of_genre]), int(cells.sum()), rng)]
    return found


def _different(on_offer: NDArray[np.int64], n: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n, size) different titles in every row: runs of one shuffled order, so that no page stays short."""
    order = rng.permutation(on_offer)
    start = rng.integers(len(order), size=n)
    run = np.arange(size)
    picked = order[(start[:, None] + run) % len(order)]
    return np.where(run < len(order), picked, -1)


def first_different(candidates: NDArray[np.int64], wanted: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """The first `size` different wanted candidates of every row, in order; -1 where there are no more.

    >>> first_different(np.array([[5, 5, 7, 9]]), np.array([[True, True, False, True]]), 3)
    array([[ 5,  9, -1]])
    """
    keyed = np.where(wanted, candidates, -1)
    order = np.argsort(keyed, axis=1, kind="stable")
    ranked = np.take_along_axis(keyed, order, axis=1)
    repeat = np.zeros_like(wanted)
    np.put_along_axis(repeat, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    good = wanted & ~repeat
    place = np.cumsum(good, axis=1) - 1
    keep = good & (place < size)
    rows, _ = np.nonzero(keep)
    page = np.full((len(candidates), size), -1, np.int64)
    page[rows, place[keep]] = candidates[keep]
    return page


def choose_artwork(
    catalogue: Catalogue, pages: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """An image for every cell, uniformly among its title's, and the propensity 1 / their number."""
    first = catalogue.artwork_start[pages]
    number = catalogue.artwork_start[pages + 1] - first
    empty = pages < 0
    chosen = first + np.floor(rng.random(pages.shape) * np.where(empty, 1, number)).astype(np.int64)
    return np.where(empty, -1, chosen), np.where(empty, np.nan, 1 / np.where(empty, 1, number))
