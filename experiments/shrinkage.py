"""What estimates are worth once the best of many were picked: empirical Bayes, against the winner's curse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from pydantic import Field

from experiments.values import Declaration


class Prior(Declaration):
    """What effects are like among all tests that were run: normal, fitted to estimates that each have an error."""

    mean: float
    sd: float
    tests: int


class Shrunk(Declaration):
    """An estimate drawn towards the prior, by as much as its own error asks for."""

    estimate: float
    error: float
    shrunk: float
    shrunk_sd: float


class Wins(Declaration):
    """The launched tests' effects added up, as they were read and as they are to be expected."""

    launched: int
    naive: float = Field(description="sum of relative effects as read out")
    shrunk: float
    low: float = Field(description="95 % bounds of the shrunk sum")
    high: float
    prior: Prior


def prior_of(estimates: Sequence[float], errors: Sequence[float]) -> Prior:
    """Mean and spread of true effects by maximum marginal likelihood: estimate ~ N(mean, sd² + error²).

    Give it every test that was read, won or lost: fitted to winners alone it would believe in winning.

    Raises:
        ValueError: fewer than three tests, or an error that is not above 0.
    """
    e, s = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float)
    if len(e) < 3 or not (s > 0).all():
        raise ValueError(f"a prior needs three tests and errors above 0; there are {len(e)} tests.")

    def mean_at(tau2: float) -> float:
        weight = 1 / (tau2 + s**2)
        return float((weight * e).sum() / weight.sum())

    def loss(tau2: float) -> float:
        variance = tau2 + s**2
        return float((np.log(variance) + (e - mean_at(tau2)) ** 2 / variance).sum())

    widest = float(np.var(e)) * 4 + 1e-300
    best = scipy.optimize.minimize_scalar(
        loss, bounds=(0, widest), method="bounded", options={"xatol": widest * 1e-8}
    )
    tau2 = 0.0 if loss(0.0) <= float(best.fun) else float(best.x)
    return Prior(mean=mean_at(tau2), sd=math.sqrt(tau2), tests=len(e))


def shrink(estimate: float, error: float, prior: Prior) -> Shrunk:
    """The posterior of one effect. Picking it for being large changes nothing of it, unlike of the estimate.

    >>> shrink(0.04, 0.02, Prior(mean=0.0, sd=0.02, tests=50)).shrunk
    0.02
    """
    weight = prior.sd**2 / (prior.sd**2 + error**2)
    return Shrunk(
        estimate=estimate, error=error, shrunk=prior.mean + weight * (estimate - prior.mean),
        shrunk_sd=math.sqrt(weight) * error,
    )  # fmt: skip


def wins(launched: Sequence[tuple[float, float]], every: Sequence[tuple[float, float]]) -> Wins:
    """The sum of launched effects; `every` are (estimate, error) of all tests read out, launched or not.

    Effects are relative and taken to add up. The shrunk sum and its bounds also carry the doubt about the prior, which all
    tests share: flat priors on its mean and spread (Gelman et al., Bayesian Data Analysis, section 5.4).
    """
    prior = prior_of([e for e, _ in every], [s for _, s in every])
    total, sd = _sum_over_priors(np.array(launched).reshape(-1, 2), np.array(every), prior)
    return Wins(
        launched=len(launched), naive=sum(e for e, _ in launched), shrunk=total, low=total - 1.96 * sd, high=total + 1.96 * sd,
        prior=prior,
    )  # fmt: skip


def _sum_over_priors(
    launched: NDArray[np.float64], every: NDArray[np.float64], prior: Prior
) -> tuple[float, float]:
    """Mean and standard deviation of the sum of launched effects, over a grid of the prior's spread."""
    e, s2 = every[:, 0], every[:, 1] ** 2
    widest = prior.sd + 4 * math.sqrt(float(s2.max()) / len(e)) + float(np.std(e))
    log_weights, means, variances = [], [], []
    for tau in np.linspace(0, widest, 200):
        precision = 1 / (tau**2 + s2)
        mean, spread = float((precision * e).sum() / precision.sum()), float(1 / precision.sum())
        log_weights.append(
            0.5 * (np.log(spread) + np.log(precision).sum() - (precision * (e - mean) ** 2).sum())
        )
        own = tau**2 / (tau**2 + launched[:, 1] ** 2)
        means.append(float((own * launched[:, 0] + (1 - own) * mean).sum()))
        variances.append(float((own * launched[:, 1] ** 2).sum() + (1 - own).sum() ** 2 * spread))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    mean = float(weights @ np.array(means))
    return mean, math.sqrt(float(weights @ (np.array(variances) + (np.array(means) - mean) ** 2)))
