"""Everything that changes the artwork and creative-quality models, apart from the data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CreativeQualityConfig(BaseModel):
    """Settings of the creative-quality model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(5, ge=2, description="groups of titles, each scored by a model that never saw it")
    ridges: tuple[float, ...] = Field(
        (1.0, 10.0, 100.0, 1000.0), min_length=1, description="precisions of a weight's prior, best one kept"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided, of the validity's lower bound")


class ArtworkConfig(BaseModel):
    """Settings of the artwork bandit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temper: float = Field(0.5, gt=0, le=1, description="factor on the posterior's standard deviation")
    floor: float = Field(0.02, gt=0, le=0.5, description="least probability of every image, additive")
    title_prior_impressions: float = Field(
        20.0,
        gt=0,
        description="impressions of an average title that are worth what is known of a new title's level",
    )
    taste_ridge: float = Field(
        50.0, gt=0, description="precision of each image feature × taste weight's prior"
    )
    taste_rows: int = Field(400_000, ge=1, description="rows the taste weights are fitted on, at most")
    least_sd: float = Field(0.03, gt=0, description="least prior sd of an image's own effects, in logits")
    most_sd: float = Field(1.0, gt=0, description="largest prior sd of an image's own effects, in logits")
    newton_steps: int = Field(8, ge=1, description="at most, in the update of an image's posterior")
    tolerance: float = Field(1e-4, gt=0, description="largest step, in logits, that counts as converged")
    level_rounds: int = Field(
        10, ge=1, description="at most, of moving a title's level and its images in turn"
    )
    level_tolerance: float = Field(
        1e-2, gt=0, description="largest move of a title's level, in logits, that counts as converged"
    )
    seed: int = Field(0, description="which rows the taste weights are fitted on")
