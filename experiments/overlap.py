"""Which live experiments can meet in one unit, and in how many: known from the declarations alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from experiments.checking import parted
from experiments.config import BUCKETS, Declaration
from experiments.live import LiveExperiment, LiveExperiments


class Overlap(Declaration):
    """The share of all units in both of two experiments, by names in order; targeting can only lower it."""

    names: tuple[str, ...]
    layers: tuple[str, ...] = Field(description="of each experiment, in the same order")
    shares: tuple[tuple[float, ...], ...] = Field(
        description="row and column as names; its own reach on the diagonal"
    )

    def meeting(self) -> tuple[tuple[str, str, float], ...]:
        """The pairs that can meet, largest share first."""
        pairs = [
            (first, second, self.shares[i][j])
            for i, first in enumerate(self.names)
            for j, second in enumerate(self.names[i + 1 :], i + 1)
            if self.shares[i][j] > 0
        ]
        return tuple(sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1])))


def overlap(live: LiveExperiments) -> Overlap:
    """Layers are hashed independently, so two experiments of different layers share the product of their reaches.

    Experiments of one layer never meet, nor do those whose targeting parts them.
    """
    entries = live.experiments
    reach = np.array([_reach(entry) for entry in entries])
    shares = np.outer(reach, reach)
    for i, first in enumerate(entries):
        for j, second in enumerate(entries[:i]):
            if _never_meet(first, second):
                shares[i, j] = shares[j, i] = 0.0
    shares[np.diag_indices(len(entries))] = reach
    return Overlap(
        names=tuple(entry.name for entry in entries),
        layers=tuple(entry.declaration.layer for entry in entries),
        shares=_rows(shares),
    )


def _reach(entry: LiveExperiment) -> float:
    """The share of all units that take part, targeting aside."""
    low, high = entry.slot
    return (high - low) / BUCKETS * entry.rollout / BUCKETS


def _never_meet(first: LiveExperiment, second: LiveExperiment) -> bool:
    one, other = first.declaration, second.declaration
    return one.layer == other.layer or parted(one, other)


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
