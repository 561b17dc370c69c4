"""Closed forms: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy.stats
from scipy.special import gammaln, logsumexp


def log_sample_ratio_e_value(
    counts: Sequence[int],  # (K,) units seen in each arm
    shares: Sequence[float],  # (K,) what the design gives each arm; they sum to 1
    concentration: float = 1_000,
) -> float:
    """Natural log of the evidence against the designed shares, in the multinomial test of Lindon & Malek (2022).

    The Bayes factor of p ~ Dirichlet(concentration · shares) against p = shares (their eq. 6). While the design
    holds, it exceeds 1/α at any time, however often one looks, with probability of at most α (Ville). The prior's
    concentration expects shares that are off by a point or two, at which both 2,000 and a million units can tell.

    >>> log_sample_ratio_e_value([0, 0], [0.5, 0.5])
    0.0
    """
    n = sum(counts)
    alternative = gammaln(concentration) - gammaln(concentration + n)
    null = 0.0
    for count, share in zip(counts, shares, strict=True):
        prior = concentration * share
        alternative += gammaln(prior + count) - gammaln(prior)
        null += count * math.log(share)
    return float(alternative - null)


def sample_ratio_p_value(counts: Sequence[int], shares: Sequence[float]) -> float | None:
    """Pearson's χ² test of counts against shares, valid for one look; None where nobody has been counted.

    >>> round(sample_ratio_p_value([5100, 4900], [0.5, 0.5]), 4)
    0.0455
    """
    n = sum(counts)
    if n == 0:
        return None
    return float(scipy.stats.chisquare(counts, [n * share for share in shares]).pvalue)


def log_mean_e_value(log_e_values: Sequence[float]) -> float:
    """Natural log of the mean of e-values: one e-value for "all of these tests are healthy", whatever their dependence.

    Vovk & Wang, "E-values: calibration, combination and applications" (2021).

    >>> log_mean_e_value([0.0, 0.0])
    0.0
    """
    return float(logsumexp(log_e_values) - math.log(len(log_e_values)))
