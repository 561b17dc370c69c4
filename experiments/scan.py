"""From definitions to relations over events and units: Ibis in, SQL out; no connection, no clock.

A term is one sum over the events of a unit: a measure over days [low, high) after its first exposure. Metrics that ask
for the same term share it, and every event table is read once (a pass) for all its terms: its events fall into the spans
between the ends of their windows, and a term is the sum of some spans.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr import types as ir

from events.schema import TABLES
from experiments.definitions import Definition, Measure, Metric
from validations.expectations import DType

MICROSECONDS_A_DAY = 86_400_000_000
UNITS = {"unit_id": "int64", "arm": "string", "since_us": "int64", "day": "date", "place": "int64"}
"""Columns of the relation `units`: each unit that is in one arm, once; `since_us` is when it was first exposed, in
microseconds of Unix time, `day` the date of that, in UTC, and `place` its number, from 0. Events have `at_us` likewise."""


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


@dataclass(frozen=True)
class Pass:
    """What one reading of an event table adds up for each unit: measures, within the spans that `cuts` (days) divide."""

    source: str
    measures: tuple[Measure, ...]
    cuts: tuple[int, ...]

    @property
    def spans(self) -> int:
        """How many there are."""
        return len(self.cuts) - 1

    def events(self, units: int) -> ir.Table:
        """`cell` (span × `units` + a unit's `place`) and for each measure what the event adds to it (`m0`, `m1`, …).

        Reads `units` and `known_<source>`.
        """
        rows = _since(ibis.table(UNITS, name="units"), self.source, self.measures)
        rows = _within(rows, self.cuts[0], self.cuts[-1])
        ends = [cut * MICROSECONDS_A_DAY for cut in self.cuts[1:]]
        starts = [(rows["after_us"] < end, span * units) for span, end in enumerate(ends)]
        adds = {f"m{number}": _adds(rows, measure) for number, measure in enumerate(self.measures)}
        return rows.select(cell=rows["place"] + ibis.cases(*starts).cast("int64"), **adds)

    def totals(self, batches: Iterable[pa.RecordBatch], units: int) -> np.ndarray:
        """The sums over `events(units)`, [measures, spans, units]."""
        found = np.zeros((len(self.measures), units * self.spans))
        for batch in batches:
            cell = batch["cell"].to_numpy()
            for number, sums in enumerate(found):
                np.add.at(sums, cell, batch[f"m{number}"].to_numpy())
        return found.reshape(len(self.measures), self.spans, units)

    def term(self, totals: np.ndarray, term: Term) -> np.ndarray:
        """A term of each unit: the sum of the spans of its window."""
        low, high = self.cuts.index(term.low), self.cuts.index(term.high)
        return np.asarray(totals[self.measures.index(term.measure), low:high].sum(0))


def passes_over(terms: Iterable[Term]) -> Iterator[tuple[Pass, tuple[Term, ...]]]:
    """One pass for each event table, and the terms that it is for."""
    every = tuple({term.key: term for term in terms}.values())
    for source in dict.fromkeys(term.measure.source for term in every):
        theirs = tuple(term for term in every if term.measure.source == source)
        measures = {term.measure.model_dump_json(): term.measure for term in theirs}
        cuts = sorted({end for term in theirs for end in (term.low, term.high)})
        yield Pass(source, tuple(measures.values()), tuple(cuts)), theirs


def unit_values(metrics: Sequence[Metric]) -> ir.Table:
    """`unit_id`, `arm`, `day` and a column for each the metrics read.

    Reads `unit_terms`, which has a column for the key of each term. Flags are 0 or 1 and quantiles are rounded;
    sums are cut at declared caps. What is cut at a quantile of all units is left whole here (`cut_at` cuts it).
    """
    keys = dict.fromkeys(term.key for metric in metrics for term in terms_of(metric).values())
    who = {name: UNITS[name] for name in ("unit_id", "arm", "day")}
    rows = ibis.table(who | dict.fromkeys(keys, "float64"), name="unit_terms")
    values = {
        column: _shaped(rows[term.key], metric.definition)
        for metric in metrics
        if metric.definition is not None
        for column, term in terms_of(metric).items()
    }
    return rows.select(*who, **values)


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
    rows = rows.mutate(tenure=rows["after_us"] // MICROSECONDS_A_DAY, adds=_adds(rows, definition.of))
    return rows.group_by("unit_id", "arm", "tenure").aggregate(value=lambda days: days["adds"].sum())


def _since(units: ir.Table, source: str, measures: Iterable[Measure]) -> ir.Table:
    """Events of units, and `after_us`, how long after first exposure each happened, negative before."""
    known = ibis.table(_schema(source, measures), name=f"known_{source}")
    whose = units.select("unit_id", "arm", "since_us", "place")
    joined = known.join(whose, known["user_id"] == whose["unit_id"])
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


def _adds(rows: ir.Table, measure: Measure) -> ir.Value:
    """What each event adds to a measure: 0 where it does not count."""
    amount = ibis.literal(1) if measure.sum is None else rows[measure.sum]
    amount = amount.cast("float64").fill_null(0.0)
    conditions = [rows[column].isin(list(values)) for column, values in measure.where.items()]
    if not conditions:
        return amount
    return ibis.ifelse(reduce(operator.and_, conditions), amount, ibis.literal(0).cast("float64"))


def _shaped(total: ir.Value, definition: Definition) -> ir.Value:
    """A unit's sum as its metric reads it."""
    if definition.is_flag:
        return (total > 0).cast("float64")
    if definition.kind == "quantile":
        return (total / definition.resolution).round().cast("float64") * definition.resolution
    return total if definition.cap is None else ibis.least(total, definition.cap)
