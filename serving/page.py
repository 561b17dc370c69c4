"""One user's page: arms, titles, images, and the exposure log. It has never heard of HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from models.data import Int64
from serving.answers import (
    Degradation,
    Page,
    PageRequest,
    PagesAnswer,
    PagesRequest,
    ShownTitle,
    Source,
    Versions,
)
from serving.deadline import Deadline, Stopwatch
from serving.engines import HERE, Asked, Engines
from serving.exposures import ExposureRecord
from serving.guard import Guard, StageSkipped
from serving.images import Images, editorial_images
from serving.live import Live, LiveSource
from serving.quality_factor import Quality
from serving.samples import Given, SampleLog, sample_of
from serving.segments import LogClosed
from serving.selection import (
    STAGE_FAULTS,
    Found,
    NewUser,
    NothingFound,
    Ranked,
    Selection,
    Selector,
    most_popular,
    noted,
    rank,
    retrieve,
)
from serving.shadows import ShownPage
from serving.tracing import Spans, no_span

NOT_LOGGED = "exposures were not logged"
NOT_SAMPLED = "feature vectors were not logged"


def illustrate(asked: Asked, title_ids: Int64, watch: Stopwatch) -> Images:
    """An image for each title, as the plan's policy draws it."""
    with watch.stage("artwork"):
        return asked.engines.illustrate(asked, title_ids, watch.deadline.left_s())


@dataclass(frozen=True)
class Stages:
    """What a page is made by. Any of them may fail, or take too long: see `Guard`."""

    retrieve: Callable[[Asked, Stopwatch], Found] = retrieve
    rank: Callable[[Asked, Found, Stopwatch], Ranked] = rank
    illustrate: Callable[[Asked, Int64, Stopwatch], Images] = illustrate


class Exposures(Protocol):
    """Where pages are logged: `append` returns once the page is on disk."""

    def append(self, record: ExposureRecord) -> None:
        """Log one page.

        Raises:
            OSError, LogClosed: it could not be.
        """


@dataclass(frozen=True)
class Homepage:
    """Makes pages: retrieve a few hundred titles, rank them, show the best with an image each, log it all.

    Pages are made in `turn`, one at a time, as two would share the same core; waiting for the disk overlaps. `engines` say
    which models work elsewhere, `spans` traces stages. Of some requests `samples` keeps what the models were given; without it, of none. `on_shown` is told of every page that was made. With
    `quality`, fewer candidates are weighed up while pages come near their deadline.
    """

    source: LiveSource
    exposures: Exposures
    new_request_id: Callable[[], str]
    samples: SampleLog | None = None
    stages: Stages = Stages()
    guard: Guard = field(default_factory=lambda: Guard(innocent=(NewUser, NothingFound)))
    on_shown: Callable[[ShownPage], None] | None = None
    quality: Quality | None = None
    engines: Engines = HERE
    spans: Spans = no_span
    turn: threading.Semaphore = field(default_factory=threading.BoundedSemaphore, repr=False)

    @property
    def busy(self) -> bool:
        """Whether a page is being made at this moment."""
        free = self.turn.acquire(blocking=False)
        if free:
            self.turn.release()
        return not free

    def page(self, request: PageRequest, now: datetime, deadline: Deadline) -> Page:
        """The page of `request.user_id` at `now`, acknowledged only once its exposures are on disk.

        When a log fails, or would take longer than there is time, the page is served all the same, and says so.
        """
        watch = Stopwatch(deadline, spans=self.spans)
        page, asked, selection = self._made(request, now, watch)
        problems = (
            self._log(asked, ExposureRecord(event_timestamp=now, page=page), watch),
            self._sample(asked, page, selection.given, watch),
        )
        if self.quality is not None:
            self.quality.observe(1000 * deadline.spent_s(), deadline.budget_ms)
        if self.on_shown is not None:
            self.on_shown(ShownPage(asked, selection, page))
        degraded = (*page.degraded, *(problem for problem in problems if problem is not None))
        return page.model_copy(update={"timings_ms": dict(watch.timings_ms), "degraded": degraded})

    def looked_at(self, request: PageRequest, now: datetime, deadline: Deadline) -> ShownPage:
        """The page as `page` would make it, with what it was made from; it is shown to nobody and not logged."""
        watch = Stopwatch(deadline, spans=self.spans)
        page, asked, selection = self._made(request, now, watch)
        return ShownPage(asked, selection, page.model_copy(update={"timings_ms": dict(watch.timings_ms)}))

    def ahead(self, request: PagesRequest, now: datetime, deadline: Callable[[], Deadline]) -> PagesAnswer:
        """Pages of many users, each within a `deadline` of its own; other requests come in between.

        They are not logged: whoever shows one, later, logs the impressions that were seen.
        """
        pages = []
        for user_id in request.user_ids:
            one = PageRequest(user_id=user_id, size=request.size)
            pages.append(self.looked_at(one, now, deadline()).page)
        return PagesAnswer(pages=tuple(pages))

    def _made(self, request: PageRequest, now: datetime, watch: Stopwatch) -> tuple[Page, Asked, Selection]:
        """The page of its turn; where that does not come in time, the one that is made without models."""
        share = self.source.current().manifest.defaults.stage_shares.turn
        with watch.timed("wait"):
            mine = self.turn.acquire(timeout=max(0.0, watch.deadline.part(share).left_s()))
        try:
            asked = self._asked(request, now, watch)
            if mine:
                selection, images, problem = self._chosen(asked, watch)
            else:
                late = Degradation(stage="wait", reason="deadline")
                selection = most_popular(asked, watch, late)
                images, problem = editorial_images(asked.live, selection.title_ids), None
            with watch.timed("assemble"):
                page = self._assembled(asked, selection, images, problem, watch)
        finally:
            if mine:
                self.turn.release()
        return page, asked, selection

    def _asked(self, request: PageRequest, now: datetime, watch: Stopwatch) -> Asked:
        live = self.source.current()
        with watch.timed("assign"):
            plan = live.plan(request.user_id, request.context)
        wanted = live.manifest.defaults.n_candidates
        if self.quality is not None:
            wanted = self.quality.factor.of(wanted, request.size)
        return Asked(live, plan, request.user_id, request.size, wanted, now, self.engines)

    def _chosen(self, asked: Asked, watch: Stopwatch) -> tuple[Selection, Images, Degradation | None]:
        """Titles and images, each the best that could be had in time."""
        shares, stages = asked.live.manifest.defaults.stage_shares, self.stages
        selector = Selector(asked, watch, self.guard, shares, stages.retrieve, stages.rank)
        selection = selector.select()
        title_ids = selection.title_ids
        try:
            images = self.guard.run(
                "artwork",
                asked.plan.versions.artwork,
                lambda inner: stages.illustrate(asked, title_ids, inner),
                watch,
                (shares.rank, shares.artwork),
            )
        except STAGE_FAULTS as fault:
            return selection, editorial_images(asked.live, title_ids), noted(fault, "artwork")
        return replace(selection, given=(*selection.given, *images.given)), images, None

    def _assembled(
        self,
        asked: Asked,
        selection: Selection,
        images: Images,
        problem: Degradation | None,
        watch: Stopwatch,
    ) -> Page:
        live, plan = asked.live, asked.plan
        return Page(
            request_id=self.new_request_id(),
            user_id=asked.user_id,
            as_of=live.reader.as_of,
            generation=live.reader.generation,
            live_set=live.declared.id,
            arms=plan.arms,
            versions=_reached(plan.versions, selection.source, illustrated=images.drawn),
            canary=plan.canary,
            weights=plan.weights.model_dump(),
            source=selection.source,
            artwork_draw=images.draw,
            degraded=selection.degraded if problem is None else (*selection.degraded, problem),
            stale=live.stale(asked.now),
            quality=round(asked.n_candidates / live.manifest.defaults.n_candidates, 3),
            titles=_titles(live, selection, images),
            timings_ms=dict(watch.timings_ms),
        )

    def _log(self, asked: Asked, record: ExposureRecord, watch: Stopwatch) -> Degradation | None:
        shares = asked.live.manifest.defaults.stage_shares

        def write(inner: Stopwatch) -> None:
            with inner.timed("log"):
                self.exposures.append(record)

        try:
            grace = shares.log - shares.artwork
            self.guard.run("log", None, write, watch, (shares.artwork, shares.log), grace)
        except (OSError, LogClosed, StageSkipped) as problem:
            noted(problem, "log")
            return Degradation(stage="log", reason=NOT_LOGGED)
        return None

    def _sample(
        self, asked: Asked, page: Page, given: Sequence[Given], watch: Stopwatch
    ) -> Degradation | None:
        samples, reader = self.samples, asked.live.reader
        if samples is None or not given or not samples.wants(page.request_id):
            return None
        shown = np.array([title.title_id for title in page.titles], dtype=np.int64)

        def write(inner: Stopwatch) -> None:
            with inner.timed("sample"):
                samples.append(sample_of(page.request_id, page.user_id, asked.now, reader, given, shown))

        shares = asked.live.manifest.defaults.stage_shares
        try:
            grace = shares.log - shares.artwork
            self.guard.run("sample", None, write, watch, (shares.artwork, shares.log), grace)
        except (OSError, LogClosed, StageSkipped) as problem:
            noted(problem, "sample")
            return Degradation(stage="sample", reason=NOT_SAMPLED)
        return None


def _reached(planned: Versions, source: Source, *, illustrated: bool) -> Versions:
    """The versions that had a part in the page."""
    return Versions(
        retriever=None if source == "popular" else planned.retriever,
        ranker=planned.ranker if source == "ranked" else None,
        artwork=planned.artwork if illustrated else None,
    )


def _titles(live: Live, selection: Selection, images: Images) -> tuple[ShownTitle, ...]:
    catalogue = live.reader.catalogue
    return tuple(
        ShownTitle(
            position=position,
            title_id=title_id,
            name=catalogue.name(title_id),
            year=catalogue.year(title_id),
            genres=catalogue.genres(title_id),
            artwork_id=images.images[position].artwork_id,
            propensity=images.images[position].propensity,
            arm_set=images.images[position].arm_set,
            scores=selection.scores[position],
        )
        for position, title_id in enumerate(selection.title_ids.tolist())
    )
