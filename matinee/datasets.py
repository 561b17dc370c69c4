"""From raw events and computed tables to what models train on; every label is closed and known by `as_of`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.sources import Source
from feature_repo.compute import offline_path
from feature_repo.declarations import FeatureService
from feature_repo.planning import set_aside
from feature_repo.session import KEPT_IN
from feature_repo.training_set import TrainingSet, snapshot_matrix, training_set
from matinee.desk import Desk, literal
from matinee.periods import Period, Split
from models.choice import ChoiceSet, sample_beside
from models.data import Candidates, Histories, RankingSet, RetrievalPeriod
from models.evaluate import PlayLog

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


NEGATIVES = 8
"""Candidates that stand beside a play where a source does not tell what was shown."""
CANDIDATES = pa.schema([
    ("user_id", pa.int64()), ("title_id", pa.int64()),
    ("period_start", pa.timestamp("us", tz="UTC")), ("period_end", pa.timestamp("us", tz="UTC")),
])  # fmt: skip
NO_CANDIDATES = CANDIDATES.empty_table()


def entity_matrix(desk: Desk, service: FeatureService, as_of: datetime) -> tuple[Int64, Float32]:
    """(ids ascending, float32 (n, F)) of a service whose tables are all about one entity.

    An entity that one of the tables lacks, because the gate set its row aside, has NaN there: unknown.
    """
    files = [offline_path(desk.offline, t.name, as_of) for t in service.tables]
    parts = [snapshot_matrix(file, t) for file, t in zip(files, service.tables, strict=True)]
    ids = reduce(np.union1d, (known for known, _ in parts))
    if not any(set_aside(file) for file in files) and any(len(known) < len(ids) for known, _ in parts):
        names = ", ".join(table.name for table in service.tables)
        raise ValueError(f"{names} as of {as_of} hold different entities: compute them again together.")
    values = np.full((len(ids), sum(part.shape[1] for _, part in parts)), np.nan, dtype=np.float32)
    column = 0
    for known, part in parts:
        values[np.searchsorted(ids, known), column : column + part.shape[1]] = part
        column += part.shape[1]
    return ids, values


def histories(desk: Desk, user_ids: Int64, as_of: datetime) -> Histories:
    """The titles each of `user_ids` played last, newest last, empty where nothing is known."""
    path = offline_path(desk.offline, KEPT_IN, as_of)
    with duckdb.connect(config={"threads": 1}) as connection:
        rows = connection.sql(f"""
            SELECT user_id, list(title_id ORDER BY event_timestamp, play_id) FROM read_parquet('{path}')
            GROUP BY user_id""").fetchall()
    known = dict(rows)
    return Histories.of_lists([known.get(user, ()) for user in user_ids.tolist()])


def retrieval_period(desk: Desk, period: Period, as_of: datetime) -> RetrievalPeriod:
    """Users, titles and plays of one label period, with features as of its start.

    A user first seen within the period is there with nothing known. A play of a title that was not in the
    catalogue at the start is left out: it could not have been retrieved.
    """
    known, user_features = entity_matrix(desk, desk.declarations.service("retrieval_user"), period.start)
    title_ids, title_features = entity_matrix(
        desk, desk.declarations.service("retrieval_title"), period.start
    )
    users, titles = _plays(desk, period, as_of)
    available = np.isin(titles, title_ids)
    users, titles = users[available], titles[available]
    user_ids = np.concatenate([known, np.setdiff1d(users, known)])
    blank = np.full((len(user_ids) - len(known), user_features.shape[1]), np.nan, dtype=np.float32)
    order = np.argsort(user_ids, kind="stable")
    return RetrievalPeriod(
        as_of=period.start,
        user_ids=user_ids[order],
        user_features=np.concatenate([user_features, blank])[order],
        histories=histories(desk, user_ids[order], period.start),
        title_ids=title_ids,
        title_features=title_features,
        play_user=np.searchsorted(user_ids[order], users),
        play_title=np.searchsorted(title_ids, titles),
    )


def _plays(desk: Desk, period: Period, as_of: datetime) -> tuple[Int64, Int64]:
    with desk.events() as connection:
        rows = connection.sql(f"""
            SELECT user_id, title_id FROM plays
            WHERE event_timestamp >= {literal(period.start)} AND event_timestamp < {literal(period.end)}
              AND created_timestamp < {literal(as_of)}
            ORDER BY event_timestamp, play_id""").to_arrow_table()
    return rows["user_id"].to_numpy(), rows["title_id"].to_numpy()


def play_log(desk: Desk, before: datetime) -> PlayLog:
    """Every play known before a moment, for popularity's lists."""
    with desk.events() as connection:
        rows = connection.sql(f"""
            SELECT title_id, event_timestamp::TIMESTAMP AS happened, created_timestamp::TIMESTAMP AS known FROM plays
            WHERE event_timestamp < {literal(before)} AND created_timestamp < {literal(before)}""").to_arrow_table()
    return PlayLog(rows["title_id"].to_numpy(), rows["happened"].to_numpy(), rows["known"].to_numpy())


def ranking_set(desk: Desk, split: Split, periods: Sequence[Period], rows: int, seed: int,
                candidates: pa.Table | None = None) -> tuple[RankingSet, TrainingSet]:  # fmt: skip
    """Labelled rows of `periods`, about `rows` of them, chosen by a hash and so the same every time.

    With impressions, a row is a title that was shown. Without, it is a play, or one of `NEGATIVES` of the user's
    `candidates` that they never played (docs/decisions/0003).
    """
    spine = ranking_spine(desk, split, periods, rows, seed, candidates)
    made = training_set(spine, desk.declarations.service("ranking"), desk.declarations, desk.offline, split.as_ofs,
                        events=desk.lake.register, threads=desk.threads, scratch=desk.scratch)  # fmt: skip
    starts = np.array([int(moment.timestamp()) * 1_000_000 for moment in split.as_ofs])
    happened = spine["event_timestamp"].cast(pa.int64()).to_numpy()
    rows_of = RankingSet(
        features=made.features,
        play=_float(spine["play"]),
        completion=_float(spine["completion"]),
        retention=_float(spine["retention"]),
        position=_float(spine["position"]),
        user_id=spine["user_id"].to_numpy(),
        title_id=spine["title_id"].to_numpy(),
        period=(np.searchsorted(starts, happened, side="right") - 1).astype(np.int64),
    )
    return rows_of, made


def spine_of(user_ids: Int64, title_ids: Int64, moment: datetime) -> pa.Table:
    """A spine of pairs that all want the features of one moment."""
    moments = pa.array([int(moment.timestamp() * 1e6)], pa.timestamp("us", tz="UTC"))
    when = pa.array(np.zeros(len(user_ids), dtype=np.int32))
    return pa.table({
        "user_id": user_ids, "title_id": title_ids,
        "event_timestamp": pa.DictionaryArray.from_arrays(when, moments).dictionary_decode(),
    })  # fmt: skip


@dataclass(frozen=True)
class FirstPlays:
    """Plays of titles that the user had not played before a period: (n,) rows of its users, title ids, moments in µs UTC."""

    user: Int64
    title_id: Int64
    moment: Int64

    def take(self, rows: Int64) -> FirstPlays:
        """Some of them, by number."""
        return FirstPlays(self.user[rows], self.title_id[rows], self.moment[rows])


def first_plays(
    desk: Desk, period: Period, data: RetrievalPeriod, as_of: datetime, count: int, seed: int
) -> FirstPlays:
    """About as many plays of each user as of any other, `count` at most, chosen by a hash and so the same every time.

    `data` says who the users of the period are, what they watched before, and which titles there were.
    """
    watched = pa.table({"user_id": data.user_ids[data.histories.owners()], "title_id": data.histories.values})  # noqa: F841
    available = pa.table({"title_id": data.title_ids})  # noqa: F841
    with desk.events() as connection:
        rows = connection.sql(f"""
            WITH first AS (
                SELECT user_id, title_id, min(event_timestamp) AS moment FROM plays
                WHERE event_timestamp >= {literal(period.start)} AND event_timestamp < {literal(period.end)}
                  AND created_timestamp < {literal(as_of)}
                GROUP BY ALL),
            new AS (SELECT * FROM first ANTI JOIN watched USING (user_id, title_id) SEMI JOIN available USING (title_id)),
            turns AS (
                SELECT *, hash(user_id, title_id, {seed}) AS lot,
                       row_number() OVER (PARTITION BY user_id ORDER BY hash(user_id, title_id, {seed}), title_id) AS turn
                FROM new)
            SELECT user_id, title_id, epoch_us(moment) AS moment
            FROM (SELECT * FROM turns ORDER BY turn, lot, user_id, title_id LIMIT {count})
            ORDER BY moment, user_id, title_id""").to_arrow_table()
    user, title_id, moment = (rows[name].to_numpy() for name in ("user_id", "title_id", "moment"))
    return FirstPlays(np.searchsorted(data.user_ids, user), title_id, moment)


@dataclass(frozen=True)
class ChoicePairs:
    """Lists to choose from before they have features: all (L, W), where a list has no more titles with title id -1."""

    user_id: Int64
    title_id: Int64
    moment: Int64
    log_inclusion: Float32
    retrieval: Float32


def choice_pairs(plays: FirstPlays, data: RetrievalPeriod, found: Sequence[Candidates], counts: tuple[int, int],
                 rng: np.random.Generator) -> ChoicePairs:  # fmt: skip
    """Beside each play, so many of the user's candidates `found` at the start of the period, and so many other titles.

    None of them was played by the user, in the period or before it.
    """
    width = 1 + sum(counts)
    titles = np.full((len(plays.user), width), -1, dtype=np.int64)
    logs = np.full(titles.shape, np.inf, dtype=np.float32)
    scores = np.full(titles.shape, np.nan, dtype=np.float32)
    played = _by_owner(data.play_user, data.title_ids[data.play_title], len(data.user_ids))
    for row, (user, title, candidates) in enumerate(zip(plays.user, plays.title_id, found, strict=True)):
        near = np.setdiff1d(candidates.title_ids, played.of(user))
        taken = (candidates.title_ids, played.of(user), data.histories.of(user))
        far = np.setdiff1d(data.title_ids, np.concatenate(taken)) if counts[1] else near[:0]
        beside = sample_beside(near, far, counts, rng)
        end = 1 + len(beside.title_ids)
        titles[row, :end] = [title, *beside.title_ids.tolist()]
        logs[row, :end] = [0, *beside.log_inclusion.tolist()]
        scores[row] = _scores_of(titles[row], candidates)
    users = np.broadcast_to(data.user_ids[plays.user][:, None], titles.shape)
    moments = np.broadcast_to(plays.moment[:, None], titles.shape)
    return ChoicePairs(users, titles, moments, logs, scores)


def _by_owner(owner: Int64, values: Int64, owners: int) -> Histories:
    order = np.argsort(owner, kind="stable")
    return Histories(np.searchsorted(owner[order], np.arange(owners + 1)), values[order])


def _scores_of(titles: Int64, candidates: Candidates) -> Float32:
    """The retriever's score of each title, NaN where it is no candidate."""
    order = np.argsort(candidates.title_ids)
    known = candidates.title_ids[order]
    places = np.minimum(np.searchsorted(known, titles), len(known) - 1)
    scores: Float32 = np.where(known[places] == titles, candidates.scores[order][places], np.float32("nan"))
    return scores


def choice_set(desk: Desk, split: Split, pairs: Sequence[ChoicePairs]) -> ChoiceSet:
    """Lists with the ranking features of every title in them, as of the moment of the play."""
    joined = ChoicePairs(
        *(np.concatenate([getattr(one, name) for one in pairs]) for name in ChoicePairs.__dataclass_fields__)
    )
    there = joined.title_id >= 0
    spine = pa.table({
        "user_id": joined.user_id[there], "title_id": joined.title_id[there],
        "event_timestamp": pa.array(joined.moment[there], pa.timestamp("us", tz="UTC")),
    })  # fmt: skip
    service = desk.declarations.service("ranking")
    made = training_set(spine, service, desk.declarations, desk.offline, split.as_ofs,
                        events=desk.lake.register, threads=desk.threads)  # fmt: skip
    features = np.full((*there.shape, made.features.shape[1]), np.nan, dtype=np.float32)
    features[there] = made.features
    return ChoiceSet(features, joined.log_inclusion, joined.retrieval)


def _float(column: pa.ChunkedArray) -> Float32:
    values: Float32 = column.cast(pa.float32()).to_numpy()
    return values


def ranking_spine(
    desk: Desk,
    split: Split,
    periods: Sequence[Period],
    rows: int,
    seed: int,
    candidates: pa.Table | None = None,
) -> pa.Table:
    """user_id, title_id, event_timestamp and the labels play, completion, retention, with position."""
    start, end = literal(periods[0].start), literal(periods[-1].end)
    shown = _shown(desk.source, start, end, literal(split.as_of), seed)
    with desk.events() as connection:
        if not desk.source.has("impressions"):
            connection.register("candidates", NO_CANDIDATES if candidates is None else candidates)
        connection.execute(f"CREATE TEMP TABLE shown AS {shown}")
        ((total,),) = connection.execute("SELECT count(*) FROM shown").fetchall()
        if not total:
            raise ValueError(f"{desk.source.name}: nothing was shown or played from {start} to {end}.")
        share = min(1.0, rows / total)
        chosen = (
            f"hash(user_id, title_id, epoch_us(event_timestamp), {seed}) % 1000000 < {int(share * 1_000_000)}"
        )
        return connection.sql(f"""
            SELECT s.user_id, s.title_id, s.event_timestamp, s.play::FLOAT AS play, s.completion::FLOAT AS completion,
                   s.position::FLOAT AS position, r.retention::FLOAT AS retention
            FROM (SELECT * FROM shown WHERE {chosen}) s LEFT JOIN ({_retention(desk.source, split)}) r
              ON r.user_id = s.user_id AND r.event_timestamp = s.event_timestamp
            ORDER BY s.event_timestamp, s.user_id, s.title_id""").to_arrow_table()


def _shown(source: Source, start: str, end: str, as_of: str, seed: int) -> str:
    """What was put before users in [start, end), with whether it was played and how much of it."""
    played = f"SELECT * FROM plays WHERE created_timestamp < {as_of} AND event_timestamp < {as_of}"
    within = f"event_timestamp >= {start} AND event_timestamp < {end} AND created_timestamp < {as_of}"
    if source.has("impressions"):
        return f"""
            SELECT i.user_id, i.title_id, i.event_timestamp, i.position, p.play_id IS NOT NULL AS play, p.watch_share AS completion
            FROM (SELECT * FROM impressions WHERE {within}) i
            LEFT JOIN ({played} QUALIFY row_number() OVER (PARTITION BY impression_id ORDER BY play_id) = 1) p
              USING (impression_id)"""
    return f"""
        WITH real AS (SELECT user_id, title_id, event_timestamp, play_id FROM plays WHERE {within}),
        others AS (
            SELECT r.user_id, c.title_id, r.event_timestamp
            FROM real r JOIN candidates c ON c.user_id = r.user_id
             AND r.event_timestamp >= c.period_start AND r.event_timestamp < c.period_end
            WHERE NOT EXISTS (SELECT 1 FROM ({played}) p WHERE p.user_id = c.user_id AND p.title_id = c.title_id)
            QUALIFY row_number() OVER (PARTITION BY r.play_id ORDER BY hash(c.title_id, r.play_id, {seed})) <= {NEGATIVES})
        SELECT user_id, title_id, event_timestamp, NULL::DOUBLE AS position, true AS play, NULL::DOUBLE AS completion
        FROM real
        UNION ALL
        SELECT DISTINCT user_id, title_id, event_timestamp, NULL, false, NULL FROM others"""


def _retention(source: Source, split: Split) -> str:
    """(user_id, event_timestamp) → 1 or 0, null until the outcome is closed and known.

    With memberships: the first decision to renew or cancel within seven periods. Without: whether the user
    plays again between a twelfth of a half period and half a period later.
    """
    as_of = literal(split.as_of)
    moments = "SELECT DISTINCT user_id, event_timestamp FROM shown"
    if source.has("memberships"):
        horizon = int(7 * source.period.total_seconds())
        return f"""
            SELECT m.user_id, m.event_timestamp,
                   CASE WHEN d.event_timestamp <= m.event_timestamp + INTERVAL {horizon} SECOND
                        THEN (d.status = 'renewed')::INTEGER END AS retention
            FROM ({moments}) m ASOF LEFT JOIN
                 (SELECT user_id, event_timestamp, status FROM memberships
                  WHERE status <> 'started' AND event_timestamp < {as_of} AND created_timestamp < {as_of}) d
              ON m.user_id = d.user_id AND m.event_timestamp < d.event_timestamp"""
    horizon = int(source.period.total_seconds() / 2)
    gap = horizon // 12
    return f"""
        SELECT m.user_id, m.event_timestamp,
               CASE WHEN m.event_timestamp + INTERVAL {horizon} SECOND <= {as_of}
                    THEN coalesce(d.event_timestamp <= m.event_timestamp + INTERVAL {horizon} SECOND, false)::INTEGER
               END AS retention
        FROM (SELECT *, event_timestamp + INTERVAL {gap} SECOND AS after FROM ({moments})) m ASOF LEFT JOIN
             (SELECT user_id, event_timestamp FROM plays
              WHERE event_timestamp < {as_of} AND created_timestamp < {as_of}) d
          ON m.user_id = d.user_id AND m.after < d.event_timestamp"""
