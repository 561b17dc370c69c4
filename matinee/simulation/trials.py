"""Experiments that a simulation runs by itself, with what the product has for it: YAML, start, watch, read-out, ship, stop."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from experiments.config import Experiment, Holdout
from experiments.decision import Verdict
from experiments.definitions import DefinedMetric
from experiments.live import LiveExperiments
from experiments.monitoring import Watch
from experiments.reading import HOLDOUTS, METRICS, PARAMETERS, SHIPPED
from experiments.readout import Readout
from matinee.context import Day
from matinee.experimenting import (
    conclude_experiment,
    readout,
    ship,
    start_experiment,
    stop_experiment,
    watch_experiment,
)
from matinee.programme import start_holdout
from matinee.simulation.config import Trial
from matinee.simulation.designs import measured
from registry import RunState

WHO = "matinee simulate"
QUARTER = timedelta(days=91)


@dataclass(frozen=True)
class Ended:
    """How an experiment ended, on which day of the run, and what its last read-out said."""

    trial: Trial
    outcome: str  # shipped, killed, inconclusive or broken
    day: int
    readout: Readout


@dataclass
class Programme:
    """The experiments of one run: those that wait, those that are live, and those that ended."""

    day: Day
    trials: tuple[Trial, ...]
    days: int
    live: dict[str, Trial] = field(default_factory=dict)
    watched: list[tuple[int, Watch]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where their declarations lie."""
        return self.day.workspace.simulation / "experiments"

    def declare(self, share: float) -> Holdout | None:
        """Write every declaration as YAML, and set a hold-out apart where `share` is above 0; the hold-out that runs.

        One that an earlier run began goes on as it was.
        """
        running = LiveExperiments.read(self.day.workspace.live).holdout
        holdout = None if running is None else running.declaration
        if holdout is None and share > 0:
            at = self.day.as_of
            name = f"simulated-{at:%Y-%m-%d}"
            holdout = Holdout(name=name, held_out=share, winners_only=share, start=at, end=at + QUARTER)
        declare([t.experiment for t in self.trials], measured(self.days).values(), holdout, self.folder)
        if holdout is not None and running is None:
            start_holdout(self.day, holdout.name, self.day.as_of, self.folder)
        return holdout

    def start(self, number: int, at: datetime) -> bool:
        """Start what is due on day `number`; whether anything was."""
        due = [trial for trial in self.trials if trial.starts == number]
        for trial in due:
            start_experiment(self.day, trial.experiment.name, at, WHO, self.folder)
            self.live[trial.experiment.name] = trial
        return bool(due)

    def look(self, number: int, at: datetime) -> None:
        """Before day `number`: what is at its end is read out and shipped or stopped; all else is watched, and rolled back where it harms."""
        for name, trial in tuple(self.live.items()):
            if number == trial.ends:
                self._end(trial, number, readout(self.day, name, at))
                continue
            seen = watch_experiment(self.day, name, at, WHO)
            self.watched.append((number, seen))
            if seen.roll_back:
                last = self.day.registry.readouts(name)[-1]
                self._ended(trial, "killed", number, Readout.model_validate(last.verdict))

    def _end(self, trial: Trial, number: int, made: Readout) -> None:
        outcome = decided(made)
        if outcome == "shipped":
            ship(self.day, made.experiment.name, WHO)
        elif outcome == "killed":
            conclude_experiment(self.day, made.experiment.name, RunState.KILLED, WHO, made.sentence)
        else:
            stop_experiment(self.day, made.experiment.name, WHO, f"{outcome}: {made.sentence}")
        self._ended(trial, outcome, number, made)

    def _ended(self, trial: Trial, outcome: str, number: int, made: Readout) -> None:
        del self.live[made.experiment.name]
        self.ended.append(Ended(trial, outcome, number, made))


def decided(made: Readout) -> str:
    """How an experiment ends on its last read-out."""
    ends = {Verdict.SHIP: "shipped", Verdict.STOP: "killed", Verdict.BROKEN: "broken"}
    return ends.get(made.verdict, "inconclusive")


def declare(
    experiments: Sequence[Experiment], metrics: Iterable[DefinedMetric], holdout: Holdout | None, folder: Path
) -> None:
    """Each experiment as a YAML file of `folder`, which also gets the product's layers and parameters, the metrics and the hold-out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(SHIPPED / PARAMETERS, folder / PARAMETERS)
    _write(folder / METRICS, {"metrics": {metric.name: _told(metric) for metric in metrics}})
    if holdout is not None:
        _write(folder / HOLDOUTS, {"holdouts": {holdout.name: _told(holdout)}})
    for experiment in experiments:
        _write(folder / f"{experiment.name}.yaml", {"name": experiment.name, **_told(experiment)})


def _told(declared: Experiment | DefinedMetric | Holdout) -> Mapping[str, object]:
    """All but the name."""
    return declared.model_dump(mode="json", exclude_defaults=True, exclude={"name"})


def _write(file: Path, value: Mapping[str, object]) -> None:
    file.write_text(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True))


def _plain(value: object) -> object:
    """Mappings and sequences as YAML's own."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
