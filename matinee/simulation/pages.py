"""Where a simulated member's page comes from: the built Bento's core in this process, or its service over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

import numpy as np

from events.audience import Visit
from events.traces import Pages
from experiments.config import BUCKETS
from experiments.hashing import bucket, key_of, seed_of
from matinee.abtest import fetch
from matinee.context import Day
from matinee.deployment import bento_folder, newest_tag
from matinee.progress import Stage
from models.data import Int64
from models.threads import use_threads
from serving.answers import Page, PageRequest
from serving.deadline import Deadline
from serving.exposure_table import impression_id
from serving.exposures import ExposureLog
from serving.guard import Guard
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import Manifest
from serving.page import Homepage
from serving.selection import NewUser, NothingFound
from serving.workers import Inline

_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


class Pager(Protocol):
    """Makes the pages of a round of visits, logged as shown."""

    def pages(self, visits: Visit) -> list[Page]:
        """One page for each visit, in their order."""


@dataclass(frozen=True)
class Kept:
    """Who is held out of everything that changes: decided by a hash of its own, before every layer."""

    share: float
    salt: str = "simulation"

    def holds(self, user_id: int) -> bool:
        """Whether the member is held out."""
        return bucket(key_of(user_id), seed_of("holdout", self.salt)) < round(self.share * BUCKETS)


@dataclass
class Core:
    """One homepage core whose clock never runs out: what a page is must not depend on how busy this machine is."""

    homepage: Homepage
    source: LiveSource
    size: int

    def page(self, user_id: int, at: datetime) -> Page:
        """The page of a user at a simulated moment."""
        request = PageRequest(user_id=user_id, size=self.size)
        return self.homepage.page(request, at, Deadline.within(1_000, lambda: 0.0))


@dataclass
class InProcess:
    """Pages from cores in this process. `frozen` serves those whom `kept` holds out."""

    live: Core
    frozen: Core | None
    kept: Kept

    def pages(self, visits: Visit) -> list[Page]:
        """One page for each visit; what was pushed since the last round is known."""
        cores = [core for core in (self.live, self.frozen) if core is not None]
        for core in cores:
            core.source.look()
        return [
            self._core(user).page(user, moment(at))
            for user, at in zip(visits.user_ids.tolist(), visits.at.tolist(), strict=True)
        ]

    def _core(self, user_id: int) -> Core:
        return self.frozen if self.frozen is not None and self.kept.holds(user_id) else self.live


@dataclass
class OverHttp:
    """Pages from the real service, a start of it for each round: everybody comes at the round's first moment."""

    day: Day
    size: int
    stage: Stage

    def pages(self, visits: Visit) -> list[Page]:
        """One page for each visit, all of them shortly after the first of these."""
        users = np.asarray(visits.user_ids, dtype=np.int64)
        return fetch(self.day, moment(int(visits.at.min())), users, self.size, self.stage)


@contextmanager
def in_process(day: Day, size: int, kept: Kept, frozen: str) -> Iterator[InProcess]:
    """Open the newest homepage Bento, and the Bento `frozen` (a tag) where somebody is held out.

    Exposures go into the workspace's log, under names and request ids that follow from the day.
    """
    use_threads(1)
    root = day.workspace.root
    with ExitStack() as stack:
        name = f"simulated-{day.as_of:%Y%m%d}"
        log = stack.enter_context(ExposureLog(day.workspace.exposures, name=name))
        newest = bento_folder(day, newest_tag(day, "homepage"))
        live = _core(Folders.of(newest, root), log, name, size)
        held = None
        if kept.share > 0:
            folders = Folders.of(bento_folder(day, frozen), root)
            nothing = day.workspace.simulation / "no-experiments.json"
            held = _core(replace(folders, experiments=nothing), log, f"{name}-held-out", size)
        yield InProcess(live, held, kept)


def _core(folders: Folders, log: ExposureLog, name: str, size: int) -> Core:
    source, numbers = LiveSource(folders, Manifest.load(folders.bento)), count(1)
    guard = Guard(innocent=(NewUser, NothingFound), workers=Inline())
    return Core(Homepage(source, log, lambda: f"{name}-{next(numbers)}", guard=guard), source, size)


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as a time."""
    return _ZERO + timedelta(microseconds=micros)


def shown(pages: Sequence[Page]) -> Pages:
    """Pages as members see them, tied to the exposure log by its impression ids."""
    cells = (len(pages), max((len(page.titles) for page in pages), default=0))
    titles, artworks, ids = (np.full(cells, -1, dtype=np.int64) for _ in range(3))
    propensities = np.full(cells, np.nan)
    for row, page in enumerate(pages):
        for title in page.titles:
            titles[row, title.position] = title.title_id
            ids[row, title.position] = impression_id(page.request_id, title.position)
            if title.artwork_id is not None:
                artworks[row, title.position] = title.artwork_id
            if title.propensity is not None:
                propensities[row, title.position] = title.propensity
    requests = tuple(page.request_id for page in pages)
    return Pages(titles, artworks, ids, requests, propensities, surface="homepage")


def held_out(users: Int64, kept: Kept) -> Int64:
    """Those of `users` who are held out."""
    return np.array([user for user in users.tolist() if kept.holds(user)], dtype=np.int64)
