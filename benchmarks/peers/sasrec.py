"""SASRec (Kang & McAuley, ICDM 2018) as RecTools has it, with a softmax over the whole catalogue.

The softmax makes a number for every place of every history and every title: half a minute an epoch for a thousand users and
ten thousand titles on one core, some eight for the fifty newest plays of KuaiRand's users. There it reads the thirty newest, and
has one setting. With sampled negatives (gSASRec: Petrov & Macdonald, RecSys 2023) it took longer still.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from peers.plays import Float32, Int64, Plays, Scorer


@dataclass(frozen=True)
class SasRec:
    """The newest plays of a user, read in order by self-attention."""

    name: str = "SASRec"
    random: bool = True
    grid: tuple[Mapping[str, float], ...] = tuple(
        {"factors": 64, "dropout": d, "epochs": e} for d, e in ((0.2, 4), (0.2, 8), (0.4, 4), (0.4, 8))
    )
    history: int = 50

    def fit(self, plays: Plays, settings: Mapping[str, float], seed: int) -> Scorer:
        """Two blocks of two heads, Adam with rate 0.001, batches of 128 users."""
        torch.manual_seed(seed)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        dataset = Dataset.construct(_frame(plays))
        model = SASRecModel(
            n_blocks=2,
            n_heads=2,
            n_factors=int(settings["factors"]),
            dropout_rate=settings["dropout"],
            session_max_len=self.history,
            epochs=int(settings["epochs"]),
            loss="softmax",
            deterministic=True,
            recommend_torch_device="cpu",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(dataset)
        return _scorer(model, dataset, plays)


def _frame(plays: Plays) -> pd.DataFrame:
    """RecTools reads the order of time from a date; one second for every play keeps ours."""
    start = pd.Timestamp("2000-01-01")
    return pd.DataFrame(
        {
            Columns.User: plays.user,
            Columns.Item: plays.title,
            Columns.Weight: 1.0,
            Columns.Datetime: start + pd.to_timedelta(np.arange(len(plays.user)), unit="s"),
        }
    )


def _scorer(model: SASRecModel, dataset: Dataset, plays: Plays) -> Scorer:
    """Scores by the model's own ranking of all titles, turned back into numbers."""
    known = set(np.unique(plays.user).tolist())

    def score(rows: Int64) -> Float32:
        scores = np.full((len(rows), plays.titles), np.float32(-1e9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = model.recommend(
                [user for user in rows.tolist() if user in known],
                dataset,
                k=1000,
                filter_viewed=True,
                on_unsupported_targets="ignore",
            )
        place = {user: place for place, user in enumerate(rows.tolist())}
        scores[found[Columns.User].map(place), found[Columns.Item]] = found[Columns.Score]
        return scores

    return score


ONE_SETTING = SasRec(
    name="SASRec, not tuned", grid=({"factors": 64, "dropout": 0.2, "epochs": 4},), history=30
)
"""The same where a setting takes a quarter of an hour."""
