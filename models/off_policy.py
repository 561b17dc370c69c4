"""What a policy would have earned, estimated from what another one showed: IPS, SNIPS, doubly robust."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]


class TooLittleOverlap(ValueError):
    """The log shows too seldom what the policy would have shown: any estimate would rest on a handful of rows."""

    def __init__(self, effective: float, least: float, rows: int) -> None:
        super().__init__(
            f"effective sample size {effective:,.0f} of {rows:,} rows, at least {least:,.0f} are needed: "
            "log more, or evaluate a policy closer to the one that logged."
        )


class NotEvaluable(ValueError):
    """Probabilities or rewards from which no value follows."""


@dataclass(frozen=True)
class Interval:
    """An estimate of reward per impression and its bounds at the confidence asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Model:
    """Expected rewards by a model that never saw the row: `shown` (N,) of the logged action, `policy` (N,) on average.

    `policy` is Σ_a π(a|x) q(x, a) of the policy in question.
    """

    shown: Float64
    policy: Float64


@dataclass(frozen=True)
class PolicyValue:
    """Expected reward per impression. `low` and `high` bound `snips`; `dr` is None where no model was given."""

    ips: float
    snips: float
    low: float
    high: float
    effective_sample_size: float
    rows: int
    dr: Interval | None = None


def policy_value(
    target: Float64,  # (N,) probability of the logged action under the policy in question
    logged: Float64,  # (N,) probability with which it was logged, above 0
    reward: Floats,  # (N,)
    confidence: float = 0.95,
    least_effective: float = 200,
    model: Model | None = None,
) -> PolicyValue:
    """Inverse propensity scores (Horvitz & Thompson 1952), self-normalised (Swaminathan & Joachims 2015), doubly robust.

    w = target/logged; IPS = mean(w r); SNIPS = Σ w r / Σ w, with the interval of a ratio of means (delta method);
    DR = mean(Σ_a π q + w (r - q)) (Dudík et al. 2014), with the interval of a mean.

    Raises:
        NotEvaluable: lengths differ, a probability lies outside 0..1 (or a logged one is 0), a reward is not finite.
        TooLittleOverlap: (Σ w)² / Σ w² is below `least_effective`.
    """
    _check(target, logged, reward)
    weight = target / logged
    effective = effective_sample_size(weight)
    if effective < least_effective:
        raise TooLittleOverlap(effective, least_effective, len(weight))
    snips = float(weight @ reward) / float(weight.sum())
    margin = quantile(confidence) * float(np.sqrt((snips_influence(weight, reward, snips) ** 2).sum()))
    return PolicyValue(
        ips=float((weight * reward).mean()),
        snips=snips,
        low=snips - margin,
        high=snips + margin,
        effective_sample_size=effective,
        rows=len(weight),
        dr=None if model is None else mean_interval(dr_terms(weight, reward, model), confidence),
    )


def effective_sample_size(weight: Float64) -> float:
    """(Σ w)² / Σ w² (Kish 1965): how many rows of equal weight would say as much."""
    total = float(weight.sum())
    return total**2 / float((weight**2).sum()) if total > 0 else 0.0


def snips_influence(weight: Float64, reward: Floats, snips: float) -> Float64:
    """What each row adds to the error of Σ w r / Σ w, to first order."""
    influence: Float64 = weight * (reward - snips) / weight.sum()
    return influence


def dr_terms(weight: Float64, reward: Floats, model: Model) -> Float64:
    """Each row's term of the doubly robust mean.

    Raises:
        NotEvaluable: the model has another number of rows, or expects what is not finite.
    """
    if not len(model.shown) == len(model.policy) == len(weight):
        raise NotEvaluable(f"the model expects {len(model.shown)} rewards, the log has {len(weight)} rows.")
    terms: Float64 = model.policy + weight * (reward - model.shown)
    if not np.isfinite(terms).all():
        raise NotEvaluable("the model expects rewards that are not finite.")
    return terms


def mean_interval(terms: Float64, confidence: float) -> Interval:
    """A mean and the interval of its normal approximation."""
    value = float(terms.mean())
    margin = quantile(confidence) * float(np.sqrt(((terms - value) ** 2).sum())) / len(terms)
    return Interval(value, value - margin, value + margin)


def quantile(confidence: float) -> float:
    """Standard normal quantile of a two-sided confidence.

    >>> round(quantile(0.95), 4)
    1.96
    """
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))


def _check(target: Float64, logged: Float64, reward: Floats) -> None:
    if not len(target) == len(logged) == len(reward):
        raise NotEvaluable(
            f"{len(target)} target and {len(logged)} logged probabilities, {len(reward)} rewards."
        )
    if not ((target >= 0) & (target <= 1 + 1e-9)).all():
        raise NotEvaluable("a target probability lies outside 0..1.")
    if not ((logged > 0) & (logged <= 1 + 1e-9)).all():
        raise NotEvaluable("a logged probability lies outside (0, 1]: such an action was never drawn.")
    if not np.isfinite(reward).all():
        raise NotEvaluable("a reward is not finite: leave out rows whose window is still open.")
