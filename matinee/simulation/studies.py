"""A whole simulation study: the loop with its experiments, then what many lives say, then the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np

from matinee.context import Day, fetched, load_world
from matinee.datasets import entity_matrix
from matinee.day import run_day
from matinee.progress import Stages
from matinee.recommending import known_users
from matinee.simulation.config import SimulationConfig, Trial
from matinee.simulation.designs import ALLURING, CONTROL, VARIED, more_plays, more_renewals, weights_test
from matinee.simulation.lives import Bench, Stage
from matinee.simulation.loop import Lived, Run, simulate
from matinee.simulation.new_titles import Comparison, TooFewShowings, compared
from matinee.simulation.pages import in_process
from matinee.simulation.report import Findings, write
from matinee.simulation.sandbox import shelves
from matinee.simulation.scenarios import alluring_but_alike, bench_of, funnel, search_weights, variety
from matinee.simulation.state import resume
from matinee.simulation.tally import by_day, held_out_readout, new_title_traffic
from matinee.training_artwork import artwork_images
from models.artwork import ArtworkPolicy
from models.creative_quality import CreativeQuality
from models.objective import ObjectiveWeights

DAY = timedelta(days=1)
UNITS = 24_000
"""Members, over all lives, that a test on many lives has: enough to see one renewal in two hundred."""
UNITS_OF_IDEA = 12_000


class Scenario(StrEnum):
    """What a simulation can be asked."""

    ALLURING = "alluring"
    VARIETY = "variety"
    WEIGHTS = "weights"
    NEW_TITLES = "new-titles"
    FUNNEL = "funnel"
    HOLDOUT = "holdout"


@dataclass
class Study:
    """One study of a workspace; `size` scales how many lives tests have, 1 being the full study."""

    day: Day
    stages: Stages
    scenarios: Sequence[Scenario]
    days: int
    holdout: float = 0.0
    http: bool = False
    size: float = 1.0
    ideas: int = 100
    config: SimulationConfig = field(default_factory=SimulationConfig)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> tuple[Findings, Path]:
        """The loop, the scenarios asked for, and the report; the page's path."""
        if not self.day.workspace.simulated.exists():
            run_day(self.day, self.stages)
        before = self.day.registry.get("artwork").ref
        with self._timed("loop"):
            run = simulate(self.day, self._configured(), self.stages, self._say)
        found = Findings(run, by_day(run.ended, run.began.as_of), notes=self._notes(run))
        found = self._asked(found, before)
        found = replace(found, seconds=dict(self.seconds))
        name = f"{run.began.as_of:%Y%m%d}-{run.ended.as_of:%Y%m%d}"
        return found, write(found, self.day.workspace.simulation / "reports" / name)

    def _configured(self) -> SimulationConfig:
        held = self.holdout or (0.2 if Scenario.HOLDOUT in self.scenarios else 0.0)
        return self.config.model_copy(update={
            "days": self.days, "holdout": held, "transport": "http" if self.http else "process", "trials": self._trials(),
        })  # fmt: skip

    def _trials(self) -> tuple[Trial, ...]:
        """The experiments of the loop, each in a half of the ranking layer."""
        at = resume(self.day.workspace.simulation, load_world(self.day)).at
        asked = [one for one in (Scenario.ALLURING, Scenario.VARIETY) if one in self.scenarios]
        slots = {one: (place / len(asked), (place + 1) / len(asked)) for place, one in enumerate(asked)}
        until, look = at + DAY * (self.days + 1), min(7, self.days)
        made = []
        if Scenario.ALLURING in slots:
            arms = {CONTROL: VARIED, "alluring": ALLURING}
            experiment = weights_test("alluring-but-alike", arms, more_plays(), "Whatever calls loudest raises plays.", at, until, slot=slots[Scenario.ALLURING])  # fmt: skip
            made.append(Trial(experiment=experiment, ends=self.days, look_every=look))
        if Scenario.VARIETY in slots:
            arms = {
                CONTROL: ObjectiveWeights(diversity=0),
                "varied": ObjectiveWeights(diversity=0.3, diversity_window=24),
            }
            experiment = weights_test("more-variety", arms, more_renewals(), "A varied page keeps members.", at, until, slot=slots[Scenario.VARIETY])  # fmt: skip
            made.append(Trial(experiment=experiment, ends=self.days, look_every=look))
        return tuple(made)

    def _asked(self, found: Findings, artwork_before: str) -> Findings:
        run = found.run
        if Scenario.HOLDOUT in self.scenarios or run.config.holdout:
            found = replace(
                found, holdout=held_out_readout(run.ended, run.began.as_of, run.ended.as_of, run.kept)
            )
        if Scenario.NEW_TITLES in self.scenarios:
            with self._timed("new-titles"):
                found = _with_new_titles(found, artwork_before)
        on_lives = {Scenario.ALLURING, Scenario.VARIETY, Scenario.WEIGHTS, Scenario.FUNNEL} & set(
            self.scenarios
        )
        if not on_lives:
            return found
        with self._timed("shelves"):
            bench = self._bench(run)
        return self._on_lives(found, bench)

    def _on_lives(self, found: Findings, bench: Bench) -> Findings:
        lives = max(2, round(UNITS * self.size / bench.stage.members))
        tested = dict(found.tested)
        for scenario, test in ((Scenario.ALLURING, alluring_but_alike), (Scenario.VARIETY, variety)):
            if scenario in self.scenarios:
                with self._timed(scenario.value):
                    tested[f"On many lives: {scenario.value}"] = test(bench, range(1, lives + 1))
        found = replace(found, tested=tested)
        if Scenario.WEIGHTS in self.scenarios:
            with self._timed("weights"):
                rounds = [range(1_000 * r + 1, 1_000 * r + 1 + lives) for r in (1, 2, 3)]
                found = replace(found, search=search_weights(bench, rounds, range(9_001, 9_001 + 2 * lives), seed=self.day.settings.seed, say=self._line))  # fmt: skip
        if Scenario.FUNNEL in self.scenarios:
            with self._timed("funnel"):
                each = max(2, round(UNITS_OF_IDEA * self.size / bench.stage.members))
                found = replace(found, funnel=funnel(bench, self.ideas, each, first_life=20_001, seed=self.day.settings.seed, say=self._line))  # fmt: skip
        return found

    def _bench(self, run: Run) -> Bench:
        """Lives from where the loop ended, on pages of the models that are champions there."""
        day, state = run.ended, resume(run.ended.workspace.simulation, run.world)
        at = day.as_of + timedelta(hours=20)
        with in_process(day, run.config.page_size, replace(run.kept, share=0.0), "") as pager:
            live = pager.live.source.current()
            made = shelves(live, live.plan(0), sorted(known_users(day)), at)
        stage = Stage(run.world, state.audience, day.as_of, minutes_before(day), run.config.page_size)
        return bench_of(stage, made)

    def _notes(self, run: Run) -> dict[str, str]:
        decided = sum(one.traffic.renewed + one.traffic.cancelled for one in run.days)
        kept = sum(one.traffic.renewed for one in run.days) / max(decided, 1)
        least = 2.8 * (4 * kept * (1 - kept) / max(decided, 1)) ** 0.5
        return {
            "power of the loop": f"{decided:,} memberships came due, {kept:.1%} were renewed: an A/B test of all members in halves finds a "
            f"difference of {100 * least:.1f} points or more in renewals with 80 % power (α = 5 %, two-sided).",
            "members of many lives": f"{UNITS * self.size:,.0f} asked for in a test, {UNITS_OF_IDEA * self.size:,.0f} for an idea, two weeks each; "
            "how many came stands with each read-out.",
            "where it is an approximation": "Tests on many lives use the models and features of the loop's last day throughout, and first images.",
        }  # fmt: skip

    def _say(self, lived: Lived) -> None:
        one = lived.traffic
        self.stages.console.print(
            f"[bold]{lived.day.as_of:%Y-%m-%d}[/bold]  {one.sessions:,} pages, {one.plays:,} plays, {one.renewed} renewed, "
            f"{one.cancelled} cancelled  [dim]{lived.seconds:.0f} s[/dim]", highlight=False,
        )  # fmt: skip

    def _line(self, what: str) -> None:
        self.stages.console.print(f"[dim]{what}[/dim]", highlight=False)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)


def minutes_before(day: Day) -> np.ndarray:
    """(M,) minutes that each member of the world watched before the day."""
    with day.desk.events() as connection:
        rows = connection.sql(
            "SELECT user_id, sum(watch_minutes) AS minutes FROM plays GROUP BY user_id"
        ).to_arrow_table()
    found = np.zeros(len(load_world(day).members))
    found[rows["user_id"].to_numpy() - 1] = rows["minutes"].to_numpy()
    return found


def _with_new_titles(found: Findings, artwork_before: str) -> Findings:
    try:
        return replace(found, new_titles=new_titles(found.run, artwork_before))
    except TooFewShowings as problem:
        return replace(found, notes={**found.notes, "new titles": str(problem)})


def new_titles(run: Run, artwork_before: str) -> Comparison:
    """(d) The traffic that new titles had in the run, with the artwork policy of before it, informed and not."""
    day, service = run.ended, run.ended.desk.declarations.service("artwork_context")
    moments = [one.day.as_of for one in run.days]
    contexts = {at.date(): entity_matrix(day.desk, service, at) for at in moments}
    traffic = new_title_traffic(day, run.began.as_of, contexts)
    images = artwork_images(day.desk, day.as_of)
    quality = CreativeQuality.load(fetched(day, day.registry.get("creative_quality").ref))
    policy = ArtworkPolicy.load(fetched(day, artwork_before))
    return compared(run.world, policy, images, quality.score(images.features), traffic)
