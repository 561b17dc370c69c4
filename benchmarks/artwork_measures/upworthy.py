"""Real tests of headlines and images replayed as new titles of the bandit: arms are real, impressions are drawn.

A package's "true" play rate is its observed clicks / impressions, so it holds the test's own noise; impressions are
Bernoulli draws from it. Half of the tests are past titles, from which priors are learnt; the others are new.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import logit

from matinee.settings import Settings
from models.artwork import ArtworkPolicy
from models.artwork_cold_start import NewTitles, Saved, Traffic, learning_curve, saved, start_of
from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_settings import ArtworkConfig
from models.artwork_train import train_artwork
from models.creative_quality import CreativeQuality, train_creative_quality
from models.signature import Signature

LEAST_PACKAGES = 4
USUAL_PACKAGES = 6
DAYS = 20
AB_SHARE = 0.25
PAST_IMPRESSIONS = 2_000  # of each past title, every package equally likely
WORDS = 192  # columns that words are hashed to

Floats = NDArray[np.float64]
Shares = Callable[[Floats, Floats, int], Floats]
"""(shown (T, K), played (T, K), impressions a title has had) → the shares of the next day (T, K)."""


@dataclass(frozen=True)
class Packages:
    """Tests side by side: `titles` with rates, and for each package what its headline says (T, K, m)."""

    titles: NewTitles
    text: Floats

    def take(self, rows: NDArray[np.int64]) -> Packages:
        """Some of the tests."""
        return Packages(NewTitles(self.titles.rate[rows], self.titles.present[rows]), self.text[rows])

    @property
    def effect(self) -> Floats:
        """What each package adds to its test, in logits, its tests' mean taken out; 0 where there is none."""
        return centred(logit(np.clip(self.titles.rate, 1e-4, 1)), self.titles.present)


@dataclass(frozen=True)
class Learned:
    """What past titles teach about new ones."""

    policy: ArtworkPolicy
    quality: CreativeQuality | None

    @property
    def sd(self) -> float:
        """τ_q, of effects without a score."""
        return float(np.hypot(self.policy.prior.quality_sd, self.policy.prior.gain))


def folder() -> Path:
    """Where the data of development lie."""
    return Settings().data / "upworthy"


def packages() -> Packages:
    """Every test of at least four packages, in order of its id."""
    rows = pq.read_table(folder() / "exploratory_packages_a.parquet").to_pandas()
    rows = rows[rows["impressions"] > 0]
    tests = [t for _, t in rows.groupby("clickability_test_id", sort=True) if len(t) >= LEAST_PACKAGES]
    widest = max(len(t) for t in tests)
    rate = np.zeros((len(tests), widest))
    present = np.zeros((len(tests), widest), dtype=np.bool_)
    text = np.zeros((len(tests), widest, len(headline_features(""))))
    for i, test in enumerate(tests):
        rate[i, : len(test)] = test["clicks"] / test["impressions"]
        present[i, : len(test)] = True
        text[i, : len(test)] = [headline_features(line) for line in test["headline"]]
    return Packages(NewTitles(rate, present), text)


def headline_features(headline: str) -> list[float]:
    """Length, punctuation, address, and words hashed to signed columns."""
    words = re.findall(r"[a-z']+", headline.lower())
    shape = [
        np.log1p(len(words)), np.log1p(len(headline)), float("?" in headline), float("!" in headline),
        float('"' in headline or "'" in headline), float(any(c.isdigit() for c in headline)), float(":" in headline),
        float("..." in headline), headline.count("."), sum(w.isupper() and len(w) > 1 for w in headline.split()),
        float("you" in words or "your" in words), float("i" in words or "my" in words), float("he" in words or "his" in words),
        float("she" in words or "her" in words), float("this" in words or "these" in words), float("here's" in words),
        float("what" in words), float("how" in words), float("why" in words), float("watch" in words or "see" in words),
        float(bool({"but", "then", "until"} & set(words))), float("the" in words[:1]), float("a" in words[:1]),
    ]  # fmt: skip
    hashed = np.zeros(WORDS)
    for word in words:
        code = zlib.crc32(word.encode())
        hashed[code % WORDS] += 1 if code >> 31 else -1
    return [*map(float, shape), *hashed.tolist()]


def centred(values: Floats, present: NDArray[np.bool_]) -> Floats:
    """Values (T, K) less their test's mean, 0 where there is no package."""
    mean = np.where(present, values, 0).sum(axis=1) / present.sum(axis=1)
    return np.where(present, values - mean[:, None], 0.0)


def draft_score(tests: Packages, validity: float, seed: int) -> Floats:
    """A score (T, K) of sd 1 within tests whose correlation with the true effects is `validity`: simulated."""
    rng = np.random.default_rng(seed)
    effect = tests.effect / within_sd(tests.effect, tests.titles.present)
    noise = centred(rng.normal(size=effect.shape), tests.titles.present)
    score = validity * effect + np.sqrt(1 - validity**2) * noise / within_sd(noise, tests.titles.present)
    return np.where(tests.titles.present, score, 0.0)


def within_sd(values: Floats, present: NDArray[np.bool_]) -> float:
    """Standard deviation within tests, centring made up for."""
    return float(np.sqrt((values[present] ** 2).sum() / (present.sum() - len(present))))


def correlation(score: Floats, tests: Packages) -> float:
    """Of a score with the true effects, within tests."""
    present = tests.titles.present
    a, b = centred(score, present)[present], tests.effect[present]
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def learned(past: Packages, features: Floats | None, config: ArtworkConfig, seed: int) -> Learned:
    """Level, variance of effects and the validity of a score from an exploration log of past titles.

    `features` (T, K, m) are what the quality model may see; without, there is no score.
    """
    rng = np.random.default_rng(seed)
    present = past.titles.present
    title, _ = np.nonzero(present)
    seen = np.zeros((*present.shape, 0)) if features is None else features
    images = ArtworkImages(np.arange(len(title)), title, seen[present].astype(np.float32))
    shown = rng.multinomial(PAST_IMPRESSIONS, present / present.sum(axis=1, keepdims=True))[present]
    artwork = np.repeat(np.arange(len(title)), shown)
    play = (rng.random(len(artwork)) < past.titles.rate[present][artwork]).astype(np.float32)
    rows = np.arange(len(artwork))
    share = 1 / present.sum(axis=1)
    log = ArtworkLog(
        rows, rows, title[artwork], artwork, np.zeros((len(rows), 0), np.float32), play, share[title[artwork]]
    )
    names = Signature(
        tuple(f"f{i}" for i in range(images.features.shape[1])), ("x",) * images.features.shape[1]
    )
    quality = None if features is None else train_creative_quality(images, log, names)
    return Learned(train_artwork(images, log, Signature((), ()), names, quality, config), quality)


def scored(found: Learned, tests: Packages, features: Floats) -> Floats:
    """The score (T, K) of new titles' packages by the quality model of past ones."""
    assert found.quality is not None
    flat = features.reshape(-1, features.shape[-1]).astype(np.float32)
    return found.quality.score(flat).reshape(tests.titles.rate.shape)


def bandit(
    tests: Packages,
    found: Learned,
    gain: float,
    rest_sd: float,
    score: Floats | None,
    traffic: Traffic,
    config: ArtworkConfig,
    seed: int,
) -> Floats:
    """The play rate of each title by day, (days, T), of our policy with a prior mean of gain × score.

    Tests with many packages are computed apart, so that the others are not padded to their width.
    """
    present = tests.titles.present
    mean = np.zeros(present.shape) if score is None else gain * centred(score, present)
    begin, curve = found.policy.start, np.empty((traffic.days, len(present)))
    wide = present[:, USUAL_PACKAGES:].any(axis=1)
    for part, rows in enumerate((np.flatnonzero(~wide), np.flatnonzero(wide))):
        if len(rows):
            width = int(present[rows].sum(axis=1).max())
            titles = NewTitles(tests.titles.rate[rows, :width], present[rows, :width])
            start = start_of(titles, mean[rows, :width], rest_sd, begin.level, begin.level_precision)
            curve[:, rows] = learning_curve(
                titles, start, traffic, config, np.random.default_rng([seed, part])
            )
    return curve


def replayed(tests: Packages, shares: Shares, traffic: Traffic, seed: int) -> Floats:
    """The play rate of each title by day, (days, T), of a policy that is told the counts of the days before."""
    rng = np.random.default_rng(seed)
    shown, played = (np.zeros(tests.titles.rate.shape) for _ in range(2))
    curve = np.empty((traffic.days, len(tests.titles.rate)))
    for day in range(traffic.days):
        today = shares(shown, played, day * traffic.a_day)
        curve[day] = tests.titles.earned(today)
        more, clicks = tests.titles.day(today, traffic.a_day, rng)
        shown, played = shown + more, played + clicks
    return curve


def ab_then_ship(tests: Packages, traffic: Traffic) -> Shares:
    """A quarter of the budget uniform, then the package with the highest observed rate for good."""
    present = tests.titles.present
    shipped: list[Floats] = []

    def shares(shown: Floats, played: Floats, had: int) -> Floats:
        if had < AB_SHARE * traffic.a_day * traffic.days:
            return np.asarray(present / present.sum(axis=1, keepdims=True))
        if not shipped:
            rate = np.where(present, played / np.maximum(shown, 1), -1)
            shipped.append(np.eye(present.shape[1])[rate.argmax(axis=1)])
        return shipped[0]

    return shares


def lift(curve: Floats, tests: Packages) -> float:
    """Clicks over those of uniform choice, less 1, all titles having equal traffic."""
    return float(curve.mean() / tests.titles.uniform.mean() - 1)


def weeks_saved(informed: Floats, uninformed: Floats, tests: Packages, a_day: int) -> Saved:
    """Of two curves (days, T) on the same titles."""
    return saved(informed.mean(axis=1), uninformed.mean(axis=1), float(tests.titles.uniform.mean()), a_day)
