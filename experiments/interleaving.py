"""Two rankers in one list: each member compares them on the same page, so a few members tell what an A/B needs many for.

Team draft (Radlinski, Kurup & Joachims, CIKM 2008): like two captains who pick in turn, a coin deciding who goes first in
each round; a play is a point for the team whose pick it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.values import Declaration

Team = Literal["a", "b"]


@dataclass(frozen=True)
class Interleaved:
    """A list and, place by place, whose pick each entry was. It is logged with the page: credit cannot be told otherwise."""

    entries: tuple[int, ...]
    teams: tuple[Team, ...]


def team_draft(a: Sequence[int], b: Sequence[int], size: int, rng: np.random.Generator) -> Interleaved:
    """The first `size` entries of two rankings, picked in turns; shorter where both run out.

    A ranker that has nothing left passes its turn.

    Raises:
        ValueError: a ranking names an entry twice.
    """
    for name, ranking in (("a", a), ("b", b)):
        if len(set(ranking)) < len(ranking):
            raise ValueError(f"ranking {name} names an entry twice.")
    entries: list[int] = []
    teams: list[Team] = []
    taken: set[int] = set()
    rest = {"a": iter(a), "b": iter(b)}
    first, second = "a", "b"
    while len(entries) < size:
        if rng.random() < 0.5:
            first, second = second, first
        before = len(entries)
        for team in (first, second):
            pick = next((entry for entry in rest[team] if entry not in taken), None)
            if pick is not None and len(entries) < size:
                taken.add(pick)
                entries.append(pick)
                teams.append("a" if team == "a" else "b")
        if len(entries) == before:
            break
    return Interleaved(tuple(entries), tuple(teams))


def credit(shown: Interleaved, played: Iterable[int]) -> tuple[int, int]:
    """Points of a and of b for one page: plays of their picks. Plays of what was not shown count for neither."""
    theirs = dict(zip(shown.entries, shown.teams, strict=True))
    teams = [theirs[entry] for entry in played if entry in theirs]
    return teams.count("a"), teams.count("b")


class Preference(Declaration):
    """How much more of a unit's points b got than a: mean over units, its 95 % interval, and whether that can be chance.

    `share` is b's share of all points; .5 is a draw.
    """

    units: int
    difference: float
    low: float
    high: float
    share: float | None
    p_value: float


def preference(a: NDArray[np.float64], b: NDArray[np.float64], alpha: float = 0.05) -> Preference:
    """Student's t of b - a over units (U,), each with the points of all its pages: pages of a unit depend on each other.

    Raises:
        ValueError: fewer than two units, or no unit's points differ, so that there is nothing to test.
    """
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    n = len(difference)
    if n < 2 or difference.std() == 0:
        raise ValueError(f"nothing to compare: {n} units, whose points all differ by the same.")
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(n)
    reach = float(scipy.stats.t(n - 1).isf(alpha / 2)) * error
    points = float(np.sum(a) + np.sum(b))
    return Preference(
        units=n, difference=mean, low=mean - reach, high=mean + reach,
        share=float(np.sum(b)) / points if points else None, p_value=float(2 * scipy.stats.t(n - 1).sf(abs(mean) / error)),
    )  # fmt: skip
