"""Off-policy values on the Open Bandit sample logs that obp carries, and how often intervals hold the truth (simulated)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import obp
import pandas as pd
from numpy.typing import NDArray
from obp.ope import (
    DoublyRobust,
    InverseProbabilityWeighting,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
)
from obp.policy import BernoulliTS
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from models.off_policy import Model, PolicyValue, policy_value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Our values of ZOZO's Thompson sampling on its uniform log, how far obp's are, and what it really earned."""

    ours: PolicyValue
    furthest: float
    on_policy: float


def open_bandit(draws: int = 10_000) -> Agreement:
    """Values by obp and by us on obp's own log of 10,000 rows, 80 items, 3 positions; rewards by obp's cross-fitted model.

    The log is read here, as obp 0.4.1's own reader needs pandas below 2.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(obp.__file__).parent / "dataset" / "obd"
        log, theirs = (pd.read_csv(folder / name / "all" / "all.csv") for name in ("random", "bts"))
        action, reward = log["item_id"].to_numpy(), log["click"].to_numpy().astype(float)
        position, pscore = log["position"].to_numpy() - 1, log["propensity_score"].to_numpy()
        users = (
            log.filter(like="user_feature")
            .apply(lambda column: pd.factorize(column, sort=True)[0])
            .to_numpy(float)
        )
        items = int(action.max()) + 1
        bts = BernoulliTS(items, len_list=3, is_zozotown_prior=True, campaign="all", random_state=1)
        target = bts.compute_batch_action_dist(n_rounds=len(log), n_sim=draws)
        base = LogisticRegression(C=0.1, max_iter=500)
        model = RegressionModel(n_actions=items, len_list=3, base_model=base)
        expected = model.fit_predict(
            context=users, action=action, reward=reward, position=position, pscore=pscore, action_dist=target,
            n_folds=3, random_state=1,
        )  # fmt: skip
    row = np.arange(len(log))
    average = (target[row, :, position] * expected[row, :, position]).sum(axis=1)
    ours = policy_value(
        target[row, action, position], pscore, reward, model=Model(expected[row, action, position], average)
    )
    asked = {
        "reward": reward, "action": action, "pscore": pscore, "action_dist": target, "position": position,
    }  # fmt: skip
    assert ours.dr is not None
    dr = DoublyRobust().estimate_policy_value(**asked, estimated_rewards_by_reg_model=expected)
    pairs = [
        (ours.ips, InverseProbabilityWeighting().estimate_policy_value(**asked)),
        (ours.snips, SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**asked)),
        (ours.dr.value, dr),
    ]
    furthest = max(abs(mine - other) for mine, other in pairs)
    return Agreement(ours, furthest, float(theirs["click"].mean()))


@dataclass(frozen=True)
class Coverage:
    """Shares of repetitions whose 95 % interval holds the true value."""

    snips: float
    dr: float
    direct: float
    repetitions: int


def coverage(repetitions: int, rows: int = 3_000, arms: int = 5, folds: int = 5) -> Coverage:
    """Logs of a softmax policy in a known world; rewards by a ridge for each arm, cross-fitted."""
    fixed = np.random.default_rng(7)
    world, logged_w, target_w = (fixed.normal(0, scale, (4, arms)) for scale in (0.6, 0.3, 0.5))
    many = np.random.default_rng(8).normal(size=(1_000_000, 3))
    truth = float((_soft(many, target_w) * _rate(many, world)).sum(axis=1).mean())
    held = np.zeros(3)
    for seed in range(repetitions):
        rng = np.random.default_rng([9, seed])
        x = rng.normal(size=(rows, 3))
        logging_p, target = _soft(x, logged_w), _soft(x, target_w)
        action = np.minimum((rng.random(rows)[:, None] > np.cumsum(logging_p, axis=1)).sum(axis=1), arms - 1)
        row = np.arange(rows)
        reward = (rng.random(rows) < _rate(x, world)[row, action]).astype(float)
        q = _cross_fitted(x, action, reward, arms, folds)
        average = (target * q).sum(axis=1)
        found = policy_value(
            target[row, action], logging_p[row, action], reward, model=Model(q[row, action], average)
        )
        assert found.dr is not None
        margin = 1.96 * average.std() / np.sqrt(rows)
        held += [
            found.low <= truth <= found.high,
            found.dr.low <= truth <= found.dr.high,
            abs(average.mean() - truth) <= margin,
        ]
    return Coverage(*(held / repetitions).tolist(), repetitions)


def _one(x: Floats) -> Floats:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def _soft(x: Floats, w: Floats) -> Floats:
    z = np.exp(_one(x) @ w)
    return np.asarray(z / z.sum(axis=1, keepdims=True))


def _rate(x: Floats, w: Floats) -> Floats:
    """Not linear in the context, so that the ridge is wrong."""
    return np.asarray(expit(_one(x) @ w + np.sin(2 * x[:, :1]) - 1.5))


def _cross_fitted(x: Floats, action: NDArray[np.int64], reward: Floats, arms: int, folds: int) -> Floats:
    q, design = np.empty((len(x), arms)), _one(x)
    fold = np.arange(len(x)) % folds
    for held in range(folds):
        for arm in range(arms):
            mine = (fold != held) & (action == arm)
            gram = design[mine].T @ design[mine] + np.eye(design.shape[1])
            q[fold == held, arm] = design[fold == held] @ np.linalg.solve(gram, design[mine].T @ reward[mine])
    return q
