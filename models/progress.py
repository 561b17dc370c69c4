"""What training reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data came to."""

    number: int  # from 1
    of: int  # at most so many
    loss: float  # mean over steps, in nats
    metrics: dict[str, float]  # on the validation data
    resumed: bool = False  # it was done before; training goes on from a checkpoint after it


Progress = Callable[[Epoch], None]
