"""A contract taken apart into checks, each one rule for one column, with the SQL that finds offenders.

Text in, text out: nothing here touches data. A rule is either declared (`validations.expectations`)
or follows from the contract: a column's type, finite floats, keys without nulls, nothing from the future.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from validations.expectations import (
    Between,
    ColumnContract,
    DType,
    Expectation,
    NullShare,
    OneOf,
    TableContract,
)

FLOATS = frozenset({DType.FLOAT, DType.DOUBLE})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True)
class OfType:
    """The column has exactly the declared type: nothing is cast silently."""

    dtype: DType


@dataclass(frozen=True)
class Finite:
    """No NaN and no infinity: unknown is null, and only null."""


@dataclass(frozen=True)
class Before:
    """Every timestamp that is not null lies before `as_of`; one at `as_of` is from the future."""

    as_of: datetime


Rule = Expectation | OfType | Finite | Before


@dataclass(frozen=True)
class Check:
    """One rule held against one column."""

    column: str
    rule: Rule


@dataclass(frozen=True)
class Column:
    """A declared column where it stands in the table: SQL of its cells as found and as declared."""

    contract: ColumnContract
    found: str  # DuckDB's name of the type it has
    cell: str  # SQL of the cell as found

    @property
    def value(self) -> str:
        """SQL of the cell in the declared type; null where it cannot be cast."""
        dtype = self.contract.dtype
        return self.cell if self.found == dtype else f"TRY_CAST({self.cell} AS {dtype})"


@dataclass(frozen=True)
class Profile:
    """What one pass learns of a column: numbers as they are, timestamps in microseconds since 1970.

    NaN sorts above every number (as DuckDB has it), so `high` is NaN as soon as one value is.
    """

    name: str
    dtype: DType  # as declared; low and high are of this type
    found: str  # DuckDB's name of the type it has
    rows: int
    nulls: int
    low: float | None = None
    high: float | None = None

    @property
    def null_share(self) -> float:
        """Share of rows that are null; 0 in a table without rows."""
        return self.nulls / self.rows if self.rows else 0.0


def checks(contract: TableContract, as_of: datetime) -> Iterator[Check]:
    """Every check of a cell that the contract asks for, in the order of its columns."""
    for column in contract.columns:
        yield Check(column.name, OfType(column.dtype))
        if column.name in contract.key and NullShare(0) not in column.expectations:
            yield Check(column.name, NullShare(0))
        if column.dtype in FLOATS:
            yield Check(column.name, Finite())
        for expectation in column.expectations:
            yield Check(column.name, expectation)
        if column.name in contract.not_after:
            yield Check(column.name, Before(as_of))


def describe(rule: Rule) -> str:
    """The rule in words that follow "expected"."""
    match rule:
        case OfType(dtype):
            return f"type {dtype}"
        case Finite():
            return "finite numbers"
        case Before(as_of):
            return f"before {timestamp(microseconds(as_of))}"
        case NullShare(at_most):
            return f"null in at most {at_most:.6g} of rows" if at_most else "never null"
        case OneOf(values):
            return f"one of {', '.join(str(value) for value in values)}"
        case Between(low, high):
            return _range(low, high)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {number(high)}"
    return f"at least {number(low)}" if high is None else f"between {number(low)} and {number(high)}"


def number(value: float | None) -> str:
    """A number for people: whole ones in full, others to six digits."""
    if value is None:
        return "null"
    return f"{int(value)}" if abs(value) < 1e15 and value == int(value) else f"{value:.6g}"


def offends(rule: Rule, column: Column) -> str:
    """SQL that is true for a cell the rule forbids, and otherwise false or null."""
    value = column.value
    match rule:
        case OfType():
            return f"{column.cell} IS NOT NULL AND {value} IS NULL"
        case NullShare():
            return f"{column.cell} IS NULL"
        case Finite():
            return f"NOT isfinite({value})"
        case Before(as_of):
            return f"{value} >= make_timestamptz({microseconds(as_of)})"
        case OneOf(values):
            return f"{value} NOT IN ({', '.join(_literal(one) for one in values)})"
        case Between():
            return _outside(value, *bounds(rule, column.contract.dtype), column.contract.dtype)


def cleared(rule: Rule, profile: Profile) -> bool:
    """Whether the profile alone proves that no cell offends, so that none need be counted.

    A column that holds a NaN stays under suspicion.
    """
    low, high = profile.low, profile.high
    match rule:
        case OfType(dtype):
            return profile.found == dtype
        case NullShare(at_most):
            return profile.null_share <= at_most
        case OneOf() | Before():
            return profile.nulls == profile.rows
        case Finite() | Between() if low is None or high is None:
            return True  # there is no value
        case Finite():
            return math.isfinite(low) and math.isfinite(high)
        case Between():
            floor, ceiling = bounds(rule, profile.dtype)
            inside = (floor is None or floor <= low) and (ceiling is None or high <= ceiling)
            return inside and not math.isnan(high)


def observe(rule: Rule, profile: Profile, unexpected: int) -> str:
    """What was found instead, in words."""
    of_rows = f"{unexpected:,} of {profile.rows:,}"
    match rule:
        case OfType(dtype):
            return f"{profile.found}, in which {of_rows} cells cannot be read as {dtype}"
        case NullShare():
            return f"{of_rows} null"
        case Finite():
            return f"{of_rows} NaN or infinite"
        case Before():
            return f"{of_rows} at or after it, the latest {timestamp(profile.high)}"
        case OneOf():
            return f"{of_rows} something else"
        case Between():
            return f"{of_rows} outside, values from {number(profile.low)} to {number(profile.high)}"


def bounds(between: Between, dtype: DType) -> tuple[float | None, float | None]:
    """The bounds in the column's own type, in which the values were rounded too.

    A float32 column meets `Between(0, 0.1)` with the float32 nearest to 0.1, although that lies above
    0.1: rounding keeps order, so whatever met the bound before it was rounded once still meets it.
    """
    match dtype:
        case DType.FLOAT:
            return _single(between.low), _single(between.high)
        case DType.BIGINT:
            return _whole(between.low, math.ceil), _whole(between.high, math.floor)
        case _:
            return between.low, between.high


def _single(bound: float | None) -> float | None:
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, which bounds nothing
        return None if bound is None else float(np.float32(bound))


def _whole(bound: float | None, towards: Callable[[float], int]) -> int | None:
    return None if bound is None or math.isinf(bound) else towards(bound)


def _outside(value: str, low: float | None, high: float | None, dtype: DType) -> str:
    """SQL of "outside [low, high]"; NaN lies outside every range, and above every `high` already."""
    sides = [] if low is None else [f"{value} < {_literal(low)}"]
    if high is not None:
        sides.append(f"{value} > {_literal(high)}")
    elif dtype in FLOATS:
        sides.append(f"isnan({value})")
    return " OR ".join(sides) or "false"


def _literal(value: float | str) -> str:
    """A value as SQL; a float as DOUBLE, since DuckDB reads 0.1 as DECIMAL."""
    match value:
        case str():
            return "'" + value.replace("'", "''") + "'"
        case int():
            return str(value)
        case _:
            return f"'{value!r}'::DOUBLE"


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def timestamp(moment: float | None) -> str:
    """Microseconds since 1970 UTC as ISO text; None is DuckDB's infinity, which has no number."""
    if moment is None or moment > _LAST:
        return "after the year 9999"
    if moment < _FIRST:
        return "before the year 1"
    return (_EPOCH + timedelta(microseconds=int(moment))).isoformat().replace("+00:00", "Z")
