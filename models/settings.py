"""Everything that changes trained weights, apart from the data. Stored whole beside the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RetrievalConfig(BaseModel):
    """Settings of the two-tower retrieval model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimension: int = Field(64, ge=2, le=1024, description="length of user and title vectors")
    hidden: int = Field(128, ge=1, description="width of each tower's hidden layer")
    history: int = Field(50, ge=1, description="newest watched titles that the user tower reads")
    temperature: float = Field(0.1, gt=0, description="unit-norm products lie in ±1/temperature")
    cold_start: float = Field(
        0.2, ge=0, lt=1, description="share of titles whose id vector is hidden in a step, as for a new title"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of the towers' hidden layers")
    negatives: int = Field(
        0,
        ge=0,
        description="uniformly sampled negatives a batch; 0 asks the softmax over the whole catalogue",
    )
    users_per_batch: int = Field(256, ge=1, description="users of one period in a training step")
    learning_rate: float = Field(3e-3, gt=0, description="of Adam at its peak; follows a cosine to zero")
    weight_decay: float = Field(1e-5, ge=0, description="decoupled (AdamW)")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is clipped to this length")
    epochs: int = Field(6, ge=1, description="passes over the training periods at most")
    patience: int = Field(2, ge=1, description="epochs without a better validation recall before stopping")
    recall_at: int = Field(200, ge=1, description="k of the validation recall that decides when to stop")
    validation_users: int = Field(2_000, ge=1, description="users of the validation period that are scored")
    seed: int = Field(0, description="initial weights, the order of batches, sampled negatives, dropout")
