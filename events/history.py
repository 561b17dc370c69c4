"""The history: the world run day by day under the logging policy, from the first session to the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.audience import Audience, memberships_on, remembering, who_comes
from events.behaviour import Outcome, Visits, visit
from events.catalogue import Catalogue
from events.logging_policy import POPULARITY_HALF_LIFE_DAYS, Charts, choose_artwork, fill_pages
from events.subscriptions import running_periods
from events.traces import Pages
from events.trends import draw_on
from events.world import Day, Responses, World
from events.world_config import DAY, micros, stream

Ids = NDArray[np.int64]


@dataclass
class _State:
    """What one day leaves to the next: the audience, and what the logging policy has counted."""

    audience: Audience
    plays: NDArray[np.float64]  # (T,) decayed number of plays
    genre_plays: NDArray[np.float64]  # (M, 20)
    next_impression_id: int = 1


def simulate(world: World) -> Iterator[Day]:
    """The history of `world`, day by day; the first day carries what was known before it as well."""
    return (day for day, _ in told(world))


def audience_after(world: World) -> Audience:
    """The audience as the history leaves it: whoever goes on from there goes on with the same members."""
    return deque((audience for _, audience in told(world)), maxlen=1)[0]


def told(world: World) -> Iterator[tuple[Day, Audience]]:
    """The history, and after each day the audience that lived it."""
    state = _at_start(world)
    before, known = running_periods(world.config, state.audience.subscriptions), ever_known(world)
    for index in range(world.config.days):
        begins = micros(world.config.start) + index * DAY
        tables = news_on(known, begins, first=index == 0)
        memberships, state.audience = memberships_on(world, state.audience, begins)
        tables["memberships"] = pa.concat_tables([before, memberships]) if index == 0 else memberships
        responses = _sessions(world, state, begins, stream(world.config, "sessions", index))
        tables |= {"impressions": responses.impressions, "hovers": responses.hovers, "plays": responses.plays}
        yield Day(world.config.start + timedelta(days=index), tables), state.audience


def ever_known(world: World) -> dict[str, pa.Table]:
    """Every title, member and image that will ever be known, as rows of their event tables."""
    return {"titles": world.titles(), "users": world.users(), "artworks": world.artworks()}


def news_on(known: dict[str, pa.Table], begins: int, *, first: bool = False) -> dict[str, pa.Table]:
    """Those of `ever_known` that become known on a day; on the first day also those known before it."""
    return {name: _known_on(table, begins, first=first) for name, table in known.items()}


def _at_start(world: World) -> _State:
    """Before the first day the charts are an outsider's guess: fame, roughly."""
    config, n = world.config, len(world.catalogue)
    guess = world.catalogue.fame + stream(config, "charts").normal(scale=0.8, size=n)
    return _State(
        audience=Audience.at_start(world),
        plays=np.exp(0.8 * guess) * config.n_members * config.sessions_per_day * 4 / n,
        genre_plays=np.zeros((config.n_members, world.catalogue.genres.shape[1])),
    )


def _known_on(table: pa.Table, begins: int, *, first: bool) -> pa.Table:
    at = table["event_timestamp"].cast(pa.int64()).to_numpy()
    return table.filter(pa.array((at < begins + DAY) & ((at >= begins) | first)))


def _sessions(world: World, state: _State, begins: int, rng: np.random.Generator) -> Responses:
    """One day of sessions under the logging policy; advances `state`."""
    catalogue, members, size = world.catalogue, world.members, world.config.page_size
    member, at = who_comes(world.config, members, state.audience.subscriptions, begins, rng)
    charts = _charts(catalogue, state, begins)
    title = fill_pages(catalogue, charts, member, begins, size, rng)
    artwork, propensity = choose_artwork(catalogue, title, rng)
    ids = state.next_impression_id + np.arange(title.size).reshape(title.shape)
    state.next_impression_id += title.size
    requests = tuple(f"history-{first}" for first in ids[:, 0])
    pages = Pages(_id(title), _id(artwork), ids, requests, propensity, arm="history")
    seen = state.audience.watched[member[:, None], title] & (title >= 0)
    draw = draw_on(world.trends, catalogue, begins)[title]
    visits = Visits(member, title, artwork, at, draw, seen)
    outcome = visit(catalogue, members, visits, rng)
    _remember(catalogue, state, visits, outcome)
    return world.traces(visits, pages, outcome, rng)


def _charts(catalogue: Catalogue, state: _State, begins: int) -> Charts:
    everyone = state.genre_plays.sum(0) + 1
    return Charts(
        available=np.flatnonzero(catalogue.available_from <= begins),
        popularity=state.plays + 0.02,
        genre_plays=state.genre_plays + 2 * everyone / everyone.sum(),
        watched=state.audience.watched,
    )


def _remember(catalogue: Catalogue, state: _State, visits: Visits, outcome: Outcome) -> None:
    row, cell = np.nonzero(outcome.played)
    member, title = visits.member[row], visits.title[row, cell]
    state.plays *= 0.5 ** (1 / POPULARITY_HALF_LIFE_DAYS)
    state.plays += np.bincount(title, minlength=len(state.plays))
    np.add.at(state.genre_plays, member, catalogue.genres[title] ** 2)
    state.audience = remembering(state.audience, visits, outcome)


def _id(rows: Ids) -> Ids:
    return np.where(rows >= 0, rows + 1, -1)
