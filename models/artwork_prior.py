"""What is believed of an image before anyone saw it: one empirical-Bayes fit over all titles' logs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from scipy.special import expit

from models.artwork_data import ArtworkImages, ArtworkLog, Float64, Scale
from models.artwork_residuals import (
    Residuals,
    centred,
    effect_variance,
    residuals,
    summed,
    title_levels,
    within_variance,
)
from models.artwork_settings import ArtworkConfig
from models.creative_quality import CreativeQuality
from models.data import Float32, Int64


@dataclass(frozen=True)
class Prior:
    """θ_a ~ N([γ s_a, W z_a], diag[τ_q²(1 - ρ²), τ_r²]): an image's own appeal, then its response to each taste.

    `taste` is W (d, m) over standardised image features; `quality_sd` is τ_q·√(1 - ρ²), `taste_sd` is τ_r,
    `gain` is γ = ρ·τ_q, 0 where the score is not to be trusted.
    """

    images: Scale
    taste: Float64
    gain: float
    quality_sd: float
    taste_sd: float

    def mean(self, images: ArtworkImages, scores: Float64) -> Float32:
        """Prior means (A, 1 + d) of images with quality `scores` (A,). Appeal is relative to the title's images."""
        z = self.images.transform(images.features).astype(np.float64)
        appeal = self.gain * centred(scores, images, np.ones(len(images)))
        return np.concatenate([appeal[:, None], z @ self.taste.T], axis=1).astype(np.float32)

    def without_score(self) -> Prior:
        """The prior of images of which no score is known: the part that a score foretells is uncertain as well."""
        return replace(self, gain=0.0, quality_sd=float(np.hypot(self.gain, self.quality_sd)))

    @property
    def precision(self) -> Float64:
        """Prior precisions (1 + d,)."""
        tastes = np.full(len(self.taste), self.taste_sd**-2.0)
        return np.concatenate([[self.quality_sd**-2.0], tastes])


def fit_prior(
    images: ArtworkImages,
    log: ArtworkLog,
    x: Float32,  # (N, d) standardised context
    offset: Float64,  # (N,) b_t of each row
    quality: CreativeQuality | None,
    config: ArtworkConfig,
) -> Prior:
    """Taste weights by penalised likelihood, then variances by the method of moments on what is left.

    1. play ~ Bernoulli(σ(b_t + xᵀ W [1, z_a])), W ~ N(0, 1/ridge); then b_t again, W given
    2. τ_q² and τ_r² from the scores u of each image's effects: E[u²] = I + I²τ²
    3. γ = ρ τ_q where the quality score's validity is above zero with confidence, else 0
    """
    scale = Scale.of(images.features)
    z = scale.transform(images.features)
    taste = _fit_taste(z, images.rows(log.artwork_id), log.play, x, offset, config)
    explained = _levelled(images, log, offset, _taste_logit(taste, x, z, images.rows(log.artwork_id)), config)
    found = residuals(images, log, explained)
    quality_sd = _bounded(within_variance(found, images), config)
    validity = quality.validity if quality is not None and quality.validity.usable else None
    rho = 0.0 if validity is None else min(validity.rho, 0.95)
    return Prior(
        images=scale,
        taste=taste[:, 1:],
        gain=0.0 if validity is None else rho * validity.sd,
        quality_sd=max(config.least_sd, quality_sd * float(np.sqrt(1 - rho**2))),
        taste_sd=_bounded(_taste_variance(images, log, x, explained), config),
    )


def _levelled(
    images: ArtworkImages, log: ArtworkLog, offset: Float64, tastes: Float64, config: ArtworkConfig
) -> Float64:
    """Each row's logit (N,) with its title's level fitted to what `tastes` leave, or all variances come out too small."""
    rate = float(log.play.mean())
    title = images.title_rows[1][images.rows(log.artwork_id)]
    count = np.bincount(title, minlength=len(images.title_rows[0]))
    level = summed(title, offset, len(count)) / np.maximum(count, 1)
    precision = np.full(len(count), config.title_prior_impressions * rate * (1 - rate))
    levels = title_levels(title, tastes, log.play, np.ones(len(log)), level, precision)
    explained: Float64 = levels[title] + tastes
    return explained


def _bounded(variance: float, config: ArtworkConfig) -> float:
    return float(np.clip(np.sqrt(variance), config.least_sd, config.most_sd))


def _taste_variance(images: ArtworkImages, log: ArtworkLog, x: Float32, offset: Float64) -> float:
    """τ_r², shared by all tastes: the same moments, of scores weighted by each taste."""
    rows, n = images.rows(log.artwork_id), len(images)
    p = expit(offset)
    error, weight = log.play - p, p * (1 - p)
    scores = [summed(rows, error * column, n) for column in x.T]
    information = [summed(rows, weight * column**2, n) for column in x.T]
    return effect_variance(Residuals(np.concatenate(scores), np.concatenate(information))) if scores else 0.0


def _fit_taste(
    z: Float32, rows: Int64, play: Float32, x: Float32, offset: Float64, config: ArtworkConfig
) -> Float64:
    """W (d, 1 + m) by L-BFGS. Column 0 is what a taste does to any image; it never decides between two."""
    if len(play) > config.taste_rows:
        chosen = np.random.default_rng(config.seed).choice(len(play), config.taste_rows, replace=False)
        chosen.sort()
        rows, play, x, offset = rows[chosen], play[chosen], x[chosen], offset[chosen]
    shape = (x.shape[1], 1 + z.shape[1])
    if not x.shape[1]:
        return np.zeros(shape)
    shown = np.concatenate([np.ones((len(rows), 1), np.float32), z[rows]], axis=1)

    def loss(flat: Float64) -> tuple[float, Float64]:
        weights = flat.reshape(shape).astype(np.float32)
        logit = offset + np.einsum("nm,nm->n", x @ weights, shown)
        error = (expit(logit) - play).astype(np.float32)
        nats = float((np.logaddexp(0, logit) - play * logit).sum() + 0.5 * config.taste_ridge * (flat @ flat))
        slope = (x * error[:, None]).T @ shown
        gradient: Float64 = slope.astype(np.float64).ravel() + config.taste_ridge * flat
        return nats / len(play), gradient / len(play)

    found = scipy.optimize.minimize(
        loss,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 60, "ftol": 1e-9},
    )
    weights: Float64 = found.x.reshape(shape)
    return weights


def _taste_logit(taste: Float64, x: Float32, z: Float32, rows: Int64) -> Float64:
    """(N,) xᵀ W [1, z_a] of each row."""
    response = (z @ taste[:, 1:].T.astype(np.float32) + taste[:, 0].astype(np.float32))[rows]  # (N, d)
    logit: Float64 = np.einsum("nd,nd->n", x, response).astype(np.float64)
    return logit
