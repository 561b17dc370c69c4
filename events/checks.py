"""The rules a raw row must keep, compiled from its contract to predicates in DuckDB's SQL.

Text in, text out: no connection and no clock. A rule's predicate is true where the rule is *broken*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from validations.expectations import (
    Between,
    ColumnContract,
    DType,
    Expectation,
    NullShare,
    OneOf,
    TableContract,
)

ARROW_TYPES: Mapping[DType, pa.DataType] = {
    DType.FLOAT: pa.float32(),
    DType.DOUBLE: pa.float64(),
    DType.BIGINT: pa.int64(),
    DType.BOOLEAN: pa.bool_(),
    DType.VARCHAR: pa.string(),
    DType.TIMESTAMP: pa.timestamp("us", "UTC"),
    DType.BIGINTS: pa.list_(pa.int64()),
    DType.VARCHARS: pa.list_(pa.string()),
}


@dataclass(frozen=True)
class Rule:
    """One rule: `label` is what is counted, `broken` is true of a row that breaks it.

    `detail` is SQL text that names the column, the rule and the offending value.
    """

    label: str
    broken: str
    detail: str


def arrow_schema(contract: TableContract) -> pa.Schema:
    """The Arrow schema of a table that keeps `contract`."""
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.dtype]) for column in contract.columns])


def required(contract: TableContract) -> tuple[str, ...]:
    """The columns that no batch may lack: those whose values may not be null."""
    return tuple(column.name for column in contract.columns if NullShare(0) in column.expectations)


def rules(contract: TableContract, given: pa.Schema, received_at: datetime) -> tuple[Rule, ...]:
    """Every rule on one row, for the columns that the batch `given` has.

    In the predicates `raw.<column>` is the batch's own value, and `typed.<column>` its value in the
    contract's type, null where it cannot be had.
    """
    present = [column for column in contract.columns if column.name in given.names]
    found = [rule for column in present for rule in _of_column(column, given.field(column.name).type)]
    return (
        *found,
        _created_before_event(),
        *(_from_the_future(name, received_at) for name in contract.not_after),
    )


def _of_column(column: ColumnContract, given: pa.DataType) -> Iterator[Rule]:
    yield _rule(column.name, "wrong type", _not_cast(column, given), f"is no {column.dtype}")
    for expectation in column.expectations:
        yield from _of_expectation(column.name, expectation)
    if column.dtype in {DType.DOUBLE, DType.FLOAT}:
        yield _rule(
            column.name, "not finite", f"NOT isfinite({_cast(column.name)})", "is not a finite number"
        )


def _not_cast(column: ColumnContract, given: pa.DataType) -> str:
    """True where a value is there but the contract's type cannot hold it (1.5 is no BIGINT)."""
    raw, cast = f'raw."{column.name}"', _cast(column.name)
    lost = f"({raw} IS NOT NULL AND {cast} IS NULL)"
    if column.dtype is DType.VARCHAR and pa.types.is_nested(given):
        return f"{raw} IS NOT NULL"  # a list's printed form is not a text
    if column.dtype in {DType.BIGINT, DType.BOOLEAN} and pa.types.is_floating(given):
        return f"({lost} OR {cast}::DOUBLE <> {raw})"
    if column.dtype is DType.BOOLEAN and pa.types.is_integer(given):
        return f"({lost} OR {cast}::BIGINT <> {raw})"
    return lost


def _of_expectation(column: str, expectation: Expectation) -> Iterator[Rule]:
    match expectation:
        case NullShare(at_most=0):
            yield _rule(column, "null", f'raw."{column}" IS NULL', "is null, and may not be")
        case NullShare():
            return  # a share of a table; no single row breaks it
        case Between(low=low, high=high):
            within = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
            outside = [f"{_cast(column)} < {low}"] * (low is not None)
            outside += [f"{_cast(column)} > {high}"] * (high is not None)
            yield _rule(column, "out of range", " OR ".join(outside), f"is not in {within}")
        case OneOf(values=values):
            allowed = ", ".join(_quoted(value) for value in values)
            yield _rule(
                column, "not one of", f"{_cast(column)} NOT IN ({allowed})", f"is not one of {allowed}"
            )


def _created_before_event() -> Rule:
    return Rule(
        "created_timestamp: before event_timestamp",
        f"{_cast('created_timestamp')} < {_cast('event_timestamp')}",
        f"'created_timestamp ' || {_cast('created_timestamp')}::VARCHAR || ' lies before event_timestamp ' || "
        f"{_cast('event_timestamp')}::VARCHAR",
    )


def _from_the_future(column: str, received_at: datetime) -> Rule:
    moment = received_at.isoformat()
    broken = f"{_cast(column)} > TIMESTAMPTZ '{moment}'"
    return _rule(column, "after receipt", broken, f"lies after its receipt at {moment}")


def _rule(column: str, name: str, broken: str, says: str) -> Rule:
    value = f"""coalesce(raw."{column}"::VARCHAR, 'null')"""
    return Rule(f"{column}: {name}", broken, f"{_quoted(column + ' ')} || {value} || {_quoted(' ' + says)}")


def _cast(column: str) -> str:
    return f'typed."{column}"'


def _quoted(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
