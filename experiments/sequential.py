"""How far from zero a test must lie at this look, so that all looks together keep their promise.

Every method comes down to one number a look: the p-value below which a test counts (its nominal level).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import lambertw, ndtr, ndtri

from experiments.values import Declaration

Floats = NDArray[np.float64]
Sides = Literal[1, 2]
SAME_LOOK = 1e-3
"""Looks that differ by less of the planned information are one look at the same data."""
_BEYOND = 8.0  # standard deviations at which a density is taken for nought
_NODES_PER_DEVIATION = 6
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Looks(Declaration):
    """When a test has been looked at, and how that is paid for.

    - `group-sequential`: a part of alpha is spent at each look (Lan & DeMets 1983, like O'Brien & Fleming).
    - `fixed`: nothing was planned, and this is the one look.
    - `always-valid`: nothing was planned, and it was looked at before; or it is watched all the time.
    """

    method: Literal["fixed", "group-sequential", "always-valid"] = "fixed"
    fractions: tuple[float, ...] = Field(
        (1.0,), description="units at each look, this one last, over planned units"
    )
    final: bool = Field(True, description="whether all that is left of alpha is spent now")
    units: int = Field(0, description="units at this look")
    tuned_units: int = Field(10_000, description="where an always-valid interval is narrowest")

    def level(self, alpha: float, sides: Sides) -> float:
        """The p-value of `sides` sides below which a test counts at this look, `alpha` being for all looks."""
        if self.method == "fixed":
            return alpha
        if self.method == "always-valid":
            return sides * float(ndtr(-always_valid_z(self.units, alpha, self.tuned_units)))
        if self.fractions[-1] <= 0:
            return 0.0  # no unit's window is over: nothing can be called
        bounds = spending_bounds(self.fractions, alpha, sides, final=self.final)
        return sides * float(ndtr(-bounds[-1]))


def looks_at(planned: int | None, units: int, earlier: Sequence[float], *, over: bool) -> Looks:
    """The looks of a test that has `units` units now; `earlier` are the fractions (or, unplanned, the units) of looks before.

    `over` says that no more units will come: then all of alpha is spent, however few came.
    """
    if planned is None:
        again = any(before < units for before in earlier)
        method: Literal["always-valid", "fixed"] = "always-valid" if again else "fixed"
        return Looks(method=method, fractions=(*earlier, float(units)), units=units)
    now = units / planned
    before = tuple(sorted({f for f in earlier if 0 < f < now - SAME_LOOK}))
    return Looks(
        method="group-sequential", fractions=(*before, now), final=over or now >= 1, units=units, tuned_units=planned
    )  # fmt: skip


def spent(fraction: float, alpha: float) -> float:
    """One-sided alpha used up at a fraction of the information: 2 - 2Φ(z_{α/2} / √t) (Lan & DeMets 1983).

    >>> round(spent(0.5, 0.025), 5)
    0.00153
    """
    if fraction >= 1:
        return alpha
    return 2 * float(ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


def spending_bounds(
    fractions: Sequence[float], alpha: float, sides: Sides, *, final: bool = False
) -> tuple[float, ...]:
    """z-values that stop the test at each look, ascending `fractions` of the planned information.

    With `final` the last look spends what is left. Beyond the plan (a fraction above 1) alpha is spent out, and only the
    correlation of looks knows of the surplus (Lan & DeMets 1989).

    >>> [round(z, 3) for z in spending_bounds((0.2, 0.4, 0.6, 0.8, 1.0), 0.05, 2)]
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    if not fractions or fractions[0] <= 0 or any(b <= a for a, b in pairwise(fractions)):
        raise ValueError(f"looks are at ascending fractions above 0, not at {list(fractions)}.")
    cumulative = [spent(fraction, alpha / sides) for fraction in fractions]
    if final:
        cumulative[-1] = alpha / sides
    return _bounds(tuple(fractions), tuple(cumulative), sides)


@lru_cache(maxsize=4096)
def _bounds(information: tuple[float, ...], cumulative: tuple[float, ...], sides: Sides) -> tuple[float, ...]:
    """Armitage, McPherson & Rowe (1969): the density of the score among tests not stopped yet, look by look.

    The score is a Brownian motion in information. One-sided increments of `cumulative` are what leaves above the bound.
    """
    bounds: list[float] = []
    points, mass = np.zeros(1), np.ones(1)  # of the score, and of the tests that are there
    before = used = 0.0
    for place, (now, target) in enumerate(zip(information, cumulative, strict=True)):
        step = math.sqrt(now - before)
        z = _root(points, mass, step, math.sqrt(now), target - used)
        bounds.append(z)
        following = math.sqrt(information[place + 1] - now) if place + 1 < len(information) else step
        points, mass = _carried(points, mass, step, math.sqrt(now), z, sides, min(step, following))
        before, used = now, target
    return tuple(bounds)


def _root(points: Floats, mass: Floats, step: float, scale: float, increment: float) -> float:
    """The z-value above which `increment` of the mass leaves."""
    if increment <= 0:
        return math.inf

    def surplus(z: float) -> float:
        return float(mass @ ndtr((points - z * scale) / step)) - increment

    return (
        math.inf if surplus(38.0) > 0 else float(scipy.optimize.brentq(surplus, -_BEYOND, 38.0, xtol=1e-12))
    )


def _carried(
    points: Floats, mass: Floats, step: float, scale: float, z: float, sides: Sides, finest: float
) -> tuple[Floats, Floats]:
    """Where the tests that go on are after this look: Gauss-Legendre points in equal panels, and the mass at each."""
    high = scale * min(z, _BEYOND)
    low = -high if sides == 2 else -scale * _BEYOND
    panels = int(np.clip(_NODES_PER_DEVIATION * (high - low) / finest / len(_NODES), 4, 100))
    width = (high - low) / panels
    new = (low + width * (np.arange(panels)[:, None] + (_NODES + 1) / 2)).ravel()
    density = np.exp(-0.5 * ((new[:, None] - points[None, :]) / step) ** 2) @ mass
    return new, density * np.tile(_WEIGHTS, panels) * width / 2 / (step * math.sqrt(2 * math.pi))


def always_valid_z(units: int, alpha: float, tuned_units: int) -> float:
    """The z-value of an asymptotic confidence sequence, two-sided, after `units` units.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences" (2024), eq. 10, over the standard error: √((nρ² + 1)/(nρ²) · log((nρ² + 1)/α²)). ρ makes it narrowest at
    `tuned_units` (their appendix on optimising ρ): ρ² = (-W₋₁(-α²/e) - 1)/n*.

    >>> round(always_valid_z(10_000, 0.05, 10_000), 3)
    3.035
    """
    if units < 1:
        return math.inf
    rho2 = (-float(lambertw(-(alpha**2) / math.e, k=-1).real) - 1) / tuned_units
    ratio = units * rho2
    return math.sqrt((ratio + 1) / ratio * math.log((ratio + 1) / alpha**2))
