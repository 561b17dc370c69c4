"""How sure a mean over users is, and a difference of two such means over the same users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data import MalformedData
from models.metrics import Undefined

Floats = NDArray[np.float64]
_AT_ONCE = 200


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
    """`estimates` of one measure, (U,)."""
    return estimates(values[:, None], rng, resamples)[0]


def estimates(values: Floats, rng: np.random.Generator, resamples: int = 1000) -> tuple[Estimate, ...]:
    """The means of M measures of the same users, (U, M), with percentile intervals of a bootstrap (Efron 1979).

    A user is drawn with all of its measures.

    Raises:
        Undefined: there are no users, or a value is no number.
    """
    _need_numbers(values)
    n = len(values)
    means = np.concatenate(
        [
            rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64) @ values / n
            for size in _parts(resamples)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    rows = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(Estimate(*row, n) for row in rows)


def compare(ours: Floats, theirs: Floats, rng: np.random.Generator, resamples: int = 1000) -> Comparison:
    """`comparisons` in one measure, (U,) each."""
    return comparisons(ours[:, None], theirs[:, None], rng, resamples)[0]


def comparisons(
    ours: Floats, theirs: Floats, rng: np.random.Generator, resamples: int = 1000
) -> tuple[Comparison, ...]:
    """Two models judged in M measures on the same users, (U, M) each and in the same order.

    Intervals are a paired bootstrap's. The p-value is two-sided by flipping signs of users' differences at random
    (Fisher 1935; Smucker et al., CIKM 2007): (1 + flips at least as far from 0) / (1 + flips).

    Raises:
        MalformedData: they are not of the same users and measures.
        Undefined: there are no users, or a value is no number.
    """
    if ours.shape != theirs.shape:
        raise MalformedData(f"figures of shapes {ours.shape} and {theirs.shape} cannot be paired.")
    difference = ours - theirs
    found = estimates(difference, rng, resamples)
    reached = np.abs(difference.mean(axis=0)) * (1 - 1e-12)
    far = np.zeros(difference.shape[1])
    for size in _parts(resamples):
        signs = rng.choice([-1.0, 1.0], size=(size, len(difference)))
        far += (np.abs(signs @ difference) / len(difference) >= reached).sum(axis=0)
    return tuple(
        Comparison(one, p) for one, p in zip(found, ((1 + far) / (1 + resamples)).tolist(), strict=True)
    )


def first_as_good(values: Sequence[Floats]) -> int:
    """The place of the first whose mean over the same users, (U,) each, is within one standard error of the best one's.

    The error is that of the difference, user by user (the 1-SE rule: Breiman et al. 1984, 3.4.3, paired).
    """
    best = max(values, key=lambda one: float(one.mean()))
    behind = [best - one for one in values]
    return next(i for i, gap in enumerate(behind) if gap.mean() <= gap.std() / len(gap) ** 0.5)


def _parts(resamples: int) -> list[int]:
    """Resamples drawn together: what is drawn is held in memory."""
    return [min(_AT_ONCE, resamples - start) for start in range(0, resamples, _AT_ONCE)]


def _need_numbers(values: Floats) -> None:
    if not len(values):
        raise Undefined("there are no users to average over.")
    if not np.isfinite(values).all():
        raise Undefined(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values of users are no numbers."
        )
