"""What decides each trained model, apart from events: the features it reads, its settings, the model it stands behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from events.sources import Source
from feature_repo.declarations import Declarations, FeatureService, FeatureTable
from feature_repo.planning import Recorded
from feature_repo.session import KEPT_IN
from matinee.datasets import NEGATIVES
from matinee.settings import Settings
from models.artwork_settings import ArtworkConfig, CreativeQualityConfig
from models.settings import RankerConfig, RetrievalConfig

RANKING_ROWS = {"train": 150_000, "valid": 40_000, "test": 60_000}
CHOICE_LISTS = {"train": 4_200, "valid": 400}
"""Plays that the choice head learns from, and that weigh it against the retriever; each is a list of titles."""
CHOICE_BESIDE = (12, 6)
"""Titles beside each play that it learns from: candidates, and others of the catalogue."""

Held = Callable[[str, datetime], Recorded | None]
"""(stored table, `as_of`) → what its computed file says of itself."""


@dataclass(frozen=True)
class Recipe:
    """One model: the services and further stored tables it reads, its settings, the model it is trained behind."""

    model: str
    services: tuple[str, ...]
    settings: Mapping[str, object]
    tables: tuple[str, ...] = ()
    behind: str = ""
    behind_as: str = ""  # the setting that holds the digest of the model behind

    def after(self, digest: str) -> Self:
        """This recipe with the model it stands behind known, by the digest of its artifact."""
        return replace(self, settings={**self.settings, self.behind_as: digest})

    def reads(self, declarations: Declarations) -> tuple[FeatureTable, ...]:
        """Every stored table it reads."""
        of_services = {t.name for name in self.services for t in declarations.service(name).tables}
        return tuple(t for t in declarations.stored if t.name in of_services | set(self.tables))

    def inputs(self, declarations: Declarations, as_ofs: Sequence[datetime], held: Held) -> str:
        """A digest of all that decides the trained model: settings, features, and their values by what made them."""
        services = tuple(declarations.service(name) for name in self.services)
        return _digest([dict(self.settings), *_features(services, self.reads(declarations), as_ofs, held)])


def features_digest(services: Sequence[FeatureService], as_ofs: Sequence[datetime], held: Held) -> str:
    """A digest of the features of `services` as they were computed for `as_ofs`."""
    tables = {table.name: table for service in services for table in service.tables if table.stored}
    return _digest(_features(services, tuple(tables.values()), as_ofs, held))


def retriever(config: RetrievalConfig) -> Recipe:
    """Two towers over what users and titles are like and what was watched."""
    return Recipe(
        "retriever",
        ("retrieval_user", "retrieval_title"),
        config.model_dump(mode="json"),
        tables=(KEPT_IN,),
    )


def ranker(config: RankerConfig) -> Recipe:
    """Heads for play, completion and retention, tested behind a retriever."""
    settings = {
        **config.model_dump(mode="json"), "rows": RANKING_ROWS, "negatives": NEGATIVES,
        "lists": CHOICE_LISTS, "beside": CHOICE_BESIDE,
    }  # fmt: skip
    return Recipe("ranker", ("ranking",), settings, behind="retriever", behind_as="retriever")


def creative_quality(config: CreativeQualityConfig, seed: int) -> Recipe:
    """What an image adds, whoever looks."""
    return Recipe("creative_quality", ("artwork_image",), {"seed": seed, **config.model_dump(mode="json")})


def artwork(config: ArtworkConfig) -> Recipe:
    """Thompson sampling with priors from creative quality."""
    return Recipe(
        "artwork", ("artwork_context", "artwork_image"), config.model_dump(mode="json"),
        behind="creative_quality", behind_as="quality",
    )  # fmt: skip


def recipes(source: Source, settings: Settings) -> tuple[Recipe, ...]:
    """The models that a day trains for a source, each behind those before it."""
    seed = settings.seed
    found = (retriever(RetrievalConfig(seed=seed)), ranker(settings.ranker))
    if not source.has("artworks", "impressions.artwork_id"):
        return found
    return (*found, creative_quality(CreativeQualityConfig(), seed), artwork(ArtworkConfig(seed=seed)))


def _features(services: Sequence[FeatureService], tables: Sequence[FeatureTable], as_ofs: Sequence[datetime],
              held: Held) -> list[object]:  # fmt: skip
    """Features in model order, and for each moment and table what each was computed from."""
    values = [[_said(table, held(table.name, moment)) for table in tables] for moment in as_ofs]
    return [[list(service.digests.items()) for service in services], values]


def _said(table: FeatureTable, recorded: Recorded | None) -> object:
    return recorded and [recorded.base, [recorded.features.get(name) for name in table.names]]


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
