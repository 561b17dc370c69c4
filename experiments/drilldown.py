"""Beyond the verdict: in whom the primary moved, and whether it lasts. Neither decides anything."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.config import Experiment
from experiments.definitions import Metric
from experiments.estimates import Estimate, estimate, unreadable
from experiments.metrics import ArmStatistics, Statistics
from experiments.multiplicity import benjamini_hochberg
from experiments.values import Declaration


class SegmentResult(Declaration):
    """The primary in one segment; `p_adjusted` is corrected for all segments and treatments looked at."""

    segment: str
    treatment: str
    estimate: Estimate
    p_adjusted: float
    moved: bool


class DayResult(Declaration):
    """What the primary adds up on one day since first exposure, 0 the first."""

    day: int
    estimate: Estimate


class Novelty(Declaration):
    """The effect over the days since a unit was first exposed. `slope` is its change a day, from a slope for each unit."""

    treatment: str
    days: tuple[DayResult, ...]
    slope: Estimate
    fading: bool  # the effect shrinks, and surely so


def segment_results(
    experiment: Experiment, statistics: Statistics, alpha: float
) -> tuple[SegmentResult, ...]:
    """Every segment that can be read, in order of names, with a false discovery rate of `alpha` over all."""
    primary = experiment.metrics.primary
    found = [
        (segment, name, estimate(primary, arms[experiment.control], arms[name], 0.05))
        for segment, of_segment in sorted(statistics.segments.items())
        for arms in [_by_name(of_segment)]
        for name in experiment.treatments
        if unreadable(primary, arms[experiment.control], arms[name]) is None
    ]
    adjusted = benjamini_hochberg([e.p_value for _, _, e in found]).tolist()
    return tuple(
        SegmentResult(segment=segment, treatment=name, estimate=e, p_adjusted=p, moved=p < alpha)
        for (segment, name, e), p in zip(found, adjusted, strict=True)
    )


def novelty_results(experiment: Experiment, statistics: Statistics) -> tuple[Novelty, ...]:
    """For each treatment the effect day by day; () where the primary has no days or a day cannot be read.

    The slope is tested as a mean is, since every unit has one of its own: days of a unit depend on each other, and a line
    fitted through daily effects would not know.
    """
    if not statistics.trend or not statistics.tenures:
        return ()
    trend, days = _by_name(statistics.trend), [_by_name(arms) for arms in statistics.tenures]
    slope, value = _column(experiment, "slope"), _column(experiment, "value")
    results = []
    for name in experiment.treatments:
        pairs = [(arms[experiment.control], arms[name]) for arms in days]
        steep = trend[experiment.control], trend[name]
        if unreadable(slope, *steep) or any(unreadable(value, *pair) for pair in pairs):
            continue
        effects = tuple(DayResult(day=d, estimate=estimate(value, *p, 0.05)) for d, p in enumerate(pairs))
        found = estimate(slope, *steep, 0.05)
        overall = sum(e.estimate.difference for e in effects)
        fading = found.p_value < 0.05 and found.difference * overall < 0
        results.append(Novelty(treatment=name, days=effects, slope=found, fading=fading))
    return tuple(results)


def _column(experiment: Experiment, column: str) -> Metric:
    primary = experiment.metrics.primary
    return Metric(name=primary.name, value=column, direction=primary.direction)


def _by_name(arms: tuple[ArmStatistics, ...]) -> Mapping[str, ArmStatistics]:
    return {arm.arm: arm for arm in arms}
