"""Stages of a page that run as services of their own, asked over HTTP by typed clients.

Whatever goes wrong there is raised as what a stage raises here, so that a page degrades alike: a service that is not there,
is late, refuses, answers nonsense, or answers from another snapshot than the rest of the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx
import numpy as np
from pydantic import BaseModel, SecretStr, ValidationError

from models.data import Candidates, Float32, Int64
from models.objective import HeadScores
from serving import logs, tracing
from serving.answers import ArtworkAnswer, CandidatesAnswer, ScoresAnswer
from serving.asked import CandidatesAsked, ImagesAsked, Pin, ScoresAsked
from serving.edge import Edge
from serving.engines import HERE, Asked, Engines, Retrieved
from serving.images import Image, Images, editorial_images
from serving.manifest import Kind
from serving.samples import Given

A = TypeVar("A", CandidatesAnswer, ScoresAnswer, ArtworkAnswer)
_SHORTEST_S = 0.001
CONNECTIONS = httpx.Limits(max_connections=32, max_keepalive_connections=32)


class StageUnreachable(ConnectionError):
    """Nobody answered where a stage should be."""


class StageTooLate(TimeoutError):
    """A stage did not answer in what was left of the request's time."""


class StageRefused(RuntimeError):
    """A stage answered with an error."""


class StageGarbled(ValueError):
    """A stage answered with something else than was asked for."""


class MixedGenerations(RuntimeError):
    """A stage answered from another snapshot, or with another version, than the page is made of."""


@dataclass(frozen=True)
class StageClient:
    """One other service; keeps its connections, safe to use from many threads."""

    http: httpx.Client

    @classmethod
    def at(
        cls, url: str, token: SecretStr | None = None, transport: httpx.BaseTransport | None = None
    ) -> StageClient:
        """The service at `url`, which wants `token` if it is given."""
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        return cls(httpx.Client(base_url=url, headers=headers, limits=CONNECTIONS, transport=transport))

    def ask(self, route: str, request: BaseModel, answer: type[A], left_s: float) -> A:
        """The answer, within `left_s` seconds.

        Raises:
            StageUnreachable, StageTooLate, StageRefused, StageGarbled: there is none that can be used.
        """
        where = f"{self.http.base_url}{route}"
        try:
            told = self.http.post(
                route,
                content=request.model_dump_json(),
                headers=_headers(),
                timeout=max(left_s, _SHORTEST_S),
            )
        except httpx.TimeoutException as problem:
            raise StageTooLate(f"{where} did not answer in {left_s * 1000:.0f} ms.") from problem
        except httpx.HTTPError as problem:
            raise StageUnreachable(f"{where}: {problem}") from problem
        if told.status_code != httpx.codes.OK:
            raise StageRefused(f"{where} answered {told.status_code}: {told.text[:300]}")
        try:
            return answer.model_validate_json(told.content)
        except ValidationError as problem:
            raise StageGarbled(
                f"{where}: {problem.error_count()} faults, first {problem.errors()[0]['loc']}"
            ) from None


@dataclass(frozen=True)
class Remote:
    """The engines of a page, each asked for at its own service."""

    clients: Mapping[Kind, StageClient]

    def retrieve(self, asked: Asked, features: Float32, watched: Int64, left_s: float) -> Retrieved:  # noqa: ARG002
        """By the Retriever service, which reads the user's features and history from the same snapshot itself."""
        request = CandidatesAsked(
            user_id=asked.user_id, k=asked.n_candidates, pin=_pin(asked, "retriever"), vectors=True
        )
        told = self._ask("retriever", "/candidates", request, CandidatesAnswer, asked, left_s)
        found = Candidates(_ids(told.title_ids), np.array(told.scores, dtype=np.float32))
        vectors = unpacked(told.vectors or "", len(found.title_ids))
        rows = {title_id: row for row, title_id in enumerate(told.title_ids)}
        return Retrieved(
            found, lambda title_ids: vectors[[rows[title_id] for title_id in title_ids.tolist()]]
        )

    def rank(
        self,
        asked: Asked,
        features: Float32,  # noqa: ARG002  (the service reads them itself)
        title_ids: Int64,
        retrieval: Float32,
        left_s: float,
    ) -> HeadScores:
        """By the Ranker service, which reads the features from the same snapshot, at the same time, itself."""
        request = ScoresAsked(
            user_id=asked.user_id,
            title_ids=tuple(title_ids.tolist()),
            retrieval=tuple(retrieval.tolist()),
            pin=_pin(asked, "ranker"),
        )
        told = self._ask("ranker", "/score", request, ScoresAnswer, asked, left_s)
        _same_titles(told.title_ids, request.title_ids)
        return HeadScores(
            np.array(told.play, dtype=np.float32),
            _head(told.completion),
            _head(told.retention),
            _head(told.choice),
        )

    def illustrate(self, asked: Asked, title_ids: Int64, left_s: float) -> Images:
        """By the Artwork service; without it where this source's artwork is not learnt."""
        if asked.plan.versions.artwork is None or len(title_ids) == 0:
            return editorial_images(asked.live, title_ids)
        request = ImagesAsked(
            user_id=asked.user_id,
            title_ids=tuple(title_ids.tolist()),
            pin=_pin(asked, "artwork"),
            draw=asked.plan.artwork_policy,
        )
        told = self._ask("artwork", "/choose", request, ArtworkAnswer, asked, left_s)
        _same_titles(told.title_ids, request.title_ids)
        context = Given.of_user("artwork_context", asked.live.reader.vector("artwork_context", asked.user_id))
        images = zip(told.artwork_ids, told.propensities, told.arm_sets, strict=True)
        return Images(tuple(Image(*one) for one in images), told.artwork_draw, (context,))

    def _ask(
        self, kind: Kind, route: str, request: BaseModel, answer: type[A], asked: Asked, left_s: float
    ) -> A:
        told = self.clients[kind].ask(route, request, answer, left_s)
        wanted = (asked.live.reader.generation, getattr(asked.plan.versions, kind))
        if (told.generation, told.version) != wanted:
            raise MixedGenerations(
                f"{kind} answered from {told.generation} with {told.version}; the page is made from {wanted[0]} "
                f"with {wanted[1]}."
            )
        return told


def engines_at(edge: Edge) -> tuple[Engines, frozenset[Kind]]:
    """The engines as the settings want them, and the kinds of model that this process need not load."""
    urls: dict[Kind, object] = {
        "retriever": edge.retriever_url, "ranker": edge.ranker_url, "artwork": edge.artwork_url
    }  # fmt: skip
    apart = frozenset(kind for kind, url in urls.items() if url is not None)
    remote = Remote({kind: StageClient.at(str(urls[kind]).rstrip("/"), edge.api_token) for kind in apart})
    engines = Engines(
        remote.retrieve if "retriever" in apart else HERE.retrieve,
        remote.rank if "ranker" in apart else HERE.rank,
        remote.illustrate if "artwork" in apart else HERE.illustrate,
    )
    return engines, apart


def packed(vectors: Float32) -> str:
    """Vectors (n, D) as base64 of little-endian float32, row after row: the very same numbers arrive."""
    return base64.b64encode(np.ascontiguousarray(vectors, dtype="<f4").tobytes()).decode()


def unpacked(text: str, n: int) -> Float32:
    """`packed` backwards.

    Raises:
        StageGarbled: it does not hold n vectors.
    """
    try:
        numbers = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        return numbers.reshape(n, -1).astype(np.float32) if n else np.empty((0, 0), np.float32)
    except ValueError as problem:
        raise StageGarbled(f"vectors of {n} titles came as {len(text)} characters: {problem}") from problem


def _headers() -> dict[str, str]:
    request_id = logs.current()
    named = {} if request_id is None else {"X-Request-Id": request_id}
    return {"Content-Type": "application/json"} | named | tracing.passed_on()


def _pin(asked: Asked, kind: Kind) -> Pin:
    version = getattr(asked.plan.versions, kind)
    return Pin(version=version, generation=asked.live.reader.generation, at=asked.now)


def _ids(title_ids: tuple[int, ...]) -> Int64:
    return np.array(title_ids, dtype=np.int64)


def _head(values: tuple[float, ...] | None) -> Float32 | None:
    return None if values is None else np.array(values, dtype=np.float32)


def _same_titles(told: tuple[int, ...], asked: tuple[int, ...]) -> None:
    if told != asked:
        raise StageGarbled(f"asked about {len(asked)} titles, told of {len(told)} others.")
