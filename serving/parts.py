"""The page's parts as answers of their own: candidates, scores, images. They have never heard of HTTP either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from models.data import Float32, Int64
from serving.answers import ArtworkAnswer, CandidatesAnswer, ScoresAnswer, TitlesRequest
from serving.asked import CandidatesAsked, ImagesAsked, Pin, ScoresAsked
from serving.images import choose_images
from serving.live import Live
from serving.manifest import Kind
from serving.plan import Plan
from serving.remote import packed
from serving.resolver import Objective
from serving.selection import NewUser, known_user, within


class UnknownTitles(LookupError):
    """Titles asked about are not in the catalogue of the snapshot."""

    def __init__(self, missing: Sequence[int], generation: str) -> None:
        shown = ", ".join(map(str, missing[:10]))
        super().__init__(f"snapshot {generation} has no title {shown}.")


class OtherGeneration(LookupError):
    """An answer is wanted from a snapshot that is not the one that is live here."""

    def __init__(self, wanted: str, live: str) -> None:
        super().__init__(f"snapshot {wanted} is not live here; {live} is.")


class UnevenScores(ValueError):
    """There are not as many retrieval scores as titles."""

    def __init__(self, titles: int, scores: int) -> None:
        super().__init__(f"{scores} retrieval scores for {titles} titles.")


@dataclass(frozen=True)
class Parts:
    """Answers from one moment's features and models at `now`, by the versions that the user's arms ask for."""

    live: Live
    now: datetime

    def candidates(self, request: CandidatesAsked) -> CandidatesAnswer:
        """Unwatched titles of the catalogue, best first.

        Raises:
            NewUser: the snapshot has no features of the user.
            OtherGeneration, VersionNotLoaded: the request is pinned to what is not here.
        """
        live, plan = self.live, self._plan(request.user_id, "retriever", request.pin)
        features = known_user(live, "retrieval_user", request.user_id)
        watched = live.reader.history(request.user_id)
        retriever = live.retriever(plan)
        found = retriever.candidates(features, watched, request.k, exclude=watched)
        found = within(found, live.available)
        return CandidatesAnswer(
            user_id=request.user_id,
            version=str(plan.versions.retriever),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=tuple(found.title_ids.tolist()),
            scores=tuple(found.scores.tolist()),
            vectors=packed(retriever.title_vectors(found.title_ids)) if request.vectors else None,
            stale=live.stale(self.now),
        )

    def scores(self, request: ScoresAsked) -> ScoresAnswer:
        """Each head's score of each title.

        Raises:
            NewUser: the snapshot has no features of the user.
            UnknownTitles: it has no such titles.
            UnevenScores: there is not one retrieval score a title.
            OtherGeneration, VersionNotLoaded: as `candidates`.
        """
        live, plan = self.live, self._plan(request.user_id, "ranker", request.pin)
        if not live.reader.knows_user(request.user_id):
            raise NewUser(request.user_id, live.reader.generation)
        titles = self._titles(request)
        retrieval = None if request.retrieval is None else np.array(request.retrieval, dtype=np.float32)
        if retrieval is not None and len(retrieval) != len(titles):
            raise UnevenScores(len(titles), len(retrieval))
        matrix = live.reader.matrix("ranking", request.user_id, titles, at=request.pin.at or self.now)
        heads = live.ranker(plan).score(matrix, titles, retrieval)
        return ScoresAnswer(
            user_id=request.user_id,
            version=str(plan.versions.ranker),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=request.title_ids,
            play=tuple(heads.play.tolist()),
            completion=_numbers(heads.completion),
            retention=_numbers(heads.retention),
            choice=_numbers(heads.choice),
            stale=live.stale(self.now),
        )

    def images(self, request: ImagesAsked) -> ArtworkAnswer:
        """One image for each title, as on the user's page of the day.

        Raises:
            UnknownTitles: the snapshot has no such titles.
            OtherGeneration, VersionNotLoaded: as `candidates`.
        """
        live, plan = self.live, self._plan(request.user_id, "artwork", request.pin, "artwork")
        plan = plan if request.draw is None else replace(plan, artwork_policy=request.draw)
        at = request.pin.at or self.now
        images = choose_images(live, plan, request.user_id, self._titles(request), at)
        return ArtworkAnswer(
            user_id=request.user_id,
            version=str(plan.versions.artwork),
            generation=live.reader.generation,
            live_set=live.declared.id,
            title_ids=request.title_ids,
            artwork_ids=tuple(image.artwork_id for image in images.images),
            propensities=tuple(image.propensity for image in images.images),
            arm_sets=tuple(image.arm_set for image in images.images),
            artwork_draw=images.draw,
            stale=live.stale(self.now),
        )

    def _plan(self, user_id: int, kind: Kind, pin: Pin, objective: Objective = "homepage") -> Plan:
        """The user's, with what the request is pinned to."""
        if pin.generation not in {None, self.live.reader.generation}:
            raise OtherGeneration(str(pin.generation), self.live.reader.generation)
        plan = self.live.plan(user_id, objective=objective)
        if pin.version is None:
            return plan
        return replace(plan, versions=plan.versions.model_copy(update={kind: pin.version}))

    def _titles(self, request: TitlesRequest) -> Int64:
        titles = np.array(request.title_ids, dtype=np.int64)
        missing = titles[~np.isin(titles, self.live.reader.catalogue.title_ids)]
        if len(missing):
            raise UnknownTitles(missing.tolist(), self.live.reader.generation)
        return titles


def _numbers(head: Float32 | None) -> tuple[float, ...] | None:
    return None if head is None else tuple(head.tolist())
