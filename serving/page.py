"""One user's page: arms, titles, images, and the exposure log. It has never heard of HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from serving.answers import Degradation, Page, PageRequest, ShownTitle, Source, Versions
from serving.deadline import Deadline, Stopwatch
from serving.exposures import ExposureLog, ExposureRecord
from serving.images import Images, editorial_images
from serving.live import Live, LiveSource
from serving.samples import Given, SampleLog, sample_of
from serving.segments import LogClosed
from serving.selection import STAGE_FAULTS, Selection, Selector, noted
from serving.stages import HERE, Asked, Stages
from serving.tracing import Spans, no_span

NOT_LOGGED = "exposures were not logged"
NOT_SAMPLED = "feature vectors were not logged"


@dataclass(frozen=True)
class Homepage:
    """Makes pages: retrieve a few hundred titles, rank them, show the best with an image each, log it all.

    Pages are made in `turn`, one at a time, as two would share the same core; waiting for the disk overlaps. `stages` says
    which of them are done elsewhere, `spans` traces them. Of some requests
    `samples` keeps what the models were given; without it, of none.
    """

    source: LiveSource
    exposures: ExposureLog
    new_request_id: Callable[[], str]
    samples: SampleLog | None = None
    stages: Stages = HERE
    spans: Spans = no_span
    turn: AbstractContextManager[object] = field(default_factory=threading.Lock, repr=False)

    def page(self, request: PageRequest, now: datetime, deadline: Deadline) -> Page:
        """The page of `request.user_id` at `now`, acknowledged only once its exposures are on disk.

        When a log fails the page is served all the same, and says so.
        """
        watch = Stopwatch(deadline, spans=self.spans)
        with self.turn:
            live = self.source.current()
            page, given = self._compose(live, request, now, watch)
        problems = (
            self._log(ExposureRecord(event_timestamp=now, page=page), watch),
            self._sample(live, page, given, now, watch),
        )
        degraded = (*page.degraded, *(problem for problem in problems if problem is not None))
        return page.model_copy(update={"timings_ms": dict(watch.timings_ms), "degraded": degraded})

    def _compose(
        self, live: Live, request: PageRequest, now: datetime, watch: Stopwatch
    ) -> tuple[Page, Sequence[Given]]:
        """The page, and what its models were given."""
        with watch.timed("assign"):
            plan = live.plan(request.user_id)
        selector = Selector(live, plan, request.user_id, request.size, now, watch, self.stages)
        selection = selector.select()
        asked = Asked(live, plan, request.user_id, now, watch.deadline)
        images, problem = self._illustrate(asked, selection, watch)
        with watch.timed("assemble"):
            page = Page(
                request_id=self.new_request_id(),
                user_id=request.user_id,
                as_of=live.reader.as_of,
                generation=live.reader.generation,
                arms=plan.arms,
                versions=_reached(plan.versions, selection.source, illustrated=problem is None),
                weights=plan.weights.model_dump(),
                source=selection.source,
                degraded=selection.degraded if problem is None else (*selection.degraded, problem),
                stale=live.stale(now),
                titles=_titles(live, selection, images),
                timings_ms=dict(watch.timings_ms),
            )
        return page, (*selector.given, *images.given)

    def _illustrate(
        self, asked: Asked, selection: Selection, watch: Stopwatch
    ) -> tuple[Images, Degradation | None]:
        try:
            with watch.stage("artwork"):
                return self.stages.illustrate(asked, selection.title_ids), None
        except STAGE_FAULTS as problem:
            return editorial_images(asked.live, selection.title_ids), noted(problem, "artwork")

    def _log(self, record: ExposureRecord, watch: Stopwatch) -> Degradation | None:
        try:
            with watch.timed("log"):
                self.exposures.append(record)
        except (OSError, LogClosed) as problem:
            noted(problem, "log")
            return Degradation(stage="log", reason=NOT_LOGGED)
        return None

    def _sample(
        self, live: Live, page: Page, given: Sequence[Given], now: datetime, watch: Stopwatch
    ) -> Degradation | None:
        if self.samples is None or not given or not self.samples.wants(page.request_id):
            return None
        shown = np.array([title.title_id for title in page.titles], dtype=np.int64)
        try:
            with watch.timed("sample"):
                self.samples.append(sample_of(page.request_id, page.user_id, now, live.reader, given, shown))
        except (OSError, LogClosed) as problem:
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
            artwork_id=images.artwork_ids[position],
            propensity=images.propensities[position],
            scores=selection.scores[position],
        )
        for position, title_id in enumerate(selection.title_ids.tolist())
    )
