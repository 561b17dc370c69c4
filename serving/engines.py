"""Who does the work of a page's models: this process, or services of their own; and what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from models.data import Candidates, Float32, Int64
from models.objective import HeadScores
from serving.images import Images, choose_images
from serving.live import Live
from serving.plan import Plan


@dataclass(frozen=True)
class Retrieved:
    """Titles found, best first, and how to get unit vectors (n, D) of some of them."""

    found: Candidates
    vectors_of: Callable[[Int64], Float32]


@dataclass(frozen=True)
class Engines:
    """By default all of it happens in this process. The last argument of each is the seconds that are left for it.

    `retrieve` is given the user's features (F,) and what they have watched; `rank` features (n, F) of n candidates, their ids
    and retrieval scores (n,); `illustrate` the titles that want an image each.
    """

    retrieve: Callable[[Asked, Float32, Int64, float], Retrieved]
    rank: Callable[[Asked, Float32, Int64, Float32, float], HeadScores]
    illustrate: Callable[[Asked, Int64, float], Images]


def retrieved_here(asked: Asked, features: Float32, watched: Int64, _: float) -> Retrieved:
    """By the plan's retriever, in this process."""
    retriever = asked.live.retriever(asked.plan)
    found = retriever.candidates(features, watched, asked.n_candidates, exclude=watched)
    return Retrieved(found, retriever.title_vectors)


def ranked_here(
    asked: Asked, features: Float32, title_ids: Int64, retrieval: Float32, _: float
) -> HeadScores:
    """By the plan's ranker, in this process."""
    return asked.live.ranker(asked.plan).score(features, title_ids, retrieval)


def illustrated_here(asked: Asked, title_ids: Int64, _: float) -> Images:
    """By the plan's artwork policy, in this process."""
    return choose_images(asked.live, asked.plan, asked.user_id, title_ids, asked.now)


HERE = Engines(retrieved_here, ranked_here, illustrated_here)
"""All in this process."""


@dataclass(frozen=True)
class Asked:
    """One request at `now`, over one moment's features and models; `n_candidates` go from retrieval to ranking."""

    live: Live
    plan: Plan
    user_id: int
    size: int
    n_candidates: int
    now: datetime
    engines: Engines = HERE
