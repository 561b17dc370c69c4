"""The metrics language: what of the events is counted for a unit, over which days after it was first exposed.

A `Metric` names columns of outcomes. Where it carries a `Definition`, those columns are computed from events
(`experiments.scan`); where it does not, whoever asks for a read-out brings them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from events.schema import TABLES
from experiments.values import JSON, Column, Declaration, Name
from validations.expectations import NUMBERS, DType

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,44}$")]
"""A defined metric's name is also the stem of its columns, so it is shorter than a column and has no dots."""
Direction = Literal["increase", "decrease"]
USER_TABLES = {name: t for name, t in TABLES.items() if "user_id" in {c.name for c in t.columns}}
"""Event tables whose rows are somebody's: what metrics are made of."""
_SUMMABLE = NUMBERS | {DType.BOOLEAN}


class Measure(Declaration):
    """What is added up over a unit's events: a column, or the events themselves where none is named."""

    source: Column = Field(description="a table of raw events: plays, memberships, impressions, hovers")
    sum: Column | None = Field(
        None, description="the column that is added up; a flag counts 1 where it is true"
    )
    where: Mapping[Column, tuple[JSON, ...]] = Field(
        {}, description="column → values of the events that count"
    )

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.source not in USER_TABLES:
            raise ValueError(f"there is no event table {self.source!r}.{_hint(self.source, USER_TABLES)}")
        columns = {column.name: column.dtype for column in USER_TABLES[self.source].columns}
        for name in (*self.where, *([] if self.sum is None else [self.sum])):
            if name not in columns:
                raise ValueError(f"event table {self.source!r} has no column {name!r}.{_hint(name, columns)}")
        if self.sum is not None and columns[self.sum] not in _SUMMABLE:
            raise ValueError(
                f"{self.source}.{self.sum} is {columns[self.sum].value}; only numbers and flags are added up."
            )
        if empty := [name for name, values in self.where.items() if not values]:
            raise ValueError(f"where allows no value of {', '.join(empty)}, so nothing would be counted.")
        return self


def _hint(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" There is: {', '.join(sorted(known))}."


class Definition(Declaration):
    """How a metric is computed from events, for each unit over days [from_day, window_days) after its first exposure.

    - `mean`: the measure's sum a unit; `conversion`: 1 where there is any, else 0.
    - `retention`: as conversion, at a horizon: `from_day` says from when on a unit must be seen.
    - `ratio`: Σ of / Σ per over units (delta method: Deng et al., KDD 2018).
    - `quantile`: of the units' sums, rounded to `resolution`, by order statistics (Woodruff, JASA 1952).

    A unit counts once its window is over and the day of its first exposure is complete; before that the metric waits.
    """

    kind: Literal["mean", "ratio", "conversion", "retention", "quantile"]
    of: Measure
    per: Measure | None = Field(None, description="of a ratio: what is divided by")
    window_days: int = Field(gt=0, le=366)
    from_day: int = Field(0, ge=0)
    unit: Literal["user_id"] = Field("user_id", description="whose values are compared")
    measured_in: str = Field("", description="minutes, plays, share")
    direction: Direction = Field("increase", description="the way that is better")
    margin: float | None = Field(
        None, gt=0, lt=1, description="as a guardrail: largest relative loss that is acceptable"
    )
    cap: float | None = Field(None, gt=0, description="winsorising: a unit's sum above this counts as this")
    winsorise: float | None = Field(
        None, gt=0.5, lt=1, description="winsorising at this quantile of all units of all arms together"
    )
    covariate_days: int | None = Field(
        None, gt=0, le=366, description="CUPED: the same over so many days before"
    )
    quantile: float | None = Field(None, gt=0, lt=1)
    resolution: float = Field(0.01, gt=0, description="of a quantile: what units' sums are rounded to")

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        if self.from_day >= self.window_days:
            raise ValueError(f"days [{self.from_day}, {self.window_days}) hold no day.")
        if (self.kind == "ratio") != (self.per is not None):
            raise ValueError("a ratio, and nothing else, has a measure `per`.")
        if (self.kind == "quantile") != (self.quantile is not None):
            raise ValueError("a metric of kind quantile, and no other, says which `quantile`.")
        if self.kind == "retention" and self.from_day == 0:
            raise ValueError(
                "retention is at a horizon: say from which day on a unit must be seen, in `from_day`."
            )
        if self.winsorise is not None and self.cap is not None:
            raise ValueError("winsorise at a quantile or at a cap, not at both.")
        if self.kind not in {"mean", "ratio"} and (self.winsorise is not None or self.cap is not None):
            raise ValueError(f"a {self.kind} is not winsorised: it has no long tail.")
        if self.kind == "quantile" and self.covariate_days is not None:
            raise ValueError("a quantile has no covariate.")
        return self

    @property
    def is_flag(self) -> bool:
        """Whether a unit's value is 0 or 1."""
        return self.kind in {"conversion", "retention"}


class Metric(Declaration):
    """A mean per unit of `value`, or with `per` a ratio of means: Σ value / Σ per.

    A covariate is the same quantity from before the experiment; it lowers variance (CUPED, Deng et al. 2013).
    """

    name: Name
    description: str = ""
    value: Column
    per: Column | None = None
    covariate: Column | None = None
    covariate_per: Column | None = None
    direction: Direction = Field("increase", description="the way that is better")
    definition: Definition | None = Field(None, description="how the columns come from events")

    @property
    def columns(self) -> tuple[str, ...]:
        """The outcome columns it reads, each once."""
        read = (self.value, self.per, self.covariate, self.covariate_per)
        return tuple(dict.fromkeys(column for column in read if column is not None))

    @property
    def quantile(self) -> float | None:
        """Which quantile of `value` is meant; None for a mean or a ratio."""
        return None if self.definition is None else self.definition.quantile

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "increase" else -1


class Guardrail(Metric):
    """A metric that must not get worse than `margin`, relative to control."""

    margin: float = Field(gt=0, lt=1, description="largest relative loss that is acceptable, 0.02 for 2 %")


class Metrics(Declaration):
    """One metric decides whether to ship; every guardrail decides whether one may."""

    primary: Metric
    guardrails: tuple[Guardrail, ...] = Field(min_length=1)

    @property
    def all(self) -> tuple[Metric, ...]:
        """Primary first."""
        return (self.primary, *self.guardrails)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [metric.name for metric in self.all]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"metric {', '.join(twice)} is named twice.")
        return self


class DefinedMetric(Definition):
    """A definition with a name: an entry of `metrics.yaml`."""

    name: MetricName
    description: str = ""

    @property
    def definition(self) -> Definition:
        """Without the name."""
        return Definition.model_validate(self.model_dump(exclude={"name", "description"}))

    def metric(self) -> Metric:
        """The metric over the columns that a scan makes."""
        return Metric.model_validate(self.fields())

    def guardrail(self, margin: float | None = None) -> Guardrail:
        """The metric with a margin: the one given, or its own.

        Raises:
            ValueError: neither says what loss is acceptable.
        """
        allowed = self.margin if margin is None else margin
        if allowed is None:
            raise ValueError(f"guardrail {self.name!r} has no margin: say what relative loss is acceptable.")
        return Guardrail.model_validate({**self.fields(), "margin": allowed})

    def fields(self) -> dict[str, object]:
        """The fields of the metric, its columns named after it."""
        ratio, before = self.per is not None, self.covariate_days is not None
        return {
            "name": self.name,
            "description": self.description,
            "value": self.name,
            "per": f"{self.name}__per" if ratio else None,
            "covariate": f"{self.name}__before" if before else None,
            "covariate_per": f"{self.name}__per_before" if ratio and before else None,
            "direction": self.direction,
            "definition": self.definition.model_dump(),
        }
