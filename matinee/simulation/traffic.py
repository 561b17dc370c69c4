"""One simulated day of visits: members come, are shown pages, react; all of it becomes events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pyarrow as pa

from events.audience import Audience, Visit, day_number, memberships_on, react, visits_on
from events.history import news_on
from events.world import Responses, World
from events.world_config import micros, stream
from matinee.context import Day
from matinee.pushing import push_plays
from matinee.simulation.pages import Pager, shown
from serving.answers import Page

REPORTED_WITHIN = timedelta(days=5)
"""All that happens on a day is heard of by then: late reports, and films that ran past midnight."""


@dataclass(frozen=True)
class Traffic:
    """What came of one day, in numbers."""

    sessions: int
    plays: int
    minutes: float
    satisfaction: float
    diversity: float
    renewed: int
    cancelled: int
    started: int
    by_source: Mapping[str, int]


def live_day(
    day: Day, world: World, known: Mapping[str, pa.Table], audience: Audience, pager: Pager
) -> tuple[Traffic, Audience]:
    """Live the day that begins at `day.as_of`; `known` is what `events.history.ever_known` tells of the world.

    A member's second visit of a day sees what their first one changed: plays are pushed online between rounds.
    """
    begins, lake = micros(day.as_of), day.workspace.lake
    for table, rows in news_on(dict(known), begins).items():
        lake.append(table, rows, received_at=day.as_of + REPORTED_WITHIN)
    memberships, audience = memberships_on(world, audience, begins)
    lake.append("memberships", memberships, received_at=day.as_of + REPORTED_WITHIN)
    visits = visits_on(world, audience, begins)
    rounds: list[tuple[Responses, list[Page]]] = []
    for turn in range(visits.turns):
        responses, pages, audience = _round(day, world, audience, visits.of_turn(turn), turn, pager)
        rounds.append((responses, pages))
    return _counted(rounds, memberships), audience


def _round(
    day: Day, world: World, audience: Audience, visits: Visit, turn: int, pager: Pager
) -> tuple[Responses, list[Page], Audience]:
    """At most one visit of each member."""
    pages = pager.pages(visits)
    rng = stream(world.config, "reactions", day_number(world.config, micros(day.as_of)), turn)
    responses, audience = react(world, audience, visits, shown(pages), rng)
    _append(day, responses)
    return responses, pages, audience


def _append(day: Day, responses: Responses) -> None:
    lake, received_at = day.workspace.lake, day.as_of + REPORTED_WITHIN
    lake.append("impressions", responses.impressions, received_at=received_at)
    lake.append("hovers", responses.hovers, received_at=received_at)
    push_plays(day.workspace, responses.plays, received_at=received_at, record=True)


def _counted(rounds: list[tuple[Responses, list[Page]]], memberships: pa.Table) -> Traffic:
    sources, counts = np.unique([page.source for _, pages in rounds for page in pages], return_counts=True)
    status = memberships["status"].to_pylist()
    satisfaction = np.concatenate([np.zeros(0), *(responses.satisfaction for responses, _ in rounds)])
    diversity = np.concatenate([np.zeros(0), *(responses.diversity for responses, _ in rounds)])
    return Traffic(
        sessions=len(satisfaction),
        plays=sum(int(responses.plays_per_page.sum()) for responses, _ in rounds),
        minutes=sum(float(np.sum(responses.plays["watch_minutes"].to_numpy())) for responses, _ in rounds),
        satisfaction=float(satisfaction.mean()) if len(satisfaction) else 0.0,
        diversity=float(diversity.mean()) if len(diversity) else 0.0,
        renewed=status.count("renewed"),
        cancelled=status.count("cancelled"),
        started=status.count("started"),
        by_source=dict(zip(sources.tolist(), counts.tolist(), strict=True)),
    )


def on(day: Day, days: int) -> Day:
    """The same workspace so many days later."""
    return replace(day, as_of=day.as_of + timedelta(days=days))
