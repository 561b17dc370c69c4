"""Measures: one column of one relation, worth aggregating over many windows and slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibis.expr import types as ir

from feature_repo.arithmetic import Expression
from feature_repo.declarations import KNOWN, NON_NEGATIVE, SHARE, Aggregated, Derived, Feature
from feature_repo.relations import Relations, Slice
from validations.expectations import Between, Expectation

_READS = {
    "count": "number of {0}",
    "sum": "{0}, summed",
    "mean": "{0}, mean",
    "std": "{0}, standard deviation",
    "share": "share of {0}",
    "nunique": "number of distinct {0}",
}


@dataclass(frozen=True)
class Measure:
    """What is aggregated and how; `over` a window (and within a slice) it becomes a Feature.

    `per_day` bounds a sum over one entity by a daily maximum (24 hours have 1,440 minutes).
    """

    relation: str
    column: str
    function: str
    reads: str
    unit: str
    needs: frozenset[str]
    per_day: float | None = None
    bounds: Between | None = None
    value_column: str | None = None  # where it differs from `column`, which names the feature

    def __post_init__(self) -> None:
        if self.function not in _READS:
            raise ValueError(
                f"measure {self.column!r}: no function {self.function!r}. There are: {', '.join(_READS)}."
            )

    def over(self, relations: Relations, days: int, within: Slice | None = None) -> Feature:
        """The feature `{column}_{function}_{days}d[_{slice}]`."""
        suffix = f"_{within.suffix}" if within else ""
        reads = f"{_READS[self.function].format(self.reads)} {within.reads + ' ' if within else ''}"
        return Feature(
            name=f"{self.column}_{self.function}_{days}d{suffix}",
            computation=Aggregated(self.relation, self._value(relations, days, within), self._empty),
            description=f"{reads}over the last {_days(days)}",
            unit=self.unit,
            expect=self._expectations(days),
            needs=self.needs | (within.needs if within else frozenset()),
            over=days,
        )

    def _value(self, relations: Relations, days: int, within: Slice | None) -> ir.Value:
        table = relations.named(self.relation)
        where = table.days_ago <= days
        if within:
            where = where & table[within.column]
        if self.function == "count":
            return table.count(where=where)
        column = table[self.value_column or self.column]
        aggregate: dict[str, Callable[[], ir.Value]] = {
            "sum": lambda: column.sum(where=where),
            "mean": lambda: column.mean(where=where),
            "std": lambda: _population_deviation(column, where),
            "share": lambda: column.cast("float64").mean(where=where),
            "nunique": lambda: column.nunique(where=where),
        }
        return aggregate[self.function]()

    @property
    def _empty(self) -> float | None:
        # Nothing counted is 0; a mean or a share of nothing is unknown.
        return 0.0 if self.function in {"count", "sum", "nunique"} else None

    def _expectations(self, days: int) -> tuple[Expectation, ...]:
        known = (KNOWN,) if self._empty is not None else ()
        if self.bounds:
            return (*known, self.bounds)
        if self.function == "share":
            return (*known, SHARE)
        if self.per_day is not None:
            return (*known, Between(0, self.per_day * days))
        return (*known, NON_NEGATIVE)


def derived(
    name: str,
    expression: Expression,
    description: str,
    unit: str,
    needs: frozenset[str],
    expect: tuple[Expectation, ...],
    over: int | None = None,
) -> Feature:
    """A feature by arithmetic over stored ones."""
    return Feature(name, Derived(expression), description, unit, expect, needs, over)


def _population_deviation(column: ir.NumericColumn, where: ir.BooleanValue) -> ir.Value:
    """√(E[x²] − E[x]²), from sums that do not depend on the order of rows (values are in 1/1024ths)."""
    mean = column.mean(where=where)
    variance = (column * column).mean(where=where) - mean * mean
    return variance.clip(lower=0.0).sqrt()


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"
