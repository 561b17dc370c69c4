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


@dataclass(frozen=True)
class ColumnContract:
    """One column: its type and what is expected of it; `digest` names the computation it comes from, if any."""

    name: str
    dtype: DType
    expectations: tuple[Expectation, ...] = ()
    digest: str = ""

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
    the `as_of` the table is checked for: nothing may come from the future.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[ColumnContract, ...]
    not_after: tuple[str, ...] = ()
    row_count: Between = field(default_factory=lambda: Between(low=1))
    digest: str = ""

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


Severity = Literal["error", "warning"]
