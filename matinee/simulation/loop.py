"""The closed loop, day by day: members come, are shown pages, react, stay or go; the system learns and decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from events.history import ever_known
from events.world import World
from experiments.config import Holdout
from matinee.context import Day, load_world
from matinee.deployment import build_bento
from matinee.progress import Stage, Stages
from matinee.simulation.config import SimulationConfig
from matinee.simulation.learning import learn_artwork, refresh, retrain
from matinee.simulation.pages import OverHttp, Pager, in_process
from matinee.simulation.state import Simulated, begin_day, keep, resume
from matinee.simulation.traffic import Traffic, live_day, on
from matinee.simulation.trials import Ended, Programme
from serving.exposure_table import compact

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Lived:
    """One simulated day: what came of it, and from which Bento its pages were."""

    number: int  # from the run's first day, 0
    day: Day
    traffic: Traffic
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
    programme: Programme
    holdout: Holdout | None

    @property
    def trials(self) -> tuple[Ended, ...]:
        """How its experiments ended, in that order."""
        return tuple(self.programme.ended)


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
    programme = Programme(began, config.trials, config.days)
    holdout = programme.declare(config.holdout)
    machine = _Machine(world, config, stages, programme)
    days = []
    for number in range(config.days):
        lived, state = machine.live(number, on(began, number), state)
        days.append(lived)
        told(lived)
    programme.look(config.days, state.at)
    return Run(config, world, began, replace(day, as_of=state.at), tuple(days), programme, holdout)


@dataclass
class _Machine:
    """All that days of one run share."""

    world: World
    config: SimulationConfig
    stages: Stages
    programme: Programme
    bento: str = ""

    def __post_init__(self) -> None:
        self.known = ever_known(self.world)

    def live(self, number: int, day: Day, state: Simulated) -> tuple[Lived, Simulated]:
        """One day, from the decisions before its first visit to what was learnt of its last."""
        started, folder = time.perf_counter(), day.workspace.simulation
        begin_day(folder, day.as_of)
        with self.stages.stage("experiments") as stage:
            self.programme.look(number, day.as_of)
            started_any = self.programme.start(number, day.as_of)
            stage.note = ", ".join(self.programme.live) or "none is live"
        if started_any or not self.bento:  # an arm may ask for a version that no Bento holds yet
            with self.stages.stage("build Bento") as stage:
                self.bento = build_bento(day, "homepage", stage).tag
        with self.stages.stage(f"visits of {day.as_of:%d %b}") as stage:
            with self._pager(day, stage) as pager:
                traffic, audience = live_day(day, self.world, self.known, state.audience, pager)
            compact(day.workspace.exposures)
            stage.note = f"{traffic.sessions:,} pages, {traffic.plays:,} plays"
        learnt = self._learn(number, on(day, 1))
        state = replace(state, at=day.as_of + DAY, audience=audience)
        keep(folder, state)
        seconds = time.perf_counter() - started
        return Lived(number, day, traffic, self.bento, learnt, seconds), state

    def _learn(self, number: int, after: Day) -> tuple[str, ...]:
        """Features, images and, once a week, models; the services follow the champions."""
        learnt: list[str] = []
        if (number + 1) % self.config.refresh_every == 0:
            refresh(after, self.stages)
            if self.config.learn_artwork:
                with self.stages.stage("learn artwork") as stage:
                    since = after.as_of - DAY * self.config.refresh_every
                    version = learn_artwork(after, since, stage)
                    learnt += [version.ref] if version else []
        if self.config.retrains_after(number):
            learnt += [version.ref for version in retrain(after, self.stages)]
        return tuple(learnt)

    @contextmanager
    def _pager(self, day: Day, stage: Stage) -> Iterator[Pager]:
        if self.config.transport == "http":
            yield OverHttp(day, self.config.page_size, stage)
            return
        with in_process(day, self.config.page_size) as pager:
            yield pager
