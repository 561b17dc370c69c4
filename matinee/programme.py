"""All experiments together: hold-outs, who meets whom, whether effects add up, and what other rules would have shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.backtest import RuleResult, back_test
from experiments.config import JSON, ExperimentBook, Holdout
from experiments.decision import DecisionRule
from experiments.definitions import Metric
from experiments.gathering import gather
from experiments.holdout import ARMS, HoldoutReadout, read_out_holdout
from experiments.interactions import Meeting, Scan, grid_of, interactions, meetings
from experiments.live import LiveExperiments, NotLive, compiled, hold_out, release
from experiments.metrics import exposed_units_in
from experiments.overlap import Overlap, overlap
from experiments.reading import load
from experiments.readout import Readout
from matinee.context import Day
from matinee.publishing import champion_names
from matinee.scoping import holdout_detectable
from registry import RunState
from serving.exposure_table import read


def declared_overlap(folder: Path, at: datetime) -> Overlap:
    """Who can meet whom among all declared experiments whose dates hold `at`, in the order of layers and names."""
    book = load(folder)
    order = list(book.layers)
    running = [e for e in book.experiments.values() if e.start <= at < e.end]
    running.sort(key=lambda e: (order.index(e.layer) if e.layer in order else len(order), e.name))
    return overlap(LiveExperiments(experiments=tuple(compiled(book, e, str, at) for e in running)))


def start_holdout(day: Day, name: str, at: datetime, folder: Path) -> LiveExperiments:
    """Set units apart from now on, before every layer; those held out keep the champions of now.

    Raises:
        LookupError: `holdouts.yaml` has no such hold-out.
        CannotStart: another is running, or its dates do not hold `at`.
    """
    held, now = LiveExperiments.read(day.workspace.live), champion_names(day)
    pinned: dict[str, JSON] = {kind: day.registry.get(f"{kind}@champion").ref for kind in now}
    live = hold_out(held, _declared(load(folder), name), at, pinned)
    live.write(day.workspace.live)
    return live


def end_holdout(day: Day) -> Holdout:
    """Let the units of the running hold-out join everyone; read it out before, for the live file forgets it."""
    live = LiveExperiments.read(day.workspace.live)
    ended = release(live)
    ended.write(day.workspace.live)
    if live.holdout is None:
        raise NotLive("hold-out", live)
    return live.holdout.declaration


def holdout_readout(
    day: Day, name: str, metrics: Sequence[str], at: datetime, folder: Path
) -> HoldoutReadout:
    """What all launches did together in `metrics`, the first of which is also that of the sum of wins.

    Raises:
        LookupError: a metric or the hold-out is not declared.
    """
    book = load(folder)
    holdout, wanted = _declared(book, name), _defined(book, metrics)
    with day.desk.events() as connection:
        connection.register("exposures", read(day.workspace.exposures))
        units = exposed_units_in(connection, holdout)
        daily = gather(connection, units, wanted, at)
    return read_out_holdout(
        holdout, wanted, daily.statistics(wanted, ARMS, at), at, last_readouts(day, holdout)
    )


def last_readouts(day: Day, within: Holdout | None = None) -> list[tuple[Readout, bool]]:
    """The last read-out of every run in the ledger, and whether that run was launched; `within` a hold-out's dates."""
    found = []
    for run in {
        run.name: run for run in day.registry.experiments() if run.state is not RunState.DRAFT
    }.values():
        known = [Readout.model_validate(r.verdict) for r in day.registry.readouts(run.name)]
        if known and (within is None or within.start <= known[-1].at < within.end):
            found.append((known[-1], run.state is RunState.LAUNCHED))
    return found


def compare_rules(day: Day, rules: Mapping[str, DecisionRule]) -> tuple[RuleResult, ...]:
    """What each rule would have shipped of all that the ledger holds."""
    return back_test([readout for readout, _ in last_readouts(day)], rules)


def scan(day: Day, metric: str, at: datetime, folder: Path) -> tuple[tuple[Meeting, ...], Scan]:
    """Meetings and interactions of the live experiments among exposed members, in one metric.

    Who is in which experiment is chance only while all of them run: meetings are of pages since the last was started.

    Raises:
        LookupError: the metric is not declared, or nothing is live.
    """
    (wanted,) = _defined(load(folder), [metric])
    live, log = LiveExperiments.read(day.workspace.live), read(day.workspace.exposures)
    if not live.experiments:
        raise NotLive("any", live)
    started = [entry.started_at for entry in live.experiments]
    with day.desk.events() as connection:
        connection.register("log", _between(log, max(started), at))
        met = meetings(grid_of(live, _arms(connection, live)))
        connection.register("log", _between(log, min(started), at))
        units = connection.sql("""SELECT user_id AS unit_id, 'all' AS arm, min(event_timestamp) AS first_exposed_at, 1 AS arms
            FROM log GROUP BY user_id ORDER BY user_id""").to_arrow_table()
        gather(connection, units, [wanted], at)
        values = connection.sql(
            f'SELECT "{wanted.value}" AS v FROM unit_values ORDER BY unit_id'
        ).to_arrow_table()
        grid = grid_of(live, _arms(connection, live))
    return met, interactions(grid, np.asarray(values["v"]))


def _between(log: pa.Table, since: datetime, until: datetime) -> pa.Table:
    kind = log["event_timestamp"].type
    late = pc.greater_equal(log["event_timestamp"], pa.scalar(since, kind))
    return log.filter(pc.and_(late, pc.less(log["event_timestamp"], pa.scalar(until, kind))))


def _arms(con: duckdb.DuckDBPyConnection, live: LiveExperiments) -> list[list[tuple[str, str]]]:
    """Each unit's live (experiment, arm) pairs, in order of units."""
    names = [entry.name for entry in live.experiments]
    rows = con.execute(
        """SELECT user_id, list_distinct(flatten(list(list_filter(arms, lambda a: list_contains($names, a.experiment)))))
        FROM log GROUP BY user_id ORDER BY user_id""",
        {"names": names},
    ).fetchall()
    return [[(arm["experiment"], arm["arm"]) for arm in arms] for _, arms in rows]


def plan_holdout(day: Day, name: str, metrics: Sequence[str], folder: Path) -> dict[str, float]:
    """What a hold-out could tell, before it begins.

    Raises:
        LookupError: a metric or the hold-out is not declared.
        NoHistory: the past says nothing.
    """
    book = load(folder)
    holdout = _declared(book, name)
    _defined(book, metrics)
    return holdout_detectable(day, holdout, [book.metrics[metric] for metric in metrics])


def _declared(book: ExperimentBook, name: str) -> Holdout:
    if name not in book.holdouts:
        raise LookupError(f"no hold-out {name!r}. holdouts.yaml has: {', '.join(book.holdouts) or 'none'}.")
    return book.holdouts[name]


def _defined(book: ExperimentBook, names: Sequence[str]) -> list[Metric]:
    if unknown := [name for name in names if name not in book.metrics]:
        raise LookupError(
            f"no metric {', '.join(unknown)}. metrics.yaml has: {', '.join(book.metrics) or 'none'}."
        )
    return [book.metrics[name].metric() for name in names]
