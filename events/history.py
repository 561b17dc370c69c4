"""The history: the world run day by day under the logging policy, from the first session to the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.behaviour import COMPLETED_SHARE, USUAL_SATISFACTION, Outcome, Visits, visit
from events.catalogue import Catalogue
from events.logging_policy import POPULARITY_HALF_LIFE_DAYS, Charts, choose_artwork, fill_pages
from events.members import Members
from events.subscriptions import Subscriptions, advance, running_periods
from events.traces import Pages
from events.trends import draw_on
from events.world import Day, Responses, World
from events.world_config import DAY, HOUR, WorldConfig, micros, stream

Ids = NDArray[np.int64]
_WEEKDAYS = np.array([0.9, 0.9, 0.92, 0.95, 1.1, 1.25, 1.2])  # Monday first
_MOOD_ON_ACTIVITY = 0.6


@dataclass
class _State:
    """What one day leaves to the next."""

    subscriptions: Subscriptions
    plays: NDArray[np.float64]  # (T,) decayed number of plays
    genre_plays: NDArray[np.float64]  # (M, 20)
    watched: NDArray[np.bool_]  # (M, T) to the end
    next_impression_id: int = 1


def simulate(world: World) -> Iterator[Day]:
    """The history of `world`, day by day; the first day carries what was known before it as well."""
    state = _at_start(world)
    known = {"titles": world.titles(), "users": world.users(), "artworks": world.artworks()}
    before = running_periods(world.config, state.subscriptions)
    for index in range(world.config.days):
        begins = micros(world.config.start) + index * DAY
        tables = {name: _known_on(table, begins, first=index == 0) for name, table in known.items()}
        rng = stream(world.config, "memberships", index)
        memberships = advance(world.config, world.members, state.subscriptions, begins, rng)
        tables["memberships"] = pa.concat_tables([before, memberships]) if index == 0 else memberships
        responses = _sessions(world, state, begins, stream(world.config, "sessions", index))
        tables |= {"impressions": responses.impressions, "hovers": responses.hovers, "plays": responses.plays}
        yield Day(world.config.start + timedelta(days=index), tables)


def _at_start(world: World) -> _State:
    """Before the first day the charts are an outsider's guess: fame, roughly."""
    config, n = world.config, len(world.catalogue)
    guess = world.catalogue.fame + stream(config, "charts").normal(scale=0.8, size=n)
    return _State(
        subscriptions=Subscriptions.at_start(config, world.members),
        plays=np.exp(0.8 * guess) * config.n_members * config.sessions_per_day * 4 / n,
        genre_plays=np.zeros((config.n_members, world.catalogue.genres.shape[1])),
        watched=np.zeros((config.n_members, n), np.bool_),
    )


def _known_on(table: pa.Table, begins: int, *, first: bool) -> pa.Table:
    at = table["event_timestamp"].cast(pa.int64()).to_numpy()
    return table.filter(pa.array((at < begins + DAY) & ((at >= begins) | first)))


def _sessions(world: World, state: _State, begins: int, rng: np.random.Generator) -> Responses:
    """One day of sessions under the logging policy; advances `state`."""
    catalogue, members, size = world.catalogue, world.members, world.config.page_size
    member, at = _who_comes(world.config, members, state.subscriptions, begins, rng)
    charts = _charts(catalogue, state, begins)
    title = fill_pages(catalogue, charts, member, begins, size, rng)
    artwork, propensity = choose_artwork(catalogue, title, rng)
    ids = state.next_impression_id + np.arange(title.size).reshape(title.shape)
    state.next_impression_id += title.size
    requests = tuple(f"history-{first}" for first in ids[:, 0])
    pages = Pages(_id(title), _id(artwork), ids, requests, propensity, arm="history")
    seen = state.watched[member[:, None], title] & (title >= 0)
    draw = draw_on(world.trends, catalogue, begins)[title]
    visits = Visits(member, title, artwork, at, draw, seen)
    outcome = visit(catalogue, members, visits, rng)
    _remember(catalogue, state, visits, outcome)
    return world.traces(visits, pages, outcome, rng)


def _who_comes(
    config: WorldConfig, members: Members, subscriptions: Subscriptions, begins: int, rng: np.random.Generator
) -> tuple[Ids, Ids]:
    """(S,) members and moments of the day's sessions, in order of time, inside a running membership only."""
    weekday = (begins // DAY + 3) % 7  # the epoch was a Thursday
    rate = members.activity * _WEEKDAYS[weekday]
    rate *= np.exp(_MOOD_ON_ACTIVITY * (subscriptions.mood - USUAL_SATISFACTION))
    active = subscriptions.period_end > begins
    member = np.repeat(np.arange(len(members)), rng.poisson(rate * active))
    peak, spread = members.habit[member].T
    local = rng.normal(peak, spread)
    hour = (local - members.utc_offset[member]) % 24
    at = begins + (hour * HOUR).astype(np.int64)
    order = np.argsort(at, kind="stable")
    member, at = member[order], at[order]
    joined = np.where(subscriptions.running, subscriptions.period_end - config.membership_days * DAY, 0)
    started = (at >= members.joined_at[member]) & ((at >= joined[member]) | (joined[member] < begins))
    stays = subscriptions.running[member] | (at < subscriptions.period_end[member])
    return member[started & stays], at[started & stays]


def _charts(catalogue: Catalogue, state: _State, begins: int) -> Charts:
    everyone = state.genre_plays.sum(0) + 1
    return Charts(
        available=np.flatnonzero(catalogue.available_from <= begins),
        popularity=state.plays + 0.02,
        genre_plays=state.genre_plays + 2 * everyone / everyone.sum(),
        watched=state.watched,
    )


def _remember(catalogue: Catalogue, state: _State, visits: Visits, outcome: Outcome) -> None:
    row, cell = np.nonzero(outcome.played)
    member, title = visits.member[row], visits.title[row, cell]
    state.plays *= 0.5 ** (1 / POPULARITY_HALF_LIFE_DAYS)
    state.plays += np.bincount(title, minlength=len(state.plays))
    np.add.at(state.genre_plays, member, catalogue.genres[title] ** 2)
    finished = outcome.watch_share[row, cell] >= COMPLETED_SHARE
    state.watched[member[finished], title[finished]] = True
    state.subscriptions.record(visits.member, outcome.satisfaction, outcome.diversity)


def _id(rows: Ids) -> Ids:
    return np.where(rows >= 0, rows + 1, -1)
