"""What a simulation is: how long, how often each thing happens, and what is tried in it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments.config import Experiment


class Trial(BaseModel):
    """An experiment that a simulation starts, watches daily and reads out at its end. Days count from the run's first, which is 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment
    starts: int = Field(0, ge=0)
    ends: int = Field(14, ge=1)


class SimulationConfig(BaseModel):
    """Everything that decides a simulation, apart from the workspace it goes on in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(14, ge=1)
    page_size: int = Field(24, ge=1, le=200, description="titles on a page")
    refresh_every: int = Field(1, ge=1, le=7, description="days between two computations of the features")
    retrain_every: int = Field(
        7,
        ge=0,
        description="days between two trainings of retriever and ranker, the run's last day excepted; 0 is never",
    )
    learn_artwork: bool = Field(True, description="whether the choice of images learns from each day")
    holdout: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of members who are held out, and as many who are in no experiment",
    )
    transport: Literal["process", "http"] = Field(
        "process", description="pages from the core in this process, or from the served Bento over HTTP"
    )
    trials: tuple[Trial, ...] = ()

    def retrains_after(self, number: int) -> bool:
        """Whether models are trained after day `number`; after the last one they would serve nobody of this run."""
        lived = number + 1
        return self.retrain_every > 0 and lived % self.retrain_every == 0 and lived < self.days
