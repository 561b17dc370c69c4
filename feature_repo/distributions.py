"""What the values of a computed table look like: null shares, quantiles, histograms; equal files give equal figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BARS = 24
LEVELS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
"""Quantiles that are shown, the least and the greatest value among them."""


@dataclass(frozen=True)
class Distribution:
    """One column. `counts` are rows by bar: one a value where there are few, else equal widths from `low` to `high`.

    The bars span the middle 98 % of the values; what lies outside is counted in the first and the last.
    """

    rows: int
    nulls: int
    distinct: int
    mean: float
    quantiles: tuple[float, ...]  # at LEVELS; empty where nothing is known
    counts: tuple[int, ...]
    low: float
    high: float

    @property
    def null_share(self) -> float:
        """0..1; 0 for a table without rows."""
        return self.nulls / self.rows if self.rows else 0.0


def distributions(path: Path) -> dict[str, Distribution]:
    """Column → distribution, for the FLOAT columns of a computed file."""
    table = pq.read_table(path, partitioning=None)
    floats = [field.name for field in table.schema if field.type == pa.float32()]
    return {name: distribution(table[name]) for name in floats}


def distribution(column: pa.ChunkedArray) -> Distribution:
    """The figures of one column of numbers."""
    known = np.sort(np.asarray(column.drop_null().to_numpy(), dtype=np.float64))
    if not len(known):
        return Distribution(len(column), column.null_count, 0, float("nan"), (), (), 0.0, 0.0)
    quantiles = np.quantile(known, LEVELS)
    values, repeats = np.unique(known, return_counts=True)
    few = len(values) <= BARS // 2
    low, high = (values[0], values[-1]) if few else (quantiles[1], quantiles[-2])
    counts = repeats if few else _equal_widths(known, low, high)
    return Distribution(
        rows=len(column), nulls=column.null_count, distinct=len(values), mean=float(known.mean()),
        quantiles=tuple(quantiles.tolist()), counts=tuple(counts.tolist()), low=float(low), high=float(high),
    )  # fmt: skip


def _equal_widths(known: NDArray[np.float64], low: float, high: float) -> NDArray[np.int64]:
    """Counts of BARS equal widths; where the middle is one value, the whole range is spanned."""
    if low == high:
        low, high = known[0], known[-1]
    counts, _ = np.histogram(np.clip(known, low, high), BARS, (low, high))
    return counts.astype(np.int64)
