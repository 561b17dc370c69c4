"""How many units a *decision* needs: success and every guardrail together, not one test alone.

A test that ships only when its success metric wins and every guardrail is non-inferior has a power below that of each: five
guardrails at 80 % leave 33 %. So beta, and not alpha, is split over them (Schultzberg, Ankargren & Frånberg, Spotify, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
) -> Plan:
    """The units that make the decision right with a probability of `power` where the effect is there and guardrails stand still.

    Alpha is that of the last of `looks` equally spaced looks, which is a little stricter than a single look's.

    Raises:
        ValueError: the effect is not above 0, or the power leaves nothing to split after false deteriorations.
    """
    beta = 1 - power - rule.alpha_deterioration
    if effect <= 0 or beta < 1e-9:
        raise ValueError(f"an effect of {effect:g} at a power of {power:g} cannot be planned; the effect is above 0, the power below {1 - rule.alpha_deterioration:g}.")  # fmt: skip
    split = beta / (1 + len(guardrails))
    success = _critical(rule.alpha / treatments, 2, looks)
    guarded = _critical(rule.alpha_guardrail, 1, looks)
    asked = [("success", primary[1], effect, success, _spread(shares, 1.0))]
    asked += [
        ("guardrail", found, g.margin, guarded, _spread(shares, 1 - g.sign * g.margin))
        for g, found in guardrails
    ]
    units = max(_units(b, e, z, split, spread) for _, b, e, z, spread in asked)
    needs = tuple(
        Need.model_validate({
            "metric": b.metric, "role": role, "baseline": b, "effect": e, "beta": split,
            "units": _units(b, e, z, split, spread), "detectable": _detectable(b, units, z, split, spread),
        })
        for role, b, e, z, spread in asked
    )  # fmt: skip
    powers = [_power(b, e, units, z, spread) for _, b, e, z, spread in asked]
    return Plan(
        units=units, needs=needs, power=1 - rule.alpha_deterioration - sum(1 - p for p in powers),
        power_if_independent=math.prod(powers) * (1 - rule.alpha_deterioration), unsplit_power=power ** len(asked), looks=looks,
    )  # fmt: skip


def _critical(alpha: float, sides: Literal[1, 2], looks: int) -> float:
    return spending_bounds(tuple((k + 1) / looks for k in range(looks)), alpha, sides)[-1]


def _spread(shares: tuple[float, float], factor: float) -> float:
    """What a unit's variance is multiplied by, over the units of all arms, in treatment less `factor` × control."""
    return factor**2 / shares[0] + 1 / shares[1]


def _units(found: Baseline, effect: float, z: float, beta: float, spread: float) -> int:
    return math.ceil(((z - float(ndtri(beta))) / (effect * found.level)) ** 2 * found.variance * spread)


def _detectable(found: Baseline, units: int, z: float, beta: float, spread: float) -> float:
    return (z - float(ndtri(beta))) * math.sqrt(found.variance * spread / units) / found.level


def _power(found: Baseline, effect: float, units: int, z: float, spread: float) -> float:
    return float(ndtr(effect * found.level / math.sqrt(found.variance * spread / units) - z))
