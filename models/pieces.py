"""Features read in pieces: where an outcome bends along a feature, the network is given the bend.

A network of few epochs learns straight lines first and steps late; trees cut where they like. A column of numbers in pieces
puts the cuts into the inputs, and what is learnt of them is linear again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Derivatives, minimised

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
        kept, mine = self.only(columns)
        return replace(kept, column=np.searchsorted(columns, kept.column)), mine

    def only(self, columns: Int64) -> tuple[Pieces, Int64]:
        """The pieces of some columns, numbered as they were; and which pieces those are."""
        mine = np.flatnonzero(np.isin(self.column, columns))
        return Pieces(*(values[mine] for values in vars(self).values())), mine

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
    features: Float32,
    straight: Float32,
    outcomes: Mapping[str, Float32],
    user: Int64,
    *,
    pieces: int,
    bent: int,
    least: float = 0.0,
) -> Pieces:
    """Cut the columns of training rows (N, F) along which an outcome bends into pieces of equally many rows.

    `straight` (N, F) are the same columns as the network reads them otherwise, `outcomes` (N,) by head what it predicts, NaN
    where unknown, and `user` (N,) whose rows they are. For each head the `bent` columns along which it bends by the largest
    share of its variance (`Bend`) are cut, but for those where chance may be all or the share is not above `least`.

    for each column:
      1. cut at quantiles, equal ones once                 t_0 < … < t_B, B ≤ `pieces`
      2. ask how far each outcome bends along it           `bend_of`
    for each column chosen by any head:
      3. one input a piece                                 (x - t_{b-1}) / (t_b - t_{b-1}) within 0..1
    """
    if bent == 0:
        return NO_PIECES
    columns, lines = np.ascontiguousarray(features.T), np.ascontiguousarray(straight.T)
    cuts = [_cuts(column, pieces) for column in columns]
    _, who = np.unique(user, return_inverse=True)
    shares = np.array([_shares_of(*parts, outcomes, who) for parts in zip(columns, lines, cuts, strict=True)])
    chosen = set[int]()
    for share in shares.reshape(len(columns), -1).T:
        order = np.argsort(-share, kind="stable")[:bent]
        chosen |= set(order[share[order] > least].tolist())
    return _cut(columns, {column: cuts[column] for column in sorted(chosen)})


def _shares_of(
    column: Float32, line: Float32, cuts: Float64, outcomes: Mapping[str, Float32], user: Int64
) -> list[float]:
    """The share by which each outcome (N,) bends along one column, (N,) raw and as it is read otherwise."""
    rows = np.flatnonzero(~np.isnan(column))
    bins = np.searchsorted(cuts[1:-1], column[rows], side="right")
    return [
        bend_of(line[some], bins[known], outcome[some], user[some]).share
        for outcome in outcomes.values()
        for known in [~np.isnan(outcome[rows])]
        for some in [rows[known]]
    ]


def sampled(rows: int) -> slice:
    """Evenly spaced rows to fit pieces on, of so many."""
    return slice(None, None, -(-rows // _ROWS_LOOKED_AT))


@dataclass(frozen=True)
class Bend:
    """How an outcome bends along a column: χ², its degrees of freedom, and which share of variance bins explain beyond the line."""

    square: float
    free: int
    explained: float

    @property
    def deviations(self) -> float:
        """How many standard deviations that is more than chance brings."""
        return float((self.square - self.free) / (2 * self.free) ** 0.5)

    @property
    def share(self) -> float:
        """What is explained, less what chance explains; 0 where all may be chance."""
        return self.explained * (1 - self.free / self.square) if self.deviations > _SURE else 0.0


STRAIGHT = Bend(1.0, 1, 0.0)
"""Nothing is explained but what chance brings."""


def bend_of(x: Float32, bins: Int64, outcome: Float32, user: Int64) -> Bend:
    """An outcome (n,) in 0..1 by bins (n,) of a column, against a logistic line in x (n,), which a network finds without pieces.

    As Hosmer & Lemeshow (1980), but each bin's sum of residuals is held against its variance over *users* as well (Liang &
    Zeger 1986), whichever is more: a user's rows share what we do not know of the user. `user` (n,) says whose they are, from
    0 up. With two bins, or an outcome that varies in none, nothing can be told: it is straight.
    """
    _, place, rows = np.unique(bins, return_inverse=True, return_counts=True)
    mean = np.bincount(place, outcome.astype(np.float64)) / rows
    variance = float(((outcome - mean[place]) ** 2).mean()) if len(rows) > 2 else 0.0
    if variance <= 0:
        return STRAIGHT
    expected = _logistic_line(np.bincount(place, x.astype(np.float64)) / rows, mean, rows)
    by_user = np.bincount(user * len(rows) + place, outcome - expected[place], (user.max() + 1) * len(rows))
    by_user = by_user.reshape(-1, len(rows))
    spread = rows * expected * (1 - expected)
    spread *= variance * rows.sum() / float(spread.sum())
    square = float((by_user.sum(axis=0) ** 2 / np.maximum((by_user**2).sum(axis=0), spread)).sum())
    return Bend(square, len(rows) - 2, float(np.average((mean - expected) ** 2, weights=rows)) / variance)


def _logistic_line(x: Float64, mean: Float64, rows: Int64) -> Float64:
    """Chances (B,) on a logistic line in x (B,) that fit the means of so many rows best; a Gaussian prior worth a row keeps it finite."""
    x = (x - np.average(x, weights=rows)) / (float(x.std()) or 1.0)
    design = np.stack([np.ones(len(x)), x], axis=1)

    def derivatives(weights: Float64) -> Derivatives:
        z = design @ weights
        chance = 0.5 * (1 + np.tanh(0.5 * z))
        return Derivatives(
            float((rows * (np.logaddexp(0, z) - mean * z)).sum() + 0.5 * weights @ weights),
            design.T @ (rows * (chance - mean)) + weights,
            (design * (rows * chance * (1 - chance))[:, None]).T @ design + np.eye(2),
        )

    chances: Float64 = 0.5 * (1 + np.tanh(0.5 * (design @ minimised(derivatives, np.zeros(2)))))
    return chances


def _cuts(column: Float32, pieces: int) -> Float64:
    """Quantiles that part the known rows evenly, equal ones once; fewer than two where there is nothing to part."""
    known = column[~np.isnan(column)].astype(np.float64)
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
