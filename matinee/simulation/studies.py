"""A whole simulation study: the loop with its experiments, then what many lives say, then the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

from matinee.context import Day, fetched, load_world
from matinee.datasets import entity_matrix
from matinee.day import run_day
from matinee.desk import literal
from matinee.programme import holdout_readout
from matinee.progress import Stages
from matinee.recommending import known_users
from matinee.simulation.config import SimulationConfig, Trial
from matinee.simulation.designs import (
    ALLURING,
    CONTROL,
    measured,
    more_plays,
    more_renewals,
    varied,
    weights_test,
)
from matinee.simulation.lives import Bench, Stage
from matinee.simulation.loop import Lived, Run, simulate
from matinee.simulation.new_titles import Comparison, TooFewShowings, compared
from matinee.simulation.pages import in_process
from matinee.simulation.report import Findings, write
from matinee.simulation.sandbox import shelves
from matinee.simulation.scenarios import (
    VARIED,
    VARIETY,
    alluring_but_alike,
    bench_of,
    funnel,
    search_weights,
    variety,
)
from matinee.simulation.showings import new_title_traffic
from matinee.simulation.state import resume
from matinee.training_artwork import artwork_images
from models.artwork import ArtworkPolicy
from models.creative_quality import CreativeQuality

DAY = timedelta(days=1)
UNITS_OF_ARM = 30_000
"""Members, over all lives, that an arm of a test on many lives has where a harm of one in a hundred is to be seen."""
UNITS_OF_SMALL_EFFECTS = 240_000
"""Members of an arm where a gain of two in a thousand is."""
UNITS_OF_ROUND = 60_000
UNITS_OF_IDEA = 12_000
WINDOW = timedelta(days=28)
"""What a covariate looks back at most."""


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
        found = Findings(run, notes=self._notes(run))
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
        """The experiments of the loop, each in its part of the ranking layer."""
        at = resume(self.day.workspace.simulation, load_world(self.day)).at
        known = {
            Scenario.ALLURING: ("alluring-but-alike", {CONTROL: varied(VARIED), "alluring": ALLURING}, more_plays,
                                "Whatever calls loudest raises plays."),
            Scenario.VARIETY: ("more-variety", {CONTROL: varied(0), "varied": varied(VARIETY[0])}, more_renewals,
                               "A varied page keeps members."),
        }  # fmt: skip
        asked = [known[one] for one in known if one in self.scenarios]
        return tuple(
            Trial(
                experiment=weights_test(
                    name, arms, metrics(self.days), hypothesis, at, at + DAY * self.days,
                    slot=(place / len(asked), (place + 1) / len(asked)),
                ),
                ends=self.days,
            )
            for place, (name, arms, metrics, hypothesis) in enumerate(asked)
        )  # fmt: skip

    def _asked(self, found: Findings, artwork_before: str) -> Findings:
        run = found.run
        if run.holdout is not None:
            metrics = [measured(self.days)[what].name for what in ("renewals", "minutes", "plays")]
            made = holdout_readout(
                run.ended, run.holdout.name, metrics, run.ended.as_of, run.programme.folder
            )
            found = replace(found, holdout=made)
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
        def lives(first: int, units: int) -> range:
            return range(first, first + max(2, round(units * self.size / bench.stage.members)))

        tested, seed = dict(found.tested), self.day.settings.seed
        if Scenario.ALLURING in self.scenarios:
            with self._timed("alluring"):
                made = alluring_but_alike(bench, lives(1, 2 * UNITS_OF_ARM))
            tested["On many lives: alluring"] = made
        if Scenario.VARIETY in self.scenarios:
            with self._timed("variety"):
                made = variety(bench, lives(1_001, (1 + len(VARIETY)) * UNITS_OF_SMALL_EFFECTS))
            tested["On many lives: variety"] = made
        found = replace(found, tested=tested)
        if Scenario.WEIGHTS in self.scenarios:
            with self._timed("weights"):
                rounds = [lives(2_000 * r, UNITS_OF_ROUND) for r in (1, 2, 3)]
                search = search_weights(
                    bench, rounds, lives(9_001, 2 * UNITS_OF_SMALL_EFFECTS), seed=seed, say=self._line
                )
            found = replace(found, search=search)
        if Scenario.FUNNEL in self.scenarios:
            with self._timed("funnel"):
                each = len(lives(0, UNITS_OF_IDEA))
                ideas = funnel(bench, self.ideas, each, first_life=20_001, seed=seed, say=self._line)
            found = replace(found, funnel=ideas)
        return found

    def _bench(self, run: Run) -> Bench:
        """Lives from where the loop ended, on pages of the models that are champions there."""
        day, state = run.ended, resume(run.ended.workspace.simulation, run.world)
        at = day.as_of + timedelta(hours=20)
        with in_process(day, run.config.page_size) as pager:
            live = pager.core.source.current()
            made = shelves(live, live.plan(0), sorted(known_users(day)), at)
        stage = Stage(run.world, state.audience, day.as_of, plays_before(day), run.config.page_size)
        return bench_of(stage, made)

    def _notes(self, run: Run) -> dict[str, str]:
        decided = sum(one.traffic.renewed + one.traffic.cancelled for one in run.days)
        kept = sum(one.traffic.renewed for one in run.days) / max(decided, 1)
        least = 2.8 * (4 * kept * (1 - kept) / max(decided, 1)) ** 0.5
        return {
            "power of the loop": f"{decided:,} memberships came due, {kept:.1%} were renewed: an A/B test of all members in halves finds a "
            f"difference of {100 * least:.1f} points or more in renewals with 80 % power (α = 5 %, two-sided).",
            "members of many lives": f"{UNITS_OF_ARM * self.size:,.0f} asked for in an arm of `alluring`, {UNITS_OF_SMALL_EFFECTS * self.size:,.0f} in one of `variety` or the last test of `weights`, {UNITS_OF_IDEA * self.size:,.0f} for an idea, three weeks each; "
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


def plays_before(day: Day) -> pa.Table:
    """The plays of the last weeks before the day, by members of the world."""
    with day.desk.events() as connection:
        return connection.sql(f"""
            SELECT user_id, event_timestamp, watch_minutes FROM plays
            WHERE event_timestamp >= {literal(day.as_of - WINDOW)} AND event_timestamp < {literal(day.as_of)}
            ORDER BY event_timestamp, play_id""").to_arrow_table()


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
