"""What answers are made from at one moment, and how a newer moment takes over without a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from experiments.assignment import NO_CONTEXT
from experiments.config import JSON
from experiments.live import LiveExperiments
from feature_repo.deltas import DamagedDeltas
from feature_repo.freshness import Freshness, freshness_of
from feature_repo.reader import OnlineReader
from feature_repo.snapshot import SnapshotError, pointer
from models.data import Int64
from models.signature import SignatureMismatch
from serving.answers import Stale
from serving.champions import Champions
from serving.live_set import Folders, LiveSet
from serving.manifest import NEEDS, Kind, Manifest
from serving.plan import Plan
from serving.resolver import Objective, Resolver
from serving.rollout import Rollout
from serving.versions import Models, check, load, needed

if TYPE_CHECKING:
    from models.artwork import ArtworkPolicy
    from models.compiled import CompiledRanker
    from models.retrieval import Retriever

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 0.25
What = Literal["snapshot", "experiments", "champions", "rollout"]
"""What a process follows; each is refused by its name. Rows written since the snapshot are `deltas`."""
_DELTAS = "deltas"
REFUSED = (SnapshotError, SignatureMismatch, LookupError, ValueError, OSError)
"""What is raised by something new that cannot be served."""
M = TypeVar("M")


class VersionNotLoaded(LookupError):
    """A plan names a model version that is not there."""

    def __init__(self, kind: str, ref: str | None, loaded: Collection[str]) -> None:
        super().__init__(f"no {kind} {ref!r} is loaded. Loaded: {', '.join(sorted(loaded)) or 'none'}.")


@dataclass(frozen=True)
class Live:
    """One snapshot generation, one set of declarations, and the model versions that these ask for.

    `available` are the titles that may be shown, ascending; `retrievers` and `rankers` those of `models`, the first with the
    titles that came after their training, the second compiled over the catalogue.
    """

    reader: OnlineReader
    declared: LiveSet
    resolver: Resolver
    models: Models
    retrievers: Mapping[str, Retriever]
    rankers: Mapping[str, CompiledRanker]
    available: Int64

    @property
    def manifest(self) -> Manifest:
        """The Bento's, with the champions that hold now for defaults."""
        return self.declared.manifest

    @property
    def experiments(self) -> LiveExperiments:
        """What runs."""
        return self.declared.experiments

    @cached_property
    def freshness(self) -> tuple[Freshness, ...]:
        """How new each table of the snapshot is."""
        return freshness_of(self.reader.view)

    def stale(self, now: datetime) -> tuple[Stale, ...]:
        """The tables that are older than promised at `now`."""
        return tuple(
            Stale(table=f.table, age_hours=round(f.age_hours(now), 2), slo_hours=f.slo_hours)
            for f in self.freshness
            if f.breached(now)
        )

    def plan(
        self, user_id: int, context: Mapping[str, JSON] = NO_CONTEXT, objective: Objective = "homepage"
    ) -> Plan:
        """The user's arms and what they ask for."""
        return self.resolver.resolve(objective, user_id, context)

    def retriever(self, plan: Plan) -> Retriever:
        """The plan's retriever.

        Raises:
            VersionNotLoaded: there is none.
        """
        _loaded(self.models.retrievers, "retriever", plan.versions.retriever)
        return self.retrievers[str(plan.versions.retriever)]

    def ranker(self, plan: Plan) -> CompiledRanker:
        """The plan's ranker; raises as `retriever` does."""
        _loaded(self.models.rankers, "ranker", plan.versions.ranker)
        return self.rankers[str(plan.versions.ranker)]

    def artwork(self, plan: Plan) -> ArtworkPolicy:
        """The plan's artwork policy; raises as `retriever` does."""
        return _loaded(self.models.artworks, "artwork policy", plan.versions.artwork)


def _loaded(models: Mapping[str, M], kind: str, ref: str | None) -> M:
    if ref is None or ref not in models:
        raise VersionNotLoaded(kind, ref, models)
    return models[ref]


class LiveSource:
    """Hands out the current `Live`, whole: a request keeps the one it got.

    `look` takes up a newer snapshot, other experiments, champions, shadows or canaries, and rows written since the
    snapshot. What cannot be served (other features, a version that is nowhere, a damaged file) is refused and logged,
    and the last good one stays. What is new at once is tried together first, as one may need the other: a champion
    trained on new features, and the snapshot that has them.
    """

    def __init__(self, folders: Folders, manifest: Manifest, *, apart: Collection[Kind] = ()) -> None:
        """Load what is live now, apart from the kinds of model in `apart`, for which others answer. Where champions or a roll-out cannot be served, the Bento's own defaults are.

        Raises:
            SnapshotError, SignatureMismatch, LookupError, ValueError: snapshot, experiments or the Bento cannot be
                served, and there is no older one to stay with; the message says what would help.
        """
        self.refusals: dict[str, str] = {}
        self.folders, self._manifest, self._apart = folders, manifest, apart
        self._stamps: dict[What, Callable[[], str]] = {
            "snapshot": lambda: str(pointer(folders.online)),
            "experiments": lambda: _stamp(folders.experiments),
            "champions": lambda: _stamp(folders.champions),
            "rollout": lambda: _stamp(folders.rollout),
        }
        self._tried: dict[What, str | None] = {what: stamp() for what, stamp in self._stamps.items()}
        self._reader = OnlineReader.open(folders.online)
        if self._reader.fault is not None:  # it has fallen back on an older snapshot
            self.refusals["snapshot"] = str(self._reader.fault)
        self._live = self._first()

    def current(self) -> Live:
        """What to answer from now."""
        return self._live

    def look(self) -> None:
        """Take up what has changed since the last look; a few microseconds if nothing has."""
        self._follow()
        if changed := self._changed():
            waiting = [
                what for what in self._stamps if what in self.refusals and self._tried[what] is not None
            ]
            self._take_up(tuple(dict.fromkeys((*changed, *waiting))))

    def keep_looking(self, stop: threading.Event) -> None:
        """Look every `LOOK_EVERY_S` until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def _changed(self) -> tuple[What, ...]:
        found = []
        for what, stamp in self._stamps.items():
            before, self._tried[what] = self._tried[what], None
            try:
                self._tried[what] = stamp()
            except (SnapshotError, OSError) as problem:
                self._refuse(what, str(problem))
                continue
            if self._tried[what] != before:
                found.append(what)
        return tuple(found)

    def _take_up(self, new: tuple[What, ...]) -> None:
        """All that is new together, else one after the other."""
        if len(new) > 1 and self._attempt(new) is None:
            return
        for what in new:
            if (problem := self._attempt((what,))) is not None:
                self._refuse(what, problem)

    def _attempt(self, new: tuple[What, ...]) -> str | None:
        """Make what is `new` current; if it cannot be served, say why and change nothing."""
        try:
            reader = self._newest_reader() if "snapshot" in new else self._reader
            self._live = self._made(reader.pinned(), self._newest(new), self._live)
        except REFUSED as problem:
            return str(problem)
        self._reader = reader
        for what in new:
            self.refusals.pop(what, None)
        logger.info(
            "new %s taken up: snapshot %s, live set %s",
            ", ".join(new),
            self._live.reader.generation,
            self._live.declared.id,
        )
        return None

    def _follow(self) -> None:
        """Rows written since the snapshot change neither models nor experiments: only the reader is another."""
        try:
            if self._reader.follow():
                self._live = replace(self._live, reader=self._reader.pinned())
        except (DamagedDeltas, OSError) as problem:
            self._refuse(_DELTAS, str(problem))
        else:
            self.refusals.pop(_DELTAS, None)

    def _refuse(self, what: str, why: str) -> None:
        if self.refusals.get(what) != why:
            logger.error("new %s refused, the last good one stays: %s", what, why)
        self.refusals[what] = why

    def _newest_reader(self) -> OnlineReader:
        reader = self._reader.pinned()
        with suppress(DamagedDeltas):  # `_follow` is about to say so
            reader.refresh()
        return reader

    def _newest(self, new: tuple[What, ...]) -> LiveSet:
        """What holds now, what is `new` read again."""
        folders, held = self.folders, self._live.declared
        return LiveSet.of(
            folders,
            self._manifest,
            LiveExperiments.read(folders.experiments) if "experiments" in new else held.experiments,
            Champions.read(folders.champions) if "champions" in new else held.champions,
            Rollout.read(folders.rollout) if "rollout" in new else held.rollout,
        )

    def _first(self) -> Live:
        try:
            return self._made(self._reader.pinned(), declared(self.folders, self._manifest), None)
        except REFUSED:
            experiments = LiveExperiments.read(self.folders.experiments)
            plain = LiveSet.of(self.folders, self._manifest, experiments)
            self._live = self._made(self._reader.pinned(), plain, None)
        self._take_up(("champions", "rollout"))  # to say which of them it was
        return self._live

    def _made(self, reader: OnlineReader, declared: LiveSet, before: Live | None) -> Live:
        """Raises one of `REFUSED` where it cannot be served."""
        versions = needed(declared.manifest, declared.experiments, declared.rollout)
        check(versions, reader)
        mine = [version for version in versions if version.kind not in self._apart]
        models = load(mine, self.folders.bento, Models() if before is None else before.models)
        same = before if before is not None and before.reader.generation == reader.generation else None
        resolver = Resolver(
            declared.experiments,
            declared.manifest.defaults,
            [
                canary
                for canary in declared.rollout.canaries
                if canary.kind in NEEDS[declared.manifest.service]
            ],
        )
        available = reader.catalogue.available(reader.as_of)
        found = reaching(models, reader, {} if same is None else same.retrievers)
        ranked = compiled(models, reader, {} if same is None else same.rankers)
        return Live(reader, declared, resolver, models, found, ranked, available)


def declared(folders: Folders, manifest: Manifest) -> LiveSet:
    """Everything that the workspace declares live now, over a Bento's manifest.

    Raises:
        ChampionNotHere, AnotherLedger: a champion cannot be a default here.
        ValueError: a file is damaged.
    """
    experiments = LiveExperiments.read(folders.experiments)
    champions, rollout = Champions.read(folders.champions), Rollout.read(folders.rollout)
    return LiveSet.of(folders, manifest, experiments, champions, rollout)


def reaching(models: Models, reader: OnlineReader, known: Mapping[str, Retriever]) -> Mapping[str, Retriever]:
    """The retrievers by ref, each with the titles of the snapshot that came after its training; those in `known` have them."""
    made = {ref: retriever for ref, retriever in known.items() if ref in models.retrievers}
    titles = reader.catalogue.title_ids
    for ref, retriever in models.retrievers.items():
        if ref in made:
            continue
        new = np.setdiff1d(titles, retriever.title_ids)
        features = reader.vectors("retrieval_title", new)
        told = reader.known(features).any(axis=1)  # nothing can be said of a title without a row
        made[ref] = retriever.also_over(new[told], features[told])
    return made


NOBODY = -1
"""A user of whom nothing is known: what a title's features are does not depend on who asks."""


def compiled(
    models: Models, reader: OnlineReader, known: Mapping[str, CompiledRanker]
) -> Mapping[str, CompiledRanker]:
    """The rankers by ref, with all that they can know of the catalogue before anyone asks; those in `known` know it."""
    made = {ref: ranker for ref, ranker in known.items() if ref in models.rankers}
    if len(made) == len(models.rankers):
        return made
    from models.compiled import CompiledRanker  # noqa: PLC0415  (loads torch)

    titles = reader.catalogue.title_ids
    features = reader.matrix("ranking", NOBODY, titles)
    new = {ref: ranker for ref, ranker in models.rankers.items() if ref not in made}
    return made | {ref: CompiledRanker.of(ranker).over(titles, features) for ref, ranker in new.items()}


def check_servable(folders: Folders, manifest: Manifest) -> None:
    """Raise what `LiveSource` would, apart from damaged artifacts, without loading a model."""
    reader = OnlineReader.open(folders.online)
    try:
        _check(declared(folders, manifest), reader)
    except REFUSED:
        _check(LiveSet.of(folders, manifest, LiveExperiments.read(folders.experiments)), reader)


def _check(live: LiveSet, reader: OnlineReader) -> None:
    check(needed(live.manifest, live.experiments, live.rollout), reader)


def _stamp(path: Path) -> str:
    """What changes when a file is replaced; empty without a file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
