"""What was believed of a title's images after each day: the values of a figure, without the figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy.special import expit

from models.artwork import ArtworkPolicy
from models.artwork_data import ArtworkLog, Float64, lookup
from models.data import Float32, Int64, MalformedData
from models.off_policy import quantile

CONFIDENCE = 0.8


class NoSuchTitle(LookupError):
    """A title of which the policy has no images."""

    def __init__(self, title_id: int, titles: int) -> None:
        super().__init__(f"title {title_id} is not among the {titles:,} titles with images of this policy.")


@dataclass(frozen=True)
class ArmBelief:
    """What is believed of one image: its play rate, and the bounds that hold it with 80 % probability.

    `rate` is the rate at the mean logit; all three are those of one context, the title's level held at its mode. `impressions` and `plays` are those
    absorbed since the history began, `propensity` the probability with which it is shown next.
    """

    artwork_id: int
    rate: float
    low: float
    high: float
    propensity: float
    impressions: int
    plays: int


@dataclass(frozen=True)
class DayBelief:
    """All images of a title after a day was absorbed, in order of id; `day` is None before the first."""

    day: date | None
    arms: tuple[ArmBelief, ...]


def belief_history(
    policy: ArtworkPolicy,
    days: Iterable[tuple[date, ArtworkLog]],
    title_id: int,
    context: Float32 | None = None,
) -> tuple[DayBelief, ...]:
    """The belief about a title's images before any of `days` and after each, in the order they are absorbed.

    `context` (d,) is the user to whom images are shown, by default the average one. A day without an impression of
    the title leaves the belief as it was; a day absorbed before changes nothing.

    Raises:
        NoSuchTitle: the policy has no image of the title.
        MalformedData: days do not rise, or the context has another width.
        UnknownArtwork: a log shows an image that is not one of the policy's.
    """
    mine = np.flatnonzero(policy.title_ids == title_id)
    if len(mine) == 0:
        raise NoSuchTitle(title_id, len(policy.titles.titles))
    x = np.full(len(policy.contexts.mean), np.nan, np.float32) if context is None else context
    counts = np.zeros((2, len(mine)), dtype=np.int64)
    found, last = [DayBelief(None, _arms(policy, mine, title_id, x, counts))], None
    for day, log in days:
        if last is not None and day <= last:
            raise MalformedData(f"{day} comes after {last}: days are absorbed in order, each once.")
        after = policy.absorb(log)
        if after is not policy:
            counts = counts + _counts(policy.artwork_ids[mine], log)
        policy, last = after, day
        found.append(DayBelief(day, _arms(policy, mine, title_id, x, counts)))
    return tuple(found)


def _arms(
    policy: ArtworkPolicy, mine: Int64, title_id: int, x: Float32, counts: Int64
) -> tuple[ArmBelief, ...]:
    ids = policy.artwork_ids[mine]
    present = np.ones((1, len(ids)), dtype=np.bool_)
    logit = policy.play_logits(x[None], np.array([title_id]), ids[None])[0]
    margin = quantile(CONFIDENCE) * policy.effect_sd(x[None], ids[None])[0]
    propensity = policy.probabilities(x[None], ids[None], present)[0]
    rate, low, high = (_rates(z) for z in (logit, logit - margin, logit + margin))
    return tuple(
        ArmBelief(int(ids[a]), rate[a], low[a], high[a], float(propensity[a]), *counts[:, a].tolist())
        for a in range(len(ids))
    )


def _rates(logits: Float64) -> list[float]:
    rates: list[float] = expit(logits).tolist()
    return rates


def _counts(ids: Int64, log: ArtworkLog) -> Int64:
    """Impressions and plays (2, A) of each image."""
    once = log.canonical()
    arm = lookup(once.artwork_id, ids)
    mine = arm >= 0
    shown = np.bincount(arm[mine], minlength=len(ids))
    played = np.bincount(arm[mine], weights=once.play[mine], minlength=len(ids))
    counts: Int64 = np.stack([shown, played]).astype(np.int64)
    return counts
