"""From a logit to a probability that can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data import Float32

_PRIOR = 1.0  # pseudo-observations in favour of leaving the logits as they are
_ITERATIONS = 50
_PRECISION = 1e-10


@dataclass(frozen=True)
class Calibration:
    """p = σ(slope · z + intercept). The slope is never negative, so calibration does not reorder."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, logits: NDArray[np.floating]) -> Float32:
        """Probabilities of logits, float32."""
        z = self.slope * logits.astype(np.float64) + self.intercept
        return (0.5 * (1 + np.tanh(0.5 * z))).astype(np.float32)  # σ without overflow


def fit_calibration(logits: NDArray[np.floating], label: NDArray[np.floating]) -> Calibration:
    """Platt's scaling (1999): maximum likelihood of labels in 0..1, by Newton's method.

    A weak Gaussian prior on (slope - 1, intercept) keeps it finite where the classes separate. A head that
    ranks backwards gets slope 0: its base rate is all it knows.

    Raises:
        ValueError: no rows, or a label that is NaN.
    """
    if len(logits) == 0 or np.isnan(label).any():
        raise ValueError(
            f"calibration needs labelled rows; {len(logits)} given, NaN among the labels or none."
        )
    design = np.stack([logits, np.ones(len(logits))], axis=1).astype(np.float64)
    slope, intercept = _newton(design, label.astype(np.float64), np.array([1.0, 0.0]))
    if slope < 0:
        (intercept,) = _newton(design[:, 1:], label.astype(np.float64), np.array([0.0]))
        return Calibration(0.0, float(intercept))
    return Calibration(float(slope), float(intercept))


def _newton(
    design: NDArray[np.float64], label: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logistic regression with an N(prior, 1/_PRIOR) penalty: Newton steps, halved until the cost falls."""
    weights = prior.copy()
    for _ in range(_ITERATIONS):
        probability = 0.5 * (1 + np.tanh(0.5 * (design @ weights)))
        gradient = design.T @ (probability - label) + _PRIOR * (weights - prior)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature + _PRIOR * np.eye(len(weights)), gradient)
        cost = _cost(design, label, prior, weights)
        while _cost(design, label, prior, weights - step) > cost and np.abs(step).max() > _PRECISION:
            step /= 2
        weights -= step
        if np.abs(step).max() <= _PRECISION:
            break
    return weights


def _cost(
    design: NDArray[np.float64],
    label: NDArray[np.float64],
    prior: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> float:
    z = design @ weights
    penalty = 0.5 * _PRIOR * float(((weights - prior) ** 2).sum())
    return float((np.logaddexp(0, z) - label * z).sum()) + penalty
