"""How appealing an image is, from what it shows: a prior for images nobody has seen yet, with its own validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from models import artifact
from models.artifact import Artifact
from models.artwork_data import ArtworkImages, ArtworkLog, Float64, Scale
from models.artwork_residuals import Residuals, baseline, centred, residuals, title_shares, within_variance
from models.artwork_settings import CreativeQualityConfig
from models.data import Float32, MalformedData
from models.signature import Signature

KIND = "creative_quality"
_TITLE_PRIOR = 20.0


@dataclass(frozen=True)
class Validity:
    """How well scores of held-out titles agree with what their images really add to the play rate.

    `rho` is the correlation with the true effects, corrected for their noise; `low` its one-sided lower confidence
    bound. `sd` (τ_q) is the standard deviation of true effects, in logits.
    """

    rho: float
    low: float
    sd: float
    titles: int

    @property
    def usable(self) -> bool:
        """Whether the score may inform a prior: an over-confident one costs more than none."""
        return self.low > 0


@dataclass(frozen=True)
class CreativeQuality:
    """Scores images by a weighted sum of their standardised features; their standard deviation is about 1."""

    scale: Scale
    weights: Float64  # (m,)
    validity: Validity
    signature: Signature
    config: CreativeQualityConfig = CreativeQualityConfig()  # noqa: RUF009  (a frozen value)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def score(self, features: Float32) -> Float64:
        """The appeal (A,) of images with `features` (A, m), null is NaN."""
        appeal: Float64 = self.scale.transform(features).astype(np.float64) @ self.weights
        return appeal

    def save(self, folder: Path) -> str:
        """Write the model as a new folder; returns the folder's digest."""
        arrays = {"mean": self.scale.mean, "sd": self.scale.sd, "weights": self.weights}
        documents = {
            "config": self.config.model_dump(mode="json"),
            "signature": self.signature.to_json(),
            "validity": {k: getattr(self.validity, k) for k in self.validity.__dataclass_fields__},
            "metrics": dict(self.metrics),
        }
        return artifact.save(Artifact(KIND, {"weights": arrays}, documents), folder)

    @classmethod
    def load(cls, folder: Path) -> CreativeQuality:
        """Read a saved model, every byte checked."""
        found = artifact.load(folder, KIND)
        arrays, documents = found.arrays["weights"], found.documents
        return cls(
            scale=Scale(arrays["mean"], arrays["sd"]),
            weights=arrays["weights"],
            validity=Validity(**documents["validity"]),
            signature=Signature.from_json(documents["signature"]),
            config=CreativeQualityConfig.model_validate(documents["config"]),
            metrics=documents["metrics"],
        )


def train_creative_quality(
    images: ArtworkImages,
    log: ArtworkLog,
    signature: Signature,
    config: CreativeQualityConfig = CreativeQualityConfig(),  # noqa: B008  (a frozen value)
) -> CreativeQuality:
    """Ridge regression of what images add to their title's play rate on what they show.

    1. one-step effect of each image               û_a = Σ(y - p) / Σp(1 - p),  information I_a
    2. compare images of one title only            z̃_a = z_a - mean of the title, weighted by I
    3. ridge, weighted by information              β = (Σ I z̃z̃ᵀ + λ)⁻¹ Σ z̃ u
    4. score every title with a model that never saw it; keep the λ whose scores explain most
    5. validity from those scores                  γ = Σ s̃u / Σ s̃²I,  ρ = γ · sd(s̃) / τ_q
    """
    log = log.canonical()
    titles = baseline(images, log, _TITLE_PRIOR)
    _, title_row = images.title_rows
    found = residuals(images, log, titles.of(title_row[images.rows(log.artwork_id)]))
    scale = Scale.of(images.features)
    z = centred(scale.transform(images.features).astype(np.float64), images, found.information)
    fold = title_row % config.folds
    held_out = {ridge: _held_out_scores(z, found, fold, ridge) for ridge in config.ridges}
    gains = {ridge: _gain(scores, found) for ridge, scores in held_out.items()}
    ridge = max(gains, key=lambda r: gains[r])
    validity = _validity(held_out[ridge], found, images, config.confidence)
    weights = _ridge(z, found, np.ones(len(z), dtype=bool), ridge)
    spread = _sd(z @ weights, found, images)
    if not spread > 0:
        raise MalformedData("no image differs from the others of its title: there is nothing to score.")
    metrics = {
        "validity": validity.rho,
        "validity_low": validity.low,
        "effect_sd": validity.sd,
        "ridge": ridge,
        "held_out_gain_nats": gains[ridge],
    }
    return CreativeQuality(scale, weights / spread, validity, signature, config, metrics)


def _ridge(z: Float64, found: Residuals, rows: NDArray[np.bool_], ridge: float) -> Float64:
    used, information = z[rows], found.information[rows]
    gram = (used * information[:, None]).T @ used + ridge * np.eye(z.shape[1])
    return np.linalg.solve(gram, used.T @ found.score[rows]).astype(np.float64)


def _held_out_scores(z: Float64, found: Residuals, fold: NDArray[np.int64], ridge: float) -> Float64:
    scores = np.zeros(len(z))
    for held in range(int(fold.max()) + 1):
        scores[fold == held] = z[fold == held] @ _ridge(z, found, fold != held, ridge)
    return scores


def _gain(scores: Float64, found: Residuals) -> float:
    """Log-likelihood, in nats to second order, that `scores` add when taken at face value."""
    return float(scores @ found.score - 0.5 * (scores**2 @ found.information))


def _sd(scores: Float64, found: Residuals, images: ArtworkImages) -> float:
    """Standard deviation over images that were shown; centring on the title took a share of each one's variance."""
    free = float((1 - title_shares(found, images)).sum())
    return float(np.sqrt((scores[found.information > 0] ** 2).sum() / free)) if free > 0 else 0.0


def _validity(scores: Float64, found: Residuals, images: ArtworkImages, confidence: float) -> Validity:
    """γ by one Newton step, with a standard error that lets a title's images be alike (clustered by title)."""
    titles, row = images.title_rows
    fisher = float(scores**2 @ found.information)
    variance = within_variance(found, images)
    if fisher <= 0 or variance <= 0:
        return Validity(0.0, 0.0, float(np.sqrt(variance)), len(titles))
    slope = float(scores @ found.score) / fisher
    errors = np.bincount(row, weights=scores * (found.score - slope * scores * found.information))
    standard_error = float(np.sqrt((errors**2).sum())) / fisher
    quantile = float(scipy.stats.norm.ppf(confidence))
    to_rho = _sd(scores, found, images) / np.sqrt(variance)
    rho, low = slope * to_rho, (slope - quantile * standard_error) * to_rho
    return Validity(
        rho=float(np.clip(rho, -1, 1)),
        low=float(np.clip(low, -1, 1)),
        sd=float(np.sqrt(variance)),
        titles=int((np.bincount(row, weights=found.information) > 0).sum()),
    )
