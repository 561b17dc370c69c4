"""What is believed of each image after its impressions: a Laplace update per image, all images at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.artwork_data import Float64
from models.artwork_settings import ArtworkConfig
from models.data import Float32, Int64

_NUMBERS_AT_ONCE = 4_000_000  # of one batch's design: 32 MB


@dataclass(frozen=True)
class Belief:
    """Independent normals over θ_a = [own appeal, response to each taste]: mean and precision, each (A, 1 + d)."""

    mean: Float32
    precision: Float32


def updated(
    belief: Belief,
    rows: Int64,  # (N,) the image of each impression
    design: Float32,  # (N, 1 + d) [1, x]
    play: Float32,  # (N,)
    offset: Float64,  # (N,) b_t
    config: ArtworkConfig,
    weight: Float64 | None = None,  # (N,) how many equal impressions each row stands for; one each by default
) -> Belief:
    """Posterior mode by Newton's method, precision by adding Σ p(1 - p) x² (Chapelle & Li 2011, algorithm 3).

    The mode uses the whole Hessian; of the precision only the diagonal is kept. Images without impressions keep
    their belief bit for bit.
    """
    mean, precision = belief.mean.copy(), belief.precision.copy()
    times = np.ones(len(rows)) if weight is None else weight
    for arms, impressions, shown in _batches(rows, design.shape[1]):
        batch = _Batch(
            design=np.where(shown[:, :, None], design[impressions], np.float32(0)).astype(np.float64),
            play=play[impressions].astype(np.float64),
            offset=offset[impressions],
            times=np.where(shown, times[impressions], 0.0),
        )
        prior = Belief(belief.mean[arms], belief.precision[arms])
        mode = _mode(batch, prior, config)
        mean[arms] = mode
        precision[arms] = prior.precision + batch.curvature_diagonal(mode)
    return Belief(mean, precision)


def _batches(rows: Int64, width: int) -> Iterator[tuple[Int64, Int64, NDArray[np.bool_]]]:
    """Images of about as many impressions together: ids (B,), their impressions (B, n), which of those exist."""
    order = np.argsort(rows, kind="stable")
    images, start, count = np.unique(rows[order], return_index=True, return_counts=True)
    by_count = np.argsort(count, kind="stable")
    first = 0
    while first < len(images):
        # The last image of a batch has the most impressions, and the others are padded to it.
        sizes = np.arange(1, len(images) - first + 1) * count[by_count[first:]] * width
        last = first + max(1, int(np.searchsorted(sizes, _NUMBERS_AT_ONCE, side="right")))
        mine = by_count[first:last]
        place = np.arange(count[mine[-1]])
        shown = place < count[mine, None]
        yield images[mine], order[np.where(shown, start[mine, None] + place, 0)], shown
        first = last


@dataclass(frozen=True)
class _Batch:
    """Impressions of B images, padded: `design` (B, n, 1 + d), the others (B, n); `times` is 0 where there is none."""

    design: Float64
    play: Float64
    offset: Float64
    times: Float64

    def logit(self, theta: Float64) -> Float64:
        """b_t + θ_a·[1, x], (B, n)."""
        logit: Float64 = self.offset + (self.design @ theta[:, :, None])[:, :, 0]
        return logit

    def variance(self, theta: Float64) -> Float64:
        """Bernoulli variances p(1 - p), (B, n), times the impressions that have them."""
        p: Float64 = expit(self.logit(theta))
        return self.times * p * (1 - p)

    def slope(self, theta: Float64, prior: Belief) -> Float64:
        """Gradient of the log posterior, (B, 1 + d)."""
        error = self.times * (self.play - expit(self.logit(theta)))
        pull: Float64 = prior.precision * (theta - prior.mean)
        push: Float64 = (error[:, None, :] @ self.design)[:, 0, :]
        return push - pull

    def curvature(self, theta: Float64) -> Float64:
        """Σ p(1 - p) x xᵀ by image, (B, 1 + d, 1 + d)."""
        weighted = self.variance(theta)[:, :, None] * self.design
        curvature: Float64 = weighted.transpose(0, 2, 1) @ self.design
        return curvature

    def curvature_diagonal(self, theta: Float64) -> Float64:
        """Σ p(1 - p) x² by image, (B, 1 + d)."""
        diagonal: Float64 = (self.variance(theta)[:, None, :] @ self.design**2)[:, 0, :]
        return diagonal

    def loss(self, theta: Float64, prior: Belief) -> Float64:
        """Negative log posterior by image, up to a constant."""
        logit = self.logit(theta)
        nats: Float64 = (self.times * (np.logaddexp(0, logit) - self.play * logit)).sum(axis=1)
        penalty: Float64 = 0.5 * (prior.precision * (theta - prior.mean) ** 2).sum(axis=1)
        return nats + penalty


def _mode(batch: _Batch, prior: Belief, config: ArtworkConfig) -> Float64:
    """The posterior mode of each image (A, 1 + d): Newton's steps, halved where they overshoot."""
    theta = prior.mean.astype(np.float64)
    loss = batch.loss(theta, prior)
    for _ in range(config.newton_steps):
        slope = batch.slope(theta, prior)
        hessian = batch.curvature(theta)
        hessian[:, np.arange(theta.shape[1]), np.arange(theta.shape[1])] += prior.precision
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0].astype(np.float64)
        theta, loss = _descended(batch, prior, theta, step, loss)
        if np.abs(step).max() < config.tolerance:
            break
    return theta


def _descended(
    batch: _Batch, prior: Belief, theta: Float64, step: Float64, loss: Float64
) -> tuple[Float64, Float64]:
    """Each image's whole step, or the half, the quarter … of it that does not raise its loss."""
    length = np.ones(len(theta))
    for _ in range(10):
        candidate = theta + length[:, None] * step
        reached = batch.loss(candidate, prior)
        worse = reached > loss + 1e-12 * np.abs(loss)
        if not worse.any():
            return candidate, reached
        length[worse] *= 0.5
    kept = np.where(worse[:, None], theta, candidate)
    return kept, batch.loss(kept, prior)
