"""Experiments between their YAML, the ledger and the live file that serving reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from experiments.checking import check
from experiments.config import Experiment, Problem
from experiments.gathering import statistics_on
from experiments.live import LiveExperiment, LiveExperiments, launch, start, stop
from experiments.metrics import Statistics, exposed_units, statistics_of
from experiments.monitoring import Watch, watch
from experiments.reading import SHIPPED, load
from experiments.readout import Readout, read_out
from experiments.sizing import power_problems
from experiments.values import JSON
from matinee.context import Day
from matinee.scoping import histories
from registry import ArmRecord, ExperimentRecord, RegistryError, RunState
from registry import Experiment as Run
from registry import Readout as RecordedReadout
from registry.states import Outcome
from serving.exposure_table import read


class NotToShip(ValueError):
    """An experiment whose newest read-out names no winner."""


def problems(day: Day, folder: Path = SHIPPED) -> tuple[Problem, ...]:
    """Everything wrong with a folder of experiments, model references checked against the ledger; then power by the past.

    What cannot work is an error; an experiment that is likely in vain a warning; one of which that cannot be told a note.
    """

    def known(reference: str) -> bool:
        try:
            day.registry.get(reference)
        except RegistryError:
            return False
        return True

    book = load(folder)
    return check(book, known) + power_problems(book, histories(day, book), day.as_of)


def start_experiment(day: Day, name: str, at: datetime, by: str, folder: Path = SHIPPED) -> LiveExperiments:
    """Pin an experiment's model references, record it in the ledger, and make it live."""
    declared = load(folder)
    live = start(
        LiveExperiments.read(day.workspace.live), declared, name, lambda ref: day.registry.get(ref).ref, at
    )
    day.registry.record_experiment(_record(declared.experiments[name]), by=by)
    day.registry.start_experiment(name, by=by)
    live.write(day.workspace.live)
    return live


def stop_experiment(day: Day, name: str, by: str, reason: str = "") -> LiveExperiments:
    """Take an experiment out of the live file and stop its run in the ledger; what came of it may be said later."""
    live = stop(LiveExperiments.read(day.workspace.live), name)
    live.write(day.workspace.live)
    day.registry.stop_experiment(name, by=by, reason=reason)
    return live


def conclude_experiment(day: Day, name: str, outcome: Outcome, by: str, reason: str) -> None:
    """Say in the ledger what came of an experiment, for good; one that is live is taken out of service first.

    Raises:
        NotRecorded: the ledger has no such experiment.
        ExperimentState: it never ran, or something was said of it before.
    """
    live = LiveExperiments.read(day.workspace.live)
    if name in {entry.name for entry in live.experiments}:
        stop(live, name).write(day.workspace.live)
    day.registry.conclude_experiment(name, outcome, by=by, reason=reason)


def _record(experiment: Experiment) -> ExperimentRecord:
    arms = tuple(
        ArmRecord(
            name,
            models={key: str(value) for key, value in arm.parameters.items() if _is_reference(value)},
            values={key: value for key, value in arm.parameters.items() if not _is_reference(value)},
        )
        for name, arm in experiment.arms.items()
    )
    return ExperimentRecord(experiment.name, experiment.layer, arms, experiment.model_dump(mode="json"))


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and ("@" in value or "/" in value)


def readout(day: Day, name: str, at: datetime) -> Readout:
    """Read an experiment's current run out from the exposure log and what came of it, and record the verdict.

    Metrics that are defined over events are computed from them; others are those of `outcomes`. Looks at this run that the
    ledger holds have spent their part of alpha.
    """
    entry = LiveExperiments.read(day.workspace.live).named(name)
    made = read_out(entry.declaration, statistics(day, entry, at), at, earlier=earlier_looks(day, entry))
    day.registry.record_readout(name, made.model_dump(mode="json"))
    return made


def earlier_looks(day: Day, entry: LiveExperiment) -> tuple[float, ...]:
    """How far along this run was each time it was read out; a read-out without estimates showed nothing."""
    known = [Readout.model_validate(r.verdict) for r in day.registry.readouts(entry.name)]
    return tuple(r.looks.fractions[-1] for r in known if r.at >= entry.started_at and r.comparisons)


def statistics(day: Day, entry: LiveExperiment, at: datetime) -> Statistics:
    """The sufficient statistics of a run so far, as known at `at`.

    Raises:
        NotDefined: some of its metrics are defined over events and some are not.
    """
    experiment, log = entry.declaration, read(day.workspace.exposures)
    since = pa.scalar(entry.started_at, log["event_timestamp"].type)
    log = log.filter(pc.greater_equal(log["event_timestamp"], since))
    if not any(metric.definition for metric in experiment.metrics.all):
        return statistics_of(exposed_units(log, experiment), outcomes(day, log), experiment)
    log = log.filter(pc.less(log["event_timestamp"], pa.scalar(at, log["event_timestamp"].type)))
    with day.desk.events() as connection:
        connection.register("exposures", log)
        return statistics_on(connection, experiment, at)


def watch_experiment(day: Day, name: str, at: datetime, by: str) -> Watch:
    """Look at the guardrails of a running experiment, and roll it back where one is surely worse.

    Rolled back, it is read out once more, taken out of service and closed in the ledger as killed.
    """
    entry = LiveExperiments.read(day.workspace.live).named(name)
    seen = watch(entry.declaration, statistics(day, entry, at), at)
    if seen.roll_back:
        readout(day, name, at)
        conclude_experiment(day, name, RunState.KILLED, by, seen.sentence)
    return seen


def ship(day: Day, name: str, by: str) -> Readout:
    """Give the winner's parameters to everyone, as they were pinned; the run, live or stopped, is launched by that.

    Only the newest read-out can say who won.

    Raises:
        NotRecorded: the ledger has no such experiment.
        NotToShip: the newest read-out of this run names no winner, or there is none, or something came of it before.
    """
    recorded = day.registry.readouts(name)  # says so, if there is no such experiment
    run, live = day.registry.experiments([name])[-1], LiveExperiments.read(day.workspace.live)
    last = _newest_of(run, recorded)
    if last is None or last.winner is None or run.state not in {RunState.RUNNING, RunState.STOPPED}:
        said = "it was not read out" if last is None else last.sentence
        raise NotToShip(f"experiment {name!r}, which is {run.state}, does not ship: {said}")
    if run.state is RunState.RUNNING:
        live = launch(live, name, last.winner)
    else:
        live = live.model_copy(update={"launched": {**live.launched, **pinned(run, last.winner)}})
    live.write(day.workspace.live)
    day.registry.conclude_experiment(name, RunState.LAUNCHED, by=by, reason=f"{last.winner}: {last.sentence}")
    return last


def _newest_of(run: Run, recorded: Sequence[RecordedReadout]) -> Readout | None:
    """The newest read-out of this run, and not of one of its name before."""
    began = max((change.at for change in run.history if change.state is RunState.RUNNING), default=None)
    known = [r for r in recorded if began is not None and r.created_at >= began]
    return Readout.model_validate(known[-1].verdict) if known else None


def pinned(run: Run, arm: str) -> dict[str, JSON]:
    """What an arm set, its model versions as they were pinned when the run started."""
    bindings = next(one.bindings for one in run.arms if one.name == arm)
    return {b.parameter: b.value if b.version is None else b.version for b in bindings}


def outcomes(day: Day, log: pa.Table) -> pa.Table:
    """One row a user in an exposure log: what they watched of what they were shown, and whether they renewed since."""
    with day.desk.events() as connection:
        connection.register("log", log)
        return connection.sql("""
            WITH first AS (SELECT user_id, min(event_timestamp) AS since FROM log GROUP BY user_id),
            watched AS (SELECT l.user_id, count(p.play_id) AS plays, sum(p.watch_minutes) AS watch_minutes
                        FROM log l LEFT JOIN plays p USING (impression_id) GROUP BY l.user_id),
            due AS (SELECT f.user_id, count(*) FILTER (status <> 'started') AS renewals_due,
                           count(*) FILTER (status = 'renewed') AS renewals
                    FROM first f JOIN memberships m ON m.user_id = f.user_id AND m.event_timestamp >= f.since
                    GROUP BY f.user_id)
            SELECT f.user_id, coalesce(w.plays, 0)::DOUBLE AS plays, coalesce(w.watch_minutes, 0) AS watch_minutes,
                   coalesce(d.renewals_due, 0)::DOUBLE AS renewals_due, coalesce(d.renewals, 0)::DOUBLE AS renewals
            FROM first f LEFT JOIN watched w USING (user_id) LEFT JOIN due d USING (user_id)
            ORDER BY f.user_id""").to_arrow_table()
