"""Many lives of the same members on pages that stand: how a small world gets the sample size of a large one.

A frozen ranking of each member's titles is lived with for some weeks, once in each `life`. A unit is a member in one
life. What is approximate: the ranking does not follow what is played (titles that were are taken off it, as the product
does), and a member is shown each title's first image. What is exact: who comes, how they react, who stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.audience import Audience, Visit, memberships_on, remembering, visits_on
from events.behaviour import visit
from events.traces import Pages
from events.world import World
from events.world_config import DAY, micros, stream
from experiments.assignment import Assigner
from experiments.config import Experiment, ExperimentBook
from experiments.daily import DailyStatistics
from experiments.gathering import gather
from experiments.live import LiveExperiments, compiled
from experiments.metrics import exposed_units_in
from experiments.readout import Readout, read_out
from models.data import Int64
from models.objective import ObjectiveWeights

UNITS_AT_ONCE = 60_000
"""Units whose events are in memory together."""
SPARE = 36
"""Titles ranked beyond a page: they move up where others were played."""
_WHEN = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Stage:
    """What lives begin with: the audience at a moment, the plays before it, how big a page is and for how long it goes."""

    world: World
    audience: Audience
    begins: datetime  # the audience's next day
    before: pa.Table  # of `plays`: what a covariate may be made of
    page_size: int = 24
    days: int = 21

    @property
    def members(self) -> int:
        """How many units a life has."""
        return len(self.world.members)

    @property
    def ends(self) -> datetime:
        """When a life is over."""
        return self.begins + timedelta(days=self.days)


@dataclass(frozen=True)
class Lived:
    """What units did, as events that the product's metrics are computed from.

    `exposures` has `user_id` and `event_timestamp`, a row for each unit's first page; `plays` and `memberships` those columns,
    `created_timestamp`, and `watch_minutes` or `status`.
    """

    exposures: pa.Table
    plays: pa.Table
    memberships: pa.Table

    @classmethod
    def together(cls, lives: Iterable[Lived]) -> Self:
        """The events of several lives."""
        parts = list(lives)
        names = [part.name for part in fields(cls)]
        return cls(*(pa.concat_tables(getattr(one, name) for one in parts) for name in names))


def unit_ids(members: int, life: int) -> Int64:
    """The ids of a life's units, from 1 on; no other life has them."""
    return np.arange(1, members + 1, dtype=np.int64) + life * members


def live(stage: Stage, ranked: Int64, life: int) -> Lived:
    """One life of all members: each sees the first titles of their row of `ranked` (M, R) that they have not played.

    A member whose row is -1 throughout is shown nothing, and is not exposed.
    """
    world, audience = stage.world, stage.audience
    course = _Course(stage.members * life, ranked)
    begins = micros(stage.begins)
    for number in range(stage.days):
        today = begins + number * DAY
        decided, audience = memberships_on(world, audience, today, life=life)
        course.memberships.append(decided)
        coming = visits_on(world, audience, today, life=life)
        for turn in range(coming.turns):
            rng = stream(world.config, "lives", number, life, turn)
            audience = course.round(stage.page_size, world, audience, coming.of_turn(turn), rng)
    return course.told(stage.before)


class _Course:
    """A life while it is lived."""

    def __init__(self, first_id: int, ranked: Int64) -> None:
        self.first_id, self.ranked = first_id, ranked
        self.spent = np.zeros(ranked.shape, np.bool_)  # (M, R) places whose title was played
        self.first_seen = np.zeros(len(ranked), np.int64)  # (M,) microseconds; 0 is never
        self.memberships: list[pa.Table] = []
        self.plays: list[tuple[Int64, Int64, NDArray[np.float64]]] = []  # member, microseconds, minutes

    def round(
        self, size: int, world: World, audience: Audience, coming: Visit, rng: np.random.Generator
    ) -> Audience:
        """At most one visit of each member."""
        there = (self.ranked[coming.member] > 0).any(axis=1)
        member, at = coming.member[there], coming.at[there]
        if not len(member):
            return audience
        cells = _first_free(self.ranked, self.spent, member, size)
        titles = np.where(cells >= 0, self.ranked[member[:, None], cells], -1)
        seen = audience.watched[member[:, None], np.maximum(titles - 1, 0)] & (titles > 0)
        visits = world.visits(member, _pages(world, titles), at, seen)
        outcome = visit(world.catalogue, world.members, visits, rng)
        row, cell = np.nonzero(outcome.played)
        self.spent[member[row], cells[row, cell]] = True
        self.plays.append((member[row], at[row], outcome.watch_minutes[row, cell]))
        self.first_seen[member] = np.where(self.first_seen[member] == 0, at, self.first_seen[member])
        return remembering(audience, visits, outcome)

    def told(self, before: pa.Table) -> Lived:
        """All of it as events of this life's units; each life has the plays `before` to itself."""
        came = np.flatnonzero(self.first_seen)
        nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        member, at, minutes = (np.concatenate(part) for part in zip(nothing, *self.plays, strict=True))
        exposures = pa.table(
            {"user_id": self._ids(came), "event_timestamp": pa.array(self.first_seen[came], _WHEN)}
        )
        plays = _known(self._ids(member), at, watch_minutes=minutes)
        earlier = _known(
            before["user_id"].to_numpy() + self.first_id,
            before["event_timestamp"].cast(_WHEN).cast(pa.int64()).to_numpy(),
            watch_minutes=before["watch_minutes"].to_numpy(),
        )
        decided = pa.concat_tables(self.memberships)
        memberships = _known(
            decided["user_id"].to_numpy() + self.first_id,
            decided["event_timestamp"].cast(pa.int64()).to_numpy(),
            status=decided["status"],
        )
        return Lived(exposures, pa.concat_tables([earlier, plays]), memberships)

    def _ids(self, member: Int64) -> Int64:
        return member + 1 + self.first_id


def _known(user_id: Int64, at: Int64, **columns: object) -> pa.Table:
    """Events that are heard of when they happen."""
    when = pa.array(at, _WHEN)
    return pa.table({"user_id": user_id, "event_timestamp": when, "created_timestamp": when, **columns})


def _first_free(ranked: Int64, spent: NDArray[np.bool_], member: Int64, size: int) -> Int64:
    """(S, size) places in each row of the first titles that are not spent; -1 where there are no more."""
    taken = spent[member] | (ranked[member] < 1)
    order = np.argsort(taken, axis=1, kind="stable")[:, :size]
    return np.where(np.take_along_axis(taken, order, axis=1), -1, order)


def _pages(world: World, titles: Int64) -> Pages:
    first = world.catalogue.artwork_start[np.maximum(titles - 1, 0)] + 1
    return Pages.numbered(titles, np.where(titles > 0, first, -1))


class Rank:
    """Rankings of all members by weights, each made once."""

    def __init__(self, make: Callable[[ObjectiveWeights], Int64]) -> None:
        self._make = make
        self._made: dict[str, Int64] = {}

    def __call__(self, weights: ObjectiveWeights) -> Int64:
        """(M, R) title ids, best first."""
        key = weights.model_dump_json()
        if key not in self._made:
            self._made[key] = self._make(weights)
        return self._made[key]


@dataclass(frozen=True)
class Bench:
    """A stage, and the rankings (M, R) that weights make on it: computed once for each weights."""

    stage: Stage
    rank: Rank

    def run(
        self, experiment: Experiment, weights: Mapping[str, ObjectiveWeights], lives: Sequence[int]
    ) -> Iterator[Lived]:
        """What came of an experiment on some lives, its arms made of `weights`, in parts that no unit is in two of."""
        rankings = {arm: self.rank(weights[arm]) for arm in experiment.arms}
        arms_of, at_once = assigned(experiment), max(1, UNITS_AT_ONCE // self.stage.members)

        def lived(life: int) -> Lived:
            arms = arms_of(unit_ids(self.stage.members, life))
            ranked = np.select([(arms == arm)[:, None] for arm in rankings], list(rankings.values()), -1)
            return live(self.stage, ranked, life)

        for start in range(0, len(lives), at_once):
            yield Lived.together(lived(life) for life in lives[start : start + at_once])


def read_out_lives(experiment: Experiment, parts: Iterable[Lived], at: datetime) -> Readout:
    """The product's read-out of events that units left behind; values are capped as those of the first part are."""
    found: list[DailyStatistics] = []
    for lived in parts:
        found.append(_scanned(experiment, lived, at, found[0].caps if found else None))
    daily = DailyStatistics.together(found)
    return read_out(experiment, daily.statistics(experiment.metrics.all, tuple(experiment.arms), at), at)


def _scanned(
    experiment: Experiment, lived: Lived, at: datetime, caps: Mapping[str, float] | None
) -> DailyStatistics:
    arms = assigned(experiment)(lived.exposures["user_id"].to_numpy())
    named = pa.array([experiment.name] * len(arms), pa.string())
    exposures = lived.exposures.append_column("experiment", named).append_column("arm", pa.array(arms))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("exposures", exposures)
        connection.register("plays", lived.plays)
        connection.register("memberships", lived.memberships)
        units = exposed_units_in(connection, experiment)
        return gather(connection, units, experiment.metrics, at, caps=caps)


def assigned(experiment: Experiment) -> Callable[[Int64], NDArray[np.str_]]:
    """Unit ids (N,) → their arms (N,), as the product assigns them where nothing else runs."""
    alone = compiled(ExperimentBook({}, {}, {}), experiment, str, experiment.start)
    assigner = Assigner(LiveExperiments(experiments=(alone,)))
    return lambda ids: np.array([assigner.assign(unit).arms[0][1] for unit in ids.tolist()], dtype=np.str_)
