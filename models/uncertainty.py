"""How sure a mean over users is, and a difference of two such means over the same users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data import MalformedData
from models.metrics import Undefined

Floats = NDArray[np.float64]
_AT_ONCE = 200  # resamples drawn together: bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A mean over `users` users with a 95 % interval."""

    value: float
    low: float
    high: float
    users: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """The mean over users of ours minus theirs, with a 95 % interval and how likely chance alone is."""

    difference: Estimate
    p_value: float


def estimate(values: Floats, rng: np.random.Generator, resamples: int = 1000) -> Estimate:
    """The mean of one value a user (U,), with the percentile interval of a bootstrap over users (Efron 1979).

    Raises:
        Undefined: there are no users, or a value is no number.
    """
    _need_numbers(values)
    means = _resampled_means(values, rng, resamples)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def compare(ours: Floats, theirs: Floats, rng: np.random.Generator, resamples: int = 1000) -> Comparison:
    """Two models judged on the same users, (U,) each and in the same order.

    The interval is a paired bootstrap's. The p-value is two-sided by flipping signs of users' differences at random
    (Fisher 1935; Smucker et al., CIKM 2007): (1 + flips at least as far from 0) / (1 + flips).

    Raises:
        MalformedData: they are not of the same users.
        Undefined: there are no users, or a value is no number.
    """
    if len(ours) != len(theirs):
        raise MalformedData(f"{len(ours)} and {len(theirs)} users cannot be paired.")
    difference = ours - theirs
    found = estimate(difference, rng, resamples)
    far = 0
    for start in range(0, resamples, _AT_ONCE):
        signs = rng.choice([-1.0, 1.0], size=(min(_AT_ONCE, resamples - start), len(difference)))
        flipped = np.abs(signs @ difference) / len(difference)
        far += int((flipped >= abs(found.value) * (1 - 1e-12)).sum())
    return Comparison(found, (1 + far) / (1 + resamples))


def _resampled_means(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    parts = []
    for start in range(0, resamples, _AT_ONCE):
        rows = rng.integers(0, len(values), size=(min(_AT_ONCE, resamples - start), len(values)))
        parts.append(values[rows].mean(axis=1))
    return np.concatenate(parts)


def _need_numbers(values: Floats) -> None:
    if not len(values):
        raise Undefined("there are no users to average over.")
    if not np.isfinite(values).all():
        raise Undefined(f"{int((~np.isfinite(values)).sum())} of {len(values)} users' values are no numbers.")
