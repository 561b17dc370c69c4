"""The page's parts as answers of their own: candidates, scores, images. They have never heard of HTTP either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from models.data import Float32, Int64
from serving.answers import (
    ArtworkAnswer,
    CandidatesAnswer,
    CandidatesRequest,
    ScoresAnswer,
    TitlesRequest,
)
from serving.images import choose_images
from serving.live import Live
from serving.selection import NewUser, known_user, within


class UnknownTitles(LookupError):
    """Titles asked about are not in the catalogue of the snapshot."""

    def __init__(self, missing: Sequence[int], generation: str) -> None:
        shown = ", ".join(map(str, missing[:10]))
        super().__init__(f"snapshot {generation} has no title {shown}.")


@dataclass(frozen=True)
class Parts:
    """Answers from one moment's features and models at `now`, by the versions that the user's arms ask for."""

    live: Live
    now: datetime

    def candidates(self, request: CandidatesRequest) -> CandidatesAnswer:
        """Unwatched titles of the catalogue, best first.

        Raises:
            NewUser: the snapshot has no features of the user.
        """
        live, plan = self.live, self.live.plan(request.user_id)
        features = known_user(live, "retrieval_user", request.user_id)
        watched = live.reader.history(request.user_id)
        found = live.retriever(plan).candidates(features, watched, request.k, exclude=watched)
        found = within(found, live.available)
        return CandidatesAnswer(
            user_id=request.user_id,
            version=str(plan.versions.retriever),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=tuple(found.title_ids.tolist()),
            scores=tuple(found.scores.tolist()),
            stale=live.stale(self.now),
        )

    def scores(self, request: TitlesRequest) -> ScoresAnswer:
        """Each head's score of each title.

        Raises:
            NewUser: the snapshot has no features of the user.
            UnknownTitles: it has no such titles.
        """
        live, plan = self.live, self.live.plan(request.user_id)
        if not live.reader.knows_user(request.user_id):
            raise NewUser(request.user_id, live.reader.generation)
        titles = self._titles(request)
        matrix = live.reader.matrix("ranking", request.user_id, titles, at=self.now)
        heads = live.ranker(plan).score(matrix, titles)
        return ScoresAnswer(
            user_id=request.user_id,
            version=str(plan.versions.ranker),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=request.title_ids,
            play=tuple(heads.play.tolist()),
            completion=_numbers(heads.completion),
            retention=_numbers(heads.retention),
            stale=live.stale(self.now),
        )

    def images(self, request: TitlesRequest) -> ArtworkAnswer:
        """One image for each title, as on the user's page of the day.

        Raises:
            UnknownTitles: the snapshot has no such titles.
        """
        live, plan = self.live, self.live.plan(request.user_id, objective="artwork")
        images = choose_images(live, plan, request.user_id, self._titles(request), self.now)
        return ArtworkAnswer(
            user_id=request.user_id,
            version=str(plan.versions.artwork),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=request.title_ids,
            artwork_ids=tuple(image.artwork_id for image in images.images),
            propensities=tuple(image.propensity for image in images.images),
            stale=live.stale(self.now),
        )

    def _titles(self, request: TitlesRequest) -> Int64:
        titles = np.array(request.title_ids, dtype=np.int64)
        missing = titles[~np.isin(titles, self.live.reader.catalogue.title_ids)]
        if len(missing):
            raise UnknownTitles(missing.tolist(), self.live.reader.generation)
        return titles


def _numbers(head: Float32 | None) -> tuple[float, ...] | None:
    return None if head is None else tuple(head.tolist())
