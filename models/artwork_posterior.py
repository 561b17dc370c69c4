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

_NUMBERS_AT_ONCE = 2e7  # of the x xᵀ in memory: 160 MB


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
) -> Belief:
    """Posterior mode by Newton's method, precision by adding Σ p(1 - p) x² (Chapelle & Li 2011, algorithm 3).

    The mode uses the whole Hessian; of the precision only the diagonal is kept. Images without impressions keep
    their belief bit for bit.
    """
    order = np.argsort(rows, kind="stable")
    seen, starts = np.unique(rows[order], return_index=True)
    mean, precision = belief.mean.copy(), belief.precision.copy()
    edges = np.append(starts, len(rows))
    at_once = _NUMBERS_AT_ONCE / design.shape[1] ** 2
    for first, last in _batches(edges, at_once):
        arms, mine = seen[first:last], order[edges[first] : edges[last]]
        arm = np.repeat(np.arange(last - first), np.diff(edges[first : last + 1]))
        batch = _Batch(arm, design[mine].astype(np.float64), play[mine].astype(np.float64), offset[mine])
        prior = Belief(belief.mean[arms], belief.precision[arms])
        mode = _mode(batch, prior, config)
        mean[arms] = mode
        precision[arms] = prior.precision + batch.curvature_diagonal(mode)
    return Belief(mean, precision)


def _batches(edges: NDArray[np.int64], rows_at_once: float) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of images with at most so many impressions together, or of one image."""
    first = 0
    while first < len(edges) - 1:
        last = int(np.searchsorted(edges, edges[first] + rows_at_once, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


@dataclass(frozen=True)
class _Batch:
    """Impressions of some images, sorted by image: `arm` (N,) numbers the images from 0 without gaps."""

    arm: NDArray[np.int64]
    design: Float64
    play: Float64
    offset: Float64

    def probability(self, theta: Float64) -> Float64:
        logit = self.offset + np.einsum("nd,nd->n", self.design, theta[self.arm])
        p: Float64 = expit(logit)
        return p

    def summed(self, values: Float64) -> Float64:
        """Rows of `values` added up by image."""
        starts = np.searchsorted(self.arm, np.arange(self.arm[-1] + 1))
        total: Float64 = np.add.reduceat(values, starts, axis=0)
        return total

    def curvature_diagonal(self, theta: Float64) -> Float64:
        """Σ p(1 - p) x² by image, (A, 1 + d)."""
        p = self.probability(theta)
        return self.summed((p * (1 - p))[:, None] * self.design**2)

    def curvature(self, theta: Float64) -> Float64:
        """Σ p(1 - p) x xᵀ by image, (A, 1 + d, 1 + d)."""
        p = self.probability(theta)
        weighted = (p * (1 - p))[:, None] * self.design
        return self.summed(weighted[:, :, None] * self.design[:, None, :])

    def loss(self, theta: Float64, prior: Belief) -> Float64:
        """Negative log posterior by image, up to a constant."""
        logit = self.offset + np.einsum("nd,nd->n", self.design, theta[self.arm])
        nats = self.summed(np.logaddexp(0, logit) - self.play * logit)
        penalty: Float64 = 0.5 * (prior.precision * (theta - prior.mean) ** 2).sum(axis=1)
        return nats + penalty


def _mode(batch: _Batch, prior: Belief, config: ArtworkConfig) -> Float64:
    """The posterior mode of each image (A, 1 + d): Newton's steps, halved where they overshoot."""
    theta = prior.mean.astype(np.float64)
    loss = batch.loss(theta, prior)
    for _ in range(config.newton_steps):
        error = batch.play - batch.probability(theta)
        slope = batch.summed(error[:, None] * batch.design) - prior.precision * (theta - prior.mean)
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
