"""A quantile and how sure it is, by order statistics: no resampling, and mergeable counts are all it needs."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.values import Declaration

CONFIDENCE = 0.95
"""Of the interval whose width the standard error is read off."""


class OrderStatistics(Declaration):
    """A quantile of one arm. `standard_error` is None where too few units lie beyond it to say."""

    units: int
    value: float
    standard_error: float | None


def order_statistics(
    values: NDArray[np.float64],  # (V,) ascending, distinct
    counts: NDArray[np.int64],  # (V,) units with each value
    quantile: float,
) -> OrderStatistics:
    """The smallest value that `quantile` of the units do not exceed, and its standard error.

    Woodruff (JASA 1952): where q̂ ± z √(q(1 - q)/n) are cut off, the values there bound the quantile; half the
    distance between them, over z, is its standard error. Both bounds must be order statistics, ranks 1 to n.
    """
    reached = np.cumsum(counts)
    n = int(reached[-1])
    z = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2))
    half = z * math.sqrt(n * quantile * (1 - quantile))
    low, middle, high = (math.ceil(round(n * quantile + side * half, 9)) for side in (-1, 0, 1))
    inside = low >= 1 and high <= n
    below, value, above = values[
        np.searchsorted(reached, [max(low, 1), max(middle, 1), min(high, n)])
    ].tolist()
    return OrderStatistics(units=n, value=value, standard_error=(above - below) / (2 * z) if inside else None)


def order_statistics_of(values: NDArray[np.float64], quantile: float) -> OrderStatistics:
    """The same of units' values in any order.

    >>> order_statistics_of(np.arange(1.0, 101.0), 0.5)
    OrderStatistics(units=100, value=50.0, standard_error=4.847...)
    """
    distinct, counts = np.unique(values, return_counts=True)
    return order_statistics(distinct, counts, quantile)
