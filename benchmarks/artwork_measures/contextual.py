"""A simulated world in which users' tastes meet what images show; every policy is taught the same history.

η = b_t + appeal_a + x·(W z_a + own_a): tastes shared over images through their features matter most, as in the
design page. The history is uniform. Lift is over uniform choice, from the world's own rates, exploration included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mabwiser.mab import MAB, LearningPolicy
from numpy.typing import NDArray
from scipy.special import expit
from vowpalwabbit import Workspace

from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_settings import ArtworkConfig
from models.artwork_train import train_artwork
from models.creative_quality import train_creative_quality
from models.signature import Signature

Floats = NDArray[np.float64]
Shares = Callable[[NDArray[np.float32], NDArray[np.int64]], Floats]
"""(contexts (N, d), rows of their titles (N,)) → the probability of each image (N, K)."""

ALPHAS = (1.0, 0.3, 0.1, 0.03)
VW_RATES = ("", "-l 0.1", "-l 0.05", "-l 0.02", "-l 0.1 --cb_type dr")
"""Vowpal Wabbit's own learning rate, and others."""
VW = "--cb_explore_adf --epsilon 0.12 --quiet --random_seed 1 -q ui -q ua --ignore_linear u"
"""As much uniform exploration as six images at a floor of 2 % have."""


@dataclass(frozen=True)
class World:
    """Titles of `images` each; `features` (T, K, m) of images, `users` (U, d)."""

    base: Floats
    appeal: Floats
    taste: Floats  # (T, K, d)
    features: NDArray[np.float32]
    users: NDArray[np.float32]

    @classmethod
    def drawn(cls, seed: int, titles: int = 150, images: int = 6, d: int = 6, m: int = 8) -> World:
        """Appeal of sd .3 of which features explain a third; tastes of sd .25 a dimension, four fifths by features."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(titles, images, m))
        score = z @ rng.normal(size=m) / np.sqrt(m)
        appeal = 0.3 * (np.sqrt(1 / 3) * score + np.sqrt(2 / 3) * rng.normal(size=score.shape))
        shared = z @ rng.normal(size=(m, d)) / np.sqrt(m)
        taste = 0.25 * (np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=shared.shape))
        users = rng.normal(size=(2_000, d)).astype(np.float32)
        return cls(rng.normal(-2.0, 0.4, titles), appeal, taste, z.astype(np.float32), users)

    def rates(self, user: NDArray[np.int64], title: NDArray[np.int64]) -> Floats:
        """The play rate (N, K) of every image of a title for a user."""
        personal = np.einsum("nd,nkd->nk", self.users[user], self.taste[title])
        return np.asarray(expit(self.base[title, None] + self.appeal[title] + personal))


@dataclass(frozen=True)
class History:
    """Uniformly drawn images: user, title, image of the title, whether played."""

    user: NDArray[np.int64]
    title: NDArray[np.int64]
    image: NDArray[np.int64]
    play: NDArray[np.float32]

    @classmethod
    def drawn(cls, world: World, rows: int, seed: int) -> History:
        """`rows` impressions of users and titles alike."""
        rng = np.random.default_rng(seed)
        user = rng.integers(0, len(world.users), rows)
        title = rng.integers(0, len(world.base), rows)
        image = rng.integers(0, world.appeal.shape[1], rows)
        rate = world.rates(user, title)[np.arange(rows), image]
        return cls(user, title, image, (rng.random(rows) < rate).astype(np.float32))


def lift(world: World, shares: Shares, seed: int, visits: int = 6_000) -> float:
    """Over uniform choice, on fresh visits; expected rates, so that only which visits they are is chance."""
    rng = np.random.default_rng(seed)
    user, title = rng.integers(0, len(world.users), visits), rng.integers(0, len(world.base), visits)
    rates = world.rates(user, title)
    return float((shares(world.users[user], title) * rates).sum() / rates.mean(axis=1).sum() - 1)


def best(world: World) -> Shares:
    """The oracle: the image with the highest rate; users are told apart by their contexts."""
    row = {x.tobytes(): i for i, x in enumerate(world.users)}

    def shares(x: NDArray[np.float32], title: NDArray[np.int64]) -> Floats:
        rates = world.rates(np.array([row[one.tobytes()] for one in x]), title)
        return np.eye(rates.shape[1])[rates.argmax(axis=1)]

    return shares


def ours(world: World, history: History, *, with_score: bool = True) -> Shares:
    """Our policy, creative quality included."""
    titles, images, m = world.features.shape
    what = ArtworkImages(
        np.arange(titles * images),
        np.repeat(np.arange(titles), images),
        world.features.reshape(-1, m),
    )
    log = ArtworkLog(
        np.arange(len(history.user)), history.user, history.title, history.title * images + history.image,
        world.users[history.user], history.play, np.full(len(history.user), 1 / images),
    )  # fmt: skip
    seen = Signature(tuple(f"z{i}" for i in range(m)), ("x",) * m)
    d = world.users.shape[1]
    context = Signature(tuple(f"x{i}" for i in range(d)), ("x",) * d)
    quality = train_creative_quality(what, log, seen) if with_score else None
    policy = train_artwork(what, log, context, seen, quality, ArtworkConfig())

    def shares(x: NDArray[np.float32], title: NDArray[np.int64]) -> Floats:
        ids = title[:, None] * images + np.arange(images)
        return policy.probabilities(x, ids, np.ones(ids.shape, dtype=np.bool_))

    return shares


def lin_ts(world: World, history: History, alpha: float, seed: int) -> Shares:
    """LinTS of mabwiser, one bandit for each title: its arms share nothing."""
    images = world.appeal.shape[1]
    bandits = []
    for title in range(len(world.base)):
        mine = history.title == title
        bandits.append(MAB(list(range(images)), LearningPolicy.LinTS(alpha=alpha), seed=seed + title))
        bandits[-1].fit(history.image[mine], history.play[mine], _with_one(world.users[history.user[mine]]))

    def shares(x: NDArray[np.float32], title: NDArray[np.int64]) -> Floats:
        chosen = np.zeros(len(x), dtype=np.int64)
        for one, mab in enumerate(bandits):
            mine = np.flatnonzero(title == one)
            if len(mine):
                chosen[mine] = np.atleast_1d(mab.predict(_with_one(x[mine])))
        return np.eye(images)[chosen]

    return shares


def _with_one(x: NDArray[np.float32]) -> Floats:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def vowpal_wabbit(world: World, history: History, additions: str) -> Shares:
    """One contextual bandit for all titles: user × image features, user × image, image features, image."""
    images = world.appeal.shape[1]
    workspace = Workspace(f"{VW} {additions}")
    arms = [
        [f"|i {_named(z)} |a t{t}_{k}" for k, z in enumerate(of_title)]
        for t, of_title in enumerate(world.features)
    ]
    users = [f"shared |u one:1 {_named(x)}" for x in world.users]
    for user, title, image, play in zip(
        history.user, history.title, history.image, history.play, strict=True
    ):
        lines = list(arms[title])
        lines[image] = f"0:{-play:g}:{1 / images:.6f} {lines[image]}"
        workspace.learn([users[user], *lines])

    def shares(x: NDArray[np.float32], title: NDArray[np.int64]) -> Floats:
        asked = ([f"shared |u one:1 {_named(one)}", *arms[t]] for one, t in zip(x, title, strict=True))
        return np.array([workspace.predict(lines) for lines in asked])

    return shares


def _named(values: NDArray[np.float32]) -> str:
    return " ".join(f"{i}:{v:.4f}" for i, v in enumerate(values))
