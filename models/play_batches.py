"""Training periods as tensors, and the order in which training meets their plays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data import Int64, RetrievalPeriod
from models.parallel import Team
from models.retrieval import Towers, find, identity_rows
from models.settings import RetrievalConfig


@dataclass(frozen=True)
class PeriodTensors:
    """One training period, standardised. U users, T titles, the last L watched, P plays."""

    user_inputs: Tensor  # (U, I)
    title_inputs: Tensor  # (T, J)
    identity: Tensor  # (T,) rows of the id table
    watched: Int64  # (U, L) rows of this period's titles, newest last; -1 where there is none
    plays: Int64  # (P, 2) user row, title row; each pair once, in order; none that was watched before

    @property
    def active(self) -> Int64:
        """The users with at least one play, each once."""
        return np.unique(self.plays[:, 0])


@dataclass(frozen=True)
class PlayBatch:
    """B users of one period, all their plays, and the C titles to tell them from."""

    period: PeriodTensors
    users: Tensor  # (B,) rows of the period's users
    titles: Tensor  # (E,) rows of the period's titles to embed: C candidates, then others only watched
    log_inclusion: Tensor  # (C,) log of the chance that the title is among the candidates
    watched: Tensor  # (B, L) index into `titles`, newest last; -1 where there is none
    hidden: Tensor  # (B, C) True where the title is no negative for the user
    play_row: Tensor  # (P,) index into `users`
    play_column: Tensor  # (P,) index into `titles`
    weight: float = 1.0  # the share of its plays in those of the whole batch


def tensors_of(period: RetrievalPeriod, towers: Towers) -> PeriodTensors:
    """Standardise a period and find its watched titles among those available."""
    order = np.argsort(period.title_ids, kind="stable")
    places = find(period.histories.last(towers.config.history), period.title_ids[order])
    watched = np.where(places >= 0, order[places], -1)
    plays = np.unique(np.stack([period.play_user, period.play_title], axis=1), axis=0)
    again = (watched[plays[:, 0]] == plays[:, 1:]).any(axis=1)
    return PeriodTensors(
        torch.from_numpy(towers.user_inputs.transform(period.user_features)),
        torch.from_numpy(towers.title_inputs.transform(period.title_features)),
        torch.from_numpy(identity_rows(period.title_ids, towers.known_titles)),
        watched,
        plays[~again],
    )


def steps_in(periods: Sequence[PeriodTensors], config: RetrievalConfig) -> int:
    """Batches in one epoch."""
    return sum(-(-len(period.active) // config.users_per_batch) for period in periods)


def play_batches(
    periods: Sequence[PeriodTensors], config: RetrievalConfig, rng: np.random.Generator
) -> Iterator[PlayBatch]:
    """Every user with plays once, each batch from one period, in random order."""
    batches = []
    for number, period in enumerate(periods):
        users = rng.permutation(period.active)
        size = config.users_per_batch
        batches += [(number, users[start : start + size]) for start in range(0, len(users), size)]
    for place in rng.permutation(len(batches)):
        number, users = batches[place]
        yield _batch(periods[number], np.sort(users), config, rng)


def share_of(batch: PlayBatch, team: Team) -> PlayBatch:
    """One member's part of a batch: its users with their plays, and all titles."""
    if team.size == 1:
        return batch
    mine = team.share(torch.arange(len(batch.users)))
    place = torch.full((len(batch.users),), -1)
    place[mine] = torch.arange(len(mine))
    plays = place[batch.play_row] >= 0
    return replace(
        batch,
        users=batch.users[mine],
        watched=batch.watched[mine],
        hidden=batch.hidden[mine],
        play_row=place[batch.play_row[plays]],
        play_column=batch.play_column[plays],
        weight=int(plays.sum()) / len(plays),
    )


def _batch(
    period: PeriodTensors, users: Int64, config: RetrievalConfig, rng: np.random.Generator
) -> PlayBatch:
    plays = period.plays[np.isin(period.plays[:, 0], users)]
    watched = period.watched[users]
    candidates, inclusion = _candidates(period, plays, config, rng)
    only_watched = np.setdiff1d(watched[watched >= 0], candidates)
    titles = np.concatenate([candidates, only_watched])
    column = np.full(len(period.identity) + 1, -1, dtype=np.int64)  # the last place answers for row -1
    column[titles] = np.arange(len(titles))
    play_row, play_column = np.searchsorted(users, plays[:, 0]), column[plays[:, 1]]
    hidden = np.zeros((len(users), len(titles) + 1), dtype=np.bool_)
    hidden[play_row, play_column] = True
    hidden[np.arange(len(users))[:, None], column[watched]] = True
    return PlayBatch(
        period=period,
        users=torch.from_numpy(users),
        titles=torch.from_numpy(titles),
        log_inclusion=torch.from_numpy(np.log(inclusion).astype(np.float32)),
        watched=torch.from_numpy(column[watched]),
        hidden=torch.from_numpy(hidden[:, : len(candidates)]),
        play_row=torch.from_numpy(play_row),
        play_column=torch.from_numpy(play_column),
    )


def _candidates(
    period: PeriodTensors, plays: Int64, config: RetrievalConfig, rng: np.random.Generator
) -> tuple[Int64, NDArray[np.float64]]:
    """Titles of the batch's plays and uniformly drawn ones, with the chance of each to be there.

    Of T titles n are drawn without replacement and the P plays are draws from the period's shares q, so
    a title is there with chance π = 1 - (1 - n/T)·(1 - q)^P (mixed negative sampling, Yang et al., WWW 2020).
    """
    n_titles = len(period.identity)
    if config.negatives == 0 or config.negatives >= n_titles:
        return np.arange(n_titles), np.ones(n_titles)
    uniform = rng.choice(n_titles, config.negatives, replace=False)
    share = np.bincount(period.plays[:, 1], minlength=n_titles) / len(period.plays)
    chance = 1 - (1 - config.negatives / n_titles) * (1 - share) ** len(plays)
    rows = np.union1d(uniform, plays[:, 1])
    return rows, chance[rows]
