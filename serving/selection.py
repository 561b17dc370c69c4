"""Which titles, in which order, and why: retrieved, ranked and diversified, or the next best of that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.data import Candidates, Float32, Int64
from models.diversity import rerank, with_genres
from models.objective import HeadScores, ObjectiveWeights, objective
from serving.answers import Degradation, Source, TitleScores
from serving.deadline import DeadlineExceeded, Stopwatch
from serving.engines import Asked
from serving.guard import Guard, StageSkipped
from serving.live import Live
from serving.manifest import StageShares
from serving.samples import Given

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
    candidates: Candidates | None = None  # what retrieval found; None if it did not get so far
    given: tuple[Given, ...] = ()  # what models were given on the way


@dataclass(frozen=True)
class Found:
    """What retrieval found, how to get unit vectors (n, D) of it, and what its model was given."""

    candidates: Candidates
    vectors_of: Callable[[Int64], Float32]
    given: tuple[Given, ...] = ()


@dataclass(frozen=True)
class Ranked:
    """Titles in page order with their scores, and what the ranker was given."""

    title_ids: Int64
    scores: tuple[TitleScores, ...]
    given: tuple[Given, ...] = ()


def retrieve(asked: Asked, watch: Stopwatch) -> Found:
    """Unwatched titles of the catalogue, best first.

    Raises:
        NewUser: the snapshot has no features of the user.
        NothingFound: no title is left.
        VersionNotLoaded: the plan's retriever is not there.
    """
    live = asked.live
    with watch.stage("features"):
        features = known_user(live, "retrieval_user", asked.user_id)
        watched = live.reader.history(asked.user_id)
    with watch.stage("retrieve"):
        retrieved = asked.engines.retrieve(asked, features, watched, watch.deadline.left_s())
        found = within(retrieved.found, live.available)
    if len(found.title_ids) == 0:
        raise NothingFound(asked.user_id, str(asked.plan.versions.retriever))
    return Found(found, retrieved.vectors_of, (Given.of_user("retrieval_user", features),))


def rank(asked: Asked, found: Found, watch: Stopwatch) -> Ranked:
    """The best `asked.size` of what was found, diversified.

    Raises:
        VersionNotLoaded: the plan's ranker is not there.
    """
    weights, title_ids, retrieval = asked.plan.weights, found.candidates.title_ids, found.candidates.scores
    with watch.stage("rank_features"):
        matrix = asked.live.reader.matrix("ranking", asked.user_id, title_ids, at=asked.now)
    with watch.stage("rank"):
        heads = asked.engines.rank(asked, matrix, title_ids, retrieval, watch.deadline.left_s())
        values = objective(heads, weights)
    with watch.stage("rerank"):
        vectors = alike_by(asked.live, title_ids, found.vectors_of(title_ids), weights)
        page = rerank(values, vectors, asked.size, weights.diversity, window=weights.diversity_window)
    scores = _scores(found.candidates, heads, values, page.order, page.penalties)
    return Ranked(title_ids[page.order], scores, (Given("ranking", title_ids, matrix),))


def alike_by(live: Live, title_ids: Int64, vectors: Float32, weights: ObjectiveWeights) -> Float32:
    """What tells how alike titles are: their unit vectors (n, D), and their genres as far as `weights` say so."""
    if not weights.diversity_genres:
        return vectors
    genres = [live.reader.catalogue.genres(title) for title in title_ids.tolist()]
    return with_genres(vectors, genres, weights.diversity_genres)


@dataclass(frozen=True)
class Selector:
    """Selects titles by stages that are kept inside their share of the budget, and by the next best of a stage that fails."""

    asked: Asked
    watch: Stopwatch
    guard: Guard
    shares: StageShares
    retrieve: Callable[[Asked, Stopwatch], Found]
    rank: Callable[[Asked, Found, Stopwatch], Ranked]

    def select(self) -> Selection:
        """The best titles; a stage that fails or comes too late leaves the choice to the next best one."""
        asked, versions, shares = self.asked, self.asked.plan.versions, self.shares
        try:
            found = self.guard.run(
                "retrieve",
                versions.retriever,
                lambda watch: self.retrieve(asked, watch),
                self.watch,
                (shares.turn, shares.retrieve),
            )
        except STAGE_FAULTS as problem:
            return most_popular(asked, self.watch, noted(problem, self.watch.at))
        if versions.ranker is None:  # this source has no ranker
            return _as_retrieved(asked, found)
        try:
            ranked = self.guard.run(
                "rank",
                versions.ranker,
                lambda watch: self.rank(asked, found, watch),
                self.watch,
                (shares.retrieve, shares.rank),
            )
        except STAGE_FAULTS as problem:
            return _as_retrieved(asked, found, noted(problem, self.watch.at))
        given = (*found.given, *ranked.given)
        return Selection("ranked", ranked.title_ids, ranked.scores, (), found.candidates, given)


def _as_retrieved(asked: Asked, found: Found, *why: Degradation) -> Selection:
    best = Candidates(found.candidates.title_ids[: asked.size], found.candidates.scores[: asked.size])
    scores = tuple(TitleScores(retrieval=score) for score in best.scores.tolist())
    return Selection("retrieved", best.title_ids, scores, why, found.candidates, found.given)


def most_popular(asked: Asked, watch: Stopwatch, *why: Degradation) -> Selection:
    """What is popular and available; without what the user has watched, as far as that can be read."""
    live = asked.live
    with watch.timed("popular"):
        titles = np.array(live.manifest.defaults.popular, dtype=np.int64)
        titles = titles[np.isin(titles, live.available)]
        try:
            titles = titles[~np.isin(titles, live.reader.history(asked.user_id))]
        except STAGE_FAULTS as problem:
            why = (*why, noted(problem, "history"))
        titles = titles[: asked.size]
    return Selection("popular", titles, (TitleScores(),) * len(titles), why)


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
        case StageSkipped():
            return Degradation(stage=stage, reason=problem.reason)
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
