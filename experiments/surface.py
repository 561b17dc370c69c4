"""A response surface over a box of settings: where to sample first, and which settings to try next.

Settings are points of the unit cube; whoever asks knows what they stand for. Means of arms come with their standard errors,
and count by them. The surface is a quadratic with a ridge (Box & Wilson 1951; ridge as in Hoerl & Kennard 1970): with
fewer arms than coefficients it still says something, and says how sure it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
GRID = 4096


class NothingFeasible(LookupError):
    """No point of the box is expected to keep every constraint."""

    def __init__(self, bounds: Float64) -> None:
        shown = ", ".join(f"{bound:g}" for bound in bounds)
        super().__init__(
            f"no setting is expected to keep all constraints (at least {shown}). Widen the box or a margin."
        )


@dataclass(frozen=True)
class Surface:
    """E[y | x] = φ(x)ᵀβ with β ~ N(`mean`, `covariance`); φ is 1, every coordinate and every product of two."""

    mean: Float64  # (P,)
    covariance: Float64  # (P, P)

    def at(self, points: Float64) -> tuple[Float64, Float64]:
        """Mean and standard deviation (n,) of what is expected at points (n, d)."""
        design = quadratic(points)
        sd = np.sqrt(np.einsum("np,pq,nq->n", design, self.covariance, design))
        expected: Float64 = design @ self.mean
        return expected, sd


def sobol(count: int, dimensions: int, seed: int) -> Float64:
    """(count, dimensions) points of a scrambled Sobol sequence in the unit cube (Owen 1998)."""
    made: Float64 = scipy.stats.qmc.Sobol(dimensions, seed=seed).random(1 << max(0, count - 1).bit_length())[
        :count
    ]
    return made


def quadratic(points: Float64) -> Float64:
    """(n, 1 + d + d(d+1)/2): 1, the coordinates around the middle of the cube, and their products.

    >>> quadratic(np.array([[1.0, 0.0]])).tolist()
    [[1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]
    """
    x = 2 * np.asarray(points, np.float64) - 1
    pairs = [x[:, i] * x[:, j] for i, j in combinations_with_replacement(range(x.shape[1]), 2)]
    return np.column_stack([np.ones(len(x)), x, *pairs])


def fit(points: Float64, values: Float64, errors: Float64, spread: float) -> Surface:
    """The surface through arm means `values` (n,) with standard errors `errors` (n,), at points (n, d).

    Every coefficient but the level is held towards 0 by a normal prior of sd `spread`, in the units of `values`.

    Raises:
        ValueError: an error is not above 0, or `spread` is not.
    """
    if not (np.asarray(errors) > 0).all() or not spread > 0:
        raise ValueError(
            f"standard errors and spread must lie above 0; the least error is {np.min(errors):g}, spread {spread:g}."
        )
    design, weight = quadratic(points), 1 / np.asarray(errors, np.float64) ** 2
    held = np.full(design.shape[1], spread**-2.0)
    held[0] = 1e-12
    covariance = np.asarray(np.linalg.inv(design.T @ (design * weight[:, None]) + np.diag(held)), np.float64)
    mean: Float64 = covariance @ (design.T @ (weight * values))
    return Surface(mean, covariance)


def propose(
    objective: Surface,
    constraints: list[Surface],
    bounds: Float64,
    dimensions: int,
    count: int,
    seed: int,
    caution: float = 1.0,
) -> Float64:
    """(count, d) points to try next: those of the best upper reach that are expected to keep every constraint.

    A constraint is kept where its mean less `caution` of its sd is at least its bound (Gardner et al. 2014 in spirit).
    The first point is the one whose mean is best. Each further one is the best of mean + `caution` sd that lies away from
    those chosen, so that a round does not spend all its arms on one spot.

    Raises:
        NothingFeasible: no point keeps them.
    """
    grid = sobol(GRID, dimensions, seed)
    feasible = np.ones(len(grid), np.bool_)
    for surface, bound in zip(constraints, bounds, strict=True):
        mean, sd = surface.at(grid)
        feasible &= mean - caution * sd >= bound
    if not feasible.any():
        raise NothingFeasible(bounds)
    grid = grid[feasible]
    mean, sd = objective.at(grid)
    chosen = [int(mean.argmax())]
    reach, apart = mean + caution * sd, 0.5 * np.sqrt(dimensions) / max(count, 1) ** (1 / dimensions)
    while len(chosen) < min(count, len(grid)):
        near = np.min(np.linalg.norm(grid[:, None] - grid[chosen][None], axis=2), axis=1) < apart
        near[chosen] = True
        if near.all():
            apart /= 2
            continue
        chosen.append(int(np.where(near, -np.inf, reach).argmax()))
    return grid[chosen]
