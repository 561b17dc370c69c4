"""A computation as a person writes it, and the raw columns and features it is made of."""

from __future__ import annotations

import re

import ibis
from ibis.expr import types as ir

from feature_repo.arithmetic import Binary, Expression
from feature_repo.declarations import Aggregated, Attribute, Derived, Feature, FeatureTable
from validations.expectations import Between, Expectation, NullShare

LONG = 4
"""Terms of a sum that are written out; of more, the first two and the last stand for all."""

_WORDS = (
    (r'"t\d+"\.', ""),
    (r"CAST\((\w+) AS \w+\)", r"\1"),
    (r"\bAVG\(", "mean("),
    (r"COUNT\(\*\)", "count"),
    (r"COUNT\(DISTINCT (\w+)\)", r"distinct(\1)"),
    (r"\bdays_ago <= (\d+)", r"within \1 days"),
    (r"\( (within \d+ days) \)", r"\1"),
    (r"FILTER\(WHERE ((?:[^()]|\([^()]*\))*)\)", r"where \1"),
    (r"\b([A-Z]{3,})\(", lambda found: found[1].lower() + "("),
    (r"within 1 days", "within 1 day"),
    (r" AND ", " and "),
    (r"\( ", "("),
    (r" \)", ")"),
)

_DEVIATION = re.compile(r"^sqrt\(CASE WHEN \(?mean\((\w+) \* \1\) (where [^-]*?) - .*$")
"""√(E[x²] − E[x]²) as `measures` writes it, never below 0."""


def formula(table: FeatureTable, feature: Feature) -> str:
    """The computation in one readable line.

    >>> from events.sources import WORLD
    >>> from feature_repo.families import declare
    >>> table = declare(WORLD).table("user_profile")
    >>> formula(table, table["play_count_7d"])
    'count where within 7 days, over plays; 0 if there are none'
    >>> formula(table, table["play_per_impression_7d"])
    'play_count_7d / impression_count_7d'
    """
    computation = feature.computation
    match computation:
        case Aggregated(relation, value, empty):
            none = "unknown" if empty is None else f"{empty:g}"
            return f"{_readable(value)}, over {relation}; {none} if there are none"
        case Attribute(value):
            return f"{_readable(value)}, of the {table.entity.name}"
        case Derived(expression):
            return _arithmetic(expression).replace(f"{table.name}:", "")
    return computation.text()


def expected(expectation: Expectation) -> str:
    """An expectation in words.

    >>> expected(Between(0, 40_320)), expected(Between(low=1)), expected(NullShare(0)), expected(NullShare(0.5))
    ('from 0 to 40,320', 'at least 1', 'never null', 'at most 50% null')
    """
    match expectation:
        case NullShare(at_most):
            return f"at most {at_most * 100:g}% null" if at_most else "never null"
        case Between(low, None):
            return f"at least {low:,g}"
        case Between(None, high):
            return f"at most {high:,g}"
        case Between(low, high):
            return f"from {low:,g} to {high:,g}"
    return str(expectation)


def _readable(value: ir.Value) -> str:
    sql = " ".join(str(ibis.to_sql(value, dialect="duckdb")).split())
    text = re.sub(r'( AS "(?:[^"]|"")*")? FROM "\w+"( AS "\w+")?$', "", sql.removeprefix("SELECT ")).replace(
        '"', ""
    )
    text = re.sub(r"\bt\d+\.", "", text)
    for found, written in _WORDS:
        text = re.sub(found, written, text)
    return _DEVIATION.sub(r"std(\1) \2", text)


def _arithmetic(expression: Expression) -> str:
    """The expression without outer parentheses, long sums shortened."""
    terms = _terms(expression)
    if len(terms) > LONG:
        first, second, last = (str(terms[place]) for place in (0, 1, -1))
        return f"{first} + {second} + … + {last}, {len(terms)} terms"
    if isinstance(expression, Binary):
        left, right = (_inner(side) for side in (expression.left, expression.right))
        return f"{left} {expression.operator} {right}"
    return str(expression)


def _inner(side: Expression) -> str:
    return f"({_arithmetic(side)})" if isinstance(side, Binary) else str(side)


def _terms(expression: Expression) -> list[Expression]:
    """What a sum adds up, left to right."""
    terms: list[Expression] = []
    while isinstance(expression, Binary) and expression.operator == "+":
        terms.append(expression.right)
        expression = expression.left
    return [expression, *reversed(terms)]
