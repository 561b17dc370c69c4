"""What a creative-quality score is worth on titles that appear: the traffic they had, with two beliefs about their images.

Who saw which new title where and when is taken as it was. Which image they saw is drawn anew by a policy that knows
the score of a new image, and by one that does not; both learn from what they showed, day by day. How likely a
play is with each image is the world's own: no model sees it, it only judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from events.behaviour import (
    HOVER_BASE,
    HOVER_IMAGE,
    HOVER_INTEREST,
    PLAY_BASE,
    PLAY_IMAGE,
    PLAY_INTEREST,
    Visits,
    affinity,
    examination,
    image_appeal,
    interest,
)
from events.trends import draw_on
from events.world import World
from events.world_config import DAY, stream
from models.artwork import ArtworkPolicy, padded
from models.artwork_cold_start import Saved, saved
from models.artwork_data import ArtworkImages, ArtworkLog, Float64
from models.artwork_propensity import drawn
from models.data import Float32, Int64

Bools = NDArray[np.bool_]
FEWEST = 200
"""Impressions that an age of titles needs for its figure to count."""


class TooFewShowings(LookupError):
    """New titles were not shown often enough to say anything of them."""

    def __init__(self, shown: int) -> None:
        super().__init__(
            f"new titles were shown {shown} times on their first days; {FEWEST} are needed. Simulate more days, more members, "
            "or a world with `later_days`, in which titles arrive after the history."
        )


@dataclass(frozen=True)
class Showings:
    """Impressions of new titles on one day (N,), in order of time: to whom, of what, where on the page, when, in which context."""

    user_id: Int64
    title_id: Int64
    position: Int64
    at: Int64  # microseconds
    context: Float32  # (N, d)

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True)
class Offered:
    """What could have been shown at each of N showings: images (N, K), which are there, and the true chance of a play."""

    ids: Int64
    present: Bools
    chance: Float64

    @property
    def uniform(self) -> Float64:
        """(N,) the chance where every image is as likely."""
        chance: Float64 = np.where(self.present, self.chance, 0).sum(axis=1) / self.present.sum(axis=1)
        return chance

    @property
    def best(self) -> Float64:
        """(N,) the chance with the best image for this member."""
        chance: Float64 = np.where(self.present, self.chance, -np.inf).max(axis=1)
        return chance


@dataclass(frozen=True)
class Course:
    """How a policy did, by days since a title was first shown: `lift` is the share of what the best images add to uniform ones.

    `share_of_best` is how often the best image for the member was shown, `regret` plays lost a thousand impressions.
    """

    impressions: Int64  # (A,) by age in days
    lift: Float64
    share_of_best: Float64
    regret: Float64


@dataclass(frozen=True)
class Comparison:
    """Both courses on the same traffic, and what knowing the score saved."""

    informed: Course
    uninformed: Course
    saved: Saved | None  # None where nothing was learnt above uniform choice
    titles: int


def compared(
    world: World, policy: ArtworkPolicy, images: ArtworkImages, scores: Float64, days: Sequence[Showings]
) -> Comparison:
    """New titles' traffic with and without their images' scores.

    Args:
        world: who says what is played.
        policy: as it was before the first of `days`; it knows none of the titles shown in them.
        images: all images there are on the last day, with what they show.
        scores: (A,) the creative-quality model's, of `images`.
        days: the showings of each day, oldest first; a day's plays are known from the next day on.

    Raises:
        TooFewShowings: new titles were shown less than `FEWEST` times on their first days.
    """
    if sum(map(len, days)) < FEWEST:
        raise TooFewShowings(sum(map(len, days)))
    offered = [of_day(world, images, day) for day in days]
    informed = course(world, policy.knowing(images, scores), days, offered)
    uninformed = course(world, policy.knowing(images, scores, informed=False), days, offered)
    a_day = float(np.mean([len(day) for day in days])) / max(1, len(_first_seen(days)))
    found = None
    if len(uninformed.lift) and uninformed.lift[-1] > 0:
        found = saved(informed.lift, uninformed.lift, 0.0, a_day)
    return Comparison(informed, uninformed, found, len(_first_seen(days)))


def of_day(world: World, images: ArtworkImages, day: Showings) -> Offered:
    """Every image each showing could have had, and the true chance that it is played."""
    of_title = {
        title: images.artwork_id[images.title_id == title] for title in np.unique(day.title_id).tolist()
    }
    if not len(day):
        return Offered(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.bool_), np.zeros((0, 1)))
    ids, present = padded([of_title[title] for title in day.title_id.tolist()])
    member, title = day.user_id - 1, np.broadcast_to((day.title_id - 1)[:, None], ids.shape)
    draw = np.stack(
        [draw_on(world.trends, world.catalogue, int(at))[row] for at, row in _by_moment(day, title)]
    )
    visits = Visits(
        member, title, np.where(present, ids - 1, ids[:, :1] - 1), day.at, draw, np.zeros(ids.shape, np.bool_)
    )
    call = interest(world.catalogue, world.members, visits, affinity(world.members, member, title))
    appeal = image_appeal(world.catalogue, world.members, visits)
    hover = expit(HOVER_BASE + HOVER_INTEREST * call + HOVER_IMAGE * appeal)
    play = expit(PLAY_BASE + PLAY_INTEREST * call + PLAY_IMAGE * appeal)
    return Offered(ids, present, examination(day.position)[:, None] * hover * play)


def _by_moment(day: Showings, title: Int64) -> list[tuple[int, Int64]]:
    return list(zip((day.at // DAY * DAY).tolist(), title, strict=True))


def course(
    world: World, policy: ArtworkPolicy, days: Sequence[Showings], offered: Sequence[Offered]
) -> Course:
    """The policy on the days' traffic, learning from each once it is over. Chance is the same for every policy."""
    first = _first_seen(days)
    ages, lifts, bests, regrets = [], [], [], []
    for number, (day, images) in enumerate(zip(days, offered, strict=True)):
        if not len(day):
            continue
        rng = stream(world.config, "new titles", number)
        shares = policy.probabilities(day.context, images.ids, images.present)
        place = drawn(shares, images.present, rng.random(len(day)))
        rows = np.arange(len(day))
        played = rng.random(len(day)) < images.chance[rows, place]
        earned = (shares * np.where(images.present, images.chance, 0)).sum(axis=1)
        ages.append(np.array([number - first[title] for title in day.title_id.tolist()]))
        lifts.append(np.stack([earned - images.uniform, images.best - images.uniform]))
        bests.append(shares[rows, np.where(images.present, images.chance, -np.inf).argmax(axis=1)])
        regrets.append(images.best - earned)
        log = ArtworkLog(
            rows + (number << 32), day.user_id, day.title_id, images.ids[rows, place], day.context,
            played.astype(np.float32), shares[rows, place],
        )  # fmt: skip
        policy = policy.absorb(log)
    return _by_age(
        np.concatenate(ages), np.concatenate(lifts, axis=1), np.concatenate(bests), np.concatenate(regrets)
    )


def _by_age(age: Int64, lift: Float64, best: Float64, regret: Float64) -> Course:
    impressions = np.bincount(age)
    short = np.flatnonzero(impressions < FEWEST)
    ages = int(short[0]) if len(short) else len(impressions)
    if ages == 0:
        raise TooFewShowings(int(impressions[0]))
    count = impressions[:ages]

    def mean(values: Float64) -> Float64:
        made: Float64 = np.bincount(age, values, minlength=len(impressions))[:ages] / count
        return made

    return Course(count, mean(lift[0]) / mean(lift[1]), mean(best), 1000 * mean(regret))


def _first_seen(days: Sequence[Showings]) -> dict[int, int]:
    """Title → the number of the first day on which it was shown."""
    first: dict[int, int] = {}
    for number, day in enumerate(days):
        for title in np.unique(day.title_id).tolist():
            first.setdefault(title, number)
    return first
