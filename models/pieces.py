"""Features read in pieces: where an outcome bends along a feature, the network is given the bend.

A network of few epochs learns straight lines first and steps late; trees cut where they like. A column of numbers in pieces
puts the cuts into the inputs, and what is learnt of them is linear again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
_ROWS_LOOKED_AT = 40_000
_LEAST = 1e-6
_SURE = 12.0  # deviations: chance, whose χ² has a long tail, gets there once in 10⁵ columns at most


@dataclass(frozen=True)
class Pieces:
    """C pieces of some columns of raw features; arrays (C,) each.

    A piece is 0 up to `start`, 1 from `start` + 1/`inverse_width` on, and straight between (Gorishniy et al., NeurIPS 2022,
    eq. 1); then `mean` is subtracted and the rest multiplied with `inverse_std`. A null is the mean: 0.
    """

    column: Int64  # ascending
    start: Float32
    inverse_width: Float32
    mean: Float32
    inverse_std: Float32

    def __len__(self) -> int:
        return len(self.column)

    def transform(self, features: Float32) -> Float32:
        """(n, F) raw features, NaN where null → (n, C)."""
        found = features[:, self.column]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends at the piece's end
            found -= self.start
            found *= self.inverse_width
            np.clip(found, 0, 1, out=found)
            found -= self.mean
            found *= self.inverse_std
        np.copyto(found, 0, where=np.isnan(found))
        return found

    def of(self, columns: Int64) -> tuple[Pieces, Int64]:
        """The pieces of some columns (ascending), numbered as these are; and which pieces they were."""
        mine = np.flatnonzero(np.isin(self.column, columns))
        column = np.searchsorted(columns, self.column[mine])
        return Pieces(column, *(values[mine] for values in self._numbers())), mine

    def _numbers(self) -> tuple[Float32, Float32, Float32, Float32]:
        return self.start, self.inverse_width, self.mean, self.inverse_std

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays for an artifact, their names starting with `prefix`; none where there are no pieces."""
        return {f"{prefix}.{name}": values for name, values in vars(self).items()} if len(self) else {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Pieces:
        """The pieces that `to_arrays` wrote under `prefix`."""
        if f"{prefix}.column" not in arrays:
            return NO_PIECES
        names = ("start", "inverse_width", "mean", "inverse_std")
        numbers = (np.asarray(arrays[f"{prefix}.{name}"], dtype=np.float32) for name in names)
        return cls(np.asarray(arrays[f"{prefix}.column"], dtype=np.int64), *numbers)


_NOTHING = np.empty(0, np.float32)
NO_PIECES = Pieces(np.empty(0, np.int64), _NOTHING, _NOTHING, _NOTHING, _NOTHING)
"""Every column is read as one number."""


def fit_pieces(
    features: Float32, straight: Float32, outcomes: Mapping[str, Float32], *, pieces: int, bent: int
) -> Pieces:
    """Cut the columns of training rows (N, F) along which an outcome bends into pieces of equally many rows.

    `straight` (N, F) are the same columns as the network reads them otherwise, and `outcomes` (N,) by head what it
    predicts, NaN where unknown. For each head the `bent` columns along which it bends most (`bends`) are cut, those left out
    where chance may be all.

    for each column:
      1. cut at quantiles, equal ones once                 t_0 < … < t_B, B ≤ `pieces`
      2. ask how far each outcome bends along it           `bends`
    for each column chosen by any head:
      3. one input a piece                                 (x - t_{b-1}) / (t_b - t_{b-1}) within 0..1
    """
    columns, lines = np.ascontiguousarray(features.T), np.ascontiguousarray(straight.T)
    cuts = [_cuts(column, pieces) for column in columns]
    bent_by = np.array([_bends_of(*parts, outcomes) for parts in zip(columns, lines, cuts, strict=True)])
    chosen = set[int]()
    for bend in bent_by.reshape(len(columns), -1).T:
        order = np.argsort(-bend, kind="stable")[:bent]
        chosen |= set(order[bend[order] > _SURE].tolist())
    return _cut(columns, {column: cuts[column] for column in sorted(chosen)})


def _bends_of(column: Float32, line: Float32, cuts: Float64, outcomes: Mapping[str, Float32]) -> list[float]:
    """How far each outcome (N,) bends along one column, (N,) raw and as it is read otherwise."""
    rows = np.flatnonzero(~np.isnan(column))
    bins = np.searchsorted(cuts[1:-1], column[rows], side="right")
    return [
        bends(line[rows[known]], bins[known], outcome[rows[known]])
        for outcome in outcomes.values()
        for known in [~np.isnan(outcome[rows])]
    ]


def sampled(rows: int) -> slice:
    """Evenly spaced rows to fit pieces on, of so many."""
    return slice(None, None, -(-rows // _ROWS_LOOKED_AT))


def bends(x: Float32, bins: Int64, outcome: Float32) -> float:
    """How many standard deviations more than by chance an outcome (n,) bends along a column (n,) parted into bins (n,).

    What a straight line in x leaves of the outcome is averaged by bin. Were it noise, the squares of these means, weighted by
    rows and divided by its variance, would add up to χ² with two degrees of freedom fewer than there are bins (Fisher's
    test of linearity, 1925). With two bins, or nothing left by the line, it does not bend: 0.
    """
    counts = np.bincount(bins)
    free = np.count_nonzero(counts) - 2
    if free < 1:
        return 0.0
    rest = _rest_of_line(x.astype(np.float64), outcome.astype(np.float64))
    variance = float(rest @ rest) / len(rest)
    if variance <= 0:
        return 0.0
    sums = np.bincount(bins, rest)[counts > 0]
    square = float((sums**2 / counts[counts > 0]).sum()) / variance
    return float((square - free) / (2 * free) ** 0.5)


def _rest_of_line(x: Float64, y: Float64) -> Float64:
    """What the least-squares line in x (n,) leaves of y (n,)."""
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    return y - x * (float(x @ y) / spread) if spread > 0 else y


def _cuts(column: Float32, pieces: int) -> Float64:
    """Quantiles that part the known rows evenly, equal ones once; fewer than two where there is nothing to part."""
    known = column[np.isfinite(column)].astype(np.float64)
    return np.unique(np.quantile(known, np.linspace(0, 1, pieces + 1))) if len(known) else known


def _cut(columns: Float32, cuts: Mapping[int, Float64]) -> Pieces:
    """The pieces between cuts, by column of (F, N); their mean and deviation are those of the rows."""
    if not cuts:
        return NO_PIECES
    parts = [_pieces_of(number, columns[number], cut) for number, cut in cuts.items()]
    return Pieces(
        *(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
    )


def _pieces_of(number: int, values: Float32, cut: Float64) -> Pieces:
    """One column's."""
    zeros, ones = np.zeros(len(cut) - 1, np.float32), np.ones(len(cut) - 1, np.float32)
    inverse_width = (1 / np.diff(cut)).astype(np.float32)
    bare = Pieces(np.zeros(len(cut) - 1, np.int64), cut[:-1].astype(np.float32), inverse_width, zeros, ones)
    ramps = bare.transform(values[~np.isnan(values), None]).astype(np.float64)
    deviation = ramps.std(axis=0)
    kept = np.flatnonzero(deviation > _LEAST)  # cuts closer than a float32 can tell part nothing
    return Pieces(
        np.full(len(kept), number), bare.start[kept], inverse_width[kept],
        ramps.mean(axis=0)[kept].astype(np.float32), (1 / deviation[kept]).astype(np.float32),
    )  # fmt: skip
