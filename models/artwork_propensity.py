"""The probability that each image wins under Gaussian Thompson sampling, by integration, and the draw itself."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

POINTS = 64
MOST_POINTS = 32_768  # standard deviations that differ 2,560-fold
_REACH = 5.5  # standard deviations at either end: what lies beyond weighs 2e-8
_SPREAD = 5.0  # ratio of standard deviations in one title that 64 points resolve to 1e-5


class NotADistribution(ValueError):
    """Means or standard deviations from which no probability follows."""


def win_probabilities(
    mean: Float64,  # (T, K) of the sampled score; anything where there is no arm
    sd: Float64,  # (T, K) above 0
    present: NDArray[np.bool_],  # (T, K) whether the title has this arm
) -> Float64:
    """P(arm k's draw is the largest), (T, K), rows summing to 1 (exact propensities: Jeunen 2025, arXiv 2504.08773).

    w_k = ∫ φ((u - m_k)/s_k)/s_k · Π_{j≠k} Φ((u - m_j)/s_j) du by the trapezoid rule, one grid for all arms of a
    title. Its error falls as exp(-2π² s²/h²), so there are 64 points while standard deviations within a title
    differ at most fivefold, and more in proportion beyond. A title's probabilities do not depend on the titles
    beside it, or they could not be computed again from a log.

    Raises:
        NotADistribution: a mean is not finite or a standard deviation is not above 0.
    """
    if not (np.isfinite(mean[present]).all() and (sd[present] > 0).all() and present.any(axis=1).all()):
        raise NotADistribution("every title needs an arm, every arm a finite mean and an sd above 0.")
    points = _points(sd, present)
    found = np.empty(mean.shape)
    for size in np.unique(points).tolist():
        rows = points == size
        found[rows] = _integrated(mean[rows], sd[rows], present[rows], size)
    return found


def _integrated(mean: Float64, sd: Float64, present: NDArray[np.bool_], points: int) -> Float64:
    """`win_probabilities` of titles that all need so many points."""
    low = np.where(present, mean - _REACH * sd, -np.inf).max(axis=1)
    high = np.where(present, mean + _REACH * sd, -np.inf).max(axis=1)
    grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)  # (T, G)
    # Arms come first in memory, so that everything below runs over long rows.
    arms, scale = np.where(present, mean, 0.0).T, np.where(present, sd, 1.0).T
    z = (grid - arms[:, :, None]) / scale[:, :, None]  # (K, T, G)
    bell = np.exp(-0.5 * z * z)
    below = normal_cdf(z, bell)
    below[~present.T] = 1.0
    weights = (np.einsum("ktg,ktg->kt", bell, _product_of_others(below)) / scale * present.T).T
    total: Float64 = weights / weights.sum(axis=1, keepdims=True)
    return total


def normal_cdf(z: Float64, bell: Float64) -> Float64:
    """Φ(z) to 7.5e-8, given exp(-z²/2): Abramowitz & Stegun 26.2.17, ten times as fast as the exact one."""
    t = 1.0 / (1.0 + 0.2316419 * np.abs(z))
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = bell * series * 0.3989422804014327
    above: Float64 = np.where(z > 0, 1.0 - tail, tail)
    return above


def _points(sd: Float64, present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many points each title (T,) needs."""
    widest = np.where(present, sd, 0.0).max(axis=1)
    narrowest = np.where(present, sd, np.inf).min(axis=1)
    points = POINTS * np.ceil(np.maximum(1.0, widest / narrowest / _SPREAD))
    enough: NDArray[np.int64] = np.minimum(MOST_POINTS, points).astype(np.int64)
    return enough


def _product_of_others(below: Float64) -> Float64:
    """Π_{j≠k} over the first axis, without dividing: what comes before times what comes after."""
    others = np.ones_like(below)
    for k in range(1, len(below)):
        np.multiply(others[k - 1], below[k - 1], out=others[k])
    after = np.ones_like(below[0])
    for k in range(len(below) - 2, -1, -1):
        after *= below[k + 1]
        others[k] *= after
    return others


def with_floor(weights: Float64, present: NDArray[np.bool_], floor: float) -> Float64:
    """P = f + (1 - K f) w for the K arms of each title: an additive floor keeps p known and above f.

    Where K f would pass 1 the floor is 1/K, which makes the choice uniform.
    """
    arms = present.sum(axis=1, keepdims=True)
    least = np.minimum(floor, 1.0 / arms)
    mixed: Float64 = np.where(present, least + (1 - arms * least) * weights, 0.0)
    return mixed


def uniform_draw(user_id: int, title_id: int, epoch: int) -> float:
    """A number in [0, 1) that is always the same for a user, a title and an epoch (xxHash64 of the three)."""
    key = b"".join(part.to_bytes(8, "little", signed=True) for part in (user_id, title_id, epoch))
    return (xxhash.xxh64_intdigest(key, 0) >> 11) * 2.0**-53


def drawn(probabilities: Float64, present: NDArray[np.bool_], draws: Float64) -> NDArray[np.int64]:
    """The arm (T,) that each draw of [0, 1) falls on; arms lie side by side in order."""
    edges = np.cumsum(probabilities, axis=1)
    arm = (edges <= draws[:, None] * edges[:, -1:]).sum(axis=1)
    last = present.shape[1] - 1 - np.argmax(present[:, ::-1], axis=1)
    place: NDArray[np.int64] = np.minimum(arm, last).astype(np.int64)
    return place
