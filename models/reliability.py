"""Whether probabilities come true: what was predicted beside what happened, the values of a reliability diagram."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data import MalformedData, RankingSet
from models.evaluate import RankingModel
from models.metrics import Undefined

Floats = NDArray[np.floating]
BINS = 15
"""As many as `models.metrics.expected_calibration_error` has, so that a diagram shows what that figure measures."""
_Z = 1.959963984540054  # 95 % of a standard normal lies within


@dataclass(frozen=True)
class Bin:
    """Rows of like probability: its mean, how often the event came about, and the 95 % bounds of that frequency."""

    probability: float
    frequency: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Reliability:
    """The bins of one head by rising probability, and the expected calibration error over them."""

    bins: tuple[Bin, ...]
    error: float

    @property
    def rows(self) -> int:
        """Rows in all bins."""
        return sum(part.rows for part in self.bins)


def reliability(label: Floats, probability: Floats, bins: int = BINS) -> Reliability:
    """Bins of equal count (Nguyen & O'Connor 2015) of n labels in 0..1 and their predictions, (n,) each.

    Intervals are Wilson's (1927). A label between 0 and 1, as of a share watched, varies less than a yes or no of the
    same mean, so its interval is at least as wide as it need be.

    Raises:
        Undefined: there are no rows.
        MalformedData: lengths differ, or a value is not within 0..1.
    """
    if len(label) != len(probability):
        raise MalformedData(f"{len(label)} labels and {len(probability)} probabilities cannot be compared.")
    if not len(label):
        raise Undefined("reliability of no rows.")
    for name, values in (("label", label), ("probability", probability)):
        if wrong := int((~((values >= 0) & (values <= 1))).sum()):  # NaN is neither
            raise MalformedData(f"{wrong} of {len(values)} values of {name} are not within 0..1.")
    order = np.argsort(probability, kind="stable")
    found = tuple(
        _bin(label[part].astype(np.float64), probability[part].astype(np.float64))
        for part in np.array_split(order, min(bins, len(order)))
    )
    gaps = sum(part.rows * abs(part.frequency - part.probability) for part in found)
    return Reliability(found, gaps / len(order))


def of_heads(model: RankingModel, rows: RankingSet) -> dict[str, Reliability]:
    """The reliability of every head at the logged positions, of those that the rows have a label for.

    Completion is judged among plays, as it is predicted.
    """
    scores, played = model.score(rows.features, rows.position), rows.play > 0
    known = {
        "play": (rows.play, ~np.isnan(rows.play)),
        "completion": (rows.completion, played & ~np.isnan(rows.completion)),
        "retention": (rows.retention, ~np.isnan(rows.retention)),
    }
    return {
        head: reliability(known[head][0][known[head][1]], getattr(scores, head)[known[head][1]])
        for head in scores.heads
        if head in known and known[head][1].any()
    }


def wilson(frequency: float, rows: int) -> tuple[float, float]:
    """The 95 % bounds of a chance that came true in this share of so many rows (Wilson, JASA 1927, score interval).

    They hold the frequency itself, also where rounding would leave 1 - 1e-16 as the upper bound of 1.
    """
    z2 = _Z**2 / rows
    middle = (frequency + z2 / 2) / (1 + z2)
    margin = math.sqrt(z2 * (frequency * (1 - frequency) + z2 / 4)) / (1 + z2)
    return max(0.0, min(frequency, middle - margin)), min(1.0, max(frequency, middle + margin))


def _bin(label: NDArray[np.float64], probability: NDArray[np.float64]) -> Bin:
    frequency = float(label.mean())
    return Bin(float(probability.mean()), frequency, *wilson(frequency, len(label)), len(label))
