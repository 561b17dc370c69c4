"""What a batch of closed windows teaches: each title's level and what each of its images adds to it, together.

Impressions tell levels b_t + θ_a apart from one another, not b_t from θ_a. Were b_t left where it was, a title
that turned out less played than thought would make its images look bad, those shown most the most: the choice
would run to whatever was shown least. So b_t moves to its posterior mode, and θ_a keeps what it adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.artwork_data import Float64
from models.artwork_posterior import Belief, updated
from models.artwork_residuals import summed, title_levels
from models.artwork_settings import ArtworkConfig
from models.data import Float32, Int64

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Start:
    """What is believed before any impression: θ_a ~ N(mean_a, diag(1/precision)), b_t ~ N(level, 1/level_precision).

    `mean` is (A, 1 + d), `precision` (1 + d,), `title_row` (A,) the title of each image, of `titles` there are.
    """

    mean: Float32
    precision: Float64
    title_row: Int64
    titles: int
    level: float
    level_precision: float

    @property
    def belief(self) -> Belief:
        """The belief of images nobody has seen."""
        return Belief(self.mean, np.tile(self.precision.astype(np.float32), (len(self.mean), 1)))


@dataclass(frozen=True)
class Learnt:
    """Belief about every image's θ_a, and every title's level b_t (T,) that it is relative to."""

    belief: Belief
    levels: Float64


@dataclass(frozen=True)
class Shown:
    """Impressions: the image's row, [1, x], the play, and how many equal ones each row stands for."""

    rows: Int64  # (N,)
    design: Float32  # (N, 1 + d)
    play: Float32  # (N,)
    weight: Float64  # (N,)

    def take(self, chosen: Int64) -> Shown:
        """Some of the rows."""
        return Shown(self.rows[chosen], self.design[chosen], self.play[chosen], self.weight[chosen])


def learnt(before: Learnt, start: Start, shown: Shown, config: ArtworkConfig) -> Learnt:
    """The joint posterior mode of levels and effects given what was believed `before` and a batch.

    repeat for titles whose level still moves:
      1. their images' Laplace update at the level's present value    (`updated`)
      2. Newton's step of the level, effects profiled out             b_t += δ  (`level_steps`)
      3. what images add, relative to the moved level                 θ_a -= δ I_a/P_a  (`relative_to`)
    """
    levels = _warm_levels(before, start, shown)
    now, moving = before, _titles_of(start, shown)
    for _ in range(config.level_rounds):
        chosen = np.flatnonzero(moving[start.title_row[shown.rows]])
        now = _updated_titles(before, now, start, shown.take(chosen), levels, moving, config)
        step = np.where(moving, level_steps(now, start), 0.0)
        now = relative_to(now.levels + step, now, start)
        levels = now.levels
        moving = np.abs(step) > config.level_tolerance
        if not moving.any():
            break
    return now


def level_steps(now: Learnt, start: Start) -> Float64:
    """Newton's step (T,) of each b_t towards the joint mode.

    With I_a = P_a - P_0 the information impressions gave, δ = (Σ_a P_0(θ_a - m_a) - π(b_t - b)) / (π + Σ_a P_0 I_a/P_a):
    a random-effects mean, in which a much-shown image does not outvote the others.
    """
    prior = start.precision[0]
    information = _information(now.belief, start)
    pull = prior * (now.belief.mean[:, 0].astype(np.float64) - start.mean[:, 0])
    weight = prior * information / (prior + information)
    gradient = summed(start.title_row, pull, start.titles) - start.level_precision * (
        now.levels - start.level
    )
    step: Float64 = gradient / (start.level_precision + summed(start.title_row, weight, start.titles))
    return step


def relative_to(levels: Float64, now: Learnt, start: Start) -> Learnt:
    """The same evidence seen from other levels: what was seen stays where it was, the prior moves along."""
    information = _information(now.belief, start)
    share = information / (start.precision[0] + information)
    mean = now.belief.mean.copy()
    mean[:, 0] -= share * (levels - now.levels)[start.title_row]
    return Learnt(replace(now.belief, mean=mean), levels)


def _information(belief: Belief, start: Start) -> Float64:
    """I_a (A,): the precision of each image's own effect beyond its prior's."""
    # The prior's precision as the belief holds it, or rounding would pass for information.
    beyond = belief.precision[:, 0].astype(np.float64) - start.precision.astype(np.float32)[0]
    information: Float64 = np.maximum(0.0, beyond)
    return information


def _titles_of(start: Start, shown: Shown) -> Bools:
    titles = np.zeros(start.titles, dtype=np.bool_)
    titles[start.title_row[shown.rows]] = True
    return titles


def _updated_titles(
    before: Learnt,
    now: Learnt,
    start: Start,
    shown: Shown,
    levels: Float64,
    moving: Bools,
    config: ArtworkConfig,
) -> Learnt:
    """Images of `moving` titles updated by the batch from what was believed before it; the others as they are now."""
    seen = relative_to(levels, before, start).belief
    offset = levels[start.title_row[shown.rows]]
    found = updated(seen, shown.rows, shown.design, shown.play, offset, config, shown.weight)
    mine = moving[start.title_row][:, None]
    mean = np.where(mine, found.mean, now.belief.mean)
    precision = np.where(mine, found.precision, now.belief.precision)
    return Learnt(Belief(mean, precision), levels)


def _warm_levels(before: Learnt, start: Start, shown: Shown) -> Float64:
    """Levels near the mode, effects held fixed: from far away the profiled step would overshoot."""
    title = start.title_row[shown.rows]
    adds = np.einsum("nd,nd->n", before.belief.mean[shown.rows], shown.design).astype(np.float64)
    information = _information(before.belief, start)
    prior = start.precision[0]
    known = start.level_precision + summed(
        start.title_row, prior * information / (prior + information), start.titles
    )
    return title_levels(title, adds, shown.play, shown.weight, before.levels, known)
