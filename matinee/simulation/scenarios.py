"""Questions put to the simulated audience, and what the product's own read-out answers. All of it is simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from events.audience import Audience
from events.history import told
from events.world import World
from experiments.config import Experiment, Metrics
from experiments.decision import Verdict
from experiments.estimates import Estimate
from experiments.readout import Readout
from experiments.surface import Float64, NothingFeasible, fit, propose, sobol
from matinee.simulation.designs import ALLURING, CONTROL, more_plays, more_renewals, varied, weights_test
from matinee.simulation.lives import SPARE, Bench, Rank, Stage, read_out_lives
from matinee.simulation.sandbox import Shelves
from models.data import Int64
from models.objective import ObjectiveWeights

VARIED = 0.1
"""The weight on variety that a page has for which plays alone are tried: what the product's own pages have."""
VARIETY = (0.02,)
"""The weights on variety that are tried against none: the largest of .01, .02, .05 … that costs less than one in a hundred of
the plays and completions which the trained models foretell of a page (decision 53)."""
Told = Callable[[str], None]
LAUNCHED, INCONCLUSIVE, WORSE = "launched", "inconclusive", "stopped, as it is worse at its own aim"
KILLED, BROKEN = "killed by a guardrail", "broken"
OUTCOMES = (LAUNCHED, INCONCLUSIVE, WORSE, KILLED, BROKEN)


def stage_of(world: World, *, page_size: int = 24, days: int = 21) -> Stage:
    """Where the world's history ends, with the plays begun in it."""
    plays, audience = [], Audience.at_start(world)
    for day, after in told(world):
        audience = after
        plays.append(day.tables["plays"])
    before, end = pa.concat_tables(plays), world.config.end
    before = before.filter(pc.less(before["event_timestamp"], end))
    return Stage(world, audience, end, before, page_size, days)


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
    bench: Bench,
    name: str,
    hypothesis: str,
    weights: Mapping[str, ObjectiveWeights],
    metrics: Metrics,
    lives: Sequence[int],
) -> Tested:
    """Run an experiment on some lives and read it out with the product's own metrics and rule."""
    start, end = bench.stage.begins, bench.stage.ends
    experiment = weights_test(name, weights, metrics, hypothesis, start, end)
    made = read_out_lives(experiment, bench.run(experiment, weights, lives), end)
    return Tested(experiment, weights, made)


def alluring_but_alike(bench: Bench, lives: Sequence[int], control: ObjectiveWeights | None = None) -> Tested:
    """(a) Rank for plays alone, without variety, against a page that is varied: plays rise, renewals fall."""
    arms = {CONTROL: control or varied(VARIED), "alluring": ALLURING}
    hypothesis = "Showing whatever calls loudest raises plays, without fewer renewals."
    return carried_out(bench, "alluring-but-alike", hypothesis, arms, more_plays(bench.stage.days), lives)


def variety(bench: Bench, lives: Sequence[int], weights: Sequence[float] = VARIETY) -> Tested:
    """(b) Weights on variety over the whole page, against none: more renewals, at no fewer minutes."""
    arms = {CONTROL: varied(0)} | {f"varied-{weight:.2f}": varied(weight) for weight in weights}
    hypothesis = "A varied page keeps members, without fewer minutes watched."
    return carried_out(bench, "more-variety", hypothesis, arms, more_renewals(bench.stage.days), lives)


SEARCHED = ("completion", "retention", "choice", "diversity")
"""The weights that a search moves; that of play stays 1, as only ratios count."""
MOST = np.array([16.0, 4.0, 16.0, 0.6])


def weights_at(point: Float64) -> ObjectiveWeights:
    """A point of the unit cube as weights, variety being by genres: finer towards 0, where a change means most."""
    completion, retention, choice, diversity = (MOST * np.array([*point[:3] ** 2, point[3]])).tolist()
    return ObjectiveWeights(
        play=1,
        completion=completion,
        retention=retention,
        choice=choice,
        diversity=diversity,
        diversity_window=24,
        diversity_genres=1,
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


class NothingRead(LookupError):
    """A round of a search that says nothing of its arms."""

    def __init__(self, made: Readout) -> None:
        super().__init__(
            f"{made.experiment.name}: {made.sentence} More lives a round (`--size`) would tell arms apart."
        )


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

    Raises:
        NothingRead: the arms of a round have too few members.
    """
    points: list[Point] = []
    where = sobol(arms, len(SEARCHED), seed)
    for number, round_ in enumerate(lives):
        points += _round(bench, number, where, round_)
        where = _next(points, margin, arms, seed + number + 1)
        say(f"round {number + 1}: {len(points)} arms, next best guess {weights_at(where[0])}")
    found = weights_at(where[0])
    pair = {CONTROL: ObjectiveWeights(), "searched": found}
    confirmed = carried_out(
        bench, "searched-weights", "The searched weights keep more members than the hand-set ones.", pair,
        more_renewals(bench.stage.days), confirm,
    )  # fmt: skip
    return Search(tuple(points), found, confirmed)


def _round(bench: Bench, number: int, where: Float64, lives: Sequence[int]) -> list[Point]:
    arms = {CONTROL: ObjectiveWeights()} | {
        f"arm-{row}": weights_at(point) for row, point in enumerate(where)
    }
    made = carried_out(
        bench, f"weights-round-{number + 1}", "Other weights keep more members.", arms,
        more_renewals(bench.stage.days), lives,
    ).readout  # fmt: skip
    if not made.comparisons:
        raise NothingRead(made)
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
    rng = np.random.default_rng(seed)
    done = []
    for number in range(ideas):
        arms = {CONTROL: ObjectiveWeights(), "idea": random_change(rng, ObjectiveWeights())}
        begin = first_life + number * lives_each
        done.append(carried_out(
            bench, f"idea-{number:03d}", "Something changes for the better.", arms,
            more_renewals(bench.stage.days), range(begin, begin + lives_each),
        ))  # fmt: skip
        say(f"idea {number + 1} of {ideas}: {done[-1].outcome}")
    return tuple(done)
