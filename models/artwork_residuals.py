"""What each image adds to its title's play rate, as score and information of one Newton step.

For an effect q on the logit, Σ(y - p) is the score at q = 0 and Σp(1 - p) its information; their ratio is the
one-step estimate. Sums like these are exact to merge and need no fit per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from models.artwork_data import ArtworkImages, ArtworkLog, Float64
from models.data import Float32, Int64, MalformedData

_LEVEL_STEPS = 6


@dataclass(frozen=True)
class Baseline:
    """b_t: the logit of each title's play rate, shrunk towards that of all; `titles` (T,) ascending."""

    titles: Int64
    logits: Float64
    overall: float

    def of(self, title_rows: Int64) -> Float64:
        """The logits of titles by row; row -1 is a title without a history."""
        return np.where(title_rows < 0, self.overall, self.logits[title_rows])

    def knowing(self, title_ids: Int64) -> Baseline:
        """The same with titles it had not heard of, at the level of all."""
        new = np.setdiff1d(title_ids, self.titles)
        titles, logits = (
            np.concatenate([self.titles, new]),
            np.concatenate([self.logits, np.full(len(new), self.overall)]),
        )
        order = np.argsort(titles, kind="stable")
        return Baseline(titles[order], logits[order], self.overall)


@dataclass(frozen=True)
class Residuals:
    """Per image (A,): the score Σ(y - p) and the information Σp(1 - p) of its own effect."""

    score: Float64
    information: Float64


def baseline(images: ArtworkImages, log: ArtworkLog, prior_impressions: float) -> Baseline:
    """Each title's play rate with `prior_impressions` of an average title added.

    Raises:
        MalformedData: nothing was played, or everything: no rate has a logit then.
    """
    overall = float(log.play.mean()) if len(log) else 0.0
    if not 0 < overall < 1:
        raise MalformedData(f"{len(log)} impressions with a play rate of {overall:g}: nothing can be learnt.")
    titles, title_row = images.title_rows
    rows = title_row[images.rows(log.artwork_id)]
    shown = np.bincount(rows, minlength=len(titles))
    played = np.bincount(rows, weights=log.play, minlength=len(titles))
    rate = (played + prior_impressions * overall) / (shown + prior_impressions)
    return Baseline(titles, logit(rate), float(logit(overall)))


def title_levels(
    title: Int64,  # (N,) row of each impression's title
    adds: Float64,  # (N,) logit that is added to the title's level
    play: Float32,  # (N,)
    weight: Float64,  # (N,) how many equal impressions each row stands for
    level: Float64,  # (T,) what is thought of b_t
    precision: Float64,  # (T,) and how firmly
) -> Float64:
    """The posterior mode (T,) of each title's level where everything else is given: damped Newton steps in one number.

    Averages do not do: rates are convex in what is added, so a mean play rate is not the rate at the mean.
    """
    step = np.zeros(len(level))
    for _ in range(_LEVEL_STEPS):
        p = expit(adds + (level + step)[title])
        slope = summed(title, weight * (play - p), len(level)) - precision * step
        curvature = summed(title, weight * p * (1 - p), len(level)) + precision
        step += np.clip(slope / curvature, -1, 1)
    levels: Float64 = level + step
    return levels


def residuals(images: ArtworkImages, log: ArtworkLog, offset: Float64) -> Residuals:
    """Score and information of each image, given each row's logit without it, `offset` (N,)."""
    rows = images.rows(log.artwork_id)
    p: Float64 = expit(offset)
    return Residuals(summed(rows, log.play - p, len(images)), summed(rows, p * (1 - p), len(images)))


def summed(rows: Int64, values: Float64, size: int) -> Float64:
    """`values` (N,) added up by row, (size,)."""
    return np.bincount(rows, values, size).astype(np.float64)


def title_shares(found: Residuals, images: ArtworkImages) -> Float64:
    """Each image's share of its title's information, I/ΣI; 1 where a title has none."""
    titles, row = images.title_rows
    total = summed(row, found.information, len(titles))[row]
    return np.divide(found.information, total, out=np.ones_like(total), where=total > 0)


def within_variance(found: Residuals, images: ArtworkImages) -> float:
    """τ² of effects once each title's mean is taken out: with w = I/ΣI, E[(u - wΣu)²] = I(1 - w) + I²(1 - w) τ²."""
    titles, row = images.title_rows
    share = title_shares(found, images)
    score = found.score - share * summed(row, found.score, len(titles))[row]
    left = found.information * (1 - share)
    total = float((found.information * left).sum())
    return max(0.0, float((score**2 - left).sum()) / total) if total > 0 else 0.0


def centred(values: Float64, images: ArtworkImages, weights: Float64) -> Float64:
    """`values` (A, …) minus their weighted mean within the title; 0 where a title has no weight at all."""
    titles, row = images.title_rows
    flat = values.reshape(len(values), -1)
    weight = np.bincount(row, weights=weights, minlength=len(titles))
    mean = (
        np.stack(
            [np.bincount(row, weights=weights * column, minlength=len(titles)) for column in flat.T], axis=1
        )
        / np.where(weight > 0, weight, 1.0)[:, None]
    )
    within: Float64 = np.where((weight > 0)[row, None], flat - mean[row], 0.0).reshape(values.shape)
    return within


def effect_variance(found: Residuals) -> float:
    """Method of moments for the variance τ² of effects: E[u²] = I + I²τ², pooled; 0 where noise explains all."""
    total = float((found.information**2).sum())
    return max(0.0, float((found.score**2 - found.information).sum()) / total) if total > 0 else 0.0
