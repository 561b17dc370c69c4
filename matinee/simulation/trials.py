"""Experiments that a simulation runs by itself: declared in YAML, started, read out, shipped or stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from experiments.config import Experiment
from experiments.decision import Verdict
from experiments.reading import PARAMETERS, SHIPPED
from experiments.readout import Readout
from matinee.context import Day
from matinee.experimenting import conclude_experiment, readout, start_experiment, stop_experiment
from matinee.simulation.config import Trial
from models.objective import ObjectiveWeights
from registry import RunState
from registry.states import Outcome

WHO = "matinee simulate"
_WEIGHT = "weights."
_CONCLUDED: Mapping[str, Outcome] = {"shipped": RunState.LAUNCHED, "killed": RunState.KILLED}


class NotShippable(ValueError):
    """An arm won that sets more than weights."""

    def __init__(self, experiment: str, arm: str, parameters: Iterable[str]) -> None:
        super().__init__(
            f"{experiment}/{arm} sets {', '.join(parameters)}: a simulation ships weights alone (weights.*)."
        )


@dataclass(frozen=True)
class Ended:
    """How an experiment ended, on which day of the run, and what its last read-out said."""

    trial: Trial
    outcome: str  # shipped, killed, inconclusive or broken
    day: int
    readout: Readout


@dataclass
class Desk:
    """The experiments of one run: those that wait, those that are live, and those that ended."""

    day: Day
    trials: tuple[Trial, ...]
    live: dict[str, Trial] = field(default_factory=dict)
    looks: list[tuple[int, Readout]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where their declarations lie."""
        return self.day.workspace.simulation / "experiments"

    def declare(self) -> None:
        """Write every declaration as YAML, beside the product's own layers and parameters."""
        if self.trials:
            declare([trial.experiment for trial in self.trials], self.folder)

    def start(self, number: int, at: datetime) -> bool:
        """Start what is due on day `number`; whether anything was."""
        due = [trial for trial in self.trials if trial.starts == number]
        for trial in due:
            start_experiment(self.day, trial.experiment.name, at, WHO, self.folder)
            self.live[trial.experiment.name] = trial
        return bool(due)

    def look(self, number: int, at: datetime, shipped: ObjectiveWeights) -> ObjectiveWeights:
        """Read out what is due before day `number`; the weights in force after that."""
        for name, trial in tuple(self.live.items()):
            if number not in trial.looks():
                continue
            made = readout(self.day, name, at)
            self.looks.append((number, made))
            outcome = decided(made, last=number == trial.ends)
            if outcome is not None:
                shipped = self._end(Ended(trial, outcome, number, made), shipped)
        return shipped

    def _end(self, ended: Ended, shipped: ObjectiveWeights) -> ObjectiveWeights:
        name = ended.trial.experiment.name
        if ended.outcome in _CONCLUDED:
            conclude_experiment(self.day, name, _CONCLUDED[ended.outcome], WHO, ended.readout.sentence)
        else:
            stop_experiment(self.day, name, WHO, f"{ended.outcome}: {ended.readout.sentence}")
        del self.live[name]
        self.ended.append(ended)
        if ended.outcome != "shipped" or ended.readout.winner is None:
            return shipped
        return with_arm(shipped, ended.trial.experiment, ended.readout.winner)


def decided(made: Readout, *, last: bool) -> str | None:
    """How an experiment ends on this read-out; None where it goes on. Only harm and damage end it early."""
    if made.verdict is Verdict.STOP:
        return "killed"
    if made.verdict is Verdict.BROKEN:
        return "broken"
    if not last:
        return None
    return "shipped" if made.verdict is Verdict.SHIP else "inconclusive"


def with_arm(weights: ObjectiveWeights, experiment: Experiment, arm: str) -> ObjectiveWeights:
    """The weights with what an arm sets.

    Raises:
        NotShippable: the arm sets something else.
    """
    parameters = experiment.arms[arm].parameters
    if others := [name for name in parameters if not name.startswith(_WEIGHT)]:
        raise NotShippable(experiment.name, arm, others)
    sets = {name.removeprefix(_WEIGHT): value for name, value in parameters.items()}
    return ObjectiveWeights.model_validate({**weights.model_dump(), **sets})


def declare(experiments: Iterable[Experiment], folder: Path) -> None:
    """Each experiment as a YAML file of `folder`, which also gets the product's layers and parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(SHIPPED / PARAMETERS, folder / PARAMETERS)
    if (metrics := SHIPPED / "metrics.yaml").exists():
        shutil.copy(metrics, folder / metrics.name)
    for experiment in experiments:
        told = experiment.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(_plain(told), sort_keys=False, allow_unicode=True)
        (folder / f"{experiment.name}.yaml").write_text(text)


def _plain(value: object) -> object:
    """Mappings and sequences as YAML's own."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
