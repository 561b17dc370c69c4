"""Everything that changes trained weights, apart from the data. Stored whole beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RetrievalConfig(BaseModel):
    """Settings of the two-tower retrieval model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimension: int = Field(32, ge=2, le=1024, description="length of taste and title vectors")
    hidden: int = Field(128, ge=1, description="width of each tower's hidden layer")
    history: int = Field(50, ge=1, description="newest watched titles that the user tower reads")
    coplays: int = Field(96, ge=1, le=512, description="directions kept of which titles are played together")
    coplay_ridge: float = Field(
        500.0, gt=0, description="λ of EASE: plays it takes for two titles to be alike"
    )
    coplay_titles: int = Field(6_000, ge=2, description="most played titles among which co-plays are counted")
    coplay_boosts: tuple[float, ...] = Field(
        (1.0, 1.5, 2.0, 3.0, 4.5),
        min_length=1,
        description="what the learnt weight of co-plays is multiplied with: the first that validation recall likes best",
    )
    blocks: int = Field(1, ge=0, le=8, description="self-attention blocks over the watched titles")
    heads: int = Field(2, ge=1, le=16, description="of each self-attention block; they divide `dimension`")
    channels: int = Field(4, ge=1, le=64, description="ways in which a title can be popular, weighed by user")
    sequence_weight: float = Field(
        0.5, ge=0, description="of the loss that asks of each watched title which one was watched next"
    )
    sequence_places: int = Field(512, ge=1, description="places in histories asked about in a training step")
    temperature: float = Field(0.1, gt=0, description="title vectors have length 1/temperature in a score")
    cold_start: float = Field(
        0.2, ge=0, lt=1, description="share of titles whose id vector is hidden in a step, as for a new title"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of the towers' hidden layers")
    tails: float = Field(
        0.0, ge=0, lt=0.5, description="share of rows at either end of a feature that do not set its scale"
    )
    evenness: float = Field(
        1.0,
        ge=0,
        le=1,
        description="a play counts 1 / plays of its user to this power: 0 counts plays alike, 1 users",
    )
    negatives: int = Field(
        0,
        ge=0,
        description="uniformly sampled negatives a batch; 0 asks the softmax over the whole catalogue",
    )
    users_per_batch: int = Field(256, ge=1, description="users of one period in a training step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam at its peak; follows a cosine to zero")
    weight_decay: float = Field(1e-5, ge=0, description="decoupled (AdamW)")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is clipped to this length")
    epochs: int = Field(8, ge=1, description="passes over the training periods at most")
    patience: int = Field(2, ge=1, description="epochs without a better validation recall before stopping")
    recall_at: int = Field(200, ge=1, description="k of the validation recall that decides when to stop")
    averaging: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="share that the average of the weights keeps at each step; 0 takes no average",
    )
    refit: bool = Field(
        False,
        description="learn anew from the validation period too, for as many epochs as were best; then no period is left "
        "on which a ranker could learn how far to trust the retriever (docs/decisions/0030)",
    )
    validation_users: int = Field(2_000, ge=1, description="users of the validation period that are scored")
    seed: int = Field(0, description="initial weights, the order of batches, sampled negatives, dropout")


class RankerConfig(BaseModel):
    """Settings of the ranking model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["separate", "shared_bottom", "mmoe", "ple"] = Field(
        "separate",
        description="a body for each head, one for all (Caruana 1997), experts mixed per head (Ma et al. 2018), or some of "
        "them a head's own (Tang et al. 2020)",
    )
    experts: int = Field(
        2,
        ge=1,
        le=64,
        description="of mmoe and ple: that all heads read; shared_bottom has one as wide as all of them",
    )
    own_experts: int = Field(1, ge=1, le=16, description="of ple: experts that each head has for itself")
    levels: int = Field(1, ge=1, le=3, description="of ple: extraction layers; the first reads the features")
    hidden: int = Field(96, ge=1, description="width of an expert's first layer")
    output: int = Field(32, ge=1, description="width of what an expert hands to the heads")
    tower: int = Field(32, ge=1, description="width of a head's hidden layer")
    dropout: float = Field(0.2, ge=0, lt=1, description="of the experts' hidden layers")
    tails: float = Field(
        0.25, ge=0, lt=0.5, description="share of rows at either end of a feature that do not set its scale"
    )
    clip: float = Field(
        10.0, gt=0, description="how many of its deviations from its mean a feature is cut at"
    )
    pieces: int = Field(
        8, ge=2, le=64, description="straight pieces that a feature along which an outcome bends is read in"
    )
    bent: int = Field(
        60,
        ge=0,
        description="features so read for each outcome at most, those along which it bends most; where there are shadows, of "
        "these those whose pieces say more",
    )
    least_bend: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of its variance that an outcome bends by along a feature so read",
    )
    shadow_weight: float = Field(
        8.0,
        ge=0,
        description="of `separate` bodies: how much less a head heeds features that say no more than shadows do, the same "
        "features of another user; 0 heeds all alike, and trains once instead of twice",
    )
    positions: int = Field(64, ge=1, description="positions told apart; those further down count as the last")
    examination_learning_rate: float = Field(
        0.05,
        gt=0,
        description="of what each position adds to the logits of play and completion: few weights with far to go",
    )
    serving_position: int = Field(0, ge=0, description="the position a title is scored for when serving")
    play_weight: float = Field(1.0, gt=0, description="of the play head's loss")
    completion_weight: float = Field(1.0, gt=0, description="of the completion head's loss")
    retention_weight: float = Field(1.0, gt=0, description="of the retention head's loss")
    choice_weight: float = Field(
        0.1, gt=0, description="of the loss of choosing among candidates, which is some ten times the others'"
    )
    max_rows: int = Field(200_000, ge=1, description="training rows at most; more are sampled uniformly")
    rows_per_batch: int = Field(1024, ge=1, description="rows in a training step")
    learning_rate: float = Field(3e-3, gt=0, description="of Adam at its peak; follows a cosine to zero")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled (AdamW)")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is clipped to this length")
    epochs: int = Field(3, ge=1, description="passes over the training rows at most")
    patience: int = Field(1, ge=1, description="epochs without a better validation score before stopping")
    seed: int = Field(0, description="initial weights, sampled rows, the order of batches, dropout")

    @classmethod
    def recorded(cls, document: Mapping[str, Any]) -> RankerConfig:
        """The settings that a version was trained with, as it recorded them; those it does not name came after it and are off.

        >>> RankerConfig.recorded({"hidden": 64}).shadow_weight
        0.0
        """
        known = {name: value for name, value in document.items() if (name, value) not in _LEFT}
        return cls.model_validate({**_CAME_AFTER, **known})


_CAME_AFTER = {"tails": 0.0, "bent": 0, "shadow_weight": 0.0}
"""Settings of rankers by which a version that does not name them was not trained."""
_LEFT = {("halvings", 0)}
"""Settings that rankers had, where they were off."""
