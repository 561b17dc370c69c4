"""How fast the choice of images for new titles gets good, and how much traffic a quality score saves there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models.artwork_data import Float64
from models.artwork_learning import Bools, Learnt, Shown, Start, learnt
from models.artwork_propensity import win_probabilities, with_floor
from models.artwork_settings import ArtworkConfig
from models.data import Int64, MalformedData

DAYS_A_WEEK = 7
SHARE = 0.8
"""How much of its lift a choice has to have for its exploration to count as done."""


class NothingToExplore(ValueError):
    """Images or traffic from which no choice of images could learn, so that nothing can be saved either."""


@dataclass(frozen=True)
class NewTitles:
    """Titles of which nothing was shown: true play rates `rate` (T, K) of the images that are `present` (T, K)."""

    rate: Float64
    present: Bools

    def __post_init__(self) -> None:
        if self.rate.shape != self.present.shape or not self.present.any(axis=1).all():
            raise MalformedData(
                f"rate {self.rate.shape} and present {self.present.shape}: one shape, an image in every row."
            )
        known = self.rate[self.present]
        if not ((known >= 0) & (known <= 1)).all():
            raise MalformedData("a play rate lies outside 0..1.")

    @property
    def uniform(self) -> Float64:
        """The play rate (T,) when every image is shown equally often."""
        rates: Float64 = np.where(self.present, self.rate, 0).sum(axis=1) / self.present.sum(axis=1)
        return rates

    def earned(self, shares: Float64) -> Float64:
        """The expected play rate (T,) when images are shown by `shares` (T, K)."""
        rates: Float64 = (shares * np.where(self.present, self.rate, 0)).sum(axis=1)
        return rates

    def day(
        self, shares: Float64, impressions: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Impressions and plays (T, K) of a day with `impressions` of each title, drawn by `shares`."""
        shown = rng.multinomial(impressions, shares / shares.sum(axis=1, keepdims=True))
        return shown, rng.binomial(shown, np.where(self.present, self.rate, 0.0))


@dataclass(frozen=True)
class Traffic:
    """Impressions that a title gets in a day, for so many days; a day's plays are known from the next day on."""

    a_day: int
    days: int

    @classmethod
    def weekly(cls, a_week: float, weeks: int) -> Traffic:
        """At least one impression a day."""
        return cls(max(1, round(a_week / DAYS_A_WEEK)), weeks * DAYS_A_WEEK)


@dataclass(frozen=True)
class Appeal:
    """How much images add, in logits: a part `gain` a score foretells, a part of sd `rest_sd` that it does not.

    `level` is the logit of an average title's play rate; `images` are what a title has of them.
    """

    gain: float
    rest_sd: float
    level: float
    images: int

    @property
    def sd(self) -> float:
        """τ_q, of both parts."""
        return float(np.hypot(self.gain, self.rest_sd))


@dataclass(frozen=True)
class Saved:
    """What a score saves on new titles: how long a choice takes to earn a given play rate, without it and with it.

    The rate is `SHARE` of the way from uniform choice to what the uninformed one earns at the end of the horizon.
    `informed` is at most the horizon, which means "not within it". `impressions` are a title's in the weeks saved.
    """

    uninformed_weeks: float
    informed_weeks: float
    impressions: float

    @property
    def weeks(self) -> float:
        """Weeks saved; negative where the score delays."""
        return self.uninformed_weeks - self.informed_weeks


def start_of(
    titles: NewTitles, prior_mean: Float64, sd: float, level: float, level_precision: float
) -> Start:
    """What is believed of `titles` before any impression, `prior_mean` (T, K) of what each image adds."""
    row, _ = np.nonzero(titles.present)
    return Start(
        mean=prior_mean[titles.present][:, None].astype(np.float32),
        precision=np.array([sd**-2.0]),
        title_row=row,
        titles=len(titles.rate),
        level=level,
        level_precision=level_precision,
    )


def learning_curve(
    titles: NewTitles, start: Start, traffic: Traffic, config: ArtworkConfig, rng: np.random.Generator
) -> Float64:
    """The expected play rate of each title on each day, (days, T), when the bandit learns day by day."""
    now = Learnt(start.belief, np.full(start.titles, start.level))
    curve = np.empty((traffic.days, start.titles))
    for day in range(traffic.days):
        shares = shares_of(titles, now, config)
        curve[day] = titles.earned(shares)
        shown, played = titles.day(shares, traffic.a_day, rng)
        now = learnt(now, start, counted(shown[titles.present], played[titles.present]), config)
    return curve


def shares_of(titles: NewTitles, now: Learnt, config: ArtworkConfig) -> Float64:
    """The probability (T, K) of every image, without context."""
    mean, sd = np.zeros(titles.rate.shape), np.ones(titles.rate.shape)
    mean[titles.present] = now.belief.mean[:, 0]
    sd[titles.present] = config.temper / np.sqrt(now.belief.precision[:, 0].astype(np.float64))
    return with_floor(win_probabilities(mean, sd, titles.present), titles.present, config.floor)


def counted(shown: Int64, played: Int64) -> Shown:
    """Counts (A,) as weighted impressions without context: at most two rows an image."""
    rows = np.concatenate([np.flatnonzero(played > 0), np.flatnonzero(shown > played)])
    plays = int((played > 0).sum())
    play = (np.arange(len(rows)) < plays).astype(np.float32)
    weight = np.where(play > 0, played[rows], (shown - played)[rows]).astype(np.float64)
    return Shown(rows, np.ones((len(rows), 1), np.float32), play, weight)


def exploration_saved(
    appeal: Appeal, impressions_a_week: float, config: ArtworkConfig, weeks: int = 4, titles: int = 1_000
) -> Saved:
    """Simulated new titles whose images are as `appeal` says: with the score known, and without.

    Both know the true sd of effects; the figure is what the score is worth if its validity is what was measured.

    Raises:
        NothingToExplore: an sd that is not above 0, fewer than two images, no traffic, or nothing learnt within the weeks.
    """
    if not (appeal.rest_sd > 0 and appeal.images > 1 and impressions_a_week > 0 and weeks > 0):
        raise NothingToExplore(
            f"{appeal} with {impressions_a_week:g} impressions a week: there is nothing to explore."
        )
    rng = np.random.default_rng(config.seed)
    shape = (titles, appeal.images)
    score = rng.normal(size=shape)
    effect = appeal.gain * score + appeal.rest_sd * rng.normal(size=shape)
    new = NewTitles(expit(appeal.level + effect), np.ones(shape, dtype=np.bool_))
    told = appeal.gain * (score - score.mean(axis=1, keepdims=True))
    traffic = Traffic.weekly(impressions_a_week, weeks)

    def curve(mean: Float64, sd: float) -> Float64:
        rate = float(expit(appeal.level))
        start = start_of(new, mean, sd, appeal.level, config.title_prior_impressions * rate * (1 - rate))
        again = np.random.default_rng(config.seed + 1)
        days: Float64 = learning_curve(new, start, traffic, config, again).mean(axis=1)
        return days

    informed, uninformed = curve(told, appeal.rest_sd), curve(np.zeros(shape), appeal.sd)
    return saved(informed, uninformed, float(new.uniform.mean()), traffic.a_day)


def saved(informed: Float64, uninformed: Float64, uniform: float, impressions_a_day: float) -> Saved:
    """How long two curves of daily play rates (days,) take to the same rate, straight between days.

    Raises:
        NothingToExplore: the uninformed choice does not get above uniform choice.
    """
    lift = float(uninformed[-1]) - uniform
    if not lift > 0:
        raise NothingToExplore(
            f"{len(uninformed)} days teach nothing above uniform choice: nothing can be saved."
        )
    level = uniform + SHARE * lift
    without, with_it = _days_to(level, uninformed), _days_to(level, informed)
    return Saved(without / DAYS_A_WEEK, with_it / DAYS_A_WEEK, (without - with_it) * impressions_a_day)


def _days_to(level: float, curve: Float64) -> float:
    """Days of learning until a curve first has `level`; all its days where it never has."""
    above = np.flatnonzero(curve >= level)
    if len(above) == 0:
        return float(len(curve))
    day = int(above[0])
    if day == 0:
        return 0.0
    before, after = float(curve[day - 1]), float(curve[day])
    return day - (after - level) / (after - before)
