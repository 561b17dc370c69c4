"""From exposures and outcomes to sufficient statistics: the only step that reads rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import duckdb
import pyarrow as pa
from pydantic import Field

from experiments.config import Declaration, Experiment, Holdout, Metric
from experiments.quantiles import OrderStatistics
from experiments.values import Moment


class InvalidOutcomes(ValueError):
    """An outcome table that cannot be read: a column missing, null or not a number, a unit twice."""


class ArmStatistics(Declaration):
    """What is kept of one arm: sizes, means, variances (n - 1) and covariances of outcome columns.

    A covariance's key is its two columns in order, a comma between. A variance needs two units. Columns that wait for
    the window of some units are of fewer than `units`; how many, say `counts`. Columns of quantiles are in `order`.
    """

    arm: str
    units: int
    mean: Mapping[str, float]
    variance: Mapping[str, float | None]
    covariance: Mapping[str, float | None]
    counts: Mapping[str, int] = {}
    order: Mapping[str, OrderStatistics] = {}

    def count(self, column: str) -> int:
        """The units behind a column."""
        return self.counts.get(column, self.units)


class Statistics(Declaration):
    """All that a read-out is computed from."""

    arms: tuple[ArmStatistics, ...] = Field(description="one for each declared arm, in their order")
    crossovers: int = Field(0, description="units seen in more than one arm; they are in no arm's statistics")
    strangers: Mapping[str, int] = Field({}, description="units seen in arms that nobody declared")
    segments: Mapping[str, tuple[ArmStatistics, ...]] = Field(
        {}, description="attribute=value → arms, the primary's columns"
    )
    tenures: tuple[tuple[ArmStatistics, ...], ...] = Field(
        (),
        description="for each day since first exposure the arms; column `value` is what the primary adds up, that day",
    )
    trend: tuple[ArmStatistics, ...] = Field(
        (), description="arms; column `slope` is each unit's change a day since exposure"
    )
    waiting: Mapping[str, Moment] = Field(
        {}, description="metrics no unit's window is over for → when the first is"
    )


def outcome_columns(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """The columns that metrics read, each once."""
    return tuple(dict.fromkeys(column for metric in metrics for column in metric.columns))


def covariance_key(first: str, second: str) -> str:
    """How the covariance of two columns is called."""
    return ",".join(sorted((first, second)))


def exposed_units(exposures: pa.Table, experiment: Experiment) -> pa.Table:
    """Each exposed unit once: unit_id, arm, `first_exposed_at`, and `arms`, the number of arms it was seen in.

    `exposures` is the exposure log: `user_id`, `event_timestamp`, and either `experiment` and `arm` or
    `arms`, a list of both. What was shown outside [start, end) of the experiment is left out.
    """
    with _connection(exposures=exposures) as con:
        return exposed_units_in(con, experiment)


def exposed_units_in(con: duckdb.DuckDBPyConnection, experiment: Experiment | Holdout) -> pa.Table:
    """As `exposed_units`, of the table `exposures` on a connection; of a hold-out its groups are the arms."""
    flat = (
        "SELECT user_id, event_timestamp, unnest(arms, recursive := true) FROM exposures"
        if "arms" in con.table("exposures").columns
        else "SELECT user_id, event_timestamp, experiment, arm FROM exposures"
    )
    return con.sql(
        f"""SELECT user_id AS unit_id, arg_min(arm, since) AS arm, min(since) AS first_exposed_at, count(*) AS arms
        FROM (SELECT user_id, arm, min(event_timestamp) AS since FROM ({flat})
            WHERE experiment = $name AND event_timestamp >= $start AND event_timestamp < $end GROUP BY ALL)
        GROUP BY user_id ORDER BY user_id""",
        params={"name": experiment.name, "start": experiment.start, "end": experiment.end},
    ).to_arrow_table()


def statistics_of(units: pa.Table, outcomes: pa.Table, experiment: Experiment) -> Statistics:
    """Sufficient statistics of `units` (`exposed_units`), each with its row of `outcomes`.

    `outcomes` has a column for each that the metrics read, and says whose they are in `unit_id`, or in a column
    called as the experiment's unit. A unit without a row did nothing and counts as 0 in every column; rows of
    units that were never exposed are not read.

    Raises:
        InvalidOutcomes: a column is missing, holds null or NaN, or a unit has two rows.
    """
    columns = outcome_columns(experiment.metrics.all)
    if "unit_id" not in outcomes.column_names and experiment.unit in outcomes.column_names:
        outcomes = outcomes.rename_columns({experiment.unit: "unit_id"})
    with _connection(units=units, outcomes=outcomes) as con:
        _check_outcomes(con, outcomes.column_names, columns)
        sums = _moments(con, experiment.metrics.all)
        crossovers, strangers = _misplaced(con, tuple(experiment.arms))
    return Statistics(
        arms=tuple(sums.get(arm) or _nobody(arm) for arm in experiment.arms),
        crossovers=crossovers,
        strangers=strangers,
    )


def _connection(**tables: pa.Table) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    for name, table in tables.items():
        con.register(name, table)
    return con


def _check_outcomes(con: duckdb.DuckDBPyConnection, present: Sequence[str], columns: tuple[str, ...]) -> None:
    if missing := [name for name in ("unit_id", *columns) if name not in present]:
        raise InvalidOutcomes(f"outcomes lack {', '.join(missing)}. They have: {', '.join(present)}.")
    tests = ", ".join(f'count(*) FILTER ("{c}" IS NULL OR NOT isfinite("{c}"::DOUBLE))' for c in columns)
    rows = con.execute(f"SELECT count(*) - count(DISTINCT unit_id), {tests} FROM outcomes").fetchall()
    twice, *unusable = rows[0]
    if twice:
        raise InvalidOutcomes(f"outcomes hold {twice} rows too many: a unit has one row.")
    for column, count in zip(columns, unusable, strict=True):
        if count:
            raise InvalidOutcomes(
                f"outcome {column!r} is null or not finite in {count} rows. Write 0, or leave the unit out."
            )


def _moments(con: duckdb.DuckDBPyConnection, metrics: tuple[Metric, ...]) -> dict[str, ArmStatistics]:
    columns = outcome_columns(metrics)
    pairs = _pairs(metrics)
    filled = ", ".join(f'coalesce(o."{c}", 0)::DOUBLE AS "{c}"' for c in columns)
    asked = [f'avg("{c}"), var_samp("{c}")' for c in columns]
    asked += [f'covar_samp("{a}", "{b}")' for a, b in pairs]
    rows = con.execute(
        f"""SELECT arm, count(*), {", ".join(asked)}
        FROM (SELECT u.arm, {filled} FROM units u LEFT JOIN outcomes o USING (unit_id) WHERE u.arms = 1)
        GROUP BY arm"""
    ).fetchall()
    found = {}
    for arm, units, *numbers in rows:
        moments, covariances = numbers[: 2 * len(columns)], numbers[2 * len(columns) :]
        found[arm] = ArmStatistics(
            arm=arm,
            units=units,
            mean=dict(zip(columns, moments[0::2], strict=True)),
            variance=dict(zip(columns, moments[1::2], strict=True)),
            covariance={covariance_key(*p): c for p, c in zip(pairs, covariances, strict=True)},
        )
    return found


def _pairs(metrics: tuple[Metric, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs of columns that some metric reads together."""
    pairs = (pair for metric in metrics for pair in combinations(sorted(metric.columns), 2))
    return tuple(dict.fromkeys(pairs))


def _misplaced(con: duckdb.DuckDBPyConnection, arms: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """Units seen in several arms, and units of each arm that nobody declared."""
    crossed = con.execute("SELECT count(*) FROM units WHERE arms > 1").fetchall()[0][0]
    strangers = con.execute(
        "SELECT arm, count(*) FROM units WHERE NOT list_contains($arms, arm) GROUP BY arm ORDER BY arm",
        {"arms": list(arms)},
    ).fetchall()
    return crossed, dict(strangers)


def _nobody(arm: str) -> ArmStatistics:
    return ArmStatistics(arm=arm, units=0, mean={}, variance={}, covariance={})
