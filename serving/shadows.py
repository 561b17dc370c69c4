"""Shadow versions: they judge what was shown, after it was shown, in time that no page needs."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.data import Int64
from models.diversity import rerank
from models.objective import objective
from serving import metrics
from serving.answers import Page
from serving.engines import Asked
from serving.images import day_of
from serving.rollout import Shadow
from serving.segments import LogClosed
from serving.selection import STAGE_FAULTS, Selection, alike_by
from serving.shadow_log import ShadowRecord, ShadowTitle

logger = logging.getLogger(__name__)
WAITING = 64
"""Pages that wait to be judged; when there are more, the newest are left out."""
TOO_OLD_S = 5.0
"""A page that has waited so long is left out: it keeps an old snapshot in memory."""
GLANCE_S = 0.002
"""How often to see whether a page is being made."""


@dataclass(frozen=True)
class ShownPage:
    """A page that was shown, with what it was made from."""

    asked: Asked
    selection: Selection
    page: Page


class NothingToJudge(LookupError):
    """The page did not get as far as the shadow's stage."""

    def __init__(self, kind: str, source: str) -> None:
        super().__init__(f"a page that is {source} has nothing for a {kind} to judge.")


def judged(shadow: Shadow, shown: ShownPage) -> ShadowRecord:
    """What a shadow would have made of a page, from the very candidates and features that the page was made from.

    Raises:
        NothingToJudge: the page did not get so far.
    """
    titles = {"ranker": _by_ranker, "retriever": _by_retriever, "artwork": _by_artwork}[shadow.kind](
        shadow.ref, shown
    )
    page = shown.page
    return ShadowRecord(
        event_timestamp=shown.asked.now,
        request_id=page.request_id,
        user_id=page.user_id,
        generation=page.generation,
        live_set=page.live_set,
        kind=shadow.kind,
        shadow=shadow.ref,
        shown=getattr(page.versions, shadow.kind),
        titles=titles,
    )


def _by_ranker(ref: str, shown: ShownPage) -> tuple[ShadowTitle, ...]:
    """The candidates scored and diversified as the page's were."""
    asked, found = shown.asked, shown.selection.candidates
    given = next((given for given in shown.selection.given if given.service == "ranking"), None)
    if found is None or given is None:
        raise NothingToJudge("ranker", shown.page.source)
    live, weights = asked.live, asked.plan.weights
    heads = live.rankers[ref].score(given.values, found.title_ids, found.scores)
    values = objective(heads, weights)
    of_titles = live.retriever(asked.plan).title_vectors(found.title_ids)
    vectors = alike_by(live, found.title_ids, of_titles, weights)
    order = rerank(values, vectors, asked.size, weights.diversity, window=weights.diversity_window).order
    was = {title.title_id: title.scores.objective for title in shown.page.titles}
    return _titles(shown.page, found.title_ids, values.tolist(), found.title_ids[order], was)


def _by_retriever(ref: str, shown: ShownPage) -> tuple[ShadowTitle, ...]:
    """The candidates by the shadow's own products; those it does not know have none and come last."""
    asked, found = shown.asked, shown.selection.candidates
    given = next((given for given in shown.selection.given if given.service == "retrieval_user"), None)
    if found is None or given is None:
        raise NothingToJudge("retriever", shown.page.source)
    retriever, watched = asked.live.retrievers[ref], asked.live.reader.history(asked.user_id)
    every = retriever.candidates(given.values[0], watched, len(retriever.title_ids), exclude=watched)
    score = dict(zip(every.title_ids.tolist(), every.scores.tolist(), strict=True))
    ids = found.title_ids.tolist()
    best = sorted((title for title in ids if title in score), key=lambda title: -score[title])
    was = dict(zip(ids, found.scores.tolist(), strict=True))
    order = np.array(best[: asked.size], dtype=np.int64)
    return _titles(shown.page, found.title_ids, [score.get(title) for title in ids], order, was)


def _by_artwork(ref: str, shown: ShownPage) -> tuple[ShadowTitle, ...]:
    """An image for each title of the page."""
    asked, catalogue = shown.asked, shown.asked.live.reader.catalogue
    titles = [title for title in shown.page.titles if len(catalogue.artworks(title.title_id))]
    if not titles:
        raise NothingToJudge("artwork policy", shown.page.source)
    context = asked.live.reader.vector("artwork_context", asked.user_id)
    ids = np.array([title.title_id for title in titles], dtype=np.int64)
    offered = [catalogue.artworks(title.title_id) for title in titles]
    policy, epoch = asked.live.models.artworks[ref], day_of(asked.now)
    drawn = policy.choose(context, ids, offered, asked.user_id, epoch, asked.plan.artwork_policy)
    return tuple(
        ShadowTitle(
            title_id=title.title_id,
            shown_position=title.position,
            shadow_position=title.position,
            shown_artwork_id=title.artwork_id,
            shadow_artwork_id=image,
            shadow_propensity=propensity,
        )
        for title, image, propensity in zip(
            titles, drawn.artwork_ids.tolist(), drawn.propensities.tolist(), strict=True
        )
    )


def _titles(
    page: Page, title_ids: Int64, scores: list[float | None], order: Int64, was: Mapping[int, float | None]
) -> tuple[ShadowTitle, ...]:
    shown_at = {title.title_id: title.position for title in page.titles}
    shadow_at = {title: place for place, title in enumerate(order.tolist())}
    return tuple(
        ShadowTitle(
            title_id=title,
            shown_position=shown_at.get(title),
            shadow_position=shadow_at.get(title),
            shown_score=was.get(title),
            shadow_score=score,
        )
        for title, score in zip(title_ids.tolist(), scores, strict=True)
    )


class Records(Protocol):
    """Where judgements are kept."""

    def append(self, record: ShadowRecord) -> None:
        """Keep one; raises OSError or LogClosed where it cannot be."""


class Shadows:
    """Judges pages in a thread of its own, while none is being made, for at most a share of the time.

    What it cannot judge in time it leaves out, and counts: shadows never hold a page up and never fail one.
    """

    def __init__(
        self,
        log: Records,
        busy: Callable[[], bool],
        share: float,
        judge: Callable[[Shadow, ShownPage], ShadowRecord] = judged,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`busy` says whether a page is being made; `share` of the time may be spent."""
        self._log, self._busy, self._share, self._judge, self._clock = log, busy, share, judge, clock
        self._pages: queue.Queue[tuple[float, ShownPage]] = queue.Queue(WAITING)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="matinee-shadows", daemon=True)
        self._thread.start()

    def offer(self, shown: ShownPage) -> None:
        """Judge a page some time, or not at all; returns at once."""
        if not shown.asked.live.declared.rollout.shadows:
            return
        try:
            self._pages.put_nowait((self._clock(), shown))
        except queue.Full:
            metrics.SHADOWS.labels("full").inc()

    def drain(self) -> None:
        """Return when every page that was offered has been judged or left out."""
        self._pages.join()

    def close(self) -> None:
        """Leave what waits, and end."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                taken = self._pages.get(timeout=0.1)
            except queue.Empty:
                continue
            self._one(*taken)
            del taken  # a version that nobody needs is not kept by who waits for the next page
            self._pages.task_done()

    def _one(self, since: float, shown: ShownPage) -> None:
        while self._busy() and not self._ended.wait(GLANCE_S):
            if self._clock() - since > TOO_OLD_S:
                metrics.SHADOWS.labels("late").inc()
                return
        began = self._clock()
        for shadow in shown.asked.live.declared.rollout.shadows:
            metrics.SHADOWS.labels(self._outcome(shadow, shown)).inc()
        spent = self._clock() - began
        self._ended.wait(spent * (1 / self._share - 1))

    def _outcome(self, shadow: Shadow, shown: ShownPage) -> str:
        try:
            self._log.append(self._judge(shadow, shown))
        except NothingToJudge:
            return "nothing"
        except (*STAGE_FAULTS, LogClosed) as problem:
            logger.error("shadow %s failed", shadow.ref, exc_info=problem)  # noqa: TRY400  (with its traceback)
            return "failed"
        return "judged"
