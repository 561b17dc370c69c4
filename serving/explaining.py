"""Why each title of a page stands where it does: scores, what they were weighed with, and which features brought them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from models.data import Candidates, Float32, Int64
from models.objective import ObjectiveWeights, objective_parts
from serving.answers import (
    A_PAGE,
    Answer,
    ArtworkDraw,
    Degradation,
    PageRequest,
    ShownArm,
    ShownTitle,
    Source,
    Stale,
    TitleScores,
    Versions,
)
from serving.samples import Given
from serving.shadows import ShownPage

if TYPE_CHECKING:
    from models.attribution import Attributions
    from models.objective import HeadScores
    from models.ranker import Ranker


class ExplainRequest(PageRequest):
    """Whose page is to be explained, and how many features are to be named for each title."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": 17, "size": 10, "reasons": 5}})

    size: int = Field(10, ge=1, le=40, strict=True, description="titles to explain, from the first place on")
    reasons: int = Field(5, ge=1, le=50, strict=True, description="features to name for each title")


class Reason(Answer):
    """A feature, its value for this user and title, and what it brought to the objective."""

    feature: str = Field(description="table:feature")
    value: float | None = Field(description="as it was read; null where it is not known")
    brought: float = Field(description="above 0 it raised the title, on the scale of the objective")


class ExplainedTitle(Answer):
    """One title of the page. `baseline` + `retrieval_brought` + what all features brought is its objective."""

    position: int
    title_id: int
    name: str
    scores: TitleScores
    objective_parts: dict[str, float] = Field(
        {}, description="what each head adds to the objective, its weight included; they sum to it"
    )
    retrieval_brought: float | None = Field(None, description="what the retrieval score brought")
    other_features_brought: float | None = Field(None, description="the sum of the features not named")
    reasons: tuple[Reason, ...] = Field((), description="what brought most first, whichever its sign")
    artwork_id: int | None
    propensity: float | None
    arm_set: str | None


_EXAMPLE: JsonDict = {
    **{
        name: A_PAGE[name]
        for name in ("user_id", "as_of", "generation", "arms", "versions", "weights", "source")
    },
    "artwork_draw": None,
    "degraded": [],
    "stale": [],
    "baseline": 0.21,
    "unexplained": 0.0004,
    "titles": [
        {
            "position": 0,
            "title_id": 912,
            "name": "The General",
            "scores": {"retrieval": 0.71, "play": 0.12, "choice": 0.61, "objective": 0.4},
            "objective_parts": {"play": 0.01, "choice": 0.39},
            "retrieval_brought": 0.05,
            "other_features_brought": 0.06,
            "reasons": [{"feature": "title_activity:play_count_7d", "value": 31.0, "brought": 0.08}],
            "artwork_id": 5471,
            "propensity": 0.62,
            "arm_set": "6f0c3e9f1a3b4d0e",
        }
    ],
}


class Explanation(Answer):
    """A page that is not shown and not logged, with its reasons."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    user_id: int
    as_of: datetime
    generation: str
    arms: tuple[ShownArm, ...]
    versions: Versions
    weights: dict[str, float]
    source: Source
    artwork_draw: ArtworkDraw | None
    degraded: tuple[Degradation, ...]
    stale: tuple[Stale, ...]
    baseline: float | None = Field(
        description="the objective of a title whose every feature is average and whose retrieval score is the mean of the "
        "candidates'; null where titles were not ranked"
    )
    unexplained: float | None = Field(
        description="the largest error of the integration that the reasons come from, over the titles"
    )
    titles: tuple[ExplainedTitle, ...]


def explained(made_of: ShownPage, reasons: int) -> Explanation:
    """The explanation of a page from what its models were given; without a ranking, of what there is.

    The retrieval scores of all candidates and their features are those that the page was made from, not read again.
    """
    page, selection, live = made_of.page, made_of.selection, made_of.asked.live
    ranking = next((one for one in selection.given if one.service == "ranking"), None)
    told: dict[int, ExplainedTitle] = {}
    baseline = unexplained = None
    ranker = live.models.rankers.get(str(page.versions.ranker))  # another service may have it
    if ranking is not None and selection.candidates is not None and ranker is not None:
        weights = ObjectiveWeights.model_validate(page.weights)
        made = _Ranking(ranker, ranking, selection.candidates, weights)
        rows = made.rows(page.titles)
        attributed = made.attributed(rows)
        baseline, unexplained = attributed.baseline, float(np.abs(attributed.unexplained).max(initial=0))
        told = {
            title.title_id: made.title(title, int(row), attributed, place, reasons)
            for place, (title, row) in enumerate(zip(page.titles, rows, strict=True))
        }
    return Explanation(
        **{name: getattr(page, name) for name in _SAME},
        baseline=baseline,
        unexplained=unexplained,
        titles=tuple(told.get(title.title_id) or _unexplained(title) for title in page.titles),
    )


_SAME = ("user_id", "as_of", "generation", "arms", "versions", "weights", "source", "artwork_draw", "degraded", "stale")  # fmt: skip


def _unexplained(title: ShownTitle) -> ExplainedTitle:
    return ExplainedTitle(
        **title.model_dump(include={"position", "title_id", "name", "artwork_id", "propensity", "arm_set"}),
        scores=title.scores,
    )


class _Ranking:
    """What ordered one page's candidates, and how it can be told."""

    def __init__(self, ranker: Ranker, given: Given, found: Candidates, weights: ObjectiveWeights) -> None:
        self.ranker, self.given, self.weights = ranker, given, weights
        self.retrieval: Float32 = found.scores
        heads: HeadScores = ranker.score(given.values, retrieval=found.scores)
        self.parts = objective_parts(heads, weights)

    def rows(self, titles: Sequence[ShownTitle]) -> Int64:
        """The row of each title among the candidates."""
        row_of = {title_id: row for row, title_id in enumerate(self.given.title_ids.tolist())}
        return np.array([row_of[title.title_id] for title in titles], dtype=np.int64)

    def attributed(self, rows: Int64) -> Attributions:
        from models.attribution import attributions  # noqa: PLC0415  (brings PyTorch)

        return attributions(self.ranker, self.given.values, self.retrieval, self.weights, rows)

    def title(
        self, title: ShownTitle, row: int, found: Attributions, place: int, reasons: int
    ) -> ExplainedTitle:
        brought = found.features[place]
        most = np.argsort(-np.abs(brought), kind="stable")[:reasons]
        names, values = self.ranker.signature.features, self.given.values[row]
        return _unexplained(title).model_copy(
            update={
                "objective_parts": {head: float(part[row]) for head, part in self.parts.items()},
                "retrieval_brought": float(found.retrieval[place]),
                "other_features_brought": float(brought.sum() - brought[most].sum()),
                "reasons": tuple(
                    Reason(
                        feature=names[column],
                        value=None if np.isnan(values[column]) else float(values[column]),
                        brought=float(brought[column]),
                    )
                    for column in most.tolist()
                ),
            }
        )
