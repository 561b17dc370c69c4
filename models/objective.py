"""Several predictions of one title, weighed into the number it is ranked by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data import Float32


class NothingToRankBy(ValueError):
    """Every head that has a weight is absent from the model."""

    def __init__(self, weights: ObjectiveWeights, present: tuple[str, ...]) -> None:
        super().__init__(
            f"{weights!r} weighs none of the heads this model has: {', '.join(present)}. Give one a weight."
        )


class ObjectiveWeights(BaseModel):
    """What a page is ranked for. An experiment's arm may set each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    play: float = Field(1.0, ge=0, le=100, description="of the chance that the title is played")
    completion: float = Field(1.0, ge=0, le=100, description="of the share watched that showing it brings")
    retention: float = Field(0.5, ge=0, le=100, description="of the chance that the member stays")
    choice: float = Field(
        8.0, ge=0, le=100, description="of the chance that it is chosen over a typical candidate"
    )
    diversity: float = Field(
        0.1, ge=0, le=1, description="of variety against score in re-ranking; 0 keeps the order of scores"
    )
    diversity_window: int = Field(
        10,
        ge=2,
        le=1000,
        description="titles in a row that are to differ; of a longer page the ends may be alike",
    )
    diversity_genres: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of genres in how alike two titles are; the rest are the retriever's vectors",
    )


@dataclass(frozen=True)
class HeadScores:
    """Calibrated predictions of n titles for one user, each (n,) in 0..1; None where the model has no head.

    `play` is the chance of a play, were the title shown in the position the model serves at; `completion`
    the share watched if played; `retention` the chance that the member stays; `choice` the chance that the user,
    given it and a typical one of these candidates, would choose it.
    """

    play: Float32
    completion: Float32 | None = None
    retention: Float32 | None = None
    choice: Float32 | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that are present."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) is not None)


def objective_parts(scores: HeadScores, weights: ObjectiveWeights) -> dict[str, Float32]:
    """What each head that is present adds to `objective`, by name: they sum to it, title by title.

    Raises:
        NothingToRankBy: all heads with a weight above 0 are absent.
    """
    gains = {
        "play": scores.play,
        "completion": None if scores.completion is None else scores.play * scores.completion,
        "retention": scores.retention,
        "choice": scores.choice,
    }
    present = {head: gain for head, gain in gains.items() if gain is not None}
    total = sum(getattr(weights, head) for head in present)
    if total <= 0:
        raise NothingToRankBy(weights, tuple(present))
    return {head: (gain * np.float32(getattr(weights, head) / total)) for head, gain in present.items()}


def objective(scores: HeadScores, weights: ObjectiveWeights) -> Float32:
    """(w_p·P(play) + w_c·P(play)·E[share | play] + w_r·P(stays) + w_o·P(chosen)) / (w_p + w_c + w_r + w_o), in 0..1.

    Completion is predicted among plays, so it counts as often as the title is played. The weights of absent
    heads are left out of numerator and denominator alike.
    """
    total: Float32 = np.sum(list(objective_parts(scores, weights).values()), axis=0, dtype=np.float32)
    return total
