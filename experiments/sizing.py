"""Whether declared experiments are large enough for the effect they say they look for, by what the past tells.

Nothing here scans events: levels, variances and arrivals come in, gathered once for all experiments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from experiments.config import BUCKETS, Experiment, ExperimentBook, Problem
from experiments.power import Baseline, Need, Plan, plan
from experiments.scoping import Arrivals

SLACK = 0.005
"""A power short by less is no finding: the past itself does not know it better."""
_DAY = timedelta(days=1)
_LONGEST = timedelta(days=366)
"""A longer test is no way to find an effect."""


@dataclass(frozen=True)
class History:
    """What the past says: a baseline of each metric, or why there is none, and how many new units came each day."""

    baselines: Mapping[str, Baseline | str]
    arrivals: Arrivals


Histories = Mapping[int, History | str]
"""By the longest window, in days, of an experiment's metrics; or why there is none."""


def asked(book: ExperimentBook, at: datetime) -> dict[int, tuple[str, ...]]:
    """The metrics whose past is needed, by the longest window of the experiments that need them."""
    found: dict[int, dict[str, None]] = {}
    for experiment in book.experiments.values():
        if _unasked(book, experiment, at) is None:
            names = dict.fromkeys(metric.name for metric in experiment.metrics.all)
            found.setdefault(window_days(experiment), {}).update(names)
    return {window: tuple(names) for window, names in found.items()}


def power_problems(book: ExperimentBook, histories: Histories, at: datetime) -> tuple[Problem, ...]:
    """A warning for each experiment that could not find its effect, a note for each of which that cannot be told."""
    return tuple(
        problem
        for experiment in book.experiments.values()
        for problem in _problems_of(book, experiment, histories, at)
    )


def _problems_of(
    book: ExperimentBook, experiment: Experiment, histories: Histories, at: datetime
) -> Iterator[Problem]:
    sized = _unasked(book, experiment, at) or _sized(experiment, histories[window_days(experiment)])
    if isinstance(sized, str):
        yield book.problem(experiment.name, ("effect",), f"power was not checked: {sized}", "note")
        return
    short = dict(sized.shortcomings())
    for field, message in short.items():
        yield book.problem(experiment.name, (field,), message, "warning")
    if experiment.targeting and "end" not in short:
        message = (
            "how long it takes was not checked: what share of members its targeting lets in is not known."
        )
        yield book.problem(experiment.name, ("targeting",), message, "note")


def window_days(experiment: Experiment) -> int:
    """The longest window of its metrics, all of which are defined over events."""
    return max(metric.definition.window_days for metric in experiment.metrics.all if metric.definition)


def _unasked(book: ExperimentBook, experiment: Experiment, at: datetime) -> str | None:
    """Why the past is not asked at all; None where it is."""
    if experiment.effect is None:
        return "it states no effect."
    if experiment.end <= at:
        return f"it is over since {experiment.end:%Y-%m-%d}."
    for metric in experiment.metrics.all:
        known = book.metrics.get(metric.name)
        if known is None or (known.definition, known.metric().columns) != (metric.definition, metric.columns):
            return f"{metric.name} is not as metrics.yaml defines it, so its past is not known."
    return None


@dataclass(frozen=True)
class _Sized:
    """An experiment beside the size that its effect needs and what traffic its dates bring."""

    experiment: Experiment
    found: Mapping[str, Baseline]
    arrivals: Arrivals
    needed: Plan

    def shortcomings(self) -> Iterator[tuple[str, str]]:
        """The field that is too small, and what would do: the declared size, and the dates."""
        declared = self.experiment.planned_units
        if declared is not None and (short := self._short(declared)):
            yield "planned_units", f"{declared:,} units {short} {self.needed.units:,} would do."
        came = self.units_in(self.exposure_days)
        if came < min(declared or math.inf, self.needed.units) and (short := self._short(came)):
            dates = f"{self.experiment.start:%Y-%m-%d} to {self.experiment.end:%Y-%m-%d}"
            yield "end", f"{dates} brings about {came:,} units, which {short} {self._enough()}"

    @property
    def exposure_days(self) -> int:
        """Days on which members may come whose windows are over before the end."""
        return (self.experiment.end - self.experiment.start) // _DAY - window_days(self.experiment) - 1

    @property
    def share(self) -> float:
        """Of new units that take part, targeting aside."""
        low, high = self.experiment.slot_buckets
        return (high - low) / BUCKETS * self.experiment.rollout

    def units_in(self, days: int) -> int:
        """Units of the experiment that come in so many days; targeting can only lower it."""
        return math.floor(self.arrivals.units_in(days) * self.share)

    def _short(self, units: int) -> str:
        """What is wrong with that size; nothing where its power is as asked for."""
        if units < 1:
            return "tell nothing."
        plan_ = _plan(self.experiment, self.found, units)
        if plan_.power >= self.experiment.power - SLACK:
            return ""
        found = f"{max(plan_.power, 0.0):.0%} of the time, not {self.experiment.power:.0%}"
        could = ", ".join(_could(need) for need in plan_.needs if need.detectable > need.effect)
        return f"find {_percent(self.experiment.effect)} and clear every guardrail {found}; they could tell {could}."

    def _enough(self) -> str:
        """Which end, or how large a roll-out until the same end, would do."""
        units, experiment = self.needed.units, self.experiment
        days = self.arrivals.days_for(math.ceil(units / self.share))
        end = None if days is None else experiment.start + (days + window_days(experiment) + 1) * _DAY
        ways = []
        if end is not None and end - experiment.start <= _LONGEST:
            weeks = math.ceil((end - experiment.end) / (7 * _DAY))
            ways.append(f"an end {weeks} {'week' if weeks == 1 else 'weeks'} later, {end:%Y-%m-%d}")
        everyone = self.arrivals.units_in(self.exposure_days) * self.share / experiment.rollout
        if everyone >= units:
            ways.append(f"a rollout of {math.ceil(100 * units / everyone) / 100:g}")
        if ways:
            return f"{units:,} would do: {', or '.join(ways)}."
        when = "for ever" if end is None else f"until {end:%Y-%m-%d}"
        return f"{units:,} would do, which takes {when} at this traffic: look for a larger effect, or allow wider margins."


def _could(need: Need) -> str:
    meant = "effect" if need.role == "success" else "margin"
    return f"{_percent(need.detectable)} in {need.metric} ({meant} {_percent(need.effect)})"


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0.0):.3g} %"


def _sized(experiment: Experiment, past: History | str) -> _Sized | str:
    """Or why its size cannot be told."""
    if isinstance(past, str):
        return past
    known = {metric.name: past.baselines[metric.name] for metric in experiment.metrics.all}
    found = {name: one for name, one in known.items() if isinstance(one, Baseline)}
    if missing := [one for one in known.values() if isinstance(one, str)]:
        return missing[0]
    return _Sized(experiment, found, past.arrivals, _plan(experiment, found))


def _plan(experiment: Experiment, found: Mapping[str, Baseline], units: int | None = None) -> Plan:
    primary, guardrails = experiment.metrics.primary, experiment.metrics.guardrails
    smallest = min(experiment.arms[name].share for name in experiment.treatments)
    return plan(
        (primary, found[primary.name]), [(g, found[g.name]) for g in guardrails], experiment.effect or 0.0,
        (experiment.arms[experiment.control].share, smallest), experiment.power, experiment.looks,
        treatments=len(experiment.treatments), units=units,
    )  # fmt: skip
