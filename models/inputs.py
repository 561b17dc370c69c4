"""Standardisation that travels inside the artifact: raw features in, network inputs out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.pieces import NO_PIECES, Pieces

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
_HEAVY = 6.0  # a value this many standard deviations out marks a heavy tail; a normal sample of 10⁸ has none
_LEAST = 1e-30  # a deviation below which a column counts as constant: its inverse would not fit a float32
_BLOCK = 16_384  # rows standardised at once, so that temporaries stay in the cache


class InfiniteFeature(ValueError):
    """A training column holds an infinity: a fault upstream that no standardisation should hide."""

    def __init__(self, columns: Sequence[int]) -> None:
        self.columns = tuple(columns)
        super().__init__(f"columns {', '.join(map(str, columns))} hold infinite values; null is NaN.")


class WrongWidth(ValueError):
    """A feature matrix with another number of columns than the model was trained on."""

    def __init__(self, found: tuple[int, ...], expected: int) -> None:
        super().__init__(f"features have shape {found}; the model reads (n, {expected}).")


@dataclass(frozen=True)
class Standardiser:
    """Per column: squash heavy tails, subtract the mean, divide by the deviation, clip; null becomes 0.

    `scale` (F,) is 0 for a column read as it is, and s for one read as sign(x)·log(1 + |x|/s).
    `inverse_std` (F,) is 0 for a constant column, which is therefore always 0. `indicators` (M,) are the
    columns whose nulls get an input of their own, 1 where null. Then come C `pieces` of columns that are read in pieces as
    well; output has F + M + C columns.
    """

    scale: Float32
    mean: Float32
    inverse_std: Float32
    indicators: Int64
    clip: float
    pieces: Pieces = NO_PIECES

    @property
    def n_features(self) -> int:
        """F, the number of raw columns."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """F + M + C, the number of network inputs."""
        return len(self.mean) + len(self.indicators) + len(self.pieces)

    @property
    def _straight(self) -> int:
        """F + M, the number of inputs before the pieces."""
        return self.n_features + len(self.indicators)

    @property
    def owners(self) -> Int64:
        """(F + M + C,) the column that each input is made from; a null's mark from the first of those null together."""
        return np.concatenate([np.arange(self.n_features), self.indicators, self.pieces.column])

    @property
    def readings(self) -> Int64:
        """(F + M + C,) the reading that each input belongs to: of column c as one number, c, with its null's mark; in pieces, F + c."""
        return self.owners + self.n_features * (np.arange(self.width) >= self._straight)

    @property
    def average(self) -> Float32:
        """(F,) raw features, each at the mean of what it is read as: inputs of 0, but for the pieces."""
        squashed = self.scale > 0
        raw = self.mean.copy()
        raw[squashed] = (np.sign(raw) * self.scale * np.expm1(np.abs(raw)))[squashed]
        return raw

    def of(self, columns: Int64) -> tuple[Standardiser, Int64]:
        """The same for some of the columns (ascending), numbered anew, and which of the inputs here are those."""
        marked = np.flatnonzero(np.isin(self.indicators, columns))
        pieces, cut = self.pieces.of(columns)
        found = Standardiser(
            self.scale[columns], self.mean[columns], self.inverse_std[columns],
            np.searchsorted(columns, self.indicators[marked]), self.clip, pieces,
        )  # fmt: skip
        return found, np.concatenate([columns, self.n_features + marked, self._straight + cut])

    def in_pieces(self, columns: Int64) -> tuple[Standardiser, Int64]:
        """The same with no other columns in pieces than these, and which of the inputs here are those."""
        pieces, cut = self.pieces.only(columns)
        return replace(self, pieces=pieces), np.concatenate([np.arange(self._straight), self._straight + cut])

    def transform(self, features: Float32) -> Float32:
        """(n, F) with NaN for null → (n, F + M + C) without.

        Raises:
            WrongWidth: `features` is not (n, F).
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise WrongWidth(features.shape, self.n_features)
        inputs = np.empty((len(features), self.width), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows ends at the clip
            for start in range(0, len(features), _BLOCK):
                rows = slice(start, start + _BLOCK)
                self._transform_block(features[rows], inputs[rows])
        return inputs

    def _transform_block(self, features: Float32, out: Float32) -> None:
        values = out[:, : self.n_features]
        values[:] = features
        heavy = np.flatnonzero(self.scale)
        if len(heavy):
            values[:, heavy] = _squash(features[:, heavy], self.scale[heavy])
        values -= self.mean
        values *= self.inverse_std
        np.clip(values, -self.clip, self.clip, out=values)
        np.copyto(values, 0, where=np.isnan(values))  # also ∞ · 0 in a constant column
        after = self._straight
        out[:, self.n_features : after] = np.isnan(features[:, self.indicators])
        out[:, after:] = self.pieces.transform(features)

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays for an artifact, their names starting with `prefix`."""
        return {
            f"{prefix}.scale": self.scale,
            f"{prefix}.mean": self.mean,
            f"{prefix}.inverse_std": self.inverse_std,
            f"{prefix}.indicators": self.indicators,
            f"{prefix}.clip": np.array([self.clip], dtype=np.float64),
            **self.pieces.to_arrays(f"{prefix}.pieces"),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Standardiser:
        """The standardiser that `to_arrays` wrote under `prefix`."""
        return cls(
            scale=np.asarray(arrays[f"{prefix}.scale"], dtype=np.float32),
            mean=np.asarray(arrays[f"{prefix}.mean"], dtype=np.float32),
            inverse_std=np.asarray(arrays[f"{prefix}.inverse_std"], dtype=np.float32),
            indicators=np.asarray(arrays[f"{prefix}.indicators"], dtype=np.int64),
            clip=float(np.asarray(arrays[f"{prefix}.clip"], dtype=np.float64)[0]),
            pieces=Pieces.from_arrays(arrays, f"{prefix}.pieces"),
        )


def fit_standardiser(
    features: Float32, *, clip: float = 5.0, max_rows: int = 100_000, tails: float = 0.0
) -> Standardiser:
    """Fit on training rows (n, F), nulls ignored; of more than `max_rows`, evenly spaced ones are used.

    Mean and deviation are winsorised: the share `tails` of a column's rows at either end counts as the row next to it. With
    tails of 0.25 the middle half of the rows sets the scale, so that it is spread out however far the others lie; a
    normal column has the scale that it has without (Wilcox, Introduction to Robust Estimation, section 3.3).

    Columns that are null in exactly the same rows share one indicator. A column null everywhere or nowhere
    needs none.

    Raises:
        ValueError: no rows, or tails that leave none.
        InfiniteFeature: a value is infinite.
    """
    if not 0 <= tails < 0.5:
        raise ValueError(f"tails of {tails} at either end leave nothing: give 0 or more, and less than 0.5.")
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"a standardiser needs training rows; features have shape {features.shape}.")
    sample = features[:: -(-len(features) // max_rows)]
    if np.isinf(sample).any():
        raise InfiniteFeature([int(column) for column in np.flatnonzero(np.isinf(sample).any(axis=0))])
    fitted = [_fit_column(sample[:, column], tails) for column in range(sample.shape[1])]
    scale, mean, inverse_std = np.array(fitted, dtype=np.float64).reshape(-1, 3).T
    return Standardiser(
        scale=scale.astype(np.float32),
        mean=mean.astype(np.float32),
        inverse_std=inverse_std.astype(np.float32),
        indicators=_indicator_columns(np.isnan(sample)),
        clip=clip,
    )


def _fit_column(column: Float32, tails: float) -> tuple[float, float, float]:
    """(scale, mean, 1/deviation) of one column, in float64."""
    known = column[~np.isnan(column)].astype(np.float64)
    if len(known) == 0 or known.min() == known.max():
        return 0.0, float(known[0]) if len(known) else 0.0, 0.0
    scale = _log_scale(known)
    if scale:
        known = _squash(known, scale)
    mean, deviation = _moments(known, tails)
    return scale, mean, 0.0 if deviation < _LEAST else 1 / deviation


def _moments(known: NDArray[np.float64], tails: float) -> tuple[float, float]:
    """Winsorised mean, and deviation as a normal column of that winsorised deviation has it.

    Where all but the tails are one value, of all rows alike.
    """
    low, high = np.quantile(known, [tails, 1 - tails])
    if low == high:
        return float(known.mean()), float(known.std())
    inner = np.clip(known, low, high)
    return float(inner.mean()), float(inner.std() / normal_spread(tails))


def normal_spread(tails: float) -> float:
    """The winsorised deviation of a standard normal: √(1 - 2t - 2qφ(q) + 2tq²) with q its quantile at 1 - t.

    >>> round(normal_spread(0.0), 4), round(normal_spread(0.25), 4)
    (1.0, 0.5466)
    """
    if tails == 0:
        return 1.0
    normal = NormalDist()
    q = normal.inv_cdf(1 - tails)
    return math.sqrt(1 - 2 * tails - 2 * q * normal.pdf(q) + 2 * tails * q**2)


def _log_scale(known: NDArray[np.float64]) -> float:
    """The s of sign(x)·log(1 + |x|/s) for a heavy-tailed column: its median size where not 0. Else 0."""
    if np.abs(known - known.mean()).max() <= _HEAVY * known.std():
        return 0.0
    return float(np.median(np.abs(known[known != 0])))


def added_up(parts: Float32, of: Int64, count: int) -> Float32:
    """(n, I) parts of inputs → (n, `count`): the sums of those that belong together, as `of` (I,) says (`Standardiser.owners`)."""
    found = np.zeros((len(parts), count), np.float32)
    np.add.at(found.T, of, parts.T)
    return found


def _squash(values: NDArray[Any], scale: NDArray[Any] | float) -> NDArray[Any]:
    """sign(x) · log(1 + |x|/s), in the precision of `values`.

    By PyTorch, whose log1p has vector code for every processor; NumPy's, without AVX-512, takes seven times as long.
    """
    x = torch.from_numpy(values)
    squashed: NDArray[Any] = (
        x.abs().div_(torch.from_numpy(np.asarray(scale, values.dtype))).log1p_().copysign_(x).numpy()
    )
    return squashed


def _indicator_columns(missing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First column of every distinct pattern of nulls, those that are all or nothing left out."""
    some = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    patterns = np.packbits(missing[:, some], axis=0)
    first: dict[bytes, int] = {}
    for place, column in enumerate(some):
        first.setdefault(patterns[:, place].tobytes(), int(column))
    return np.array(sorted(first.values()), dtype=np.int64)
