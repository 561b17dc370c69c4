"""What a Bento holds, as a frozen value beside it: model versions, defaults, and the features it was built for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.objective import ObjectiveWeights
from serving.quality_factor import QualityConfig

MANIFEST = "manifest.json"
Kind = Literal["retriever", "ranker", "artwork"]
ServiceName = Literal["homepage", "retriever", "ranker", "artwork"]
NEEDS: Mapping[ServiceName, tuple[Kind, ...]] = {
    "homepage": ("retriever", "ranker", "artwork"),
    "retriever": ("retriever",),
    "ranker": ("ranker",),
    "artwork": ("artwork",),
}
"""The kinds of model each service may answer with."""
REQUIRES: Mapping[ServiceName, Kind] = {
    "homepage": "retriever",
    "retriever": "retriever",
    "ranker": "ranker",
    "artwork": "artwork",
}
"""The kind without which a service has nothing to say; a source without artwork still has pages."""


class NotABento(RuntimeError):
    """A service was started from somewhere else than a built Bento."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds no {MANIFEST}: services start from a built Bento, which brings its model versions. "
            "Build one with `matinee bento build`, then serve its tag."
        )


class VersionNotPacked(LookupError):
    """Somebody asks for a model version that this Bento does not hold, or holds as another kind of model."""

    def __init__(self, kind: Kind, ref: str, asked_by: str, held: Iterable[str]) -> None:
        super().__init__(
            f"{asked_by}: {kind} {ref!r} is not in this Bento. It holds: {', '.join(sorted(held)) or 'nothing'}. "
            "Build and serve a Bento with that version first."
        )


class PackedVersion(BaseModel):
    """One model version inside the Bento."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(description="pinned, such as ranker/3")
    kind: Kind
    digest: str = Field(description="sha256 of the artifact")
    folder: str = Field(description="relative to the manifest")
    reads: Mapping[str, Mapping[str, str]] = Field(
        description="feature service → feature → digest it was trained on, in column order"
    )
    framework: Mapping[str, str] = Field(
        {}, description="library → version it was trained with, where recorded"
    )


class StageShares(BaseModel):
    """By which share of a request's budget each stage must be done. What a stage leaves unused goes on to the next.

    A stage that is not done by then is abandoned, and the next best answer is served.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: float = Field(0.25, gt=0, lt=1, description="waiting for other pages of the process")
    retrieve: float = Field(0.5, gt=0, lt=1, description="the user's features, and candidates")
    rank: float = Field(0.85, gt=0, lt=1, description="features of user and candidates, scores, diversity")
    artwork: float = Field(0.92, gt=0, lt=1, description="an image for each title")
    log: float = Field(
        0.98,
        gt=0,
        lt=1,
        description="exposures on disk; what lies between artwork and this is left to the log in any case",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        moments = list(self.model_dump().values())
        if any(later <= earlier for earlier, later in pairwise(moments)):
            raise ValueError(f"stages follow each other, so their shares must grow; they are {moments}.")
        return self


class Defaults(BaseModel):
    """What holds where no live experiment says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retriever: str | None = None
    ranker: str | None = None
    artwork: str | None = None
    weights: ObjectiveWeights = ObjectiveWeights()
    popular: tuple[int, ...] = Field((), description="title ids, most popular first: a new user's page")
    n_candidates: int = Field(200, ge=1, description="titles that go from retrieval to ranking")
    budget_ms: float = Field(1000.0, gt=0, description="a request's deadline")
    stage_shares: StageShares = StageShares()
    adaptive_quality: QualityConfig | None = Field(
        None, description="rank fewer candidates while pages come near their deadline; null: always all"
    )
    shadow_share: float = Field(
        0.1, gt=0, le=1, description="share of the time that shadow versions may compute, between pages"
    )
    sample_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of requests whose feature vectors are logged, to be verified offline",
    )

    def refs(self) -> dict[Kind, str]:
        """The version of each kind that has one."""
        refs: dict[Kind, str | None] = {
            "retriever": self.retriever,
            "ranker": self.ranker,
            "artwork": self.artwork,
        }
        return {kind: ref for kind, ref in refs.items() if ref is not None}


class Manifest(BaseModel):
    """Everything a service needs to know about the Bento it runs from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceName
    versions: tuple[PackedVersion, ...]
    defaults: Defaults

    def find(self, kind: Kind, ref: str, asked_by: str) -> PackedVersion:
        """The `kind` of model called `ref`.

        Raises:
            VersionNotPacked: the Bento does not hold it.
        """
        for version in self.versions:
            if (version.kind, version.ref) == (kind, ref):
                return version
        held = (f"{version.kind} {version.ref!r}" for version in self.versions)
        raise VersionNotPacked(kind, ref, asked_by, held)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest in `folder`.

        Raises:
            NotABento: there is none.
        """
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise NotABento(folder) from None
        return cls.model_validate_json(text)
