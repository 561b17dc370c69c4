"""How far propensities are from slow quadrature, beside Monte Carlo and Gauss-Hermite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import ndtr

from models.artwork_propensity import win_probabilities, with_floor

Floats = NDArray[np.float64]
FLOOR = 0.02


@dataclass(frozen=True)
class Errors:
    """Largest errors over all titles; `zeroed` is the share of cells that Monte Carlo says never win."""

    ours: float
    monte_carlo: float
    zeroed: float
    gauss_hermite: float
    sums: float
    below_floor: float
    titles: int


def errors(titles: int, seed: int = 0) -> Errors:
    """Titles of 2 to 10 images whose sds differ up to twentyfold, as a new image's and a proven one's do."""
    rng = np.random.default_rng(seed)
    worst, zeroed, cells = np.zeros(5), 0, 0
    for _ in range(titles):
        arms = int(rng.integers(2, 11))
        mean = rng.normal(0, rng.choice([0.02, 0.1, 0.3]), arms)
        sd = 0.3 * 20 ** -rng.uniform(0, 1, arms)
        exact, present = quadrature(mean, sd), np.ones((1, arms), dtype=np.bool_)
        ours = win_probabilities(mean[None], sd[None], present)
        draws = rng.normal(mean, sd, (1_000, arms)).argmax(axis=1)
        sampled = np.bincount(draws, minlength=arms) / 1_000
        p = with_floor(ours, present, FLOOR)
        found = [
            np.abs(ours[0] - exact).max(), np.abs(sampled - exact).max(), np.abs(gauss_hermite(mean, sd) - exact).max(),
            abs(p.sum() - 1), max(0.0, FLOOR - p.min()),
        ]  # fmt: skip
        worst = np.maximum(worst, found)
        zeroed, cells = zeroed + int((sampled == 0).sum()), cells + arms
    ours_, monte, hermite, sums, below = worst.tolist()
    return Errors(ours_, monte, zeroed / cells, hermite, sums, below, titles)


def quadrature(mean: Floats, sd: Floats) -> Floats:
    """P(arm k is the largest) by adaptive quadrature, one arm at a time."""

    def density(u: float, k: int) -> float:
        others = np.delete(ndtr((u - mean) / sd), k).prod()
        return float(np.exp(-0.5 * ((u - mean[k]) / sd[k]) ** 2) / (sd[k] * np.sqrt(2 * np.pi)) * others)

    found = []
    for k in range(len(mean)):
        ends = mean[k] - 10 * sd[k], mean[k] + 10 * sd[k]
        breaks = np.concatenate([mean - 4 * sd, mean, mean + 4 * sd])
        inside = breaks[(breaks > ends[0]) & (breaks < ends[1])]
        found.append(quad(density, *ends, args=(k,), points=inside, limit=400, epsabs=1e-10)[0])
    return np.array(found)


def gauss_hermite(mean: Floats, sd: Floats, nodes: int = 32) -> Floats:
    """Each arm's win probability by Gauss-Hermite quadrature over its own normal."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    u = mean[:, None] + sd[:, None] * z  # (K, nodes)
    below = ndtr((u[:, None, :] - mean[None, :, None]) / sd[None, :, None])
    below[np.arange(len(mean)), np.arange(len(mean))] = 1.0
    return np.asarray((below.prod(axis=1) * weight).sum(axis=1) / weight.sum())
