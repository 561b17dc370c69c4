"""The verdict on an experiment, from sufficient statistics; health first, then success and every guardrail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Self

import pyarrow as pa
from pydantic import AwareDatetime

from experiments.config import Declaration, Experiment
from experiments.decision import Comparison, DecisionRule, Verdict, compare, levels_of
from experiments.drilldown import Novelty, SegmentResult, novelty_results, segment_results
from experiments.estimates import unreadable
from experiments.health import Health, examine
from experiments.metrics import Statistics, exposed_units, statistics_of
from experiments.sentences import sentence_of
from experiments.sequential import Looks, looks_at


class Readout(Declaration):
    """A verdict with everything it follows from; `reproduced` computes it again from the rest."""

    experiment: Experiment
    rule: DecisionRule
    at: AwareDatetime
    looks: Looks = Looks()
    statistics: Statistics
    health: Health
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    winner: str | None
    reason: str | None  # why there is no verdict
    sentence: str
    segments: tuple[SegmentResult, ...] = ()
    novelty: tuple[Novelty, ...] = ()

    def to_json(self) -> str:
        """JSON that `from_json` turns back into an equal value."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The value that `to_json` wrote."""
        return cls.model_validate_json(text)

    def reproduced(self) -> Readout:
        """The read-out of the same statistics under the same rule and looks."""
        return read_out(self.experiment, self.statistics, self.at, self.rule, self.looks.fractions[:-1])


def read_out_tables(
    experiment: Experiment,
    exposures: pa.Table,
    outcomes: pa.Table,
    at: datetime,
    rule: DecisionRule = DecisionRule(),  # noqa: B008  (a frozen value)
    earlier: Sequence[float] = (),
) -> Readout:
    """The read-out of an exposure log and one row of outcomes per unit (`metrics.statistics_of`)."""
    units = exposed_units(exposures, experiment)
    return read_out(experiment, statistics_of(units, outcomes, experiment), at, rule, earlier)


def read_out(
    experiment: Experiment,
    statistics: Statistics,
    at: datetime,
    rule: DecisionRule = DecisionRule(),  # noqa: B008  (a frozen value)
    earlier: Sequence[float] = (),
) -> Readout:
    """Health, then estimates, then the decision.

    A broken experiment has no estimates and no winner. Where one metric cannot be tested in one arm there is no
    verdict and no p-value, only the reason. `earlier` are the fractions of the looks before this one (`Readout.looks`).
    """
    looks = _looks(experiment, statistics, at, earlier)
    health = examine(experiment, statistics, rule.health)
    reason = None if not health.healthy else _unreadable(experiment, statistics)
    readable = health.healthy and reason is None
    comparisons = compare(experiment, statistics, levels_of(experiment, rule, looks)) if readable else ()
    verdict, winner = _decide(experiment, health, reason, comparisons)
    return Readout(
        experiment=experiment,
        rule=rule,
        at=at,
        looks=looks,
        statistics=statistics,
        health=health,
        comparisons=comparisons,
        verdict=verdict,
        winner=winner,
        reason=reason,
        sentence=sentence_of(verdict, winner, reason, health, comparisons),
        segments=segment_results(experiment, statistics, rule.alpha_segments) if readable else (),
        novelty=novelty_results(experiment, statistics) if readable else (),
    )


def _looks(experiment: Experiment, statistics: Statistics, at: datetime, earlier: Sequence[float]) -> Looks:
    """A look is as far along as the primary is: units whose window is not over do not count."""
    primary = experiment.metrics.primary.value
    read = sum(arm.count(primary) for arm in statistics.arms)
    over = at >= experiment.end and read == sum(arm.units for arm in statistics.arms)
    return looks_at(experiment.planned_units, read, earlier, over=over)


def _decide(
    experiment: Experiment, health: Health, reason: str | None, comparisons: tuple[Comparison, ...]
) -> tuple[Verdict, str | None]:
    if not health.healthy:
        return Verdict.BROKEN, None
    if reason is not None:
        return Verdict.NO_VERDICT, None
    sign = experiment.metrics.primary.sign
    if able := [c for c in comparisons if c.may_ship]:
        return Verdict.SHIP, max(able, key=lambda c: sign * c.primary.difference).treatment
    stopped = all(c.deteriorated for c in comparisons)
    return (Verdict.STOP if stopped else Verdict.INCONCLUSIVE), None


def _unreadable(experiment: Experiment, statistics: Statistics) -> str | None:
    arms = {arm.arm: arm for arm in statistics.arms}
    if statistics.waiting:
        told = ", ".join(f"{name} until {at:%Y-%m-%d}" for name, at in statistics.waiting.items())
        return f"metrics wait for the window of the first exposed units to be over: {told}"
    for treatment in experiment.treatments:
        for metric in experiment.metrics.all:
            if (reason := unreadable(metric, arms[experiment.control], arms[treatment])) is not None:
                return reason
    return None
