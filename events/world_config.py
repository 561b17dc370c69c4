"""Settings of the built-in world, and the named random streams that make it repeatable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class WorldConfig(BaseModel):
    """Everything that decides the simulated world; equal settings give equal events, bit for bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(7, ge=0)
    n_members: int = Field(4000, ge=10)
    n_titles: int = Field(20_000, ge=200, description="real films first, topped up with simulated titles")
    start: AwareDatetime = datetime(2026, 1, 1, tzinfo=UTC)
    days: int = Field(35, ge=1)
    later_days: int = Field(
        0,
        ge=0,
        description="days after the history in which titles and members still arrive, for an audience to meet",
    )
    page_size: int = Field(24, ge=1, description="titles on a page of the history")
    sessions_per_day: float = Field(0.62, gt=0, description="mean, of a member with a running membership")
    late_share: float = Field(0.02, ge=0, le=1, description="sessions whose events reach us hours late")
    membership_days: int = Field(7, ge=1, description="length of a membership period; dates are staggered")

    @property
    def arriving_days(self) -> int:
        """Days from the start in which titles and members arrive."""
        return self.days + self.later_days

    @property
    def end(self) -> datetime:
        """The end of the history, exclusive."""
        return self.start + timedelta(days=self.days)

    @classmethod
    def tiny(cls, **changes: float | datetime) -> Self:
        """A world small enough for a unit test: 200 members, 600 titles, 14 days."""
        return cls.model_validate({"n_members": 200, "n_titles": 600, "days": 14, **changes})


def stream(config: WorldConfig, name: str, *index: int) -> np.random.Generator:
    """The random stream called `name`; streams do not disturb one another, so parts can change alone."""
    return np.random.default_rng([config.seed, *name.encode(), *index])


def micros(at: datetime) -> int:
    """Microseconds since the epoch: times are int64 inside the simulation."""
    return int(at.timestamp() * 1_000_000)


SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
