"""What may be expected of a column: frozen values, compiled to Great Expectations elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True)
class Between:
    """Every value that is not null lies in [low, high]; None leaves that side open."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueError("Between() bounds nothing: give low, high or both.")
        if any(bound is not None and math.isnan(bound) for bound in (self.low, self.high)):
            raise ValueError(f"Between({self.low}, {self.high}): NaN is no bound; None leaves a side open.")
        if self.low == math.inf or self.high == -math.inf:
            raise ValueError(f"Between({self.low}, {self.high}): no finite number lies there.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"Between({self.low}, {self.high}): low lies above high, so nothing could pass.")


@dataclass(frozen=True)
class NullShare:
    """At most this share of rows (0..1) is null; 0 means the column is never null."""

    at_most: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.at_most <= 1:
            raise ValueError(f"NullShare({self.at_most}): a share lies in 0..1.")


@dataclass(frozen=True)
class OneOf:
    """Every value that is not null is one of these; their order says nothing, so they are kept sorted."""

    values: tuple[str | int, ...]

    def __init__(self, values: Collection[str | int]) -> None:
        if not values:
            raise ValueError("OneOf(()) allows nothing.")
        numbers = sorted({value for value in values if not isinstance(value, str)})
        texts = sorted({value for value in values if isinstance(value, str)})
        object.__setattr__(self, "values", (*numbers, *texts))


Expectation = Between | NullShare | OneOf


class DType(StrEnum):
    """The column types that cross a package border; each value is DuckDB's name of the type."""

    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    BIGINT = "BIGINT"
    BOOLEAN = "BOOLEAN"
    VARCHAR = "VARCHAR"
    TIMESTAMP = "TIMESTAMP WITH TIME ZONE"  # UTC, microseconds
    BIGINTS = "BIGINT[]"
    VARCHARS = "VARCHAR[]"


NUMBERS = frozenset({DType.FLOAT, DType.DOUBLE, DType.BIGINT})


def _fits(expectation: Expectation, dtype: DType) -> bool:
    """Whether values of this type can be held against the expectation at all."""
    match expectation:
        case NullShare():
            return True
        case Between():
            return dtype in NUMBERS
        case OneOf(values) if all(isinstance(value, str) for value in values):
            return dtype is DType.VARCHAR
        case OneOf(values):
            return dtype in NUMBERS and not any(isinstance(value, str) for value in values)


Severity = Literal["error", "warning", "info"]
"""What a finding means: an error stops the table, a warning asks to be looked at, an info is for the record."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first."""


@dataclass(frozen=True)
class Limits:
    """Above which figure a change is an info, a warning, or an error that stops the table; None: never."""

    info: float | None = None
    warning: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        declared = [limit for limit in (self.info, self.warning, self.error) if limit is not None]
        if not all(limit >= 0 for limit in declared) or declared != sorted(declared):
            raise ValueError(f"{self}: limits are not negative and rise from info over warning to error.")

    def of(self, severity: Severity) -> float | None:
        """The limit above which a figure has this severity."""
        return {"info": self.info, "warning": self.warning, "error": self.error}[severity]

    def exceeded(self, figure: float) -> Severity | None:
        """The worst severity whose limit lies below the figure."""
        return next((s for s in SEVERITIES if (limit := self.of(s)) is not None and figure > limit), None)


@dataclass(frozen=True)
class DriftLimits:
    """When a distribution has moved enough to say so, and how badly.

    A figure counts as drift if it exceeds its limit *and* what two samples of one distribution would
    exceed with probability `chance`, so that small tables raise no false alarms. PSI is in nats, KS and the
    change of the null share lie in 0..1. By default values may move without stopping a table, since people
    do change; that half of a column became unknown (or known) is something that broke.
    """

    psi: Limits = Limits(warning=0.2)
    ks: Limits = Limits(warning=0.1)
    null_share: Limits = Limits(warning=0.05, error=0.5)
    chance: float = 1e-3
    bins: int = 10

    def __post_init__(self) -> None:
        shares = [limit for one in (self.ks, self.null_share) for limit in (one.info, one.warning, one.error)]
        if not (
            all(share is None or share <= 1 for share in shares) and 0 < self.chance < 1 and self.bins >= 2
        ):
            raise ValueError(
                f"{self}: limits of ks and null_share in 0..1, chance between 0 and 1, and at least 2 bins."
            )


@dataclass(frozen=True)
class Quarantine:
    """Rows that break the contract may be set aside, as long as they are at most this share of all rows (0..1).

    Without it, or beyond that share, one such row stops the table.
    """

    at_most: float

    def __post_init__(self) -> None:
        if not 0 < self.at_most < 1:
            raise ValueError(f"Quarantine({self.at_most}): a share between 0 and 1, neither included.")


@dataclass(frozen=True)
class ColumnContract:
    """One column: its type and what is expected of it; `digest` names the computation it comes from, if any.

    `drift` says how far it may move from the training reference; None leaves that to its table.
    """

    name: str
    dtype: DType
    expectations: tuple[Expectation, ...] = ()
    digest: str = ""
    drift: DriftLimits | None = None

    def __post_init__(self) -> None:
        for expectation in self.expectations:
            if not _fits(expectation, self.dtype):
                raise ValueError(
                    f"column {self.name!r}: {expectation} says nothing about {self.dtype} values."
                )


@dataclass(frozen=True)
class TableContract:
    """What a table must be before it may go further.

    `key` columns are never null and unique together. No value of a `not_after` column lies at or after
    the `as_of` the table is checked for: nothing may come from the future. `drift` holds for every column
    that declares none of its own; without `quarantine` a single row that breaks the contract stops the table.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[ColumnContract, ...]
    not_after: tuple[str, ...] = ()
    row_count: Between = field(default_factory=lambda: Between(low=1))
    digest: str = ""
    drift: DriftLimits = DriftLimits()
    quarantine: Quarantine | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"contract {self.table!r} names {', '.join(twice)} twice.")
        for name in (*self.key, *self.not_after):
            if name not in names:
                raise ValueError(
                    f"contract {self.table!r} has no column {name!r}. It has: {', '.join(names)}."
                )
        for column in self.columns:
            if column.name in self.not_after and column.dtype is not DType.TIMESTAMP:
                raise ValueError(
                    f"contract {self.table!r}: not_after names {column.name!r}, which is {column.dtype} "
                    f"and not {DType.TIMESTAMP}."
                )
