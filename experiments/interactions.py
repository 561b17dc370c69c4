"""Whether tests that run at once disturb each other: who met whom, and whether effects add up.

Layers are hashed independently, so arms of two layers meet as often as chance says; anything else is a bug of assignment or
of logging. Where they meet, the effect of one should not depend on the arm of the other: a difference of differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from pydantic import Field

from experiments.live import LiveExperiments
from experiments.multiplicity import benjamini_hochberg
from experiments.values import Declaration

Floats = NDArray[np.float64]
LEAST_CELL = 20
"""Units that each of four cells must hold before a difference of differences is read: it is taken to be normal."""


@dataclass(frozen=True)
class Grid:
    """Units by layers: which arm of which experiment each unit is in, as a code; 0 is none."""

    layers: tuple[str, ...]
    arms: tuple[tuple[tuple[str, str], ...], ...]  # (experiment, arm) of codes 1, 2, … in each layer
    controls: Mapping[str, str]
    targeted: frozenset[str]  # experiments that only some may join, so that whom they meet is no chance
    codes: NDArray[np.int16]  # (L, U)


def grid_of(live: LiveExperiments, assigned: Iterable[Sequence[tuple[str, str]]]) -> Grid:
    """The grid of units' arms, as `Assigner.assign` or the exposure log gives them. Pairs of hold-outs are passed over.

    Raises:
        LookupError: a unit is in an arm that no live experiment has.
    """
    entries = {entry.name: entry for entry in live.experiments}
    layers = tuple(dict.fromkeys(entry.declaration.layer for entry in live.experiments))
    arms = tuple(
        tuple((e.name, arm.name) for e in live.experiments if e.declaration.layer == layer for arm in e.arms)
        for layer in layers
    )
    code = {arm: (row, place) for row, listed in enumerate(arms) for place, arm in enumerate(listed, 1)}
    apart = "" if live.holdout is None else live.holdout.declaration.name
    rows = [[code[arm] for arm in unit if arm[0] != apart] for unit in assigned]
    codes = np.zeros((len(layers), len(rows)), dtype=np.int16)
    for unit, places in enumerate(rows):
        for row, place in places:
            codes[row, unit] = place
    return Grid(
        layers, arms, {name: e.declaration.control for name, e in entries.items()},
        frozenset(name for name, e in entries.items() if e.declaration.targeting), codes,
    )  # fmt: skip


class Meeting(Declaration):
    """Two experiments whose units met otherwise than chance says."""

    first: str
    second: str
    observed: int  # units in both
    expected: float  # from how many each has
    p_members: float | None  # of being in one and in the other; None where either is targeted
    p_arms: float  # of their arms, among the units in both
    p_adjusted: float  # the smaller, over all pairs and both tests


class Interaction(Declaration):
    """How much more the one's treatment does where the other's treatment is seen: y₁₁ - y₁₀ - y₀₁ + y₀₀."""

    first: str
    first_arm: str
    second: str
    second_arm: str
    estimate: float
    standard_error: float
    p_value: float
    p_adjusted: float


class Scan(Declaration):
    """All pairs across layers. `detectable` is what is found 80 % of the time by itself, over all pairs read."""

    pairs: int
    unread: int = Field(description="pairs with a cell too small")
    detectable: float | None = Field(description="in units of the metric, at the median standard error")
    detectable_relative: float | None = Field(description="over the metric's mean")
    found: tuple[Interaction, ...] = Field(description="those below the false discovery rate, surest first")
    p_values: tuple[float, ...] = Field((), description="of every pair read, in order", repr=False)


def meetings(grid: Grid, alpha: float = 0.05) -> tuple[Meeting, ...]:
    """The pairs of different layers that met otherwise than chance says, with a false discovery rate of `alpha`; () if all is well."""
    rows = []
    for i, j in combinations(range(len(grid.layers)), 2):
        counts = _table(grid, i, j)
        rows += [_meeting(grid, counts, a, b) for a in _experiments(grid, i) for b in _experiments(grid, j)]
    p_values = [p for *_, members, arms in rows for p in (members, arms)]
    adjusted = benjamini_hochberg([1.0 if p is None else p for p in p_values]).reshape(-1, 2).min(axis=1)
    found = [
        Meeting(first=f, second=s, observed=o, expected=e, p_members=m, p_arms=a, p_adjusted=p)
        for (f, s, o, e, m, a), p in zip(rows, adjusted.tolist(), strict=True)
        if p < alpha
    ]
    return tuple(sorted(found, key=lambda one: one.p_adjusted))


def interactions(grid: Grid, values: Floats, alpha: float = 0.05) -> Scan:
    """Every treatment of every experiment with every one of other layers; `values` (U,) are of the metric, one a unit."""
    parts = [_differences(grid, i, j, values) for i, j in combinations(range(len(grid.layers)), 2)]
    estimate, error = (np.concatenate([part[k] for part in parts]) for k in range(2))
    names = [name for part in parts for name in part[2]]
    kept = np.flatnonzero(error)
    p_values = 2 * scipy.stats.norm.sf(np.abs(estimate[kept] / error[kept]))
    adjusted = benjamini_hochberg(p_values)
    order = [k for k in np.argsort(adjusted, kind="stable") if adjusted[k] < alpha]
    detectable = _detectable(error[kept], alpha)
    mean = float(values.mean())
    return Scan(
        pairs=len(names), unread=len(names) - len(kept), detectable=detectable,
        detectable_relative=None if detectable is None or mean == 0 else detectable / abs(mean),
        found=tuple(
            Interaction(first=names[kept[k]][0], first_arm=names[kept[k]][1], second=names[kept[k]][2],
                        second_arm=names[kept[k]][3], estimate=float(estimate[kept[k]]), standard_error=float(error[kept[k]]),
                        p_value=float(p_values[k]), p_adjusted=float(adjusted[k]))
            for k in order
        ),
        p_values=tuple(p_values.tolist()),
    )  # fmt: skip


def _detectable(error: Floats, alpha: float) -> float | None:
    """A single true interaction is found if it passes α/m (Benjamini & Hochberg's first step), 80 % of the time."""
    if len(error) == 0:
        return None
    reach = scipy.stats.norm.isf(alpha / len(error) / 2) + scipy.stats.norm.ppf(0.8)
    return float(reach * np.median(error))


def _table(grid: Grid, i: int, j: int, weights: Floats | None = None) -> Floats:
    """(arms of i + 1, arms of j + 1): units, or the sum of weights, in each pair of codes."""
    width = len(grid.arms[j]) + 1
    joint = grid.codes[i].astype(np.int64) * width + grid.codes[j]
    size = (len(grid.arms[i]) + 1) * width
    return np.bincount(joint, weights, size).reshape(-1, width).astype(np.float64)


def _experiments(grid: Grid, layer: int) -> list[tuple[str, list[int]]]:
    """Each experiment of a layer and the codes of its arms."""
    codes: dict[str, list[int]] = {}
    for code, (name, _) in enumerate(grid.arms[layer], 1):
        codes.setdefault(name, []).append(code)
    return list(codes.items())


def _meeting(
    grid: Grid, counts: Floats, first: tuple[str, list[int]], second: tuple[str, list[int]]
) -> tuple[str, str, int, float, float | None, float]:
    """Names, units in both, units expected in both, p of membership, p of arms."""
    (a, rows), (b, columns) = first, second
    both = counts[np.ix_(rows, columns)]
    n, in_a, in_b, together = counts.sum(), counts[rows].sum(), counts[:, columns].sum(), both.sum()
    members = None
    if not {a, b} & grid.targeted:
        members = _independence(
            np.array([[together, in_a - together], [in_b - together, n - in_a - in_b + together]])
        )
    return a, b, int(together), float(in_a * in_b / n) if n else 0.0, members, _independence(both)


def _independence(table: Floats) -> float:
    """Pearson's χ² without correction; 1 where a margin is empty, as nothing can be said."""
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if not (rows.all() and columns.all()):
        return 1.0
    expected = np.outer(rows, columns) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return float(scipy.stats.chi2.sf(statistic, (len(rows) - 1) * (len(columns) - 1)))


def _differences(
    grid: Grid, i: int, j: int, values: Floats
) -> tuple[Floats, Floats, list[tuple[str, str, str, str]]]:
    """Estimates, standard errors (0 where a cell is too small) and names of all pairs of treatments of two layers."""
    n = _table(grid, i, j)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = _table(grid, i, j, values) / n
        spread = (_table(grid, i, j, values**2) / n - mean**2) * n / (n - 1) / n
    (t, c), (u, d) = _contrasts(grid, i), _contrasts(grid, j)
    cells = [np.ix_(x, y) for x, y in ((t, u), (t, d), (c, u), (c, d))]
    signs = (1, -1, -1, 1)
    estimate = sum(sign * mean[cell] for sign, cell in zip(signs, cells, strict=True))
    variance = sum(spread[cell] for cell in cells)
    safe = np.minimum.reduce([n[cell] for cell in cells]) >= LEAST_CELL
    error = np.sqrt(np.where(safe, variance, 0).clip(min=0))
    names = [(*grid.arms[i][x - 1], *grid.arms[j][y - 1]) for x in t for y in u]
    return np.where(safe, estimate, 0).ravel(), error.ravel(), names


def _contrasts(grid: Grid, layer: int) -> tuple[list[int], list[int]]:
    """Codes of every treatment of a layer, and of the control of each."""
    treatments, controls = [], []
    for name, codes in _experiments(grid, layer):
        control = next(code for code in codes if grid.arms[layer][code - 1][1] == grid.controls[name])
        treatments += [code for code in codes if code != control]
        controls += [control] * (len(codes) - 1)
    return treatments, controls
