"""mabwiser and Vowpal Wabbit on the same titles: one bandit for each title, batches of a day, as they are served.

Each is asked for the shares of a day and told every impression of the day before, one by one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from artwork_measures.upworthy import Floats, Packages, Shares
from mabwiser.mab import MAB, LearningPolicy
from numpy.typing import NDArray
from vowpalwabbit import Workspace

Bandit = Literal["mabwiser TS", "mabwiser UCB1", "Vowpal Wabbit"]
DRAWS = 60  # of Thompson sampling a day and title; each decides for a sixtieth of its impressions
VW = "--cb_explore_adf --bag 8 --cb_type mtr --quiet --random_seed 1"  # of eight explorations tried the best at 3,000


def peer(name: Bandit, tests: Packages, seed: int) -> Shares:
    """A peer as a policy that is told counts."""
    if name == "Vowpal Wabbit":
        return vowpal_wabbit(tests)
    return mabwiser(tests, "thompson" if name == "mabwiser TS" else "ucb", seed)


def mabwiser(tests: Packages, policy: Literal["thompson", "ucb"], seed: int) -> Shares:
    """Beta-Bernoulli Thompson sampling or UCB1 as in mabwiser, without context; UCB1 with its own default alpha."""
    present = tests.titles.present
    learner = LearningPolicy.ThompsonSampling() if policy == "thompson" else LearningPolicy.UCB1()
    bandits = [MAB(list(range(int(k))), learner, seed=seed + i) for i, k in enumerate(present.sum(axis=1))]
    told = [np.zeros(present.shape), np.zeros(present.shape)]

    def shares(shown: Floats, played: Floats, had: int) -> Floats:
        if had == 0:
            return np.asarray(present / present.sum(axis=1, keepdims=True))
        found = np.zeros(present.shape)
        for row, mab in enumerate(bandits):
            arms, rewards = impressions(shown[row] - told[0][row], played[row] - told[1][row])
            mab.partial_fit(arms, rewards)
            draws = 1 if policy == "ucb" else DRAWS
            np.add.at(found[row], [mab.predict() for _ in range(draws)], 1 / draws)
        told[:] = [shown.copy(), played.copy()]
        return found

    return shares


def vowpal_wabbit(tests: Packages) -> Shares:
    """One bandit over action features, explored by bootstrapped policies; every package is a feature of its own."""
    present = tests.titles.present
    workspace = Workspace(VW)
    told = [np.zeros(present.shape), np.zeros(present.shape)]
    rng = np.random.default_rng(0)
    last = np.asarray(present / present.sum(axis=1, keepdims=True))

    def shares(shown: Floats, played: Floats, had: int) -> Floats:
        if had == 0:
            return last
        found = np.zeros(present.shape)
        for row in range(len(present)):
            k = int(present[row].sum())
            lines = [f"|a p{row}_{a}" for a in range(k)]
            arms, rewards = impressions(shown[row] - told[0][row], played[row] - told[1][row])
            for i in rng.permutation(len(arms)):
                arm = arms[i]
                label = f"0:{-rewards[i]:g}:{max(last[row, arm], 1e-3):.5f} "
                workspace.learn([(label if a == arm else "") + line for a, line in enumerate(lines)])
            found[row, :k] = workspace.predict(lines)
        told[:] = [shown.copy(), played.copy()]
        last[:] = found / found.sum(axis=1, keepdims=True)
        return last.copy()

    return shares


def impressions(shown: Floats, played: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Counts of each arm as single impressions: which arm, and whether it was played."""
    arms = np.repeat(np.arange(len(shown)), shown.astype(np.int64))
    order = np.concatenate([np.arange(int(n)) for n in shown])
    return arms, (order < played[arms]).astype(np.float64)
