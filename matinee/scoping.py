"""A test planned from what the lake knows: variance, level and arrivals of members who opened a page."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from events.schema import TABLES
from experiments.config import ExperimentBook, Holdout
from experiments.daily import DailyStatistics
from experiments.decision import DecisionRule
from experiments.definitions import DefinedMetric
from experiments.gathering import gather
from experiments.holdout import detectable
from experiments.metrics import ArmStatistics
from experiments.power import Baseline, NoHistory, Plan, baseline, plan
from experiments.reading import load
from experiments.scoping import Arrivals, Draft, Scope, scope
from experiments.sizing import Histories, History, asked
from matinee.context import Day
from matinee.desk import literal

KEPT = 32
"""How many pasts of a workspace are kept as daily statistics."""
PAST = "past"
"""The one arm that the past is."""


def scope_experiment(day: Day, draft: Draft, folder: Path, history_days: int = 14) -> Scope:
    """The size and duration of a test from `history_days` of the past, whose metrics' windows are all over.

    Members count from their first impression in that time, as they would from their first exposure.

    Raises:
        NoHistory: nobody came, or a metric cannot be read from what they did.
        LookupError: a metric is not in `metrics.yaml`.
    """
    book = load(folder)
    primary, guardrails = _metrics(book, draft)
    every = [primary, *guardrails]
    past, arrivals = history(day, every, history_days)
    return scope(draft, _plan(draft, primary, guardrails, past), arrivals, every, day.as_of)


def history(
    day: Day, metrics: Sequence[DefinedMetric], history_days: int = 14
) -> tuple[ArmStatistics, Arrivals]:
    """What members who were shown something did, and how many new ones came each day.

    Raises:
        NoHistory: nobody came.
    """
    wanted = [metric.metric() for metric in metrics]
    kept = day.workspace.histories / _digest(day, metrics, history_days)
    if kept.is_dir():
        daily = DailyStatistics.read(kept)
    else:
        daily = _gathered(day, metrics, history_days)
        _keep(daily, kept)
    (past,) = daily.statistics(wanted, [PAST], day.as_of).arms
    return past, Arrivals(daily=tuple(daily.units.sort_by("day")["n"].to_pylist()))


def _gathered(day: Day, metrics: Sequence[DefinedMetric], history_days: int) -> DailyStatistics:
    until = day.as_of - timedelta(days=max(metric.window_days for metric in metrics) + 1)
    with day.desk.events() as connection:
        units = seen_between(connection, until - timedelta(days=history_days), until, day.as_of)
        if len(units) == 0:
            raise NoHistory(f"nobody was shown anything in the {history_days} days before {until:%Y-%m-%d}.")
        return gather(connection, units, [metric.metric() for metric in metrics], day.as_of)


def _digest(day: Day, metrics: Sequence[DefinedMetric], history_days: int) -> str:
    """SHA-256 over all that the past's statistics follow from: definitions, days, and the parts of the lake."""
    defined = [metric.model_dump(mode="json") for metric in metrics]
    lake = {table: day.workspace.lake.digest(table) for table in TABLES}
    told = json.dumps([defined, history_days, day.as_of.isoformat(), lake], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _keep(daily: DailyStatistics, folder: Path) -> None:
    """Whole or not at all; of what was kept before, all but the newest goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    daily.write(made)
    with suppress(OSError):  # another process has kept the same
        made.rename(folder)
    shutil.rmtree(made, ignore_errors=True)
    newest_first = sorted(
        folder.parent.glob("[0-9a-f]*"), key=lambda kept: kept.stat().st_mtime, reverse=True
    )
    for old in newest_first[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def histories(day: Day, book: ExperimentBook) -> Histories:
    """What the past says of the metrics that experiments of `book` look for effects in: one scan for each length of window.

    An experiment is planned by `scope_experiment` from members whose longest window is over, and so it is here.
    """
    found: dict[int, History | str] = {}
    for window, names in asked(book, day.as_of).items():
        metrics = [book.metrics[name] for name in names]
        try:
            past, arrivals = history(day, metrics)
        except NoHistory as reason:
            found[window] = str(reason)
        else:
            found[window] = History({m.name: _known(m, past) for m in metrics}, arrivals)
    return found


def _known(metric: DefinedMetric, past: ArmStatistics) -> Baseline | str:
    try:
        return baseline(metric.metric(), past)
    except NoHistory as reason:
        return str(reason)


def holdout_detectable(day: Day, holdout: Holdout, metrics: Sequence[DefinedMetric]) -> dict[str, float]:
    """The relative effect of a hold-out's launches that each metric would show 80 % of the time, with as many members as the past fortnight's.

    Raises:
        NoHistory: nobody came, or a metric cannot be read from what they did.
    """
    past, arrivals = history(day, metrics)
    return {m.name: detectable(baseline(m.metric(), past), holdout, sum(arrivals.daily)) for m in metrics}


def seen_between(
    con: duckdb.DuckDBPyConnection, since: datetime, until: datetime, known: datetime
) -> pa.Table:
    """Members shown anything in [since, until), as units of one arm, from their first impression in it."""
    return con.sql(f"""
        SELECT user_id AS unit_id, '{PAST}' AS arm, min(event_timestamp) AS first_exposed_at, 1 AS arms FROM impressions
        WHERE event_timestamp >= {literal(since)} AND event_timestamp < {literal(until)}
            AND created_timestamp < {literal(known)}
        GROUP BY user_id ORDER BY user_id""").to_arrow_table()


def _metrics(book: ExperimentBook, draft: Draft) -> tuple[DefinedMetric, list[DefinedMetric]]:
    names = [draft.primary, *draft.guardrails]
    if unknown := [name for name in names if name not in book.metrics]:
        known = ", ".join(book.metrics) or "none"
        raise LookupError(f"metric {', '.join(unknown)} is not defined. metrics.yaml has: {known}.")
    primary, *guardrails = (book.metrics[name] for name in names)
    return primary, guardrails


def _plan(draft: Draft, primary: DefinedMetric, guardrails: list[DefinedMetric], past: ArmStatistics) -> Plan:
    guarded = [metric.guardrail(draft.guardrails[metric.name]) for metric in guardrails]
    return plan(
        (primary.metric(), baseline(primary.metric(), past)), [(g, baseline(g, past)) for g in guarded],
        draft.effect, (0.5, 0.5), draft.power, draft.looks, DecisionRule(),
    )  # fmt: skip
