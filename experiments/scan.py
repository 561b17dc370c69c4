"""From definitions to one relation with a row for each unit: Ibis in, SQL out; no connection, no clock.

A term is one sum over the events of a unit: a measure over days [low, high) after its first exposure. Metrics that ask
for the same term share it, and every event table is read once for all its terms.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import ibis
from ibis.expr import types as ir

from events.schema import TABLES
from experiments.definitions import Definition, Measure, Metric
from validations.expectations import DType

MICROSECONDS_A_DAY = 86_400_000_000
UNITS = {"unit_id": "int64", "arm": "string", "since_us": "int64", "day": "date"}
"""Columns of the relation `units`: each unit that is in one arm, once; `since_us` is when it was first exposed, in
microseconds of Unix time, and `day` the date of that, in UTC. Events have `at_us` likewise."""


@dataclass(frozen=True)
class Term:
    """A measure over days [low, high) after first exposure; days before it are negative."""

    measure: Measure
    low: int
    high: int

    @property
    def key(self) -> str:
        """Equal for equal terms."""
        return f"{self.measure.model_dump_json()}[{self.low},{self.high})"


def terms_of(metric: Metric) -> dict[str, Term]:
    """The term behind each column of a defined metric; {} for one that is not defined over events."""
    definition = metric.definition
    if definition is None:
        return {}
    found = {metric.value: Term(definition.of, definition.from_day, definition.window_days)}
    if definition.per is not None and metric.per is not None:
        found[metric.per] = Term(definition.per, definition.from_day, definition.window_days)
    if definition.covariate_days is not None and metric.covariate is not None:
        found[metric.covariate] = Term(definition.of, -definition.covariate_days, 0)
        if definition.per is not None and metric.covariate_per is not None:
            found[metric.covariate_per] = Term(definition.per, -definition.covariate_days, 0)
    return found


def unit_values(metrics: Sequence[Metric]) -> ir.Table:
    """`unit_id`, `arm`, `day` and a column for each the metrics read, 0 where a unit did nothing.

    Reads `units` and, for each event table asked for, `known_<table>`. Flags are 0 or 1 and quantiles are rounded;
    sums are cut at declared caps. What is cut at a quantile of all units is left whole here (`cut_at` cuts it).
    """
    wanted = {column: term for metric in metrics for column, term in terms_of(metric).items()}
    names = {key: f"t{place}" for place, key in enumerate(dict.fromkeys(t.key for t in wanted.values()))}
    unique = {term.key: term for term in wanted.values()}
    units = ibis.table(UNITS, name="units")
    joined: ir.Table = units.select("unit_id", "arm", "day")
    for source in dict.fromkeys(term.measure.source for term in unique.values()):
        theirs = {names[key]: term for key, term in unique.items() if term.measure.source == source}
        sums = _sums(units, source, theirs)
        joined = joined.left_join(sums, "unit_id").drop("unit_id_right")
    values = {
        column: _shaped(joined[names[term.key]].fill_null(0.0), metric.definition)
        for metric in metrics
        if metric.definition is not None
        for column, term in terms_of(metric).items()
    }
    return joined.select("unit_id", "arm", "day", **values)


def cut_at(values: ir.Table, caps: Mapping[str, float]) -> ir.Table:
    """`values` with some columns cut at a cap each."""
    return values.mutate(**{c: ibis.least(values[c], cap) for c, cap in caps.items()}) if caps else values


def by_tenure(metric: Metric) -> ir.Table:
    """`unit_id`, `arm`, `tenure` (whole days since first exposure) and `value`, where a unit did anything that day."""
    definition = metric.definition
    if definition is None:
        raise ValueError(f"metric {metric.name!r} is not defined over events, so it has no days.")
    units = ibis.table(UNITS, name="units")
    events = _since(units, definition.of.source, [definition.of])
    rows = _within(events, 0, definition.window_days)
    rows = rows.mutate(tenure=rows["after_us"] // MICROSECONDS_A_DAY)
    value = _total(rows, definition.of, _all((rows.tenure >= 0, *_conditions(rows, definition.of))))
    return rows.group_by("unit_id", "arm", "tenure").aggregate(value=value.fill_null(0.0))


def _sums(units: ir.Table, source: str, terms: Mapping[str, Term]) -> ir.Table:
    """Each unit's sum for every term over one event table."""
    events = _since(units, source, [term.measure for term in terms.values()])
    rows = _within(events, min(t.low for t in terms.values()), max(t.high for t in terms.values()))
    sums = {
        name: _total(
            rows,
            term.measure,
            _all(
                (
                    rows["after_us"] >= term.low * MICROSECONDS_A_DAY,
                    rows["after_us"] < term.high * MICROSECONDS_A_DAY,
                    *_conditions(rows, term.measure),
                )
            ),
        )
        for name, term in terms.items()
    }
    return rows.group_by("unit_id").aggregate(**sums)


def _since(units: ir.Table, source: str, measures: Iterable[Measure]) -> ir.Table:
    """Events of units, and `after_us`, how long after first exposure each happened, negative before."""
    known = ibis.table(_schema(source, measures), name=f"known_{source}")
    joined = known.join(units.select("unit_id", "arm", "since_us"), known["user_id"] == units["unit_id"])
    return joined.mutate(after_us=joined["at_us"] - joined["since_us"])


def _within(events: ir.Table, low: int, high: int) -> ir.Table:
    """Those of days [low, high)."""
    after = events["after_us"]
    return events.filter(after >= low * MICROSECONDS_A_DAY, after < high * MICROSECONDS_A_DAY)


def _schema(source: str, measures: Iterable[Measure]) -> dict[str, str]:
    """The columns of an event table that measures read."""
    read = {name for m in measures for name in (*m.where, *([] if m.sum is None else [m.sum]))}
    read |= {"user_id"}
    types = {
        DType.FLOAT: "float32", DType.DOUBLE: "float64", DType.BIGINT: "int64", DType.BOOLEAN: "boolean",
        DType.VARCHAR: "string", DType.TIMESTAMP: "timestamp('UTC')", DType.BIGINTS: "array<int64>",
        DType.VARCHARS: "array<string>",
    }  # fmt: skip
    columns = {column.name: types[column.dtype] for column in TABLES[source].columns if column.name in read}
    return columns | {"at_us": "int64"}


def _total(rows: ir.Table, measure: Measure, where: ir.Value) -> ir.Value:
    """What the events that satisfy `where` add up to."""
    if measure.sum is None:
        return rows.count(where=where).cast("float64")
    return rows[measure.sum].cast("float64").sum(where=where)


def _conditions(rows: ir.Table, measure: Measure) -> list[ir.Value]:
    return [rows[column].isin(list(values)) for column, values in measure.where.items()]


def _all(conditions: Iterable[ir.Value]) -> ir.Value:
    return reduce(operator.and_, conditions)


def _shaped(total: ir.Value, definition: Definition) -> ir.Value:
    """A unit's sum as its metric reads it."""
    if definition.is_flag:
        return (total > 0).cast("float64")
    if definition.kind == "quantile":
        return (total / definition.resolution).round().cast("float64") * definition.resolution
    return total if definition.cap is None else ibis.least(total, definition.cap)
