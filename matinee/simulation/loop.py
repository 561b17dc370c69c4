"""The closed loop, day by day: members come, are shown pages, react, stay or go; the system learns and decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from events.history import ever_known
from events.world import World
from matinee.context import Day, load_world
from matinee.deployment import build_bento
from matinee.progress import Stage, Stages
from matinee.simulation.config import SimulationConfig
from matinee.simulation.learning import learn_artwork, refresh, retrain
from matinee.simulation.pages import Kept, OverHttp, Pager, in_process
from matinee.simulation.state import Simulated, begin_day, keep, resume
from matinee.simulation.traffic import Traffic, live_day, on
from matinee.simulation.trials import Desk, Ended
from models.objective import ObjectiveWeights

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Lived:
    """One simulated day: what came of it, and which versions and weights its pages were made with."""

    number: int  # from the run's first day, 0
    day: Day
    traffic: Traffic
    weights: ObjectiveWeights
    bento: str
    learnt: tuple[str, ...]  # versions made of it
    seconds: float


@dataclass(frozen=True)
class Run:
    """A simulation that is over: its days, and how its experiments ended."""

    config: SimulationConfig
    world: World
    began: Day
    ended: Day
    days: tuple[Lived, ...]
    desk: Desk
    kept: Kept
    weights: ObjectiveWeights

    @property
    def trials(self) -> tuple[Ended, ...]:
        """How its experiments ended, in that order."""
        return tuple(self.desk.ended)


class NotOfThisWorld(ValueError):
    """A simulation needs the built-in world: nobody else's members can be asked to come again."""

    def __init__(self, source: str) -> None:
        super().__init__(f"source {source!r} is recorded. Only `world` can be simulated further.")


def simulate(day: Day, config: SimulationConfig, stages: Stages, told: Callable[[Lived], None]) -> Run:
    """Live `config.days` days from where the workspace stands, which has features, champions and a published snapshot.

    Raises:
        NotOfThisWorld: the workspace is of a recorded source.
        Interrupted: an earlier simulation of this workspace was killed within a day.
        GateFailed: features of a simulated day broke their contract.
    """
    if day.workspace.source.name != "world":
        raise NotOfThisWorld(day.workspace.source.name)
    world = load_world(day)
    state = resume(day.workspace.simulation, world)
    began = replace(day, as_of=state.at)
    machine = _Machine(began, world, config, stages, Desk(began, config.trials), Kept(config.holdout))
    machine.desk.declare()
    days = []
    for number in range(config.days):
        lived, state = machine.live(number, on(began, number), state)
        days.append(lived)
        told(lived)
    weights = machine.desk.look(config.days, state.at, state.shipped)
    keep(day.workspace.simulation, replace(state, shipped=weights))
    ended = replace(day, as_of=state.at)
    return Run(config, world, began, ended, tuple(days), machine.desk, machine.kept, weights)


@dataclass
class _Machine:
    """All that days of one run share."""

    began: Day
    world: World
    config: SimulationConfig
    stages: Stages
    desk: Desk
    kept: Kept
    bento: str = ""

    def __post_init__(self) -> None:
        self.known = ever_known(self.world)

    def live(self, number: int, day: Day, state: Simulated) -> tuple[Lived, Simulated]:
        """One day, from the decisions before its first visit to what was learnt of its last."""
        started, folder = time.perf_counter(), day.workspace.simulation
        begin_day(folder, day.as_of)
        weights = self.desk.look(number, day.as_of, state.shipped)
        changed = self.desk.start(number, day.as_of) or weights != state.shipped
        if changed or not self.bento:
            self._build(day, weights)
        state = replace(state, shipped=weights, frozen=state.frozen or self.bento)
        made_with = self.bento
        with self.stages.stage(f"visits of {day.as_of:%d %b}") as stage:
            with self._pager(day, state.frozen, stage) as pager:
                traffic, audience = live_day(day, self.world, self.known, state.audience, pager)
            stage.note = f"{traffic.sessions:,} pages, {traffic.plays:,} plays"
        learnt = self._learn(number, on(day, 1), weights)
        state = replace(state, at=day.as_of + DAY, audience=audience)
        keep(folder, state)
        seconds = time.perf_counter() - started
        return Lived(number, day, traffic, weights, made_with, learnt, seconds), state

    def _learn(self, number: int, after: Day, weights: ObjectiveWeights) -> tuple[str, ...]:
        """Features, images and, once a week, models; a new Bento where a version is new."""
        learnt: list[str] = []
        if (number + 1) % self.config.refresh_every == 0:
            refresh(after, self.stages)
            if self.config.learn_artwork:
                with self.stages.stage("learn artwork") as stage:
                    since = after.as_of - DAY * self.config.refresh_every
                    version = learn_artwork(after, since, stage)
                    learnt += [version.ref] if version else []
        if self.config.retrain_every and (number + 1) % self.config.retrain_every == 0:
            learnt += [version.ref for version in retrain(after, self.stages)]
        if learnt:
            self._build(after, weights)
        return tuple(learnt)

    def _build(self, day: Day, weights: ObjectiveWeights) -> None:
        with self.stages.stage("build Bento") as stage:
            self.bento = build_bento(day, "homepage", stage, weights).tag

    @contextmanager
    def _pager(self, day: Day, frozen: str, stage: Stage) -> Iterator[Pager]:
        if self.config.transport == "http":
            yield OverHttp(day, self.config.page_size, stage)
            return
        with in_process(day, self.config.page_size, self.kept, frozen) as pager:
            yield pager
