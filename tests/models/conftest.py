"""Small worlds with something to learn: titles and users with latent tastes that no model sees."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.choice import ChoiceSet
from models.data import Histories, RankingSet, RetrievalPeriod
from models.settings import RankerConfig, RetrievalConfig
from models.signature import Signature
from models.threads import use_threads
from models.train_ranker import Choices, train_ranker
from models.train_retrieval import train_retrieval

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    use_threads(1)


def signature(width, prefix="f"):
    return Signature(tuple(f"{prefix}{i}" for i in range(width)), tuple(f"digest{i}" for i in range(width)))


@pytest.fixture(scope="session")
def sign():
    """A signature of so many features."""
    return signature


@dataclass(frozen=True)
class Tastes:
    """500 users choose among 400 titles by softmax of 3·(taste · theme) + popularity; all of it latent."""

    taste: np.ndarray
    theme: np.ndarray
    appeal: np.ndarray

    @classmethod
    def drawn(cls, seed, n_users=500, n_titles=400, dimension=5):
        rng = np.random.default_rng(seed)
        unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
        return cls(
            unit(rng.normal(size=(n_users, dimension))),
            unit(rng.normal(size=(n_titles, dimension))),
            rng.normal(size=n_titles),
        )

    def plays(self, rng, each):
        """`each` different titles for every user, (U, each), by the Gumbel trick."""
        utility = 4 * self.taste @ self.theme.T + self.appeal
        noise = rng.gumbel(size=utility.shape)
        return np.argsort(-(utility + noise), axis=1)[:, :each]

    def periods(self, seed, n=4, each=4):
        """Periods a day apart; histories of 15 titles grow by what was played; ids are 1000 + row."""
        rng = np.random.default_rng(seed)
        watched = [list(row) for row in self.plays(rng, 15)]
        return [self._period(rng, NOON + timedelta(days=day), watched, each) for day in range(n)]

    def _period(self, rng, as_of, watched, each):
        n_users, n_titles = len(self.taste), len(self.theme)
        counts = np.bincount([t for titles in watched for t in titles], minlength=n_titles)
        seen_theme = self.theme[:, :4] + 0.2 * rng.normal(size=(n_titles, 4))
        title_features = np.column_stack([counts, seen_theme, rng.normal(size=n_titles)]).astype(np.float32)
        title_features[rng.random(title_features.shape) < 0.02] = np.nan
        user_features = rng.normal(size=(n_users, 3)).astype(np.float32)
        histories = Histories.of_lists([[1000 + t for t in titles] for titles in watched])
        chosen = self.plays(rng, each + 10)
        new = [
            [t for t in row if t not in set(titles)][:each]
            for row, titles in zip(chosen, watched, strict=True)
        ]
        for titles, row in zip(watched, new, strict=True):
            titles.extend(row)
        return RetrievalPeriod(
            as_of, np.arange(n_users) + 50, user_features, histories, np.arange(n_titles) + 1000, title_features,
            np.repeat(np.arange(n_users), [len(row) for row in new]), np.array([t for row in new for t in row]),
        )  # fmt: skip


RETRIEVAL = RetrievalConfig(
    coplays=12,
    coplay_ridge=20,
    channels=2,
    sequence_places=200,
    dimension=16,
    hidden=32,
    history=20,
    negatives=0,
    users_per_batch=64,
    epochs=5,
    recall_at=40,
    seed=3,
)


@pytest.fixture(scope="session")
def periods():
    """Three training periods, one for validation, one for the test, in time order."""
    return Tastes.drawn(0).periods(1, n=5)


@pytest.fixture(scope="session")
def train_on():
    """Train a retriever on periods: the last validates."""

    def train(periods, **settings):
        config = RETRIEVAL.model_copy(update=settings)
        return train_retrieval(periods[:-1], periods[-1], config, signature(3, "u"), signature(6, "t"))

    return train


@pytest.fixture(scope="session")
def retriever(periods, train_on):
    return train_on(periods[:4])


def ranking_rows(n, seed, period=0, *, position_effect=0.0):
    """Rows whose play, completion and retention depend on features in known ways; some nulls, one heavy tail."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    position = rng.integers(0, 10, n).astype(np.float32)
    chance = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    play = (
        rng.random(n) < chance(2 * x[:, 0] + x[:, 1] * x[:, 2] - 0.5 - position_effect * position)
    ).astype(np.float32)
    share = chance(2 * x[:, 3] + 0.3 * rng.normal(size=n)).astype(np.float32)
    stays = (rng.random(n) < chance(1 + 1.5 * x[:, 4])).astype(np.float32)
    features = x.copy()
    features[:, 5] = np.exp(3 * x[:, 5])
    features[rng.random(n) < 0.1, 6] = np.nan
    return RankingSet(
        features, play, np.where(play > 0, share, np.float32("nan")), stays, position,
        rng.integers(0, 50, n), np.arange(n), np.full(n, period),
    )  # fmt: skip


RANKER = RankerConfig(hidden=16, output=8, tower=8, rows_per_batch=256, epochs=8, learning_rate=5e-3, seed=1)


@pytest.fixture(scope="session")
def rows():
    """Make ranking rows."""
    return ranking_rows


@pytest.fixture(scope="session")
def fit_ranker():
    """Train a ranker."""

    def train(training, validation, choices=None, **settings):
        width, config = training.features.shape[1], RANKER.model_copy(update=settings)
        return train_ranker(training, validation, config, signature(width), choices=choices)

    return train


def choice_lists(n, width, seed, *, known=1.0):
    """Lists chosen from by softmax of 2·x₀ + `known`·r with every title there for certain; r is the retriever's score.

    The retriever's score also stands in no feature, so that only it can tell.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, width, 12)).astype(np.float32)
    retrieval = rng.normal(size=(n, width)).astype(np.float32)
    chosen = (2 * features[:, :, 0] + known * retrieval + rng.gumbel(size=(n, width))).argmax(axis=1)
    order = np.argsort(np.arange(width) != chosen[:, None], axis=1, kind="stable")  # the chosen one first
    features = np.take_along_axis(features, order[:, :, None], axis=1)
    return ChoiceSet(features, np.zeros((n, width), np.float32), np.take_along_axis(retrieval, order, axis=1))


@pytest.fixture(scope="session")
def choices():
    """Lists to train on and lists to validate with."""

    def make(n=600, width=8, **knowledge):
        return Choices(choice_lists(n, width, 1, **knowledge), choice_lists(n, width, 2, **knowledge))

    return make


@pytest.fixture(scope="session")
def ranker_config():
    return RANKER


@pytest.fixture(scope="session")
def retrieval_config():
    return RETRIEVAL


@pytest.fixture(scope="session")
def ranker(rows, fit_ranker):
    return fit_ranker(rows(8000, seed=0), rows(3000, seed=1, period=1))
