"""Evaluation on one global time split: rankings of everything that was available, beside popularity's.

One protocol for all that rank. A user of a label period is scored when they played, in that period, a title
that was available and that they had not watched before its start. Titles of their history are left out of
every list, the model's and popularity's alike, and are never relevant: rewatching is another task. Metrics
are means over users. Equal scores stand in order of title id, so that a figure is reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.data import Candidates, Float32, Histories, Int64, RankingSet, RetrievalPeriod
from models.metrics import (
    Undefined,
    auc,
    coverage_at,
    expected_calibration_error,
    grouped_auc,
    hits,
    log_loss,
    ndcg_at,
    recall_at,
)
from models.objective import HeadScores

Metrics = dict[str, float]


COMPLETED_SHARE = (
    0.9  # of the runtime; a play that reached it counts as completed where a yes or no is needed
)


class RankingModel(Protocol):
    """What `evaluate_ranking` needs of a ranker."""

    def score(self, features: Float32, position: Float32 | None = None) -> HeadScores:
        """Calibrated scores at the positions given."""


class CandidateModel(Protocol):
    """What `evaluate_retrieval` needs of a retriever."""

    def with_titles(self, title_ids: Int64, title_features: Float32) -> Self:
        """The model over this catalogue."""

    def candidates_batch(self, user_features: Float32, histories: Histories, k: int) -> list[Candidates]:
        """The best k titles of each user, none of them from the user's history."""


@dataclass(frozen=True)
class PlayLog:
    """Plays before an evaluation: title, when it happened, when it became known (UTC, microseconds)."""

    title_id: Int64
    event_timestamp: NDArray[np.datetime64]
    created_timestamp: NDArray[np.datetime64]


@dataclass(frozen=True)
class Judged:
    """The users of a period that are scored: their rows and, for each, the relevant title ids."""

    users: Int64
    relevant: tuple[Int64, ...]


def judged(period: RetrievalPeriod) -> Judged:
    """Users with a first-time play in the period, in row order.

    Raises:
        Undefined: nobody played anything new.
    """
    pairs = np.unique(np.stack([period.play_user, period.title_ids[period.play_title]], axis=1), axis=0)
    watched = np.stack([period.histories.owners(), period.histories.values], axis=1)
    new = pairs[~_rows_in(pairs, watched)]
    if not len(new):
        raise Undefined(f"no user played a title for the first time in the period of {period.as_of}.")
    users, starts = np.unique(new[:, 0], return_index=True)
    return Judged(users, tuple(np.split(new[:, 1], starts[1:])))


def evaluate_lists(
    lists: Sequence[Int64], relevant: Sequence[Int64], catalogue_size: int, ks: Sequence[int]
) -> Metrics:
    """`recall_at_k`, `ndcg_at_k` (means over users) and `coverage_at_k` of one ranked list a user."""
    hit = [hits(ranked, wanted) for ranked, wanted in zip(lists, relevant, strict=True)]
    counts = [len(wanted) for wanted in relevant]
    metrics: Metrics = {}
    for k in ks:
        metrics[f"recall_at_{k}"] = _mean(recall_at, hit, counts, k)
        metrics[f"ndcg_at_{k}"] = _mean(ndcg_at, hit, counts, k)
        metrics[f"coverage_at_{k}"] = coverage_at(lists, catalogue_size, k)
    return metrics


def evaluate_retrieval(model: CandidateModel, period: RetrievalPeriod, ks: Sequence[int]) -> Metrics:
    """Metrics of a retriever over the whole catalogue of `period`, as it was at its start."""
    scored = judged(period)
    found = model.with_titles(period.title_ids, period.title_features).candidates_batch(
        period.user_features[scored.users], histories_of(period.histories, scored.users), max(ks)
    )
    return evaluate_lists([one.title_ids for one in found], scored.relevant, len(period.title_ids), ks)


def evaluate_popularity(ranking: Int64, period: RetrievalPeriod, ks: Sequence[int]) -> Metrics:
    """Metrics of one ranking for everybody, such as `popularity`'s, over the same users and titles."""
    scored = judged(period)
    available = ranking[np.isin(ranking, period.title_ids)]
    lists = [_without(available, period.histories.of(user), max(ks)) for user in scored.users]
    return evaluate_lists(lists, scored.relevant, len(period.title_ids), ks)


def popularity(plays: PlayLog, as_of: datetime, days: float | None, available: Int64) -> Int64:
    """All `available` titles, most plays in [as_of - days, as_of) first, ties by title id.

    Counts what had happened and was known before `as_of`; `days=None` counts all of it.
    """
    end = _utc(as_of)
    counted = (plays.event_timestamp < end) & (plays.created_timestamp < end)
    if days is not None:
        counted &= plays.event_timestamp >= end - np.timedelta64(timedelta(days=days), "us")
    titles = np.sort(available)
    places = np.searchsorted(titles, plays.title_id[counted])
    known = places < len(titles)
    places = places[known][titles[places[known]] == plays.title_id[counted][known]]
    counts = np.bincount(places, minlength=len(titles))
    ranking: Int64 = titles[np.argsort(-counts, kind="stable")]
    return ranking


def evaluate_two_stage(
    model: CandidateModel,
    score: Callable[[Float32], NDArray[np.floating]],
    features: Callable[[int, Int64], Float32],
    period: RetrievalPeriod,
    *,
    n_candidates: int = 200,
    ks: Sequence[int] = (20,),
    users: int | None = None,
) -> Metrics:
    """Metrics of retrieved and then ranked lists; compare with `evaluate_popularity` on `judged_only`.

    `features(user_id, title_ids)` builds the ranker's (n, F) matrix as of the period's start, `score` turns it
    into (n,). With `users`, only the first so many scored users are, as in `judged_only`.
    """
    period = period if users is None else judged_only(period, users)
    scored = judged(period)
    found = model.with_titles(period.title_ids, period.title_features).candidates_batch(
        period.user_features[scored.users], histories_of(period.histories, scored.users), n_candidates
    )
    lists = [
        rank(one.title_ids, score(features(int(period.user_ids[user]), one.title_ids)))
        for user, one in zip(scored.users, found, strict=True)
    ]
    return evaluate_lists(lists, scored.relevant, len(period.title_ids), ks)


def evaluate_ranking(model: RankingModel, rows: RankingSet) -> Metrics:
    """Per head: `_auc`, `_user_auc` (mean AUC within users, by rows), `_ece`, `_log_loss`, at the logged positions.

    Completion is judged among plays, its AUC as telling plays that reached `COMPLETED_SHARE`. A measure that
    the rows do not determine is left out.
    """
    scores = model.score(rows.features, rows.position)
    played = rows.play > 0
    metrics = _head_metrics("play", rows.play, scores.play, rows.user_id, 0.5)
    if scores.completion is not None:
        known = played & ~np.isnan(rows.completion)
        part = (rows.completion[known], scores.completion[known], rows.user_id[known])
        metrics |= _head_metrics("completion", *part, COMPLETED_SHARE)
    if scores.retention is not None:
        known = ~np.isnan(rows.retention)
        part = (rows.retention[known], scores.retention[known], rows.user_id[known])
        metrics |= _head_metrics("retention", *part, 0.5)
    return metrics


def _head_metrics(head: str, label: Float32, score: Float32, user: Int64, positive_from: float) -> Metrics:
    positive = (label >= positive_from).astype(np.float64)
    measures: dict[str, Callable[[], float]] = {
        "auc": lambda: auc(positive, score),
        "user_auc": lambda: grouped_auc(positive, score, user),
        "ece": lambda: expected_calibration_error(label, score),
        "log_loss": lambda: log_loss(label, score),
    }
    metrics: Metrics = {}
    for name, measure in measures.items():
        with suppress(Undefined):
            metrics[f"{head}_{name}"] = measure()
    return metrics


def judged_only(period: RetrievalPeriod, users: int) -> RetrievalPeriod:
    """The period with only the plays of its first `users` scored users (by row), so that only they are scored."""
    kept = np.isin(period.play_user, judged(period).users[:users])
    return replace(period, play_user=period.play_user[kept], play_title=period.play_title[kept])


def rank(title_ids: Int64, scores: NDArray[np.floating]) -> Int64:
    """Title ids by falling score, ties by id."""
    ranked: Int64 = title_ids[np.lexsort((title_ids, -scores))]
    return ranked


def histories_of(histories: Histories, users: Int64) -> Histories:
    """The histories of some users."""
    parts = [histories.of(int(user)) for user in users]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    values = np.concatenate([*parts, np.empty(0, np.int64)])
    return Histories(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), values)


def _mean(
    measure: Callable[[NDArray[np.bool_], int, int], float],
    hit: Sequence[NDArray[np.bool_]],
    counts: Sequence[int],
    k: int,
) -> float:
    if not hit:
        raise Undefined("there are no users to average over.")
    return float(np.mean([measure(one, n, k) for one, n in zip(hit, counts, strict=True)]))


def _rows_in(pairs: Int64, others: Int64) -> NDArray[np.bool_]:
    """Which rows (user, title) of `pairs` are among `others`."""
    kind = np.dtype([("user", np.int64), ("title", np.int64)])
    as_one = [np.ascontiguousarray(part, dtype=np.int64).view(kind).ravel() for part in (pairs, others)]
    return np.isin(as_one[0], as_one[1])


def _without(ranking: Int64, watched: Int64, k: int) -> Int64:
    head = ranking[: k + len(watched)]
    return head[~np.isin(head, watched)][:k]


def _utc(moment: datetime) -> np.datetime64:
    if moment.tzinfo is None:
        raise ValueError(f"as_of {moment} has no time zone.")
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
