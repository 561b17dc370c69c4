"""Where a simulated member's page comes from: the built Bento's core in this process, or its service over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

import numpy as np

from events.audience import Visit
from events.traces import Pages
from matinee.abtest import fetch
from matinee.context import Day
from matinee.deployment import bento_folder, newest_tag
from matinee.progress import Stage
from models.threads import use_threads
from serving.answers import Page, PageRequest
from serving.deadline import Deadline
from serving.exposure_table import impression_id
from serving.exposures import ExposureLog, ExposureRecord
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
class Together:
    """The exposures of a round: on disk together, before any of its pages is shown."""

    log: ExposureLog
    waiting: list[ExposureRecord] = field(default_factory=list)

    def append(self, record: ExposureRecord) -> None:
        """Keep one page for `commit`."""
        self.waiting.append(record)

    def commit(self) -> None:
        """Log what waits, durably."""
        self.log.append(*self.waiting)
        self.waiting.clear()


@dataclass
class InProcess:
    """Pages from a core in this process."""

    core: Core
    exposures: Together

    def pages(self, visits: Visit) -> list[Page]:
        """One page for each visit; what was pushed since the last round is known."""
        self.core.source.look()
        made = [
            self.core.page(user, moment(at))
            for user, at in zip(visits.user_ids.tolist(), visits.at.tolist(), strict=True)
        ]
        self.exposures.commit()
        return made


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
def in_process(day: Day, size: int) -> Iterator[InProcess]:
    """Open the newest homepage Bento; exposures go into the workspace's log, under names and request ids that follow from the day."""
    use_threads(1)
    folders = Folders.of(bento_folder(day, newest_tag(day, "homepage")), day.workspace.root)
    name = f"simulated-{day.as_of:%Y%m%d}"
    source, numbers = LiveSource(folders, Manifest.load(folders.bento)), count(1)
    guard = Guard(innocent=(NewUser, NothingFound), workers=Inline())
    with ExposureLog(day.workspace.exposures, name=name) as log:
        exposures = Together(log)
        homepage = Homepage(source, exposures, lambda: f"{name}-{next(numbers)}", guard=guard)
        yield InProcess(Core(homepage, source, size), exposures)


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
