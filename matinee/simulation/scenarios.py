"""Questions put to the simulated audience, and what the product's own read-out answers. All of it is simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from events.audience import Audience
from events.history import told
from events.world import World
from experiments.config import Experiment
from experiments.decision import Verdict
from experiments.estimates import Estimate
from experiments.readout import Readout, read_out_tables
from experiments.surface import Float64, NothingFeasible, fit, propose, sobol
from matinee.simulation.designs import (
    ALLURING,
    BEFORE,
    CONTROL,
    VARIED,
    more_plays,
    more_renewals,
    weights_test,
)
from matinee.simulation.lives import SPARE, Bench, Rank, Stage
from matinee.simulation.sandbox import Shelves
from models.data import Int64
from models.objective import ObjectiveWeights

WEEKS = timedelta(weeks=6)
Told = Callable[[str], None]
LAUNCHED, INCONCLUSIVE, WORSE = "launched", "inconclusive", "stopped, as it is worse at its own aim"
KILLED, BROKEN = "killed by a guardrail", "broken"
OUTCOMES = (LAUNCHED, INCONCLUSIVE, WORSE, KILLED, BROKEN)


def stage_of(world: World, *, page_size: int = 24, days: int = 14) -> Stage:
    """Where the world's history ends, with the minutes each member watched in it."""
    minutes, audience = np.zeros(len(world.members)), Audience.at_start(world)
    for day, after in told(world):
        audience = after
        plays = day.tables["plays"]
        np.add.at(minutes, plays["user_id"].to_numpy() - 1, plays["watch_minutes"].to_numpy())
    return Stage(world, audience, world.config.end, minutes, page_size, days)


def bench_of(stage: Stage, shelves: Shelves) -> Bench:
    """The stage, and rankings of it from shelves; a member without a shelf is shown nothing."""

    def ranked(weights: ObjectiveWeights) -> Int64:
        rows = np.full((stage.members, stage.page_size + SPARE), -1, dtype=np.int64)
        rows[shelves.user_ids - 1] = shelves.pages(weights, stage.page_size + SPARE)
        return rows

    return Bench(stage, Rank(ranked))


@dataclass(frozen=True)
class Tested:
    """An experiment that was run, the weights of its arms and its read-out."""

    experiment: Experiment
    weights: Mapping[str, ObjectiveWeights]
    readout: Readout

    @property
    def outcome(self) -> str:
        """What becomes of it."""
        match self.readout.verdict:
            case Verdict.SHIP:
                return LAUNCHED
            case Verdict.BROKEN:
                return BROKEN
            case Verdict.STOP:
                primary = self.experiment.metrics.primary.name
                own = all(c.deteriorated == (primary,) for c in self.readout.comparisons)
                return WORSE if own else KILLED
        return INCONCLUSIVE


def carried_out(
    bench: Bench, experiment: Experiment, weights: Mapping[str, ObjectiveWeights], lives: Sequence[int]
) -> Tested:
    """Run an experiment on some lives and read it out with the product's own rule."""
    exposures, outcomes = bench.run(experiment, weights, lives)
    return Tested(
        experiment,
        weights,
        read_out_tables(experiment, exposures, outcomes, experiment.end - timedelta(days=1)),
    )


def alluring_but_alike(bench: Bench, lives: Sequence[int], control: ObjectiveWeights = VARIED) -> Tested:
    """(a) Rank for plays alone, without variety, against a varied page: plays rise, renewals fall."""
    arms = {CONTROL: control, "alluring": ALLURING}
    start = bench.stage.begins
    hypothesis = "Showing whatever calls loudest raises plays, without fewer renewals."
    experiment = weights_test("alluring-but-alike", arms, more_plays(), hypothesis, start, start + WEEKS)
    return carried_out(bench, experiment, arms, lives)


def variety(
    bench: Bench, lives: Sequence[int], control: ObjectiveWeights | None = None, weight: float = 0.3
) -> Tested:
    """(b) A weight on variety over the whole page: more renewals, at no fewer minutes."""
    plain = control or ObjectiveWeights(diversity=0)
    arms = {CONTROL: plain, "varied": plain.model_copy(update={"diversity": weight, "diversity_window": 24})}
    start = bench.stage.begins
    hypothesis = "A varied page keeps members, without fewer minutes watched."
    experiment = weights_test(
        "more-variety", arms, more_renewals(covariate=BEFORE), hypothesis, start, start + WEEKS
    )
    return carried_out(bench, experiment, arms, lives)


SEARCHED = ("completion", "retention", "choice", "diversity")
"""The weights that a search moves; that of play stays 1, as only ratios count."""
MOST = np.array([16.0, 4.0, 16.0, 0.6])


def weights_at(point: Float64) -> ObjectiveWeights:
    """A point of the unit cube as weights: finer towards 0, where a change means most."""
    completion, retention, choice, diversity = (MOST * np.array([*point[:3] ** 2, point[3]])).tolist()
    return ObjectiveWeights(
        play=1,
        completion=completion,
        retention=retention,
        choice=choice,
        diversity=diversity,
        diversity_window=24,
    )


@dataclass(frozen=True)
class Point:
    """An arm of a search: where it is, and its renewals and minutes against control with standard errors (shares of control)."""

    round: int
    point: tuple[float, ...]
    weights: ObjectiveWeights
    renewals: float
    renewals_error: float
    minutes: float
    minutes_error: float


@dataclass(frozen=True)
class Search:
    """Every arm that was tried, the weights that came out, and the test of these against the hand-set ones."""

    points: tuple[Point, ...]
    found: ObjectiveWeights
    confirmed: Tested


def search_weights(
    bench: Bench,
    lives: Sequence[Sequence[int]],
    confirm: Sequence[int],
    *,
    arms: int = 12,
    margin: float = 0.01,
    seed: int = 0,
    say: Told = lambda _: None,
) -> Search:
    """(c) Weights by a constrained response surface: most renewals with at most `margin` fewer minutes than the hand-set ones.

    Round by round an experiment of `arms` treatments on its own lives: the first by Sobol, the others where the
    surface through all arms so far proposes. The last surface's best point is then tested against the hand-set weights
    on the lives of `confirm`, which nothing was fitted to.
    """
    points: list[Point] = []
    where = sobol(arms, len(SEARCHED), seed)
    for number, round_ in enumerate(lives):
        points += _round(bench, number, where, round_)
        where = _next(points, margin, arms, seed + number + 1)
        say(f"round {number + 1}: {len(points)} arms, next best guess {weights_at(where[0])}")
    found = weights_at(where[0])
    start = bench.stage.begins
    hypothesis = "The searched weights keep more members than the hand-set ones."
    pair = {CONTROL: ObjectiveWeights(), "searched": found}
    experiment = weights_test(
        "searched-weights", pair, more_renewals(0.03, BEFORE), hypothesis, start, start + WEEKS
    )
    return Search(tuple(points), found, carried_out(bench, experiment, pair, confirm))


def _round(bench: Bench, number: int, where: Float64, lives: Sequence[int]) -> list[Point]:
    arms = {CONTROL: ObjectiveWeights()} | {
        f"arm-{row}": weights_at(point) for row, point in enumerate(where)
    }
    start = bench.stage.begins
    experiment = weights_test(
        f"weights-round-{number + 1}",
        arms,
        more_renewals(0.03, BEFORE),
        "Other weights keep more members.",
        start,
        start + WEEKS,
    )
    made = carried_out(bench, experiment, arms, lives).readout
    found = []
    for row, (point, comparison) in enumerate(zip(where, made.comparisons, strict=True)):
        renewals, minutes = comparison.primary, comparison.guardrails[0].estimate
        found.append(Point(
            number + 1, tuple(point.tolist()), arms[f"arm-{row}"], *_relative(renewals), *_relative(minutes)
        ))  # fmt: skip
    return found


def _relative(estimate: Estimate) -> tuple[float, float]:
    """Difference as a share of control, and its standard error, from the width of the 95 % interval."""
    width = (estimate.high - estimate.low) / (2 * 1.959964)
    return estimate.difference / estimate.control, width / estimate.control


def _next(points: Sequence[Point], margin: float, arms: int, seed: int) -> Float64:
    where = np.array([point.point for point in points])
    renewals = fit(where, _column(points, "renewals"), _column(points, "renewals_error"), spread=0.02)
    minutes = fit(where, _column(points, "minutes"), _column(points, "minutes_error"), spread=0.05)
    bound = np.array([-margin])
    for caution in (1.0, 0.0):
        try:
            return propose(renewals, [minutes], bound, len(SEARCHED), arms, seed, caution)
        except NothingFeasible:
            continue
    return propose(minutes, [], np.zeros(0), len(SEARCHED), arms, seed)  # look where the margin may be kept


def _column(points: Sequence[Point], name: str) -> NDArray[np.float64]:
    return np.array([getattr(point, name) for point in points])


def random_change(rng: np.random.Generator, hand_set: ObjectiveWeights) -> ObjectiveWeights:
    """An idea: one to three of the weights are multiplied by e^N(0, 1), or those of variety drawn anew."""
    names = ("play", "completion", "retention", "choice", "diversity", "diversity_window")
    changed: dict[str, float] = {}
    for name in rng.choice(names, size=rng.integers(1, 4), replace=False).tolist():
        if name == "diversity":
            changed[name] = round(float(rng.uniform(0, 0.6)), 3)
        elif name == "diversity_window":
            changed[name] = int(rng.integers(2, 41))
        else:
            changed[name] = round(float(min(getattr(hand_set, name) * np.exp(rng.normal()), 100)), 3)
    return ObjectiveWeights.model_validate({**hand_set.model_dump(), **changed})


def funnel(
    bench: Bench, ideas: int, lives_each: int, *, first_life: int, seed: int = 0, say: Told = lambda _: None
) -> tuple[Tested, ...]:
    """(e) So many random changes of the hand-set weights, each an A/B test on members of its own (`lives_each` lives)."""
    rng, start = np.random.default_rng(seed), bench.stage.begins
    done = []
    for number in range(ideas):
        arms = {CONTROL: ObjectiveWeights(), "idea": random_change(rng, ObjectiveWeights())}
        experiment = weights_test(
            f"idea-{number:03d}",
            arms,
            more_renewals(0.03, BEFORE),
            "Something changes for the better.",
            start,
            start + WEEKS,
        )
        begin = first_life + number * lives_each
        done.append(carried_out(bench, experiment, arms, range(begin, begin + lives_each)))
        say(f"idea {number + 1} of {ideas}: {done[-1].outcome}")
    return tuple(done)
