"""How many units a *decision* needs: success and every guardrail together, not one test alone.

A test that ships only when its success metric wins and every guardrail is non-inferior has a power below that of each: five
guardrails at 80 % leave 33 %. So beta, and not alpha, is split over them (Schultzberg, Ankargren & Frånberg, Spotify, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import scipy.stats
from pydantic import Field
from scipy.special import ndtr, ndtri

from experiments.decision import DecisionRule
from experiments.definitions import Guardrail, Metric
from experiments.estimates import estimate, unreadable, variance_cut
from experiments.metrics import ArmStatistics
from experiments.sequential import spending_bounds
from experiments.values import Declaration


class NoHistory(ValueError):
    """A metric whose past says nothing about its variance."""


class Baseline(Declaration):
    """What the past says of a metric: its level, the variance a unit adds, and what CUPED took away of that already."""

    metric: str
    level: float
    variance: float = Field(description="of one unit's (linearised, CUPED-adjusted) value")
    variance_cut: float | None
    units: int


class Need(Declaration):
    """What one metric asks of the test. `effect` is relative: hoped for in the primary, the margin of a guardrail."""

    metric: str
    role: Literal["success", "guardrail"]
    baseline: Baseline
    effect: float
    beta: float
    units: int  # over all arms, for the effect at 1 - beta
    detectable: float  # at the size of the whole test, relative


class Plan(Declaration):
    """The size of a test and what the decision can do at that size."""

    units: int
    needs: tuple[Need, ...]
    power: float = Field(
        description="of the decision at least: Bonferroni over success, guardrails and deterioration"
    )
    power_if_independent: float = Field(description="of the decision, were metrics independent")
    unsplit_power: float = Field(
        description="of the decision, were each metric given the whole of beta and independent"
    )
    looks: int


def baseline(metric: Metric, history: ArmStatistics) -> Baseline:
    """The level and variance of `metric` among `history`, as the read-out's own arithmetic would use them.

    Raises:
        NoHistory: it cannot be read, or its level is not above 0, so that a relative effect means nothing.
    """
    if (reason := unreadable(metric, history, history)) is not None:
        raise NoHistory(f"metric {metric.name!r} cannot be planned from the past: {reason}.")
    found, n = estimate(metric, history, history, 0.05), history.count(metric.value)
    if found.control <= 0:
        raise NoHistory(
            f"metric {metric.name!r} is {found.control:g} in the past: a relative effect means nothing."
        )
    # the interval of an arm against itself is 2 q √(2 σ²/n) wide, q the quantile that made it
    q = _quantile_of(metric, n)
    variance = ((found.high - found.low) / (2 * q)) ** 2 * n / 2
    cut = None if metric.covariate is None else variance_cut(metric, history, history)
    return Baseline(metric=metric.name, level=found.control, variance=variance, variance_cut=cut, units=n)


def _quantile_of(metric: Metric, n: int) -> float:
    """Of Welch's t for two arms of n units with one variance, or of the normal for a quantile."""
    return float(
        scipy.stats.norm.isf(0.025) if metric.quantile is not None else scipy.stats.t(2 * n - 2).isf(0.025)
    )


def plan(
    primary: tuple[Metric, Baseline],
    guardrails: Sequence[tuple[Guardrail, Baseline]],
    effect: float,  # relative, hoped for
    shares: tuple[float, float],  # of control and of the smallest treatment
    power: float = 0.8,
    looks: int = 4,
    rule: DecisionRule = DecisionRule(),  # noqa: B008  (a frozen value)
    treatments: int = 1,
    units: int | None = None,  # over all arms; None for as many as `power` asks for
) -> Plan:
    """The units that make the decision right with a probability of `power` where the effect is there and guardrails stand still.

    With `units` the size is given, and the plan says what the decision can do at it; each need keeps what it asks for.
    Alpha is that of the last of `looks` equally spaced looks, which is a little stricter than a single look's.

    Raises:
        ValueError: the effect is not above 0, or the power leaves nothing to split after false deteriorations.
    """
    beta = 1 - power - rule.alpha_deterioration
    if effect <= 0 or beta < 1e-9:
        most = 1 - rule.alpha_deterioration
        raise ValueError(
            f"an effect of {effect:g} at a power of {power:g} cannot be planned; the effect is above 0, the power below {most:g}."
        )
    split = beta / (1 + len(guardrails))
    z = _critical(rule.alpha / treatments, 2, looks)
    tests = [_Test("success", primary[1], effect, z, _spread(shares, 1.0))]
    z = _critical(rule.alpha_guardrail, 1, looks)
    tests += [
        _Test("guardrail", found, g.margin, z, _spread(shares, 1 - g.sign * g.margin))
        for g, found in guardrails
    ]
    size = max(test.units(split) for test in tests) if units is None else units
    powers = [test.power(size) for test in tests]
    return Plan(
        units=size,
        needs=tuple(test.need(split, size) for test in tests),
        power=1 - rule.alpha_deterioration - sum(1 - p for p in powers),
        power_if_independent=math.prod(powers) * (1 - rule.alpha_deterioration),
        unsplit_power=power ** len(tests),
        looks=looks,
    )


@dataclass(frozen=True)
class _Test:
    """One test of a decision: `effect` is relative, `z` its critical value, `spread` what its variance is multiplied by."""

    role: Literal["success", "guardrail"]
    found: Baseline
    effect: float
    z: float
    spread: float

    def units(self, beta: float) -> int:
        """Over all arms, for the effect to be found but `beta` of the time."""
        reach = (self.z - float(ndtri(beta))) / (self.effect * self.found.level)
        return math.ceil(reach**2 * self.found.variance * self.spread)

    def error(self, units: int) -> float:
        """Of the relative difference."""
        return math.sqrt(self.found.variance * self.spread / units) / self.found.level

    def power(self, units: int) -> float:
        return float(ndtr(self.effect / self.error(units) - self.z))

    def need(self, beta: float, units: int) -> Need:
        return Need(
            metric=self.found.metric,
            role=self.role,
            baseline=self.found,
            effect=self.effect,
            beta=beta,
            units=self.units(beta),
            detectable=(self.z - float(ndtri(beta))) * self.error(units),
        )


def _critical(alpha: float, sides: Literal[1, 2], looks: int) -> float:
    return spending_bounds(tuple((k + 1) / looks for k in range(looks)), alpha, sides)[-1]


def _spread(shares: tuple[float, float], factor: float) -> float:
    """What a unit's variance is multiplied by, over the units of all arms, in treatment less `factor` × control."""
    return factor**2 / shares[0] + 1 / shares[1]
