"""Which titles, in which order, and why: retrieved, ranked and diversified, or the next best of that."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from models.data import Candidates, Float32, Int64
from models.diversity import rerank
from models.objective import HeadScores, objective
from serving.answers import Degradation, Source, TitleScores
from serving.deadline import DeadlineExceeded, Stopwatch
from serving.live import Live
from serving.plan import Plan
from serving.samples import Given
from serving.stages import HERE, Asked, Retrieved, Stages

logger = logging.getLogger(__name__)

STAGE_FAULTS = (OSError, RuntimeError, ValueError, LookupError, ArithmeticError)
"""What a stage raises when its data or its model fails it, or the deadline has passed. Mistakes in the code
(TypeError, AttributeError) are none of these, and surface."""


class NewUser(LookupError):
    """The online store has no features of this user yet: an expected case, not a fault."""

    def __init__(self, user_id: int, generation: str) -> None:
        super().__init__(f"snapshot {generation} has no features of user {user_id}.")


class NothingFound(LookupError):
    """Retrieval knows no title that is in the catalogue and that the user has not watched."""

    def __init__(self, user_id: int, version: str) -> None:
        super().__init__(
            f"{version} found nothing for user {user_id} that is in the catalogue and unwatched."
        )


@dataclass(frozen=True)
class Selection:
    """Titles in page order, how far the making of them got, and what went wrong on the way."""

    source: Source
    title_ids: Int64
    scores: tuple[TitleScores, ...]
    degraded: tuple[Degradation, ...] = ()


@dataclass(frozen=True)
class Selector:
    """Selects `size` titles for one user at `now`, from one moment's features and models.

    `given` gathers what the models were given on the way.
    """

    live: Live
    plan: Plan
    user_id: int
    size: int
    now: datetime
    watch: Stopwatch
    stages: Stages = HERE
    given: list[Given] = field(default_factory=list)

    def select(self) -> Selection:
        """The best titles; a stage that fails or comes too late leaves the choice to the next best one."""
        try:
            found = self._retrieve()
        except STAGE_FAULTS as problem:
            return self._most_popular(noted(problem, self.watch.at))
        if self.plan.versions.ranker is None:  # this source has no ranker
            return self._as_retrieved(found.found)
        try:
            return self._ranked(found)
        except STAGE_FAULTS as problem:
            return self._as_retrieved(found.found, noted(problem, self.watch.at))

    @property
    def _asked(self) -> Asked:
        return Asked(self.live, self.plan, self.user_id, self.now, self.watch.deadline)

    def _retrieve(self) -> Retrieved:
        with self.watch.stage("features"):
            features = known_user(self.live, "retrieval_user", self.user_id)
            watched = self.live.reader.history(self.user_id)
            self.given.append(Given.of_user("retrieval_user", features))
        with self.watch.stage("retrieve"):
            wanted = self.live.manifest.defaults.n_candidates
            retrieved = self.stages.retrieve(self._asked, features, watched, wanted)
            found = within(retrieved.found, self.live.available)
        if len(found.title_ids) == 0:
            raise NothingFound(self.user_id, str(self.plan.versions.retriever))
        return replace(retrieved, found=found)

    def _ranked(self, retrieved: Retrieved) -> Selection:
        found = retrieved.found
        with self.watch.stage("rank_features"):
            matrix = self.live.reader.matrix("ranking", self.user_id, found.title_ids, at=self.now)
            self.given.append(Given("ranking", found.title_ids, matrix))
        with self.watch.stage("rank"):
            heads = self.stages.rank(self._asked, matrix, found.title_ids, found.scores)
            values = objective(heads, self.plan.weights)
        with self.watch.stage("rerank"):
            vectors = retrieved.vectors_of(found.title_ids)
            weights = self.plan.weights
            page = rerank(values, vectors, self.size, weights.diversity, window=weights.diversity_window)
        scores = _scores(found, heads, values, page.order, page.penalties)
        return Selection("ranked", found.title_ids[page.order], scores)

    def _as_retrieved(self, found: Candidates, *why: Degradation) -> Selection:
        scores = tuple(TitleScores(retrieval=score) for score in found.scores[: self.size].tolist())
        return Selection("retrieved", found.title_ids[: self.size], scores, why)

    def _most_popular(self, why: Degradation) -> Selection:
        with self.watch.timed("popular"):
            titles = np.array(self.live.manifest.defaults.popular, dtype=np.int64)
            titles = titles[np.isin(titles, self.live.available)]
            titles = titles[~np.isin(titles, self.live.reader.history(self.user_id))][: self.size]
        return Selection("popular", titles, (TitleScores(),) * len(titles), (why,))


def known_user(live: Live, service: str, user_id: int) -> Float32:
    """A user's feature vector (F,), NaN where null.

    Raises:
        NewUser: the snapshot has no row of this user.
    """
    if not live.reader.knows_user(user_id):
        raise NewUser(user_id, live.reader.generation)
    return live.reader.vector(service, user_id)


def within(found: Candidates, title_ids: Int64) -> Candidates:
    """Candidates that are among `title_ids`: a model may know titles that have since left the catalogue."""
    kept = np.isin(found.title_ids, title_ids)
    return Candidates(found.title_ids[kept], found.scores[kept])


def noted(problem: Exception, stage: str) -> Degradation:
    """How the page says what went wrong; what it does not say goes to the log of the service."""
    match problem:
        case NewUser():
            return Degradation(stage=stage, reason="no features of this user yet")
        case NothingFound():
            return Degradation(stage=stage, reason="nothing unwatched found")
        case DeadlineExceeded():
            logger.warning("deadline at stage %s: %s", stage, problem)
            return Degradation(stage=stage, reason="deadline")
    logger.error("stage %s failed", stage, exc_info=problem)
    return Degradation(stage=stage, reason=type(problem).__name__)


def _scores(
    found: Candidates, heads: HeadScores, values: Float32, order: Int64, penalties: Float32
) -> tuple[TitleScores, ...]:
    columns = {
        "retrieval": found.scores[order],
        "objective": values[order],
        "diversity_penalty": penalties,
        **{head: getattr(heads, head)[order] for head in heads.heads},
    }
    by_title = zip(*(column.tolist() for column in columns.values()), strict=True)
    return tuple(TitleScores(**dict(zip(columns, row, strict=True))) for row in by_title)
