"""The audience: who comes on a day, how they take any pages, who stays. It lives the history, and whatever follows it.

Every function takes an `Audience` and gives the next one; the one that was given stays as it was. Chance comes from
named streams of the world, a stream for each day, so that a run repeats from its seed whatever else is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.behaviour import COMPLETED_SHARE, USUAL_SATISFACTION, Outcome, Visits, visit
from events.members import Members
from events.subscriptions import Subscriptions, advance
from events.traces import Pages
from events.world import Responses, World
from events.world_config import DAY, HOUR, MINUTE, WorldConfig, micros, stream

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
_WEEKDAYS = np.array([0.9, 0.9, 0.92, 0.95, 1.1, 1.25, 1.2])  # Monday first
_MOOD_ON_ACTIVITY = 0.6


@dataclass(frozen=True)
class Audience:
    """What all members of a world carry from one day to the next."""

    subscriptions: Subscriptions
    watched: NDArray[np.bool_]  # (M, T) to the end

    @classmethod
    def at_start(cls, world: World) -> Audience:
        """Before the first day of the history: memberships run at staggered phases, nothing is watched."""
        watched = np.zeros((len(world.members), len(world.catalogue)), np.bool_)
        return cls(Subscriptions.at_start(world.config, world.members), watched)

    def copied(self) -> Audience:
        """An equal audience that shares nothing with this one."""
        return Audience(self.subscriptions.copied(), self.watched.copy())


@dataclass(frozen=True)
class Visit:
    """S sessions of a day in order of time; `turn` counts a member's sessions of the day from 0.

    Nobody watches two things at once: a session has `room` until the member's next one, and a day has 24 hours. The
    history, whose evenings were never that long, was told without it.
    """

    member: Ids  # (S,) rows, not ids
    at: Ids  # (S,) microseconds
    turn: Ids  # (S,)
    room: Floats  # (S,) minutes

    @property
    def user_ids(self) -> Ids:
        """(S,) the members' ids."""
        return self.member + 1

    def of_turn(self, turn: int) -> Visit:
        """The sessions that are their member's first of the day (0), second (1), and so on."""
        mine = self.turn == turn
        return Visit(self.member[mine], self.at[mine], self.turn[mine], self.room[mine])

    @property
    def turns(self) -> int:
        """How many sessions the keenest member has."""
        return int(self.turn.max()) + 1 if len(self.turn) else 0


def day_number(config: WorldConfig, begins: int) -> int:
    """Days from the history's start to a day that begins at `begins` microseconds; `config.days` is the first after it."""
    return (begins - micros(config.start)) // DAY


def memberships_on(
    world: World, audience: Audience, begins: int, *, life: int = 0
) -> tuple[pa.Table, Audience]:
    """Who joins, renews, cancels and returns on the day that begins at `begins`, as `memberships` events.

    Another `life` is another course of events of the same members; 0 is the one that the history began.
    """
    rng = stream(world.config, "memberships", day_number(world.config, begins), *_beside(life))
    subscriptions = audience.subscriptions.copied()
    events = advance(world.config, world.members, subscriptions, begins, rng)
    return events, replace(audience, subscriptions=subscriptions)


def visits_on(world: World, audience: Audience, begins: int, *, life: int = 0) -> Visit:
    """Who comes on the day that begins at `begins`, and when; `life` as in `memberships_on`."""
    rng = stream(world.config, "visits", day_number(world.config, begins), *_beside(life))
    member, at = who_comes(world.config, world.members, audience.subscriptions, begins, rng)
    return Visit(member, at, turns(member), room(member, at))


def _beside(life: int) -> tuple[int, ...]:
    return (life,) if life else ()


def turns(member: Ids) -> Ids:
    """(S,) how often each session's member came before, in the order given.

    >>> turns(np.array([4, 7, 4, 4, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(member, kind="stable")
    ordered = member[order]
    first = np.searchsorted(ordered, ordered, side="left")
    found = np.empty(len(member), np.int64)
    found[order] = np.arange(len(member)) - first
    return found


def room(member: Ids, at: Ids) -> Floats:
    """(S,) minutes from each session's start to the member's next one; the last ends a day after the first began.

    >>> minute = 60_000_000
    >>> room(np.array([4, 7, 4]), np.array([0, 10, 90]) * minute).tolist()
    [90.0, 1440.0, 1350.0]
    """
    order = np.lexsort((at, member))
    who, when = member[order], at[order]
    first = when[np.searchsorted(who, who, side="left")]
    ends = first + DAY
    again = who[1:] == who[:-1]
    ends[:-1][again] = when[1:][again]
    found = np.empty(len(member), np.float64)
    found[order] = (ends - when) / MINUTE
    return found


def react(
    world: World, audience: Audience, visits: Visit, pages: Pages, rng: np.random.Generator
) -> tuple[Responses, Audience]:
    """How members take the pages they are shown, and the audience that has seen them.

    Args:
        world: the members' world.
        audience: as it is before these sessions.
        visits: S sessions, at most one of each member where order within the day matters.
        pages: (S, L), in the order of `visits`.
        rng: the only source of chance.

    Raises:
        UnknownIds: a title or image that is not of this world.
        ValueError: an image for a title it does not belong to, or shapes that do not match.
    """
    rows = np.where(pages.titles > 0, pages.titles - 1, 0).clip(max=len(world.catalogue) - 1)
    seen = audience.watched[visits.member[:, None], rows] & (pages.titles > 0)
    shown = replace(world.visits(visits.member, pages, visits.at, seen), room=visits.room)
    outcome = visit(world.catalogue, world.members, shown, rng)
    return world.traces(shown, pages, outcome, rng), remembering(audience, shown, outcome)


def remembering(audience: Audience, visits: Visits, outcome: Outcome) -> Audience:
    """The audience after sessions: their sums and moods, and what was watched to the end."""
    after = audience.copied()
    row, cell = np.nonzero(outcome.played & (outcome.watch_share >= COMPLETED_SHARE))
    after.watched[visits.member[row], visits.title[row, cell]] = True
    after.subscriptions.record(visits.member, outcome.satisfaction, outcome.diversity)
    return after


def who_comes(
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
