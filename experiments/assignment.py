"""Which arms a unit is in: local arithmetic, the same in every process, no I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.config import BUCKETS, EVERYONE, HELD_OUT, JSON, WINNERS_ONLY
from experiments.hashing import bucket, key_of, seed_of
from experiments.live import LiveExperiment, LiveExperiments

NO_CONTEXT: Mapping[str, JSON] = {}


@dataclass(frozen=True)
class Assignment:
    """`arms` are (experiment, arm) pairs in order of layers; `parameters` is what those arms, and arms launched before, set."""

    arms: tuple[tuple[str, str], ...]
    parameters: Mapping[str, JSON]


@dataclass(frozen=True)
class _Entry:
    """One live experiment, ready to be asked."""

    name: str
    rollout_seed: int
    rollout: int
    arm_seed: int
    edges: tuple[int, ...]  # the first bucket of each arm after the first
    arms: tuple[tuple[tuple[str, str], Mapping[str, JSON]], ...]
    targeting: tuple[tuple[str, frozenset[JSON]], ...]


@dataclass(frozen=True)
class _Apart:
    """A hold-out, ready to be asked before any layer."""

    seed: int
    winners_from: int  # buckets below are held out
    everyone_from: int
    held_out: Assignment
    winners_only: Assignment
    everyone: tuple[str, str]


class Assigner:
    """Assigns units to the arms of live experiments (overlapping layers: Tang et al., KDD 2010).

    Three independent hashes decide: the layer's says whose slot a unit is in, the experiment's roll-out hash
    whether it takes part, and its arm hash in which arm. Starting, stopping or ramping one experiment
    moves nobody in another. A hold-out is asked before all of them, by a hash of its own.
    """

    def __init__(self, live: LiveExperiments) -> None:
        slots: dict[str, list[tuple[_Entry, ...]]] = {}
        for entry in live.experiments:
            layer = slots.setdefault(entry.declaration.layer, [()] * BUCKETS)
            ready = _ready(entry)
            low, high = entry.slot
            layer[low:high] = [(*held, ready) for held in layer[low:high]]
        self._launched = dict(live.launched)
        self._apart = _apart(live)
        self._layers = tuple((seed_of("layer", name), slots[name]) for name in sorted(slots))

    def assign(self, unit_id: int, context: Mapping[str, JSON] = NO_CONTEXT) -> Assignment:
        """The arms of one unit. An experiment that targets an attribute `context` lacks leaves the unit out.

        Raises:
            InvalidUnit: the id is no BIGINT of 0 or more.
        """
        key = key_of(unit_id)
        arms: list[tuple[str, str]] = []
        if (apart := self._apart) is not None:
            place = bucket(key, apart.seed)
            if place < apart.everyone_from:
                return apart.held_out if place < apart.winners_from else apart.winners_only
            arms.append(apart.everyone)
        parameters: dict[str, JSON] = dict(self._launched)
        for seed, slots in self._layers:
            for entry in slots[bucket(key, seed)]:
                if entry.targeting and not _is_target(entry, context):
                    continue
                if bucket(key, entry.rollout_seed) >= entry.rollout:
                    continue
                arm, sets = entry.arms[bisect_right(entry.edges, bucket(key, entry.arm_seed))]
                arms.append(arm)
                parameters.update(sets)
        return Assignment(tuple(arms), parameters)


def _apart(live: LiveExperiments) -> _Apart | None:
    entry = live.holdout
    if entry is None:
        return None
    name, (held, winners) = entry.declaration.name, entry.declaration.buckets
    return _Apart(
        seed_of("holdout", entry.salt), held, winners,
        Assignment(((name, HELD_OUT),), entry.baseline), Assignment(((name, WINNERS_ONLY),), live.launched),
        (name, EVERYONE),
    )  # fmt: skip


def _ready(entry: LiveExperiment) -> _Entry:
    return _Entry(
        name=entry.name,
        rollout_seed=seed_of("rollout", entry.salt),
        rollout=entry.rollout,
        arm_seed=seed_of("arm", entry.salt),
        edges=tuple(arm.low for arm in entry.arms[1:]),
        arms=tuple(((entry.name, arm.name), arm.parameters) for arm in entry.arms),
        targeting=tuple((key, frozenset(v)) for key, v in entry.declaration.targeting.items()),
    )


def _is_target(entry: _Entry, context: Mapping[str, JSON]) -> bool:
    return all(key in context and context[key] in allowed for key, allowed in entry.targeting)
