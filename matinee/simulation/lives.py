"""Many lives of the same members on pages that stand: how a small world gets the sample size of a large one.

A frozen ranking of each member's titles is lived with for some weeks, once in each `life`. A unit is a member in one
life. What is approximate: the ranking does not follow what is played (titles that were are taken off it, as the product
does), and a member is shown each title's first image. What is exact: who comes, how they react, who stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.audience import Audience, Visit, memberships_on, remembering, visits_on
from events.behaviour import visit
from events.traces import Pages
from events.world import World
from events.world_config import DAY, micros, stream
from experiments.config import BUCKETS, Experiment
from experiments.hashing import bucket, key_of, seed_of
from models.data import Int64
from models.objective import ObjectiveWeights

Float64 = NDArray[np.float64]
COLUMNS = ("plays", "watch_minutes", "sessions", "renewals_due", "renewals", "minutes_before")
SPARE = 16
"""Titles ranked beyond a page: they move up where others were played."""


@dataclass(frozen=True)
class Stage:
    """What lives begin with: the audience at a moment, what it watched before, how big a page is and for how long it goes."""

    world: World
    audience: Audience
    begins: datetime  # the audience's next day
    minutes_before: Float64  # (M,) minutes watched before that
    page_size: int = 24
    days: int = 14

    @property
    def members(self) -> int:
        """How many units a life has."""
        return len(self.world.members)


@dataclass(frozen=True)
class Lived:
    """What became of units (N,): `values` has a column (N,) for each of `COLUMNS`."""

    unit_id: Int64
    values: Mapping[str, Float64]

    def table(self) -> pa.Table:
        """As outcomes that a read-out takes."""
        return pa.table({"unit_id": self.unit_id, **self.values})


def unit_ids(members: int, life: int) -> Int64:
    """The ids of a life's units, from 1 on; no other life has them."""
    return np.arange(1, members + 1, dtype=np.int64) + life * members


def live(stage: Stage, ranked: Int64, life: int) -> Lived:
    """One life of all members: each sees the first titles of their row of `ranked` (M, R) that they have not played.

    A member whose row is -1 throughout is shown nothing, and does not count as exposed: they have no sessions.
    """
    world, audience = stage.world, stage.audience
    spent = np.zeros(ranked.shape, np.bool_)
    values = {name: np.zeros(stage.members) for name in COLUMNS}
    begins = micros(stage.begins)
    for number in range(stage.days):
        today = begins + number * DAY
        decided, audience = memberships_on(world, audience, today, life=life)
        _count_memberships(values, decided)
        coming = visits_on(world, audience, today, life=life)
        for turn in range(coming.turns):
            rng = stream(world.config, "lives", number, life, turn)
            audience = _round(
                stage.page_size, world, audience, ranked, spent, coming.of_turn(turn), values, rng
            )
    values["minutes_before"] = stage.minutes_before
    return Lived(unit_ids(stage.members, life), values)


def _round(
    size: int,
    world: World,
    audience: Audience,
    ranked: Int64,
    spent: NDArray[np.bool_],  # (M, R) places whose title was played: changed here
    coming: Visit,
    values: Mapping[str, Float64],  # counted up here
    rng: np.random.Generator,
) -> Audience:
    """At most one visit of each member."""
    there = (ranked[coming.member] > 0).any(axis=1)
    member, at = coming.member[there], coming.at[there]
    if not len(member):
        return audience
    cells = _first_free(ranked, spent, member, size)
    titles = np.where(cells >= 0, ranked[member[:, None], cells], -1)
    seen = audience.watched[member[:, None], np.maximum(titles - 1, 0)] & (titles > 0)
    visits = world.visits(member, _pages(world, titles), at, seen)
    outcome = visit(world.catalogue, world.members, visits, rng)
    row, cell = np.nonzero(outcome.played)
    spent[member[row], cells[row, cell]] = True
    values["plays"][member] += outcome.played.sum(axis=1)
    values["watch_minutes"][member] += outcome.watch_minutes.sum(axis=1)
    values["sessions"][member] += 1
    return remembering(audience, visits, outcome)


def _count_memberships(values: Mapping[str, Float64], decided: pa.Table) -> None:
    """Decisions of those who were exposed before: what was decided earlier is nothing that a page did.

    A member has one event a day at most.
    """
    status, member = np.array(decided["status"].to_pylist(), dtype="U9"), decided["user_id"].to_numpy() - 1
    due = (status != "started") & (values["sessions"][member] > 0)
    values["renewals_due"][member[due]] += 1
    values["renewals"][member[due & (status == "renewed")]] += 1


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
    ) -> tuple[pa.Table, pa.Table]:
        """An experiment on some lives, its arms made of `weights`: exposures and outcomes, as a read-out takes them."""
        rankings = {arm: self.rank(weights[arm]) for arm in experiment.arms}
        exposed, outcomes = [], []
        for life in lives:
            ids = unit_ids(self.stage.members, life)
            arms = arms_of(experiment, ids)
            ranked = np.select([(arms == arm)[:, None] for arm in rankings], list(rankings.values()), -1)
            lived = live(self.stage, ranked, life)
            came = lived.values["sessions"] > 0
            exposed.append(
                pa.table(
                    {
                        "user_id": ids[came],
                        "experiment": [experiment.name] * int(came.sum()),
                        "arm": arms[came],
                    }
                )
            )
            outcomes.append(lived.table())
        log = pa.concat_tables(exposed)
        at = pa.array([self.stage.begins] * len(log), pa.timestamp("us", "UTC"))
        return log.append_column("event_timestamp", at), pa.concat_tables(outcomes)


def arms_of(experiment: Experiment, unit_id: Int64) -> NDArray[np.str_]:
    """(N,) the arm of each unit, by the product's own hash: buckets of the experiment's arm seed."""
    seed = seed_of("arm", experiment.salt or experiment.name)
    edges = np.round(np.cumsum([arm.share for arm in experiment.arms.values()]) * BUCKETS).astype(int)
    place = [bucket(key_of(unit), seed) for unit in unit_id.tolist()]
    return np.array(list(experiment.arms))[np.searchsorted(edges, place, side="right")]
