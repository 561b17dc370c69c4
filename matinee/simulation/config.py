"""What a simulation is: how long, how often each thing happens, and what is tried in it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments.config import Experiment


class Trial(BaseModel):
    """An experiment that a simulation starts, looks at and ends by itself. Days count from the run's first, which is 0.

    At every look a breach stops it: nothing of it ships. It ships at its end, if its read-out says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment
    starts: int = Field(0, ge=0)
    ends: int = Field(14, ge=1)
    look_every: int = Field(7, ge=1, description="days; nominal error rates hold for few looks")

    def looks(self) -> frozenset[int]:
        """The days before whose first visit it is read out."""
        return frozenset((*range(self.starts + self.look_every, self.ends, self.look_every), self.ends))


class SimulationConfig(BaseModel):
    """Everything that decides a simulation, apart from the workspace it goes on in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(14, ge=1)
    page_size: int = Field(24, ge=1, le=200, description="titles on a page")
    refresh_every: int = Field(1, ge=1, le=7, description="days between two computations of the features")
    retrain_every: int = Field(
        7, ge=0, description="days between two trainings of retriever and ranker; 0 is never"
    )
    learn_artwork: bool = Field(True, description="whether the choice of images learns from each day")
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of members who are served by what was live when the run began"
    )
    transport: Literal["process", "http"] = Field(
        "process", description="pages from the core in this process, or from the served Bento over HTTP"
    )
    trials: tuple[Trial, ...] = ()
