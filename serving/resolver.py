"""From an objective, a unit and its context to versions and weights: local data, compiled when something is taken up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from experiments.assignment import NO_CONTEXT, Assigner
from experiments.config import EVERYONE, HELD_OUT, JSON, WINNERS_ONLY
from experiments.hashing import bucket, key_of
from experiments.live import LiveExperiments
from serving.answers import ShownArm, Versions
from serving.manifest import Defaults, Kind
from serving.plan import Plan, Setting, setting_of
from serving.rollout import Canary

Objective = Literal["homepage", "artwork"]
"""What clients ask for; which models answer is ours to say."""
OBJECTIVES: Mapping[Objective, tuple[Kind, ...]] = {
    "homepage": ("retriever", "ranker", "artwork"),
    "artwork": ("artwork",),
}
"""The kinds of model behind each objective."""
REMEMBERED = 4096
"""Different settings whose plans are kept at hand. Arms set few things, so there are few; a flood of them starts anew."""


class UnknownObjective(LookupError):
    """Nobody answers for this objective."""

    def __init__(self, objective: str) -> None:
        super().__init__(f"no objective {objective!r}. There are: {', '.join(get_args(Objective))}.")


class Resolver:
    """Plans by objective, unit and context, of one set of live experiments, defaults and canaries.

    An arm that names a version has it; of the others, a canary takes its share, by a hash of its own.
    """

    def __init__(
        self,
        experiments: LiveExperiments,
        defaults: Defaults,
        canaries: Iterable[Canary],
        remembered: int = REMEMBERED,
    ) -> None:
        """Compile; what arms set is checked when versions are (`versions.needed`)."""
        self._remembered = remembered
        self._assigner = Assigner(experiments)
        self._defaults = defaults
        self._canaries = tuple((canary.kind, canary.ref, canary.seed, canary.edge) for canary in canaries)
        names = [(entry.name, arm.name) for entry in experiments.experiments for arm in entry.arms]
        if experiments.holdout is not None:
            names += [
                (experiments.holdout.declaration.name, arm) for arm in (HELD_OUT, WINNERS_ONLY, EVERYONE)
            ]
        self._arms = {(name, arm): ShownArm(experiment=name, arm=arm) for name, arm in names}
        self._settings: dict[frozenset[tuple[str, JSON]], Setting] = {}

    def resolve(self, objective: Objective, unit: int, context: Mapping[str, JSON] = NO_CONTEXT) -> Plan:
        """What answers `objective` for one unit.

        Raises:
            UnknownObjective: it is none of ours.
            InvalidUnit: the unit is no BIGINT of 0 or more.
        """
        if objective not in OBJECTIVES:
            raise UnknownObjective(objective)
        assignment = self._assigner.assign(unit, context)
        canaries = self._served(unit, assignment.parameters) if self._canaries else ()
        setting = self._setting({**assignment.parameters, **dict(canaries)})
        versions = setting.versions
        if len(OBJECTIVES[objective]) < len(Versions.model_fields):
            versions = Versions(**{kind: getattr(versions, kind) for kind in OBJECTIVES[objective]})
        arms = tuple([self._arms[arm] for arm in assignment.arms])
        return Plan(
            arms, versions, setting.weights, setting.artwork_policy, tuple(kind for kind, _ in canaries)
        )

    def _served(self, unit: int, parameters: Mapping[str, JSON]) -> tuple[tuple[Kind, str], ...]:
        """The canaries that the unit is served with: kind and version."""
        key = key_of(unit)
        return tuple(
            (kind, ref)
            for kind, ref, seed, edge in self._canaries
            if kind not in parameters and bucket(key, seed) < edge
        )

    def _setting(self, parameters: Mapping[str, JSON]) -> Setting:
        key = frozenset(parameters.items())
        if (known := self._settings.get(key)) is None:
            if len(self._settings) >= self._remembered:
                self._settings = {}
            known = self._settings[key] = setting_of(parameters, self._defaults)
        return known
