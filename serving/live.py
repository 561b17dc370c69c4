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
from typing import TYPE_CHECKING, Self, TypeVar

from experiments.assignment import Assigner
from experiments.live import LiveExperiments
from feature_repo.deltas import DamagedDeltas
from feature_repo.freshness import Freshness, freshness_of
from feature_repo.reader import OnlineReader
from feature_repo.snapshot import SnapshotError, pointer
from models.data import Int64
from models.signature import SignatureMismatch
from serving.answers import Stale
from serving.manifest import Kind, Manifest
from serving.plan import Plan, plan_of
from serving.versions import Models, check, load, needed

if TYPE_CHECKING:
    from models.artwork import ArtworkPolicy
    from models.compiled import CompiledRanker
    from models.retrieval import Retriever

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 0.25
_SNAPSHOT, _EXPERIMENTS, _DELTAS = "snapshot", "experiments", "deltas"
M = TypeVar("M")


class VersionNotLoaded(LookupError):
    """A plan names a model version that is not there."""

    def __init__(self, kind: str, ref: str | None, loaded: Collection[str]) -> None:
        super().__init__(f"no {kind} {ref!r} is loaded. Loaded: {', '.join(sorted(loaded)) or 'none'}.")


@dataclass(frozen=True)
class Live:
    """One snapshot generation, one set of live experiments, and the model versions that these ask for.

    `available` are the titles that may be shown, ascending; `rankers` those of `models`, compiled over the catalogue.
    """

    reader: OnlineReader
    experiments: LiveExperiments
    assigner: Assigner
    models: Models
    rankers: Mapping[str, CompiledRanker]
    available: Int64
    manifest: Manifest

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

    def plan(self, user_id: int) -> Plan:
        """The user's arms and what they ask for."""
        return plan_of(self.assigner.assign(user_id), self.manifest.defaults)

    def retriever(self, plan: Plan) -> Retriever:
        """The plan's retriever.

        Raises:
            VersionNotLoaded: there is none.
        """
        return _loaded(self.models.retrievers, "retriever", plan.versions.retriever)

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


@dataclass(frozen=True)
class Folders:
    """Where a serving process finds things: `bento` what it was built from, the others in the workspace."""

    bento: Path
    online: Path
    experiments: Path  # the file live/experiments.json
    exposures: Path
    samples: Path

    @classmethod
    def of(cls, bento: Path, home: Path) -> Self:
        """The workspace's layout under `home`."""
        return cls(
            bento, home / "online", home / "live" / "experiments.json", home / "exposures", home / "samples"
        )


class LiveSource:
    """Hands out the current `Live`, whole: a request keeps the one it got.

    `look` takes up a newer snapshot, other live experiments, and rows written since the snapshot. What cannot be served (other features, a version
    that is not in the Bento, a damaged file) is refused and logged, and the last good one stays.
    """

    def __init__(self, folders: Folders, manifest: Manifest, *, apart: Collection[Kind] = ()) -> None:
        """Load what is live now, apart from the kinds of model in `apart`: others answer for those.

        Raises:
            SnapshotError, SignatureMismatch, LookupError, ValueError: it cannot be served, and there is no older
                one to stay with; the message says what would help.
        """
        self.refusals: dict[str, str] = {}
        self.folders, self._manifest, self._apart = folders, manifest, apart
        self._tried: dict[str, str | None] = {
            _SNAPSHOT: str(pointer(folders.online)),
            _EXPERIMENTS: _stamp(folders.experiments),
        }
        self._reader = OnlineReader.open(folders.online)
        if self._reader.fault is not None:  # it has fallen back on an older snapshot
            self.refusals[_SNAPSHOT] = str(self._reader.fault)
        self._live = self._made(self._reader, LiveExperiments.read(folders.experiments), Models())

    def current(self) -> Live:
        """What to answer from now."""
        return self._live

    def look(self) -> None:
        """Take up what has changed since the last look; a few microseconds if nothing has."""
        self._attempt(_SNAPSHOT, lambda: str(pointer(self.folders.online)), self._with_snapshot)
        self._follow()
        self._attempt(_EXPERIMENTS, lambda: _stamp(self.folders.experiments), self._with_experiments)

    def keep_looking(self, stop: threading.Event) -> None:
        """Look every `LOOK_EVERY_S` until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def _attempt(self, what: str, stamp: Callable[[], str], renewed: Callable[[], Live]) -> None:
        before, self._tried[what] = self._tried[what], None
        try:
            self._tried[what] = stamp()
            if self._tried[what] == before:
                return
            self._live = renewed()
        except (SnapshotError, SignatureMismatch, LookupError, ValueError, OSError) as problem:
            self._refuse(what, str(problem))
        else:
            self.refusals.pop(what, None)
            logger.info("new %s taken up: snapshot %s", what, self._live.reader.generation)

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

    def _with_snapshot(self) -> Live:
        reader = self._reader.pinned()
        with suppress(DamagedDeltas):  # `_follow` is about to say so
            reader.refresh()
        made = self._made(reader, self._live.experiments, self._live.models)
        self._reader = reader
        return made

    def _with_experiments(self) -> Live:
        experiments = LiveExperiments.read(self.folders.experiments)
        return self._made(self._live.reader, experiments, self._live.models)

    def _made(self, reader: OnlineReader, experiments: LiveExperiments, loaded: Models) -> Live:
        versions = needed(self._manifest, experiments)
        check(versions, reader)
        models = load((v for v in versions if v.kind not in self._apart), self.folders.bento, loaded)
        rankers = compiled(models, reader)
        available = reader.catalogue.available(reader.as_of)
        return Live(
            reader.pinned(), experiments, Assigner(experiments), models, rankers, available, self._manifest
        )


NOBODY = -1
"""A user of whom nothing is known: what a title's features are does not depend on who asks."""


def compiled(models: Models, reader: OnlineReader) -> Mapping[str, CompiledRanker]:
    """The rankers by ref, with all that they can know of the catalogue before anyone asks."""
    if not models.rankers:
        return {}
    from models.compiled import CompiledRanker  # noqa: PLC0415  (loads torch)

    titles = reader.catalogue.title_ids
    features = reader.matrix("ranking", NOBODY, titles)
    return {ref: CompiledRanker.of(ranker).over(titles, features) for ref, ranker in models.rankers.items()}


def check_servable(folders: Folders, manifest: Manifest) -> None:
    """Raise what `LiveSource` would, apart from damaged artifacts, without loading a model."""
    reader = OnlineReader.open(folders.online)
    check(needed(manifest, LiveExperiments.read(folders.experiments)), reader)


def _stamp(path: Path) -> str:
    """What changes when a file is replaced; empty without a file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
