"""What runs now: experiments compiled to bucket ranges, with every model reference pinned to a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, Field

from experiments.checking import conflict, problems_of
from experiments.config import BUCKETS, JSON, Declaration, Experiment, ExperimentBook, Holdout
from experiments.reading import InvalidConfig
from feature_repo.durable import replace_file

NOTHING: Mapping[str, JSON] = {}
Resolve = Callable[[str], str]
"""`ranker@champion` → `ranker/7`; raises LookupError where the reference means nothing."""


class CannotStart(ValueError):
    """An experiment that may not start now; the message says why and what would help."""


class NotLive(LookupError):
    """No live experiment has this name."""

    def __init__(self, name: str, live: LiveExperiments) -> None:
        known = ", ".join(entry.name for entry in live.experiments) or "none"
        super().__init__(f"experiment {name!r} is not live. Live: {known}.")


class LiveArm(Declaration):
    """Buckets [low, high) of 10,000 and what is set for the units in them."""

    name: str
    low: int
    high: int
    parameters: Mapping[str, JSON]


class LiveExperiment(Declaration):
    """One running experiment: the declaration it was started from, and what that became."""

    declaration: Experiment
    slot: tuple[int, int]  # buckets [low, high) of its layer
    rollout: int  # buckets below this one take part
    arms: tuple[LiveArm, ...]
    started_at: AwareDatetime

    @property
    def name(self) -> str:
        """Its name, unique among live experiments."""
        return self.declaration.name

    @property
    def salt(self) -> str:
        """What its seeds are made from."""
        return self.declaration.salt or self.declaration.name


class LiveHoldout(Declaration):
    """A running hold-out, and what its held-out units go on seeing: what had been launched when it began, and the champions of then."""

    declaration: Holdout
    baseline: Mapping[str, JSON] = {}

    @property
    def salt(self) -> str:
        """What its seed is made from."""
        return self.declaration.salt or self.declaration.name


class LiveExperiments(Declaration):
    """Every running experiment, in order of layer and name: the value that the serving process reads."""

    format: int = 1
    experiments: tuple[LiveExperiment, ...] = ()
    launched: Mapping[str, JSON] = Field(
        {}, description="what shipped arms set, for every unit that no arm sets it for"
    )
    holdout: LiveHoldout | None = None

    def to_json(self) -> str:
        """JSON that `from_json` turns back into an equal value; equal values give equal text.

        What is as by default is left out, so a serving process of an older release reads what it knows.
        """
        return self.model_dump_json(indent=1, exclude_defaults=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The value that `to_json` wrote."""
        return cls.model_validate_json(text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The value in a file; no file means that nothing has been started."""
        return cls.from_json(path.read_bytes()) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Replace the file at `path` in one step, so that a reader sees the old value or the new one."""
        replace_file(path, self.to_json())

    def named(self, name: str) -> LiveExperiment:
        """The live experiment called `name`."""
        for entry in self.experiments:
            if entry.name == name:
                return entry
        raise NotLive(name, self)

    @property
    def references(self) -> tuple[str, ...]:
        """Every pinned model version that some arm, running or launched, asks for, each once, in order of names."""
        before = {} if self.holdout is None else self.holdout.baseline
        asked = [
            dict(self.launched),
            dict(before),
            *(dict(arm.parameters) for e in self.experiments for arm in e.arms),
        ]
        return tuple(sorted({str(v) for sets in asked for v in sets.values() if "/" in str(v)}))


def start(
    live: LiveExperiments, book: ExperimentBook, name: str, resolve: Resolve, at: datetime
) -> LiveExperiments:
    """`live` with the experiment called `name` running from `at`, its model references pinned.

    Raises:
        CannotStart: there is no such experiment, it runs already, its dates do not hold `at`, or another
            live experiment would share units with it.
        InvalidConfig: its declaration does not fit the book.
        LookupError: from `resolve`, where a model reference means nothing.
    """
    if name not in book.experiments:
        raise CannotStart(f"no experiment {name!r}. There is: {', '.join(book.experiments) or 'none'}.")
    experiment = book.experiments[name]
    if problems := problems_of(book, name):
        raise InvalidConfig(problems)
    _refuse_unless_startable(live, experiment, at)
    entry = compiled(book, experiment, resolve, at)
    ordered = sorted((*live.experiments, entry), key=lambda e: (e.declaration.layer, e.name))
    return live.model_copy(update={"experiments": tuple(ordered)})


def stop(live: LiveExperiments, name: str) -> LiveExperiments:
    """`live` without the experiment called `name`; nobody changes arm in any other.

    Raises:
        NotLive: it is not running.
    """
    live.named(name)
    return live.model_copy(update={"experiments": tuple(e for e in live.experiments if e.name != name)})


def launch(live: LiveExperiments, name: str, arm: str) -> LiveExperiments:
    """`live` with one experiment stopped and what its `arm` sets given to every unit, as it was pinned when it started.

    Raises:
        NotLive: it is not running.
        LookupError: it has no such arm.
    """
    arms = {one.name: one for one in live.named(name).arms}
    if arm not in arms:
        raise LookupError(f"experiment {name!r} has no arm {arm!r}. The arms are: {', '.join(arms)}.")
    launched = {**live.launched, **arms[arm].parameters}
    return stop(live, name).model_copy(update={"launched": launched})


def ramp(live: LiveExperiments, name: str, rollout: float) -> LiveExperiments:
    """`live` with the roll-out of one experiment raised to `rollout`, a share of its slot.

    Raises:
        NotLive: it is not running.
        ValueError: the share is smaller than now, which would take units out, or above 1.
    """
    entry = live.named(name)
    buckets = round(rollout * BUCKETS)
    if not entry.rollout <= buckets <= BUCKETS:
        raise ValueError(
            f"roll-out {rollout:g} of {name!r}: it may only grow, from {entry.rollout / BUCKETS:g} to 1."
        )
    raised = entry.model_copy(update={"rollout": buckets})
    return live.model_copy(
        update={"experiments": tuple(raised if e.name == name else e for e in live.experiments)}
    )


def hold_out(
    live: LiveExperiments, holdout: Holdout, at: datetime, pinned: Mapping[str, JSON] = NOTHING
) -> LiveExperiments:
    """`live` with a hold-out from now on; what has been launched so far is its baseline.

    `pinned` is what held-out units go on with where nothing was launched: the versions that are champions now.

    Raises:
        CannotStart: another is running, this one's dates do not hold `at`, or an experiment has its name.
    """
    if live.holdout is not None:
        raise CannotStart(
            f"hold-out {live.holdout.declaration.name!r} is running; one at a time, so end it first."
        )
    if not holdout.start <= at < holdout.end:
        raise CannotStart(
            f"hold-out {holdout.name!r} runs from {holdout.start:%Y-%m-%d} until {holdout.end:%Y-%m-%d}."
        )
    if holdout.name in {entry.name for entry in live.experiments}:
        raise CannotStart(f"an experiment is called {holdout.name!r}: give the hold-out another name.")
    return live.model_copy(
        update={"holdout": LiveHoldout(declaration=holdout, baseline={**pinned, **live.launched})}
    )


def release(live: LiveExperiments) -> LiveExperiments:
    """`live` without a hold-out: its units join everyone's experiments, and see what was launched.

    Raises:
        NotLive: none is running.
    """
    if live.holdout is None:
        raise NotLive("hold-out", live)
    return live.model_copy(update={"holdout": None})


def compiled(book: ExperimentBook, experiment: Experiment, resolve: Resolve, at: datetime) -> LiveExperiment:
    """The buckets of an experiment and its arms, with model references resolved now."""
    edges = [round(total * BUCKETS) for total in accumulate(arm.share for arm in experiment.arms.values())]
    models = {name for name, parameter in book.parameters.items() if parameter.kind == "model"}
    arms = tuple(
        LiveArm(
            name=name,
            low=low,
            high=high,
            parameters={k: resolve(str(v)) if k in models else v for k, v in arm.parameters.items()},
        )
        for (name, arm), low, high in zip(experiment.arms.items(), [0, *edges[:-1]], edges, strict=True)
    )
    rollout = max(1, round(experiment.rollout * BUCKETS))
    return LiveExperiment(
        declaration=experiment, slot=experiment.slot_buckets, rollout=rollout, arms=arms, started_at=at
    )


def _refuse_unless_startable(live: LiveExperiments, experiment: Experiment, at: datetime) -> None:
    if not experiment.start <= at < experiment.end:
        raise CannotStart(
            f"experiment {experiment.name!r} runs from {experiment.start:%Y-%m-%d %H:%M} until "
            f"{experiment.end:%Y-%m-%d %H:%M} UTC; now is {at:%Y-%m-%d %H:%M}. Change its dates."
        )
    for entry in live.experiments:
        if entry.name == experiment.name:
            raise CannotStart(f"experiment {experiment.name!r} runs already. Stop it first.")
        if conflict(entry.declaration, experiment):
            raise CannotStart(
                f"{experiment.name!r} and the live {entry.name!r} share units of layer {experiment.layer!r}. "
                "Give it another slot, or stop the other first."
            )
