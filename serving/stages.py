"""The three stages of a page that may run elsewhere: retrieval, ranking, artwork; and what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from models.data import Candidates, Float32, Int64
from models.objective import HeadScores
from serving.deadline import Deadline
from serving.images import Images, choose_images
from serving.live import Live
from serving.plan import Plan


@dataclass(frozen=True)
class Asked:
    """For whom, from which moment's features and models, at what time, and by when."""

    live: Live
    plan: Plan
    user_id: int
    now: datetime
    deadline: Deadline

    @property
    def left_s(self) -> float:
        """Seconds left until the answer is due."""
        return self.deadline.at - self.deadline.clock()


@dataclass(frozen=True)
class Retrieved:
    """Titles found, best first, and how to get unit vectors (n, D) of some of them."""

    found: Candidates
    vectors_of: Callable[[Int64], Float32]


Retrieving = Callable[[Asked, Float32, Int64, int], Retrieved]
"""The user's features (F,), what they have watched, and how many titles are wanted."""
Ranking = Callable[[Asked, Float32, Int64, Float32], HeadScores]
"""Features (n, F) of n candidates, their ids and retrieval scores (n,)."""
Illustrating = Callable[[Asked, Int64], Images]
"""One image for each title."""


def retrieved_here(asked: Asked, features: Float32, watched: Int64, k: int) -> Retrieved:
    """By the plan's retriever, in this process."""
    retriever = asked.live.retriever(asked.plan)
    return Retrieved(retriever.candidates(features, watched, k, exclude=watched), retriever.title_vectors)


def ranked_here(asked: Asked, features: Float32, title_ids: Int64, retrieval: Float32) -> HeadScores:
    """By the plan's ranker, in this process."""
    return asked.live.ranker(asked.plan).score(features, title_ids, retrieval)


def illustrated_here(asked: Asked, title_ids: Int64) -> Images:
    """By the plan's artwork policy, in this process."""
    return choose_images(asked.live, asked.plan, asked.user_id, title_ids, asked.now)


@dataclass(frozen=True)
class Stages:
    """Who does what: by default all of it happens in this process."""

    retrieve: Retrieving = retrieved_here
    rank: Ranking = ranked_here
    illustrate: Illustrating = illustrated_here


HERE = Stages()
"""All in this process."""
