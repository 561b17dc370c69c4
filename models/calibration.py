"""From a logit to a probability that can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data import Float32

_PRIOR = 1.0  # pseudo-observations in favour of leaving the logits as they are
_ITERATIONS = 50
_PRECISION = 1e-10


@dataclass(frozen=True)
class Calibration:
    """p = σ(above · log(1 + eᶻ) - below · log(1 + e⁻ᶻ) + intercept), in other words beta calibration of σ(z).

    z alone is above = below = 1. Neither is ever negative, so calibration does not reorder.
    """

    above: float = 1.0
    below: float = 1.0
    intercept: float = 0.0

    def __call__(self, logits: NDArray[np.floating]) -> Float32:
        """Probabilities of logits, float32."""
        z = _bends(logits) @ (self.above, self.below) + self.intercept
        return (0.5 * (1 + np.tanh(0.5 * z))).astype(np.float32)  # σ without overflow


def fit_calibration(logits: NDArray[np.floating], label: NDArray[np.floating]) -> Calibration:
    """Beta calibration (Kull et al., AISTATS 2017, eq. 7): maximum likelihood of labels in 0..1, by Newton's method.

    It bends where Platt's straight line (1999), which is above = below, cannot. A weak Gaussian prior on what is fitted
    keeps it finite where the classes separate. Where a bend would reorder, the line is fitted; a head that ranks
    backwards gets slope 0: its base rate is all it knows.

    Raises:
        ValueError: no rows, or a label that is NaN.
    """
    if len(logits) == 0 or np.isnan(label).any():
        raise ValueError(
            f"calibration needs labelled rows; {len(logits)} given, NaN among the labels or none."
        )
    bends, y = _bends(logits), label.astype(np.float64)
    one = np.ones((len(label), 1))
    above, below, intercept = _logistic(np.hstack([bends, one]), y, np.array([1.0, 1.0, 0.0]))
    if min(above, below) < 0:
        slope, intercept = _logistic(
            np.hstack([bends.sum(axis=1, keepdims=True), one]), y, np.array([1.0, 0.0])
        )
        above = below = slope
    if above < 0:
        (intercept,) = _logistic(one, y, np.array([0.0]))
        above = below = 0.0
    return Calibration(float(above), float(below), float(intercept))


def _bends(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, 2): log(1 + eᶻ) and -log(1 + e⁻ᶻ), which sum to z."""
    z = logits.astype(np.float64)
    return np.stack([np.logaddexp(0, z), -np.logaddexp(0, -z)], axis=1)


@dataclass(frozen=True)
class Derivatives:
    """A convex cost of weights (k,) at one point: its value, gradient (k,) and matrix of second derivatives (k, k)."""

    cost: float
    gradient: NDArray[np.float64]
    curvature: NDArray[np.float64]


def minimised(
    derivatives: Callable[[NDArray[np.float64]], Derivatives], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where a convex cost is least: Newton steps from `start`, halved until the cost falls."""
    weights, here = start.copy(), derivatives(start)
    for _ in range(_ITERATIONS):
        step = np.linalg.solve(here.curvature, here.gradient)
        there = derivatives(weights - step)
        while there.cost > here.cost and np.abs(step).max() > _PRECISION:
            step /= 2
            there = derivatives(weights - step)
        weights, here = weights - step, there
        if np.abs(step).max() <= _PRECISION:
            break
    return weights


def _logistic(
    design: NDArray[np.float64], label: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logistic regression with an N(prior, 1/_PRIOR) penalty."""

    def derivatives(weights: NDArray[np.float64]) -> Derivatives:
        z, away = design @ weights, weights - prior
        probability = 0.5 * (1 + np.tanh(0.5 * z))
        spread = design * (probability * (1 - probability))[:, None]
        return Derivatives(
            float((np.logaddexp(0, z) - label * z).sum() + 0.5 * _PRIOR * away @ away),
            design.T @ (probability - label) + _PRIOR * away,
            spread.T @ design + _PRIOR * np.eye(len(away)),
        )

    return minimised(derivatives, prior)
