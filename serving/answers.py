"""What goes over the wire: requests and answers, frozen and typed, each with an example."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from pydantic.config import JsonDict

MAX_TITLES = 500
"""Titles that one request may name or ask for."""
MAX_PAGES = 100
"""Users whose pages one request may ask for ahead of time."""

Id = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
"""`user_id`, `title_id` or `artwork_id`: a BIGINT that is not negative."""
Source = Literal["ranked", "retrieved", "popular"]
Canaried = Literal["retriever", "ranker", "artwork"]


Context = Annotated[
    Mapping[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)] | StrictBool | StrictInt
    ],
    Field(max_length=32),
]
"""What a client knows of the moment, by name."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """A part of an answer, frozen; it refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PageRequest(_Request):
    """Whose page, and how many titles."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "size": 40}})

    user_id: Id
    size: int = Field(40, ge=1, le=200, strict=True, description="titles wanted; fewer come when fewer exist")
    context: Context = Field({}, description="attributes that experiments target, such as a country")


class ShownArm(Answer):
    """One experiment the user is part of."""

    experiment: str
    arm: str


class Versions(Answer):
    """The pinned model version each stage used; null where the stage was not reached."""

    retriever: str | None = None
    ranker: str | None = None
    artwork: str | None = None


class TitleScores(Answer):
    """Why a title stands where it does; null where a stage was not reached or a model has no such head."""

    retrieval: float | None = Field(None, description="inner product of user and title vector")
    play: float | None = Field(None, description="probability of a play, 0..1")
    completion: float | None = Field(None, description="expected share watched, 0..1")
    retention: float | None = Field(None, description="probability that the membership is kept, 0..1")
    choice: float | None = Field(
        None, description="probability to be chosen where only it and a typical candidate are there"
    )
    objective: float | None = Field(None, description="the weighted sum of the heads")
    diversity_penalty: float | None = Field(None, description="taken off for likeness to titles above")


class ArtworkDraw(Answer):
    """What the page's images were drawn with: beside image and arm set, all that a propensity follows from."""

    policy: Literal["thompson", "uniform", "editorial"]
    belief: str = Field(description="digest of what the artwork policy believed")
    temper: float = Field(description="factor on the belief's standard deviations")
    floor: float = Field(description="least probability of any image")
    context: str = Field(description="digest of the user's context")


class ShownTitle(Answer):
    """One title of a page; position 0 is the first place."""

    position: int
    title_id: int
    name: str
    year: int | None
    genres: tuple[str, ...]
    artwork_id: int | None
    propensity: float | None = Field(description="probability that this image was drawn; null if none was")
    arm_set: str | None = Field(None, description="digest of the images it was drawn from; null if none was")
    scores: TitleScores


class Degradation(Answer):
    """A stage that could not do its part, and why; the answer went on without it."""

    stage: str
    reason: str


class Stale(Answer):
    """A feature table that was older than promised when the answer was made; it was served all the same."""

    table: str
    age_hours: float
    slo_hours: float = Field(description="how old the table may be")


A_PAGE: JsonDict = {
    "request_id": "5f0c3e9f1a3b4d0e8f6f4f8a27a4c1d2",
    "user_id": 17,
    "as_of": "2026-03-02T00:00:00Z",
    "generation": "2026-03-02T000000Z-4be1",
    "live_set": "8d0f3c1ab27e",
    "arms": [{"experiment": "more_diverse_pages", "arm": "diverse"}],
    "versions": {"retriever": "retriever/3", "ranker": "ranker/3", "artwork": "artwork/2"},
    "weights": {
        "play": 1.0,
        "completion": 0.5,
        "retention": 0.5,
        "choice": 8.0,
        "diversity": 0.1,
        "diversity_window": 10,
        "diversity_genres": 0.0,
    },
    "source": "ranked",
    "degraded": [],
    "stale": [],
    "titles": [
        {
            "position": 0,
            "title_id": 912,
            "name": "The General",
            "year": 1926,
            "genres": ["Comedy"],
            "artwork_id": 5471,
            "propensity": 0.62,
            "scores": {"retrieval": 0.71, "play": 0.12, "completion": 0.55, "objective": 0.4},
        }
    ],
    "timings_ms": {"retrieve": 0.9, "rank": 4.1},
}


class Page(Answer):
    """A user's page. `source` says how far it got: ranked, else retrieved, else popular."""

    model_config = ConfigDict(json_schema_extra={"example": A_PAGE})

    request_id: str
    user_id: int
    as_of: datetime = Field(description="the features know what was known before this time (UTC)")
    generation: str = Field(description="the snapshot of the online store")
    live_set: str = Field(
        "", description="of experiments, defaults, shadows and canaries in force: one id for them all"
    )
    arms: tuple[ShownArm, ...]
    versions: Versions
    canary: tuple[Canaried, ...] = Field(
        (), description="kinds of model whose canary version this page was planned with"
    )
    weights: dict[str, float] = Field(
        description="objective weights in force, and how many titles in a row differ"
    )
    source: Source
    artwork_draw: ArtworkDraw | None = Field(None, description="null where no image was drawn")
    degraded: tuple[Degradation, ...] = ()
    stale: tuple[Stale, ...] = Field((), description="feature tables served past their freshness SLO")
    quality: float = Field(
        1.0, description="share of the candidates that were weighed up, below 1 under load"
    )
    titles: tuple[ShownTitle, ...]
    timings_ms: dict[str, float] = Field(description="per stage, in the order they ran")


class PagesRequest(_Request):
    """Whose pages to make ahead of time, and how many titles each."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_ids": [17, 18], "size": 40}})

    user_ids: tuple[Id, ...] = Field(min_length=1, max_length=MAX_PAGES)
    size: int = Field(40, ge=1, le=200, strict=True, description="titles wanted a page")


class PagesAnswer(Answer):
    """Pages in the order asked for. They were shown to nobody, so they are in no log."""

    model_config = ConfigDict(json_schema_extra={"example": {"pages": [A_PAGE]}})

    pages: tuple[Page, ...]


class CandidatesRequest(_Request):
    """Whom to find titles for, and how many."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "k": 200}})

    user_id: Id
    k: int = Field(200, ge=1, le=MAX_TITLES, strict=True)


class CandidatesAnswer(Answer):
    """Titles not yet watched, best first, with their retrieval scores."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": 17,
                "version": "retriever/3",
                "generation": "2026-03-02T000000Z-4be1",
                "title_ids": [912, 44],
                "scores": [0.71, 0.64],
                "vectors": None,
                "stale": [],
            }
        }
    )

    user_id: int
    version: str
    generation: str
    live_set: str = ""
    title_ids: tuple[int, ...]
    scores: tuple[float, ...]
    vectors: str | None = Field(
        None,
        description="if asked for: base64 of the titles' unit vectors, little-endian float32, row after row",
    )
    stale: tuple[Stale, ...] = ()


class TitlesRequest(_Request):
    """A user and titles to judge for them."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "title_ids": [912, 44]}})

    user_id: Id
    title_ids: tuple[Id, ...] = Field(min_length=1, max_length=MAX_TITLES)


class ScoresAnswer(Answer):
    """The heads' scores of each title asked for, in the order asked."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": 17,
                "version": "ranker/3",
                "generation": "2026-03-02T000000Z-4be1",
                "title_ids": [912, 44],
                "play": [0.12, 0.08],
                "completion": [0.55, 0.61],
                "retention": [0.97, 0.96],
                "choice": [0.58, 0.47],
                "stale": [],
            }
        }
    )

    user_id: int
    version: str
    generation: str
    live_set: str = ""
    title_ids: tuple[int, ...]
    play: tuple[float, ...]
    completion: tuple[float, ...] | None
    retention: tuple[float, ...] | None
    choice: tuple[float, ...] | None = Field(None, description="only with retrieval scores")
    stale: tuple[Stale, ...] = ()


class ArtworkAnswer(Answer):
    """The image drawn for each title asked for, in the order asked; null where a title has none."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": 17,
                "version": "artwork/2",
                "generation": "2026-03-02T000000Z-4be1",
                "title_ids": [912, 44],
                "artwork_ids": [5471, None],
                "propensities": [0.62, None],
                "stale": [],
            }
        }
    )

    user_id: int
    version: str
    generation: str
    live_set: str = ""
    title_ids: tuple[int, ...]
    artwork_ids: tuple[int | None, ...]
    propensities: tuple[float | None, ...]
    arm_sets: tuple[str | None, ...] = Field((), description="digest of the images each was drawn from")
    artwork_draw: ArtworkDraw | None = Field(None, description="what they were drawn with")
    stale: tuple[Stale, ...] = ()
