"""Peers that factorise who played what: ALS and BPR (`implicit`), WARP (`rectools-lightfm`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from lightfm import LightFM
from numpy.typing import NDArray

from peers.plays import Float32, Int64, Plays, Scorer


@dataclass(frozen=True)
class Als:
    """Implicit alternating least squares (Hu, Koren & Volinsky, ICDM 2008)."""

    name: str = "iALS"
    random: bool = True
    grid: tuple[Mapping[str, float], ...] = tuple(
        {"factors": f, "regularization": r, "alpha": a}
        for f, r, a in ((64, 0.01, 1), (64, 10, 10), (128, 10, 10), (128, 10, 40))
    )

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Fifteen rounds."""
        model = AlternatingLeastSquares(
            factors=int(settings["factors"]),
            regularization=settings["regularization"],
            alpha=settings["alpha"],
            iterations=15,
            num_threads=1,
            random_state=seed,
        )
        model.fit(plays.matrix(), show_progress=False)
        return _product(model.user_factors, model.item_factors, plays)


@dataclass(frozen=True)
class Bpr:
    """Bayesian personalised ranking (Rendle et al., UAI 2009)."""

    name: str = "BPR"
    random: bool = True
    grid: tuple[Mapping[str, float], ...] = tuple(
        {"learning_rate": rate, "regularization": r, "iterations": n}
        for rate, r, n in ((0.01, 0.01, 100), (0.05, 0.01, 100), (0.05, 0.1, 100), (0.05, 0.01, 300))
    )  # fmt: skip

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """64 factors."""
        model = BayesianPersonalizedRanking(
            factors=64,
            learning_rate=settings["learning_rate"],
            regularization=settings["regularization"],
            iterations=int(settings["iterations"]),
            num_threads=1,
            random_state=seed,
        )
        model.fit(plays.matrix(), show_progress=False)
        return _product(model.user_factors, model.item_factors, plays)


@dataclass(frozen=True)
class Warp:
    """LightFM with the WARP loss (Kula 2015; Weston et al., IJCAI 2011)."""

    name: str = "LightFM WARP"
    random: bool = True
    grid: tuple[Mapping[str, float], ...] = tuple(
        {"learning_rate": rate, "alpha": alpha, "epochs": n}
        for rate, alpha, n in ((0.02, 0, 20), (0.05, 0, 20), (0.05, 1e-5, 20), (0.05, 1e-5, 50))
    )  # fmt: skip

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """64 factors and a bias each."""
        model = LightFM(
            no_components=64,
            loss="warp",
            learning_rate=settings["learning_rate"],
            item_alpha=settings["alpha"],
            user_alpha=settings["alpha"],
            random_state=seed,
        )
        model.fit(plays.matrix().tocoo(), epochs=int(settings["epochs"]), num_threads=1)
        user_bias, user = model.get_user_representations()
        title_bias, title = model.get_item_representations()
        ones = np.ones(len(user_bias), dtype=np.float32)
        return _product(np.column_stack([user, ones]), np.column_stack([title, title_bias]), plays)


def _product(users: NDArray[np.floating], titles: NDArray[np.floating], plays: Plays) -> Scorer:
    """Inner products; users and titles that nobody knows anything of score alike, the latter last."""
    seen_user = np.bincount(plays.user, minlength=plays.users) > 0
    unseen_title = np.bincount(plays.title, minlength=plays.titles) == 0

    def score(rows: Int64) -> Float32:
        scores = (users[rows] @ titles.T).astype(np.float32)
        scores[:, unseen_title] = -1e9
        scores[~seen_user[rows]] = 0
        return scores

    return score
