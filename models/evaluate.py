"""Evaluation on one global time split: rankings of everything that was available, beside popularity's.

One protocol for all that rank. A user of a label period is scored when they played, in that period, a title
that was available and that they had not watched before its start. Titles of their history are left out of
every list, the model's and popularity's alike, and are never relevant: rewatching is another task. Metrics
are means over users. Equal scores stand in order of title id, so that a figure is reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.data import Candidates, Float32, Histories, Int64, RankingSet, RetrievalPeriod
from models.diversity import intra_list_diversity
from models.metrics import (
    Undefined,
    auc,
    coverage_at,
    expected_calibration_error,
    gini_at,
    grouped_auc,
    hits,
    log_loss,
    ndcg_at,
    recall_at,
    reciprocal_rank,
)
from models.objective import HeadScores

Metrics = dict[str, float]
Floats = NDArray[np.float64]

COMPLETED_SHARE = (
    0.9  # of the runtime; a play that reached it counts as completed where a yes or no is needed
)


class RankingModel(Protocol):
    """What `evaluate_ranking` needs of a ranker."""

    def score(self, features: Float32, position: Float32 | None = None) -> HeadScores:
        """Calibrated scores at the positions given."""


class CandidateModel(Protocol):
    """What `evaluate_retrieval` needs of a retriever."""

    def at(self, period: RetrievalPeriod) -> Self:
        """The model as it could have been when `period` began: what was on offer, and nothing learnt since."""

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


@dataclass(frozen=True)
class ListScores:
    """Measures of one ranked list a user: `of_users` by name, each (U,); `of_all` are those of the lists together."""

    of_users: Mapping[str, Floats]
    of_all: Mapping[str, float]

    def means(self) -> Metrics:
        """The mean over users of each measure, and those of all lists."""
        return {name: float(values.mean()) for name, values in self.of_users.items()} | dict(self.of_all)


def score_lists(
    lists: Sequence[Int64],
    relevant: Sequence[Int64],
    catalogue_size: int,
    ks: Sequence[int],
    vectors: Callable[[Int64], Float32] | None = None,
) -> ListScores:
    """`recall_at_k`, `ndcg_at_k` and `mrr_at_k` of every user, `coverage_at_k` and `gini_at_k` of all.

    With unit `vectors` of titles also `diversity_at_k`, the mean distance within a list (of two titles or more).

    Raises:
        Undefined: there are no users.
    """
    if not lists:
        raise Undefined("there are no users to average over.")
    hit = [hits(ranked, wanted) for ranked, wanted in zip(lists, relevant, strict=True)]
    counts = [len(wanted) for wanted in relevant]
    users: dict[str, Floats] = {}
    for k in ks:
        users[f"recall_at_{k}"] = _each(recall_at, hit, counts, k)
        users[f"ndcg_at_{k}"] = _each(ndcg_at, hit, counts, k)
        users[f"mrr_at_{k}"] = np.array([reciprocal_rank(one[:k]) for one in hit])
        if vectors is not None:
            users[f"diversity_at_{k}"] = np.array(
                [intra_list_diversity(vectors(one[:k])) if len(one) > 1 else 0.0 for one in lists]
            )
    together: Metrics = {}
    for k in ks:
        together[f"coverage_at_{k}"] = coverage_at(lists, catalogue_size, k)
        with suppress(Undefined):  # nothing was shown to anybody
            together[f"gini_at_{k}"] = gini_at(lists, catalogue_size, k)
    return ListScores(users, together)


def evaluate_lists(
    lists: Sequence[Int64], relevant: Sequence[Int64], catalogue_size: int, ks: Sequence[int]
) -> Metrics:
    """The means of `score_lists`."""
    return score_lists(lists, relevant, catalogue_size, ks).means()


def retrieved(model: CandidateModel, period: RetrievalPeriod, k: int) -> list[Candidates]:
    """The k best for each judged user of what `model` holds, by what was known of users when `period` began."""
    users = judged(period).users
    known = histories_of(period.histories, users)
    return model.candidates_batch(period.user_features[users], known, k)


def retrieved_lists(model: CandidateModel, period: RetrievalPeriod, k: int) -> list[Int64]:
    """The k best of the whole catalogue of `period` for each judged user, as it was at its start."""
    return [one.title_ids for one in retrieved(model.at(period), period, k)]


def popular_lists(ranking: Int64, period: RetrievalPeriod, k: int) -> list[Int64]:
    """One ranking for every judged user, such as `popularity`'s, without what is not available or was watched."""
    available = ranking[np.isin(ranking, period.title_ids)]
    return [_without(available, period.histories.of(user), k) for user in judged(period).users]


def evaluate_retrieval(model: CandidateModel, period: RetrievalPeriod, ks: Sequence[int]) -> Metrics:
    """Metrics of a retriever over the whole catalogue of `period`, as it was at its start."""
    return evaluate_candidates(model.at(period), period, ks)


def evaluate_candidates(model: CandidateModel, period: RetrievalPeriod, ks: Sequence[int]) -> Metrics:
    """`evaluate_retrieval` of a model that holds the catalogue of `period` already, and nothing learnt since."""
    lists = [one.title_ids for one in retrieved(model, period, max(ks))]
    return evaluate_lists(lists, judged(period).relevant, len(period.title_ids), ks)


def evaluate_popularity(ranking: Int64, period: RetrievalPeriod, ks: Sequence[int]) -> Metrics:
    """Metrics of one ranking for everybody, such as `popularity`'s, over the same users and titles."""
    lists = popular_lists(ranking, period, max(ks))
    return evaluate_lists(lists, judged(period).relevant, len(period.title_ids), ks)


@dataclass(frozen=True)
class Slice:
    """Some of the judged users, by their place among them, and what of the relevant counts for each."""

    name: str
    places: Int64
    relevant: tuple[Int64, ...]


def slices_of(period: RetrievalPeriod, played: Int64) -> tuple[Slice, ...]:
    """All judged users; those with and without a history; titles that had been `played` before, and the others.

    `played` are the titles of which a play was known at the period's start. A slice that nobody is in is left out.
    """
    scored = judged(period)
    watched = np.diff(period.histories.offsets)[scored.users] > 0
    of_users = (
        ("all", np.full(len(watched), fill_value=True)),
        ("warm users", watched),
        ("new users", ~watched),
    )
    found = [_of_users(name, scored, chosen) for name, chosen in of_users]
    for name, invert in (("known titles", False), ("new titles", True)):
        parts = [titles[np.isin(titles, played, invert=invert)] for titles in scored.relevant]
        places = np.flatnonzero([len(part) > 0 for part in parts])
        found.append(Slice(name, places, tuple(parts[place] for place in places)))
    return tuple(one for one in found if len(one.places))


def _of_users(name: str, scored: Judged, chosen: NDArray[np.bool_]) -> Slice:
    places = np.flatnonzero(chosen)
    return Slice(name, places, tuple(scored.relevant[place] for place in places))


def score_slice(
    part: Slice,
    lists: Sequence[Int64],
    catalogue_size: int,
    ks: Sequence[int],
    vectors: Callable[[Int64], Float32] | None = None,
) -> ListScores:
    """`score_lists` of some users' lists."""
    return score_lists([lists[place] for place in part.places], part.relevant, catalogue_size, ks, vectors)


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
    found = retrieved(model.at(period), period, n_candidates)
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


def _each(
    measure: Callable[[NDArray[np.bool_], int, int], float],
    hit: Sequence[NDArray[np.bool_]],
    counts: Sequence[int],
    k: int,
) -> Floats:
    return np.array([measure(one, n, k) for one, n in zip(hit, counts, strict=True)])


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
