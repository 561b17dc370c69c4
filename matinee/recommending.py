"""A page made in this process from the built Bento, for looking: nothing is logged as shown."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from matinee.context import Day
from matinee.datasets import entity_matrix
from matinee.deployment import bento_folder, newest_tag
from models.threads import use_threads
from serving.answers import Page, PageRequest
from serving.deadline import Deadline
from serving.explaining import ExplainRequest, Explanation, explained
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import Manifest
from serving.page import Homepage


@dataclass(frozen=True)
class Looker:
    """The homepage as a Bento would serve it now, with exposures that go nowhere."""

    core: Homepage
    source: LiveSource
    day: Day

    def page(self, user_id: int, size: int, budget_ms: float = 10_000) -> Page:
        """The user's page as of the workspace's day."""
        request = PageRequest(user_id=user_id, size=size)
        return self.core.page(
            request, self.day.as_of + timedelta(seconds=1), Deadline.within(budget_ms, time.monotonic)
        )

    def explained(self, user_id: int, size: int, reasons: int = 5, budget_ms: float = 10_000) -> Explanation:
        """Why each title of that page stands where it does."""
        request = ExplainRequest(user_id=user_id, size=size, reasons=reasons)
        deadline = Deadline.within(budget_ms, time.monotonic)
        return explained(
            self.core.looked_at(request, self.day.as_of + timedelta(seconds=1), deadline), reasons
        )


@contextmanager
def looker(day: Day) -> Iterator[Looker]:
    """Open the newest homepage Bento for looking; one thread, as when serving."""
    use_threads(1)
    folder = bento_folder(day, newest_tag(day, "homepage"))
    source = LiveSource(Folders.of(folder, day.workspace.root), Manifest.load(folder))
    with tempfile.TemporaryDirectory() as nowhere, ExposureLog(Path(nowhere), name="looker") as log:
        yield Looker(Homepage(source, log, lambda: uuid.uuid4().hex), source, day)


def known_users(day: Day) -> list[int]:
    """The users known at the day's `as_of`, in an order that has nothing to do with their ids."""
    ids, _ = entity_matrix(day.desk, day.desk.declarations.service("artwork_context"), day.as_of)
    shuffled: list[int] = np.random.default_rng(day.settings.seed).permutation(ids).tolist()
    return shuffled


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage over many pages."""

    stage: str
    p50: float
    p99: float


@dataclass(frozen=True)
class Timings:
    """Times by stage over `pages` pages, and how much each evaluated."""

    pages: int
    titles: int
    candidates: int
    features: int
    stages: tuple[StageTime, ...]


def time_pages(look: Looker, users: Sequence[int], size: int, warm: int = 20) -> Timings:
    """Make a page for each user and time its stages; the first `warm` pages are not counted."""
    spent: dict[str, list[float]] = {}
    for number, user in enumerate(users):
        began = time.perf_counter()
        page = look.page(user, size)
        total = (time.perf_counter() - began) * 1000
        if number >= warm:
            for stage, ms in {**page.timings_ms, "whole page": total}.items():
                spent.setdefault(stage, []).append(ms)
    live = look.source.current()
    return Timings(
        pages=len(users) - warm,
        titles=len(live.available),
        candidates=live.manifest.defaults.n_candidates,
        features=len(live.reader.digests("ranking")),
        stages=tuple(StageTime(s, *np.percentile(ms, (50, 99)).tolist()) for s, ms in spent.items()),
    )
