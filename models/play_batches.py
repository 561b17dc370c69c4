"""Training periods as tensors, and the order in which training meets their plays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.coplays import Coplays
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
    log_share: Tensor  # (T,) log of each title's share of all that was watched after another, smoothed
    reads: Tensor  # (T, R) and
    shows: Tensor  # (T, R) co-plays as they were known at the period's start

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
    play_weight: Tensor  # (P,) how much each counts; those of the whole batch add up to 1
    log_share: Tensor  # (E,) of each title of `titles` among all that was watched next
    place_row: Tensor  # (N,) index into `users`; with
    place: Tensor  # (N,) a place in that user's history, after which
    place_next: Tensor  # (N,) the title, an index into `titles`, was watched
    place_weight: float = 1.0  # the share of its places in those of the whole batch


def tensors_of(period: RetrievalPeriod, towers: Towers, coplays: Coplays) -> PeriodTensors:
    """Standardise a period and find its watched titles among those available."""
    reads, shows = coplays.of(period.title_ids)
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
        torch.from_numpy(_log_share(watched, len(period.title_ids))),
        torch.from_numpy(reads),
        torch.from_numpy(shows),
    )


def _log_share(watched: Int64, n_titles: int) -> NDArray[np.float32]:
    """One more than each title was watched, over all of them: no title is impossible."""
    counts = np.bincount(watched[watched >= 0], minlength=n_titles) + 1.0
    shares: NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return shares


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
    plays, places = place[batch.play_row] >= 0, place[batch.place_row] >= 0
    return replace(
        batch,
        users=batch.users[mine],
        watched=batch.watched[mine],
        hidden=batch.hidden[mine],
        play_row=place[batch.play_row[plays]],
        play_column=batch.play_column[plays],
        play_weight=batch.play_weight[plays],
        place_row=place[batch.place_row[places]],
        place=batch.place[places],
        place_next=batch.place_next[places],
        place_weight=int(places.sum()) / max(len(places), 1),
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
    in_batch = column[watched]
    place_row, place = _places(in_batch, config, rng)
    return PlayBatch(
        period=period,
        users=torch.from_numpy(users),
        titles=torch.from_numpy(titles),
        log_inclusion=torch.from_numpy(np.log(inclusion).astype(np.float32)),
        watched=torch.from_numpy(in_batch),
        hidden=torch.from_numpy(hidden[:, : len(candidates)]),
        play_row=torch.from_numpy(play_row),
        play_column=torch.from_numpy(play_column),
        play_weight=torch.from_numpy(_play_weight(play_row, config.evenness)),
        log_share=period.log_share[torch.from_numpy(titles)],
        place_row=torch.from_numpy(place_row),
        place=torch.from_numpy(place),
        place_next=torch.from_numpy(in_batch[place_row, place + 1]),
    )


def _play_weight(play_row: Int64, evenness: float) -> NDArray[np.float32]:
    """Of each play, by how many its user has in the batch; they add up to 1."""
    weight = np.bincount(play_row)[play_row] ** -evenness
    normed: NDArray[np.float32] = (weight / weight.sum()).astype(np.float32)
    return normed


def _places(watched: Int64, config: RetrievalConfig, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Places (row, column) whose title and the next are known, `sequence_places` of them at most, at random."""
    rows, places = np.nonzero((watched[:, :-1] >= 0) & (watched[:, 1:] >= 0))
    if len(rows) > config.sequence_places:
        chosen = np.sort(rng.choice(len(rows), config.sequence_places, replace=False))
        rows, places = rows[chosen], places[chosen]
    return rows, places


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
