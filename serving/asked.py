"""What the parts of a page are asked when they run as services of their own: the same, pinned to one moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat
from pydantic.config import JsonDict

from serving.answers import MAX_TITLES, CandidatesRequest, TitlesRequest
from serving.plan import Draw

Moment = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))
]


class Pin(BaseModel):
    """What a homepage that asks for one page must not leave to whoever answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None = Field(
        None, max_length=100, description="model version; else as the user's arms ask"
    )
    generation: str | None = Field(
        None, max_length=100, description="the snapshot to answer from; refused if another is live"
    )
    at: Moment | None = Field(None, description="the time of the page; else now")


NO_PIN = Pin()
_PIN: JsonDict = {
    "version": "ranker/3",
    "generation": "2026-03-02T000000Z-4be1",
    "at": "2026-03-02T20:00:00Z",
}


class CandidatesAsked(CandidatesRequest):
    """Whom to find titles for, and how many."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "k": 200}})

    pin: Pin = NO_PIN
    vectors: bool = Field(False, strict=True, description="whether to send the titles' vectors along")


class ScoresAsked(TitlesRequest):
    """A user and titles to score for them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"user_id": 17, "title_ids": [912, 44], "retrieval": [0.71, 0.64], "pin": _PIN}
        }
    )

    pin: Pin = NO_PIN
    retrieval: tuple[FiniteFloat, ...] | None = Field(
        None, max_length=MAX_TITLES, description="the titles' retrieval scores, of which `choice` is made"
    )


class ImagesAsked(TitlesRequest):
    """A user and titles to choose an image for."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "title_ids": [912, 44]}})

    pin: Pin = NO_PIN
    draw: Draw | None = Field(None, description="how an image is drawn; else as the user's arms ask")
