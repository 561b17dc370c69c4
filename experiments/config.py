"""What an experiment is: parameters that belong to layers, arms that set them, metrics that decide."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from experiments.definitions import DefinedMetric, Guardrail, Metric, Metrics
from experiments.values import BUCKETS, JSON, Column, Declaration, Moment, Name, Text

__all__ = [
    "BUCKETS",
    "EVERYONE",
    "HELD_OUT",
    "JSON",
    "WINNERS_ONLY",
    "Arm",
    "Declaration",
    "Experiment",
    "ExperimentBook",
    "Guardrail",
    "Holdout",
    "Layer",
    "Located",
    "Metric",
    "Metrics",
    "Parameter",
    "Problem",
]

REFERENCE = re.compile(r"[A-Za-z0-9_.-]+(/[1-9][0-9]*|@[A-Za-z0-9_.-]+)")
"""A model version by number or by alias."""


def _after_start(end: datetime, info: ValidationInfo) -> datetime:
    if "start" in info.data and info.data["start"] >= end:
        raise ValueError(f"it ends at {end:%Y-%m-%d %H:%M}, not after its start.")
    return end


End = Annotated[Moment, AfterValidator(_after_start)]
"""A moment after the field `start`, which stands before it."""


class Layer(Declaration):
    """Parameters that are changed together: a unit is in at most one experiment of a layer."""

    name: Name
    description: Text


class Parameter(Declaration):
    """Something an arm may set. It belongs to one layer, so no two experiments ever set it for one unit."""

    name: Name
    layer: Name
    kind: Literal["model", "number", "whole", "choice"]
    default: str | float
    bounds: tuple[float, float] | None = Field(
        None, description="of a number, whole or not, both ends included"
    )
    choices: tuple[str, ...] = Field((), description="of a choice")
    description: Text

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.kind in {"number", "whole"} and self.bounds is None:
            raise ValueError(f"parameter {self.name!r} is a number: give it bounds.")
        if (objection := self.objection(self.default)) is not None:
            raise ValueError(f"the default of {objection}")
        return self

    def objection(self, value: JSON) -> str | None:
        """Why `value` cannot be this parameter's; None when it can."""
        if self.kind == "model":
            return self._not_a_reference(value)
        if self.kind in {"number", "whole"}:
            return self._not_within(value)
        known = ", ".join(self.choices)
        return None if value in self.choices else f"{self.name} is {value!r}; it may be one of: {known}."

    def _not_a_reference(self, value: JSON) -> str | None:
        if isinstance(value, str) and REFERENCE.fullmatch(value):
            return None
        return f"{self.name} is {value!r}; write a model version, such as 'ranker/7' or 'ranker@champion'."

    def _not_within(self, value: JSON) -> str | None:
        low, high = self.bounds or (-math.inf, math.inf)
        number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        whole = self.kind == "whole"
        if not number or (whole and value % 1):
            return f"{self.name} is {value!r}; it is a {'whole ' if whole else ''}number from {low:g} to {high:g}."
        return None


class Arm(Declaration):
    """One of the things compared: its share of the experiment's units, and what it sets."""

    share: float = Field(gt=0, lt=1)
    parameters: Mapping[str, JSON] = {}


class Experiment(Declaration):
    """One declared experiment.

    `slot` is the part of its layer that is reserved for it; `rollout` is the share of units in the slot
    that take part, and may only grow. Raising it moves nobody who is in already.
    """

    name: Name
    layer: Name
    unit: Literal["user_id"] = "user_id"
    hypothesis: Text
    owner: Text
    arms: Mapping[Name, Arm] = Field(min_length=2)
    control: Name = Field("control", validate_default=True)
    slot: tuple[float, float] = (0.0, 1.0)
    rollout: float = Field(1.0, gt=0, le=1)
    targeting: Mapping[str, tuple[JSON, ...]] = Field({}, description="attribute → values that take part")
    salt: str = Field("", description="of the hash; the name where empty")
    metrics: Metrics
    planned_units: int | None = Field(
        None,
        gt=0,
        description="units over all arms at which the test is complete; looks before it spend a part of alpha",
    )
    effect: float | None = Field(
        None, gt=0, description="smallest relative change of the primary worth finding, 0.02 for 2 %"
    )
    power: float = Field(
        0.8,
        gt=0,
        lt=0.99,
        description="of the decision, guardrails included, where the effect is there",
    )
    looks: int = Field(4, ge=1, le=100, description="how often it is planned to be read out")
    segments: tuple[Column, ...] = Field(
        (), description="attributes of users by which the primary is also read"
    )
    start: Moment
    end: End

    @field_validator("arms")
    @classmethod
    def _shares_sum_to_one(cls, arms: Mapping[str, Arm]) -> Mapping[str, Arm]:
        total = sum(arm.share for arm in arms.values())
        if not math.isclose(total, 1, abs_tol=1e-9):
            shares = ", ".join(f"{name} {arm.share:g}" for name, arm in arms.items())
            raise ValueError(f"shares sum to {total:g}, not to 1: {shares}.")
        if tiny := [name for name, arm in arms.items() if arm.share * BUCKETS < 1]:
            raise ValueError(f"the share of {', '.join(tiny)} is below 1/{BUCKETS}, one bucket.")
        return arms

    @field_validator("slot")
    @classmethod
    def _slot_is_a_part(cls, slot: tuple[float, float]) -> tuple[float, float]:
        if not (0 <= slot[0] < slot[1] <= 1 and round(slot[0] * BUCKETS) < round(slot[1] * BUCKETS)):
            raise ValueError(f"slot {list(slot)} is no part of [0, 1].")
        return slot

    @field_validator("targeting")
    @classmethod
    def _targeting_reaches_someone(
        cls, targeting: Mapping[str, tuple[JSON, ...]]
    ) -> Mapping[str, tuple[JSON, ...]]:
        if nobody := [attribute for attribute, values in targeting.items() if not values]:
            raise ValueError(f"targeting by {', '.join(nobody)} allows no value, so nobody takes part.")
        return targeting

    @field_validator("control")
    @classmethod
    def _control_is_an_arm(cls, control: str, info: ValidationInfo) -> str:
        arms = info.data.get("arms", {control: None})
        if control not in arms:
            raise ValueError(f"control {control!r} is no arm. The arms are: {', '.join(arms)}.")
        return control

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that are compared with control, in order."""
        return tuple(name for name in self.arms if name != self.control)

    @property
    def slot_buckets(self) -> tuple[int, int]:
        """Its buckets of the layer, [low, high) of 10,000."""
        return round(self.slot[0] * BUCKETS), round(self.slot[1] * BUCKETS)


class Holdout(Declaration):
    """Units set apart before every layer for a quarter, so that all that was launched can be measured at once.

    `held-out` units see what everyone saw when it began; `winners-only` units see what was launched since and are in no
    experiment; the others are `everyone`. Shares and salt are frozen while it is live.
    """

    name: Name
    salt: str = Field("", description="of the hash; the name where empty")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of all units")
    winners_only: float = Field(0.05, gt=0, lt=0.5, description="share of all units")
    start: Moment
    end: End

    @property
    def buckets(self) -> tuple[int, int]:
        """The first bucket that is not held out, and the first of everyone's, of 10,000."""
        held = round(self.held_out * BUCKETS)
        return held, held + round(self.winners_only * BUCKETS)


HELD_OUT, WINNERS_ONLY, EVERYONE = "held-out", "winners-only", "everyone"


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a declaration, where, and what would be right.

    An error cannot work; a warning works and is likely in vain; a note says what could not be told.
    """

    file: str
    line: int
    field: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        kind = "" if self.severity == "error" else f"{self.severity}: "
        return f"{self.file}:{self.line}: {kind}{self.field}: {self.message}"


@dataclass(frozen=True)
class Located:
    """A YAML file and the line (from 1) of each field in it."""

    file: Path
    lines: Mapping[tuple[str | int, ...], int]

    def problem(self, path: tuple[str | int, ...], message: str, severity: Severity = "error") -> Problem:
        """A problem at `path`, or at the closest field above it that the file has."""
        place = path
        while place and place not in self.lines:
            place = place[:-1]
        name = ".".join(str(part) for part in path) or "file"
        return Problem(self.file.name, self.lines.get(place, 1), name, message, severity)


@dataclass(frozen=True)
class ExperimentBook:
    """A folder of declarations: layers, parameters and experiments by name, and where each was written."""

    layers: Mapping[str, Layer]
    parameters: Mapping[str, Parameter]
    experiments: Mapping[str, Experiment]
    located: Mapping[str, Located] = field(default_factory=dict, compare=False)  # by experiment
    metrics: Mapping[str, DefinedMetric] = field(default_factory=dict)
    holdouts: Mapping[str, Holdout] = field(default_factory=dict)

    def problem(
        self, experiment: str, path: tuple[str | int, ...], message: str, severity: Severity = "error"
    ) -> Problem:
        """A problem in the declaration of `experiment`."""
        return self.located.get(experiment, Located(Path(experiment), {})).problem(path, message, severity)

    @property
    def defaults(self) -> dict[str, str | float]:
        """What each parameter is where no arm sets it."""
        return {name: parameter.default for name, parameter in self.parameters.items()}
