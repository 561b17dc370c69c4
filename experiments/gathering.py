"""One pass over exposures and events into daily statistics: the thin edge where definitions meet DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations_with_replacement

import duckdb
import ibis
import pyarrow as pa
from ibis.expr import types as ir

from experiments.config import Experiment
from experiments.daily import HISTOGRAMS, MOMENTS, TENURES, TREND, UNITS, DailyStatistics
from experiments.definitions import Metric, Metrics
from experiments.metrics import Statistics, exposed_units_in
from experiments.scan import Pass, Term, by_tenure, cut_at, passes_over, terms_of, unit_values

_BATCH = 131_072
"""Rows that are handed over at a time."""


class NotDefined(ValueError):
    """A metric that names outcome columns but does not say how they come from events."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"metric {', '.join(names)} is not defined over events: give it a definition, or bring its outcomes."
        )


def gather(
    con: duckdb.DuckDBPyConnection,
    units: pa.Table,
    metrics: Metrics | Sequence[Metric],
    as_of: datetime,
    segments: Sequence[str] = (),
    caps: Mapping[str, float] | None = None,
) -> DailyStatistics:
    """Daily statistics of `units` (`metrics.exposed_units`) from the event tables of `con`, known and happened before `as_of`.

    `segments` are columns of table `users`, by which the first metric is kept as well. `caps` are those of an earlier scan;
    without them a column that is winsorised at a quantile is cut at that of the units of all arms here. Leaves temporary
    tables on `con`.

    Raises:
        NotDefined: a metric has no definition.
    """
    every = metrics.all if isinstance(metrics, Metrics) else tuple(metrics)
    if undefined := [m.name for m in every if m.definition is None]:
        raise NotDefined(undefined)
    _prepare(con, units, every, as_of)
    found = dict(_caps(con, every, as_of) if caps is None else caps)
    values = cut_at(ibis.table(_columns(every), name="unit_values"), found)
    means = [m for m in every if m.quantile is None]
    tenures = _tenures(con, every[0])
    moments = [_moments(con, values, means), _slopes(con, every[0])]
    if segments and every[0].quantile is None:
        labelled = (_with_segment(con, values, name, _literal(as_of)) for name in segments)
        moments += [_moments(con, one, every[:1]) for one in labelled]
    return DailyStatistics(
        units=_read(con, "SELECT arm, day, count(*) AS n FROM units GROUP BY ALL ORDER BY ALL", UNITS),
        moments=pa.concat_tables(moments),
        histograms=_histograms(con, every),
        tenures=tenures,
        crossovers=con.sql("SELECT count(*) FROM exposed WHERE arms > 1").fetchall()[0][0],
        caps=found,
    )


def statistics_on(con: duckdb.DuckDBPyConnection, experiment: Experiment, as_of: datetime) -> Statistics:
    """An experiment's sufficient statistics at `as_of`, from `exposures` (the exposure log) and event tables on `con`.

    Raises:
        NotDefined: a metric has no definition.
    """
    daily = gather(con, exposed_units_in(con, experiment), experiment.metrics, as_of, experiment.segments)
    return daily.statistics(experiment.metrics.all, tuple(experiment.arms), as_of)


def _prepare(
    con: duckdb.DuckDBPyConnection, units: pa.Table, metrics: Sequence[Metric], as_of: datetime
) -> None:
    """Tables `units`, `known_*` and `unit_values`."""
    con.execute("SET TimeZone = 'UTC'")
    con.register("exposed", units)
    con.execute(
        """CREATE OR REPLACE TEMP TABLE units AS SELECT unit_id, arm, epoch_us(first_exposed_at) AS since_us,
        CAST(first_exposed_at AS DATE) AS day, row_number() OVER (ORDER BY unit_id) - 1 AS place FROM exposed WHERE arms = 1"""
    )
    until = _literal(as_of)
    asked = [*passes_over(term for metric in metrics for term in terms_of(metric).values())]
    for one, _ in asked:
        con.execute(
            f"""CREATE OR REPLACE TEMP VIEW known_{one.source} AS SELECT *, epoch_us(event_timestamp) AS at_us
            FROM {one.source} WHERE created_timestamp < {until} AND event_timestamp < {until}"""
        )
    con.register("unit_terms", _terms(con, asked))
    con.execute(f"CREATE OR REPLACE TEMP VIEW unit_values AS {_sql(unit_values(metrics))}")


def _terms(con: duckdb.DuckDBPyConnection, asked: Sequence[tuple[Pass, Sequence[Term]]]) -> pa.Table:
    """`unit_id`, `arm`, `day` and each term of each unit, under its key."""
    who = con.sql("SELECT unit_id, arm, day FROM units ORDER BY place").to_arrow_table()
    for one, terms in asked:
        totals = one.totals(con.sql(_sql(one.events(len(who)))).to_arrow_reader(_BATCH), len(who))
        for term in terms:
            who = who.append_column(term.key, pa.array(one.term(totals, term)))
    return pa.Table.from_batches(who.to_batches(_BATCH), who.schema)  # many, so that threads share them


def _columns(metrics: Sequence[Metric]) -> dict[str, str]:
    columns = {column: "float64" for metric in metrics for column in metric.columns}
    return {"unit_id": "int64", "arm": "string", "day": "date"} | columns


def _caps(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric], as_of: datetime) -> dict[str, float]:
    """The quantile of each winsorised column over the units of all arms whose windows are over, so that arms are cut alike."""
    asked = {
        column: (metric.definition.winsorise, as_of - timedelta(days=metric.definition.window_days + 1))
        for metric in metrics
        if metric.definition is not None and metric.definition.winsorise is not None
        for column in metric.columns
    }
    if not asked:
        return {}
    listed = ", ".join(
        f"""quantile_disc("{column}", {at}) FILTER (WHERE day <= DATE '{last.astimezone(UTC):%Y-%m-%d}')"""
        for column, (at, last) in asked.items()
    )
    found = con.execute(f"SELECT {listed} FROM unit_values").fetchall()[0]
    return {column: cap for column, cap in zip(asked, found, strict=True) if cap is not None}


def _with_segment(con: duckdb.DuckDBPyConnection, values: ir.Table, attribute: str, until: str) -> ir.Table:
    """`values` with `segment`, by what was last known of each user's attribute."""
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE segment_of AS SELECT user_id,
        '{attribute}=' || coalesce(arg_max("{attribute}"::VARCHAR, event_timestamp), 'unknown') AS segment
        FROM users WHERE created_timestamp < {until} GROUP BY user_id"""
    )
    known = ibis.table({"user_id": "int64", "segment": "string"}, name="segment_of")
    joined = values.left_join(known, values["unit_id"] == known["user_id"])
    return joined.mutate(segment=joined["segment"].fill_null(f"{attribute}=unknown"))


def _moments(con: duckdb.DuckDBPyConnection, values: ir.Table, metrics: Sequence[Metric]) -> pa.Table:
    """Sizes, means and co-moments of every pair of columns that a metric reads together, by arm and day."""
    pairs = list(
        dict.fromkeys(p for m in metrics for p in combinations_with_replacement(sorted(m.columns), 2))
    )
    columns = list(dict.fromkeys(column for pair in pairs for column in pair))
    if not pairs:
        return MOMENTS.empty_table()
    by = ["segment", "arm", "day"] if "segment" in values.columns else ["arm", "day"]
    asked = {f"m{i}": values[c].mean() for i, c in enumerate(columns)}
    asked |= {f"c{i}": _comoment(values, *pair) for i, pair in enumerate(pairs)}
    rows = con.sql(_sql(values.group_by(by).aggregate(n=values.count(), **asked))).to_arrow_table()
    place = {column: f"m{i}" for i, column in enumerate(columns)}
    parts = [
        pa.table({
            "segment": rows["segment"] if "segment" in by else pa.array([""] * len(rows), pa.string()),
            "arm": rows["arm"], "day": rows["day"],
            "first": pa.array([a] * len(rows), pa.string()), "second": pa.array([b] * len(rows), pa.string()),
            "n": rows["n"], "mean_first": rows[place[a]], "mean_second": rows[place[b]], "comoment": rows[f"c{i}"],
        }, schema=MOMENTS)
        for i, (a, b) in enumerate(pairs)
    ]  # fmt: skip
    return pa.concat_tables(parts)


def _comoment(values: ir.Table, first: str, second: str) -> ir.Value:
    """Σ (a - ā)(b - b̄) within a group."""
    spread = values[first].var(how="pop") if first == second else values[first].cov(values[second], how="pop")
    return spread * values.count()


def _histograms(con: duckdb.DuckDBPyConnection, metrics: Sequence[Metric]) -> pa.Table:
    parts = [
        _read(
            con,
            f"""SELECT arm, day, '{m.value}' AS "column", "{m.value}" AS value, count(*) AS n
            FROM unit_values GROUP BY ALL""",
            HISTOGRAMS,
        )
        for m in metrics
        if m.quantile is not None
    ]
    return pa.concat_tables([HISTOGRAMS.empty_table(), *parts])


def _tenures(con: duckdb.DuckDBPyConnection, metric: Metric) -> pa.Table:
    """Σ and Σ of squares of what units did on each day since their first exposure; leaves `tenure_values`."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE tenure_values AS {_sql(by_tenure(metric))}")
    return _read(
        con,
        """SELECT v.arm, u.day, v.tenure::INTEGER AS tenure, sum(v.value) AS total, sum(v.value * v.value) AS squares
        FROM tenure_values v JOIN units u USING (unit_id) GROUP BY ALL ORDER BY ALL""",
        TENURES,
    )


def _slopes(con: duckdb.DuckDBPyConnection, metric: Metric) -> pa.Table:
    """Moments of each unit's least-squares slope over the days since its first exposure, from `tenure_values`."""
    if metric.definition is None or metric.definition.window_days < 2:
        return MOMENTS.empty_table()
    days = metric.definition.window_days
    middle, spread = (
        (days - 1) / 2,
        days * (days**2 - 1) / 12,
    )  # mean of 0 … days - 1, and Σ of squares around it
    return _read(
        con,
        f"""SELECT '{TREND}' AS segment, arm, day, 'slope' AS "first", 'slope' AS "second", count(*) AS n,
            avg(slope) AS mean_first, avg(slope) AS mean_second, var_pop(slope) * count(*) AS comoment
        FROM (SELECT u.arm, u.day, coalesce(s.slope, 0) AS slope FROM units u LEFT JOIN (
            SELECT unit_id, sum(value * (tenure - {middle})) / {spread} AS slope FROM tenure_values
            GROUP BY unit_id) s USING (unit_id)) GROUP BY arm, day""",
        MOMENTS,
    )


def _read(con: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema) -> pa.Table:
    return con.sql(sql).to_arrow_table().cast(schema)


def _literal(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat(sep=' ')}'"


def _sql(expression: ir.Table) -> str:
    return str(ibis.to_sql(expression, dialect="duckdb"))
