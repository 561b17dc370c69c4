"""One metric, two arms: the difference with its interval, and whether it stays within a margin.

tea-tasting does the arithmetic from sufficient statistics: Welch's test, the delta method for ratios, CUPED.
Quantiles are compared by their order statistics.
"""

from __future__ import annotations

import math
from itertools import combinations

import scipy.stats
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from experiments.config import Declaration, Guardrail, Metric
from experiments.metrics import ArmStatistics, covariance_key

CERTAIN = 1 - 1e-12
"""The highest level an interval is drawn at: at a first look at few units alpha is below what a double tells from 0, and the
quantile of 1 is infinite. Verdicts compare p-values with alpha itself.
"""


class Estimate(Declaration):
    """Treatment against control. The interval is two-sided at 1 - alpha; relative values are shares of control."""

    metric: str
    control: float
    treatment: float
    difference: float
    low: float
    high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p_value: float


def estimate(metric: Metric, control: ArmStatistics, treatment: ArmStatistics, alpha: float) -> Estimate:
    """The difference in `metric`, two-sided."""
    if metric.quantile is not None:
        return _quantile_estimate(metric, control, treatment, alpha)
    test = _test(metric, "two-sided", alpha)
    result = test.analyze_aggregates(_aggregates(metric, control), _aggregates(metric, treatment))
    return Estimate(
        metric=metric.name,
        control=float(result.control),
        treatment=float(result.treatment),
        difference=float(result.effect_size),
        low=float(result.effect_size_ci_lower),
        high=float(result.effect_size_ci_upper),
        relative=_finite(result.rel_effect_size),
        relative_low=_finite(result.rel_effect_size_ci_lower),
        relative_high=_finite(result.rel_effect_size_ci_upper),
        p_value=float(result.pvalue),
    )


def variance_cut(metric: Metric, control: ArmStatistics, treatment: ArmStatistics) -> float | None:
    """The share of the difference's variance that the covariate takes away (CUPED); None where there is none."""
    if metric.covariate is None:
        return None
    plain = metric.model_copy(update={"covariate": None, "covariate_per": None})
    with_it, without = (estimate(m, control, treatment, 0.05) for m in (metric, plain))
    return 1 - ((with_it.high - with_it.low) / (without.high - without.low)) ** 2


def p_worse(metric: Metric, control: ArmStatistics, treatment: ArmStatistics) -> float:
    """One-sided p-value of "treatment is not worse than control": small where it is worse."""
    if metric.quantile is not None:
        return _quantile_p(metric, control, treatment, factor=1, side=-metric.sign)
    worse = "less" if metric.direction == "increase" else "greater"
    arms = _aggregates(metric, control), _aggregates(metric, treatment)
    return float(_test(metric, worse, 0.05).analyze_aggregates(*arms).pvalue)


def p_inferior(guardrail: Guardrail, control: ArmStatistics, treatment: ArmStatistics) -> float:
    """One-sided p-value of "treatment loses at least the margin": small where it is non-inferior.

    A relative margin m asks whether treatment beats (1 - m) × control, so control is scaled and the test is
    one of superiority; its variance scales along, which a fixed absolute margin would forget.
    """
    factor = 1 - guardrail.sign * guardrail.margin
    if guardrail.quantile is not None:
        return _quantile_p(guardrail, control, treatment, factor=factor, side=guardrail.sign)
    better = "greater" if guardrail.direction == "increase" else "less"
    shrunk = _scaled(_aggregates(guardrail, control), guardrail.value, factor)
    test = _test(guardrail, better, 0.05)
    return float(test.analyze_aggregates(shrunk, _aggregates(guardrail, treatment)).pvalue)


def _quantile_estimate(
    metric: Metric, control: ArmStatistics, treatment: ArmStatistics, alpha: float
) -> Estimate:
    """Arms are independent and their quantiles asymptotically normal; the relative interval is the delta method's."""
    (c, error_c), (t, error_t) = _quantile(metric, control), _quantile(metric, treatment)
    error = math.hypot(error_c, error_t)
    z = float(scipy.stats.norm.isf(alpha / 2))
    relative = error_relative = None
    if c > 0:
        relative, error_relative = t / c - 1, math.hypot(error_t / c, t * error_c / c**2)
    return Estimate(
        metric=metric.name, control=c, treatment=t, difference=t - c, low=t - c - z * error, high=t - c + z * error,
        relative=relative,
        relative_low=None if relative is None or error_relative is None else relative - z * error_relative,
        relative_high=None if relative is None or error_relative is None else relative + z * error_relative,
        p_value=float(2 * scipy.stats.norm.sf(abs(t - c) / error)),
    )  # fmt: skip


def _quantile_p(
    metric: Metric, control: ArmStatistics, treatment: ArmStatistics, *, factor: float, side: int
) -> float:
    """Small where treatment lies beyond `factor` × control on `side` (1 above, -1 below)."""
    (c, error_c), (t, error_t) = _quantile(metric, control), _quantile(metric, treatment)
    return float(scipy.stats.norm.sf(side * (t - factor * c) / math.hypot(error_t, factor * error_c)))


def _quantile(metric: Metric, arm: ArmStatistics) -> tuple[float, float]:
    """Value and standard error; only where `unreadable` finds nothing."""
    found = arm.order[metric.value]
    return found.value, found.standard_error or math.nan


def unreadable(metric: Metric, control: ArmStatistics, treatment: ArmStatistics) -> str | None:
    """Why no test of `metric` means anything here; None where one does."""
    for arm in (control, treatment):
        if arm.count(metric.value) < 2:
            return (
                f"arm {arm.arm!r} has {arm.count(metric.value)} exposed units; an estimate needs at least 2"
            )
        if metric.quantile is not None:
            if (reason := _no_quantile(metric, arm)) is not None:
                return reason
            continue
        if metric.per is not None and arm.mean[metric.per] <= 0:
            return f"{metric.name} divides by {metric.per}, which is {arm.mean[metric.per]:g} on average in arm {arm.arm!r}"
        if not _varies(metric, arm):
            return f"{metric.name} does not vary in arm {arm.arm!r}"
    level = control.mean[metric.value] if metric.quantile is None else control.order[metric.value].value
    if isinstance(metric, Guardrail) and level <= 0:
        return f"{metric.name} is {level:g} in control, so a relative margin means nothing"
    return None


def _no_quantile(metric: Metric, arm: ArmStatistics) -> str | None:
    """Why a quantile of one arm has no standard error."""
    found = arm.order.get(metric.value)
    if found is None or found.standard_error is None:
        return f"arm {arm.arm!r} has {arm.count(metric.value)} units, too few around quantile {metric.quantile:g}"
    if found.standard_error == 0:
        return f"{metric.name} does not vary around its quantile in arm {arm.arm!r}"
    return None


def _varies(metric: Metric, arm: ArmStatistics) -> bool:
    """Whether the delta-method variance is more than what rounding leaves of zero."""
    variance = arm.variance[metric.value] or 0.0
    if metric.per is None:
        return variance > (1e-12 * arm.mean[metric.value]) ** 2
    ratio = arm.mean[metric.value] / arm.mean[metric.per]
    spread = ratio**2 * (arm.variance[metric.per] or 0.0)
    shared = 2 * ratio * (arm.covariance[covariance_key(metric.value, metric.per)] or 0.0)
    return variance + spread - shared > 1e-12 * (variance + spread + abs(shared))


def _test(metric: Metric, alternative: str, alpha: float) -> RatioOfMeans:
    return RatioOfMeans(
        metric.value,
        metric.per,
        metric.covariate,
        metric.covariate_per,
        alternative=alternative,
        confidence_level=min(1 - alpha, CERTAIN),
        equal_var=False,
        use_t=True,
    )


def _aggregates(metric: Metric, arm: ArmStatistics) -> Aggregates:
    columns = sorted(metric.columns)
    pairs = tuple(combinations(columns, 2))
    return Aggregates(
        arm.count(metric.value),
        {column: arm.mean[column] for column in columns},
        {column: arm.variance[column] for column in columns},
        {pair: arm.covariance[covariance_key(*pair)] for pair in pairs},
    )


def _scaled(arm: Aggregates, column: str, factor: float) -> Aggregates:
    """`arm` with every value of `column` multiplied by `factor`."""
    return Aggregates(
        arm.count_,
        {name: mean * factor if name == column else mean for name, mean in arm.mean_.items()},
        {name: var * factor**2 if name == column else var for name, var in arm.var_.items()},
        {pair: cov * factor ** pair.count(column) for pair, cov in arm.cov_.items()},
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
