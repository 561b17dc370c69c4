"""Arithmetic over stored features: one small expression tree, interpreted as SQL and as NumPy.

Both interpreters compute in float64, left to right, and agree bit for bit after the one rounding to
float32; null (NaN in NumPy) passes through every operation except `orelse`. Division by zero is null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Expression:
    """A node of the tree; Python's own operators build it."""

    def __add__(self, other: Expression) -> Binary:
        return Binary("+", self, other)

    def __sub__(self, other: Expression) -> Binary:
        return Binary("-", self, other)

    def __mul__(self, other: Expression) -> Binary:
        return Binary("*", self, other)

    def __truediv__(self, other: Expression) -> Binary:
        return Binary("/", self, other)

    def __abs__(self) -> Unary:
        return Unary("abs", self)

    def orelse(self, value: float) -> OrElse:
        """This value, or `value` where it is null."""
        return OrElse(self, value)


@dataclass(frozen=True)
class Ref(Expression):
    """The stored value of one feature."""

    table: str
    feature: str

    def __str__(self) -> str:
        return f"{self.table}:{self.feature}"


@dataclass(frozen=True)
class Constant(Expression):
    """A number that is the same for every row."""

    value: float

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Binary(Expression):
    """One of `+ - * /`; a denominator of zero makes the result null."""

    operator: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


@dataclass(frozen=True)
class Unary(Expression):
    """`abs`, the magnitude."""

    function: str
    operand: Expression

    def __str__(self) -> str:
        return f"{self.function}({self.operand})"


@dataclass(frozen=True)
class OrElse(Expression):
    """The operand, or a number where it is null."""

    operand: Expression
    value: float

    def __str__(self) -> str:
        return f"({self.operand} or {self.value!r})"


def total(terms: Sequence[Expression]) -> Expression:
    """The sum of `terms`, added left to right so that both interpreters round alike."""
    if not terms:
        raise ValueError("total() of no terms: nothing to add.")
    return reduce(lambda left, right: left + right, terms)


def dot(left: Sequence[Expression], right: Sequence[Expression]) -> Expression:
    """Σ leftᵢ·rightᵢ with unknown products counted as zero."""
    return total([(a * b).orelse(0.0) for a, b in zip(left, right, strict=True)])


def references(expression: Expression) -> tuple[Ref, ...]:
    """Every stored feature the expression reads, in reading order, without repeats."""
    return tuple(dict.fromkeys(_leaves(expression)))


def with_references(expression: Expression, place: Callable[[Ref], Ref]) -> Expression:
    """The same arithmetic over the references that `place` gives."""
    match expression:
        case Ref():
            return place(expression)
        case Binary(operator, left, right):
            return Binary(operator, with_references(left, place), with_references(right, place))
        case Unary(function, operand):
            return Unary(function, with_references(operand, place))
        case OrElse(operand, value):
            return OrElse(with_references(operand, place), value)
    return expression


def to_sql(expression: Expression, column: Callable[[Ref], str]) -> str:
    """The expression as SQL over DOUBLE; `column` says how a stored feature is written."""
    match expression:
        case Ref():
            return f"CAST({column(expression)} AS DOUBLE)"
        case Constant(value):
            return _literal(value)
        case Binary("/", left, right):
            return f"({to_sql(left, column)} / NULLIF({to_sql(right, column)}, 0))"
        case Binary(operator, left, right):
            return f"({to_sql(left, column)} {operator} {to_sql(right, column)})"
        case Unary("abs", operand):
            return f"abs({to_sql(operand, column)})"
        case OrElse(operand, value):
            return f"coalesce({to_sql(operand, column)}, {_literal(value)})"
    raise TypeError(f"{expression!r} has no SQL form.")


Leaf = Callable[[Ref], Array]


def evaluate(expression: Expression, read: Leaf) -> Array:
    """The expression over float64 arrays that broadcast together; NaN stands for null."""
    match expression:
        case Ref():
            return read(expression)
        case Constant(value):
            return np.array(value, dtype=np.float64)
        case Binary(operator, left, right):
            return _binary(operator, evaluate(left, read), evaluate(right, read))
        case Unary("abs", operand):
            return np.abs(evaluate(operand, read))
        case OrElse(operand, value):
            known = evaluate(operand, read)
            return np.where(np.isnan(known), value, known)
    raise TypeError(f"{expression!r} has no NumPy form.")


def to_data(expression: Expression) -> list[Any]:
    """The expression as nested lists that JSON can hold; `from_data` reads them back."""
    match expression:
        case Ref(table, feature):
            return ["ref", table, feature]
        case Constant(value):
            return ["constant", value]
        case Binary(operator, left, right):
            return [operator, to_data(left), to_data(right)]
        case Unary(function, operand):
            return [function, to_data(operand)]
        case OrElse(operand, value):
            return ["orelse", to_data(operand), value]
    raise TypeError(f"{expression!r} has no form as data.")


def from_data(data: Sequence[Any]) -> Expression:
    """The expression that `to_data` wrote.

    Raises:
        ValueError: the data is not an expression.
    """
    match data:
        case ["ref", str(table), str(feature)]:
            return Ref(table, feature)
        case ["constant", float(value)]:
            return Constant(value)
        case ["+" | "-" | "*" | "/" as operator, left, right]:
            return Binary(operator, from_data(left), from_data(right))
        case ["abs", operand]:
            return Unary("abs", from_data(operand))
        case ["orelse", operand, float(value)]:
            return OrElse(from_data(operand), value)
    raise ValueError(f"{data!r} is no expression.")


def _binary(operator: str, left: Array, right: Array) -> Array:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    return np.divide(left, np.where(right == 0, np.nan, right))


def _literal(value: float) -> str:
    """Quoted, because a bare 0.1 is a DECIMAL to DuckDB: long ones lose their last bit, -0.0 its sign."""
    return f"CAST('{value!r}' AS DOUBLE)"


def _leaves(expression: Expression) -> list[Ref]:
    match expression:
        case Ref():
            return [expression]
        case Binary(_, left, right):
            return [*_leaves(left), *_leaves(right)]
        case Unary(_, operand) | OrElse(operand, _):
            return _leaves(operand)
    return []
