"""What a quarter's launches did together: held-out units against those that only see what was launched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import scipy.stats
from pydantic import AwareDatetime

from experiments.config import EVERYONE, HELD_OUT, WINNERS_ONLY, Holdout
from experiments.definitions import Metric
from experiments.estimates import Estimate, estimate, unreadable
from experiments.health import HealthRule
from experiments.metrics import ArmStatistics, Statistics
from experiments.power import Baseline
from experiments.readout import Readout
from experiments.shrinkage import Wins, wins
from experiments.stats import log_sample_ratio_e_value
from experiments.values import Declaration

ARMS = (HELD_OUT, WINNERS_ONLY, EVERYONE)


class HoldoutEffect(Declaration):
    """Winners-only against held-out in one metric; None where it cannot be read, with the reason."""

    metric: str
    estimate: Estimate | None
    reason: str | None
    detectable: float | None  # relative, 80 % of the time at this size


class HoldoutReadout(Declaration):
    """The whole quarter: what was measured, and beside it what the launched tests said one by one."""

    holdout: Holdout
    at: AwareDatetime
    statistics: Statistics
    broken: str | None
    effects: tuple[HoldoutEffect, ...]
    wins: Wins | None
    sentence: str


def detectable(
    found: Baseline, holdout: Holdout, units: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest relative effect of winners-only against held-out that `units` in all tell `power` of the time.

    Known beforehand: shares and the past's variance are all it takes.
    """
    spread = 1 / (holdout.held_out * units) + 1 / (holdout.winners_only * units)
    reach = scipy.stats.norm.isf(alpha / 2) + scipy.stats.norm.ppf(power)
    return float(reach * math.sqrt(found.variance * spread) / found.level)


def read_out_holdout(
    holdout: Holdout,
    metrics: Sequence[Metric],
    statistics: Statistics,  # of arms `ARMS`
    at: datetime,
    readouts: Sequence[tuple[Readout, bool]] = (),
    rule: HealthRule = HealthRule(),  # noqa: B008  (a frozen value)
) -> HoldoutReadout:
    """Health of the three groups' sizes, then every metric; `readouts` are each test's last and whether it was launched.

    Tests whose primary is not the first of `metrics` add nothing to the sum of wins.
    """
    held, winners, _ = statistics.arms
    broken = _broken(holdout, statistics, rule)
    effects = () if broken else tuple(_effect(metric, held, winners) for metric in metrics)
    total = _wins(metrics[0], readouts)
    return HoldoutReadout(
        holdout=holdout, at=at, statistics=statistics, broken=broken, effects=effects, wins=total,
        sentence=_sentence(holdout, broken, effects, total),
    )  # fmt: skip


def _broken(holdout: Holdout, statistics: Statistics, rule: HealthRule) -> str | None:
    units = [arm.units for arm in statistics.arms]
    shares = [holdout.held_out, holdout.winners_only, 1 - holdout.held_out - holdout.winners_only]
    if log_sample_ratio_e_value(units, shares) < -math.log(rule.sample_ratio_alpha):
        return None
    due = ", ".join(
        f"{name} has {n} units where {sum(units) * s:.0f} were due"
        for name, n, s in zip(ARMS, units, shares, strict=True)
    )
    return f"sample ratio mismatch: {due}"


def _effect(metric: Metric, held: ArmStatistics, winners: ArmStatistics) -> HoldoutEffect:
    if (reason := unreadable(metric, held, winners)) is not None:
        return HoldoutEffect(metric=metric.name, estimate=None, reason=reason, detectable=None)
    found = estimate(metric, held, winners, 0.05)
    reach = 1 + scipy.stats.norm.ppf(0.8) / scipy.stats.norm.isf(0.025)
    half = (found.high - found.low) / 2
    return HoldoutEffect(
        metric=metric.name, estimate=found, reason=None,
        detectable=float(reach * half / found.control) if found.control > 0 else None,
    )  # fmt: skip


def relative_effect(readout: Readout, treatment: str) -> tuple[float, float] | None:
    """The primary's relative effect and its standard error, as one look would have it; None where there is none."""
    arms = {arm.arm: arm for arm in readout.statistics.arms}
    control, treated = arms[readout.experiment.control], arms[treatment]
    if unreadable(readout.experiment.metrics.primary, control, treated) is not None:
        return None
    found = estimate(readout.experiment.metrics.primary, control, treated, 0.05)
    if found.relative is None or found.relative_low is None or found.relative_high is None:
        return None
    error = (found.relative_high - found.relative_low) / (2 * float(scipy.stats.norm.isf(0.025)))
    return readout.experiment.metrics.primary.sign * found.relative, error


def _wins(metric: Metric, readouts: Sequence[tuple[Readout, bool]]) -> Wins | None:
    every: list[tuple[float, float]] = []
    launched: list[tuple[float, float]] = []
    for readout, shipped in readouts:
        if readout.experiment.metrics.primary.name != metric.name or not readout.health.healthy:
            continue
        for treatment in readout.experiment.treatments:
            if (effect := relative_effect(readout, treatment)) is not None:
                every.append(effect)
                if shipped and treatment == readout.winner:
                    launched.append(effect)
    return wins(launched, every) if len(every) >= 3 else None


def _sentence(
    holdout: Holdout, broken: str | None, effects: Sequence[HoldoutEffect], total: Wins | None
) -> str:
    if broken is not None:
        return f"Broken, so nothing is measured: {broken}."
    said = []
    for effect in effects:
        e = effect.estimate
        if e is None or e.relative is None or e.relative_low is None or e.relative_high is None:
            said.append(f"{effect.metric} cannot be read ({effect.reason})")
        else:
            said.append(
                f"{effect.metric} {e.relative:+.2%} ({e.relative_low:+.2%} to {e.relative_high:+.2%})"
            )
    tail = ""
    if total is not None:
        tail = (
            f" The {total.launched} launched tests read {total.naive:+.2%} when added up, "
            f"and {total.shrunk:+.2%} ({total.low:+.2%} to {total.high:+.2%}) once shrunk for having been picked."
        )
    return f"All launched in {holdout.name} together, against units that saw none of it: {'; '.join(said)}.{tail}"
