"""What a policy would have earned, estimated from what another one showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats

from models.artwork import ArtworkPolicy, Bools, PolicyName
from models.artwork_data import ArtworkImages, ArtworkLog, Float64
from models.data import Float32, Int64

_ROWS_AT_ONCE = 2_000


class TooLittleOverlap(ValueError):
    """The log shows too seldom what the policy would have shown: any estimate would rest on a handful of rows."""

    def __init__(self, effective: float, least: float, rows: int) -> None:
        super().__init__(
            f"effective sample size {effective:,.0f} of {rows:,} rows, at least {least:,.0f} are needed: "
            "log more, or evaluate a policy closer to the one that logged."
        )


@dataclass(frozen=True)
class PolicyValue:
    """Expected reward per impression. `low` and `high` bound `snips` at the given confidence."""

    ips: float
    snips: float
    low: float
    high: float
    effective_sample_size: float
    rows: int


@dataclass(frozen=True)
class PolicyLift:
    """A policy against uniform choice on the same rows; `lift` is relative, from the SNIPS values."""

    policy: PolicyValue
    uniform: PolicyValue
    lift: float
    low: float
    high: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """The figures that a model version is recorded with."""
        return {
            "snips": self.policy.snips,
            "snips_uniform": self.uniform.snips,
            "snips_lift": self.lift,
            "snips_lift_low": self.low,
            "snips_lift_high": self.high,
            "effective_sample_size": self.policy.effective_sample_size,
        }


def policy_value(
    target: Float64,  # (N,) probability of the logged action under the policy in question
    logged: Float64,  # (N,) probability with which it was logged, above 0
    reward: Float64 | Float32,  # (N,)
    confidence: float = 0.95,
    least_effective: float = 200,
) -> PolicyValue:
    """Inverse propensity scores (Horvitz & Thompson 1952) and their self-normalised form (Swaminathan & Joachims 2015).

    w = target/logged; IPS = mean(w r); SNIPS = Σ w r / Σ w, with the interval of a ratio of means (delta method).

    Raises:
        TooLittleOverlap: (Σ w)² / Σ w² is below `least_effective`.
    """
    weight = target / logged
    total = float(weight.sum())
    effective = total**2 / float((weight**2).sum()) if total > 0 else 0.0
    if effective < least_effective:
        raise TooLittleOverlap(effective, least_effective, len(weight))
    snips = float(weight @ reward) / total
    margin = _quantile(confidence) * float(np.sqrt(((weight * (reward - snips)) ** 2).sum())) / total
    return PolicyValue(
        ips=float((weight * reward).mean()),
        snips=snips,
        low=snips - margin,
        high=snips + margin,
        effective_sample_size=effective,
        rows=len(weight),
    )


def evaluate_artwork(
    policy: ArtworkPolicy,
    images: ArtworkImages,
    log: ArtworkLog,
    name: PolicyName = "thompson",
    confidence: float = 0.95,
    least_effective: float = 200,
) -> PolicyLift:
    """`policy` against uniform choice on a log it was not trained on; each title offers all its `images`.

    Raises:
        TooLittleOverlap: as `policy_value`.
        UnknownArtwork: the log shows an image that is not in `images`.
    """
    ids, present, logged_place = _choices(images, log)
    target = np.empty(len(log))
    for first in range(0, len(log), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        p = policy.probabilities(log.context[part], ids[part], present[part], name)
        target[part] = p[np.arange(len(p)), logged_place[part]]
    uniform = 1.0 / present.sum(axis=1)
    reward = log.play.astype(np.float64)
    ours = policy_value(target, log.propensity, reward, confidence, least_effective)
    theirs = policy_value(uniform, log.propensity, reward, confidence, least_effective)
    return _lift(ours, theirs, target / log.propensity, uniform / log.propensity, reward, confidence)


def _lift(
    ours: PolicyValue,
    theirs: PolicyValue,
    our_weight: Float64,
    their_weight: Float64,
    reward: Float64,
    confidence: float,
) -> PolicyLift:
    """The ratio of two SNIPS values; both come from the same rows, so their errors are taken together."""
    if theirs.snips <= 0:
        raise ValueError("uniform choice earned nothing on this log: no relative lift exists.")
    ratio = ours.snips / theirs.snips
    influence = our_weight * (reward - ours.snips) / our_weight.sum()
    influence -= ratio * their_weight * (reward - theirs.snips) / their_weight.sum()
    margin = _quantile(confidence) * float(np.sqrt((influence**2).sum())) / theirs.snips
    return PolicyLift(ours, theirs, ratio - 1, ratio - 1 - margin, ratio - 1 + margin)


def _choices(images: ArtworkImages, log: ArtworkLog) -> tuple[Int64, Bools, Int64]:
    """Each row's images (N, K), which exist, and the place of the one that was shown."""
    titles, title_row = images.title_rows
    by_title = np.argsort(title_row, kind="stable")
    count = np.bincount(title_row, minlength=len(titles))
    start = np.cumsum(count) - count
    rank = np.empty(len(images), dtype=np.int64)  # the place of an image among its title's
    rank[by_title] = np.arange(len(images)) - np.repeat(start, count)
    shown = images.rows(log.artwork_id)
    title = title_row[shown]
    place = np.arange(count[title].max(initial=1))
    present = place < count[title, None]
    rows = by_title[np.where(present, start[title, None] + place, 0)]
    return np.where(present, images.artwork_id[rows], -1), present, rank[shown]


def _quantile(confidence: float) -> float:
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))
