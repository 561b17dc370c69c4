"""Retrieval beside the peers, under one protocol: a global time split, the whole catalogue, the same users and titles.

For each data set: every recommender is tuned on the validation period (the same number of settings each, recall@200
decides), learns anew from all that was known when the test period began, and ranks all that was available then, without
what a user had played. Those with a random number in them do it with several seeds. Users of whom a peer knows nothing
get the best list of popularity, as a site would do. MovieLens, in whose last half year 37 users rated anything, is
tested on four test periods, each with a split of its own.

    python benchmarks/quality.py [--source kuairand …] [--seeds 3] [--peer EASE …] [--workspaces .matinee]

It needs the extra `peers`, and workspaces with computed features (`matinee day`); SASRec needs RecTools besides
(`pip install --no-deps rectools pytorch-lightning torchmetrics lightning-utilities typeguard`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from peers.counting import Ease, ItemKnn, Popularity
from peers.plays import Float32, Int64, Peer, Plays, Scorer

from matinee.context import Day, latest
from matinee.datasets import retrieval_period
from matinee.desk import Desk
from matinee.settings import Settings
from matinee.training import signature
from matinee.workspace import Workspace
from models.data import RetrievalPeriod
from models.evaluate import judged, retrieved_lists, score_slice, slices_of
from models.settings import RetrievalConfig
from models.threads import use_threads
from models.train_retrieval import train_retrieval
from models.uncertainty import compare, estimate

KS = (20, 200)
MEASURES = ("recall_at_20", "recall_at_200", "ndcg_at_20")
FOLDS = {"movielens": 4}
OURS = "matinee, two towers"
OUR_GRID: tuple[Mapping[str, Any], ...] = (
    {}, {"tails": 0.25}, {"sequence_weight": 0.0, "blocks": 0}, {"learning_rate": 3e-3},
)  # fmt: skip


@dataclass(frozen=True)
class Log:
    """Every play: who, what, when it happened and when it became known (UTC), oldest first."""

    user_id: Int64
    title_id: Int64
    happened: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Fold:
    """One global time split of one data set."""

    desk: Desk
    train: tuple[RetrievalPeriod, ...]
    valid: RetrievalPeriod
    test: RetrievalPeriod
    log: Log

    @cached_property
    def users(self) -> Int64:
        """Everybody, ascending."""
        return np.unique(np.concatenate([self.log.user_id, self.valid.user_ids, self.test.user_ids]))

    @cached_property
    def titles(self) -> Int64:
        """Every title, ascending."""
        return np.unique(np.concatenate([self.log.title_id, self.valid.title_ids, self.test.title_ids]))

    def known_at(self, period: RetrievalPeriod) -> Plays:
        """First plays that had happened and were known when a period began."""
        end = np.datetime64(period.as_of.replace(tzinfo=None), "us")
        rows = np.flatnonzero((self.log.happened < end) & (self.log.known < end))
        return Plays(
            np.searchsorted(self.users, self.log.user_id[rows]),
            np.searchsorted(self.titles, self.log.title_id[rows]),
            (end - self.log.happened[rows]) / np.timedelta64(1, "D"),
            len(self.users),
            len(self.titles),
        ).first_plays()


def play_log(desk: Desk) -> Log:
    """All plays there are."""
    with desk.events() as connection:
        rows = connection.sql("""
            SELECT user_id, title_id, event_timestamp::TIMESTAMP AS happened, created_timestamp::TIMESTAMP AS known
            FROM plays ORDER BY event_timestamp, play_id""").to_arrow_table()
    return Log(*(rows[name].to_numpy() for name in ("user_id", "title_id", "happened", "known")))


def folds_of(source: str, workspaces: Path) -> Iterator[Fold]:
    """Splits whose test periods are the last ones of a source."""
    settings = Settings(source=source, workspaces=workspaces, threads=1)
    workspace = Workspace.of(settings)
    day = Day(settings, workspace, workspace.registry(), latest(settings, workspace))
    split = day.split
    periods = [retrieval_period(day.desk, p, split.as_of) for p in (*split.train, split.valid, split.test)]
    log = play_log(day.desk)
    for back in range(FOLDS.get(source, 1)):
        *train, valid, test = periods[: len(periods) - back]
        yield Fold(day.desk, tuple(train), valid, test, log)


def peer_lists(
    scorer: Scorer, fallback: Scorer, plays: Plays, fold: Fold, period: RetrievalPeriod
) -> list[Int64]:
    """The best titles available in `period` of each judged user, none that they had played; ties by title id."""
    users = np.searchsorted(fold.users, period.user_ids[judged(period).users])
    missing = np.setdiff1d(np.arange(len(fold.titles)), np.searchsorted(fold.titles, period.title_ids))
    matrix = plays.matrix()
    lists: list[Int64] = []
    for start in range(0, len(users), 512):
        rows = users[start : start + 512]
        scores = scorer(rows).copy()
        unknown = scores.max(axis=1) == scores.min(axis=1)
        if unknown.any():
            scores[unknown] = fallback(rows[unknown])
        scores[:, missing] = -np.inf
        scores[matrix[rows].nonzero()] = -np.inf
        lists += [fold.titles[_best(one, max(KS))] for one in scores]
    return lists


def _best(scores: Float32, k: int) -> Int64:
    """The k largest, ties by place; nothing of -inf."""
    threshold = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero((scores >= threshold) & np.isfinite(scores))
    return candidates[np.lexsort((candidates, -scores[candidates]))][:k]


Found = dict[str, dict[str, np.ndarray]]
"""Slice → measure → one value a user."""


def measured(lists: Sequence[Int64], fold: Fold, period: RetrievalPeriod) -> Found:
    """Every measure of every user, by slice."""
    played = np.unique(fold.titles[fold.known_at(period).title])
    return {
        part.name: dict(score_slice(part, lists, len(period.title_ids), KS).of_users)
        for part in slices_of(period, played)
    }


def tuned_popularity(fold: Fold, days: Sequence[float]) -> Popularity:
    """The window that is best on the validation period."""
    plays = fold.known_at(fold.valid)
    return max((Popularity(d) for d in days), key=lambda p: _recall(p, {}, fold, plays, p.fit(plays, {}, 0)))


def _recall(peer: Peer, settings: Mapping[str, float], fold: Fold, plays: Plays, fallback: Scorer) -> float:
    lists = peer_lists(peer.fit(plays, settings, 0), fallback, plays, fold, fold.valid)
    return float(measured(lists, fold, fold.valid)["all"]["recall_at_200"].mean())


def run_peer(
    peer: Peer, fold: Fold, seeds: int, fallback: Popularity
) -> tuple[Mapping[str, Any], list[Found]]:
    """The setting that validation chose, and what it came to on the test period with each seed."""
    known = fold.known_at(fold.valid)
    other = fallback.fit(known, {}, 0)
    chosen = peer.grid[0]
    if len(peer.grid) > 1:
        chosen = max(peer.grid, key=lambda settings: _recall(peer, settings, fold, known, other))
    plays = fold.known_at(fold.test)
    other = fallback.fit(plays, {}, 0)
    found = []
    for seed in range(seeds if peer.random else 1):
        lists = peer_lists(peer.fit(plays, chosen, seed), other, plays, fold, fold.test)
        found.append(measured(lists, fold, fold.test))
    return chosen, found


def run_ours(
    fold: Fold, seeds: int, grid: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[Found]]:
    """The same for the two towers: chosen by their validation recall, and learnt anew from all that is known."""
    user, title = (
        signature(fold.desk.declarations.service(name)) for name in ("retrieval_user", "retrieval_title")
    )

    def trained(settings: Mapping[str, Any], seed: int, *, refit: bool) -> Any:
        config = RetrievalConfig(**settings, seed=seed, refit=refit)
        return train_retrieval(fold.train, fold.valid, config, user, title)

    chosen = grid[0]
    if len(grid) > 1:
        chosen = max(grid, key=lambda s: trained(s, 0, refit=False).metrics["recall_at_200"])
    found = []
    for seed in range(seeds):
        lists = retrieved_lists(trained(chosen, seed, refit=True), fold.test, max(KS))
        found.append(measured(lists, fold, fold.test))
    return chosen, found


def peers_of(source: str, wanted: Sequence[str]) -> list[Peer]:
    """Those asked for, all if none is; what is not installed is said."""
    days = sorted({1, 7, 30, *({"movielens": (90, 365, 3650), "kuairand": (4,)}.get(source, ()))})
    found: list[Peer] = [*(Popularity(d) for d in days), ItemKnn(), Ease()]
    try:
        from peers.factors import Als, Bpr, Warp  # noqa: PLC0415  (extras that may be absent)

        found += [Als(), Bpr(), Warp()]
        from peers.sasrec import ONE_SETTING, SasRec  # noqa: PLC0415

        found.append(ONE_SETTING if source == "kuairand" else SasRec())
    except ImportError as missing:
        print(f"not measured: {missing}")
    return [peer for peer in found if not wanted or any(name in peer.name for name in wanted)]


@dataclass(frozen=True)
class Row:
    """One recommender on one data set: by slice and measure, values of all folds' users, one row a seed."""

    name: str
    chosen: list[Mapping[str, Any]]
    values: dict[str, dict[str, np.ndarray]]  # (seeds, users)
    seconds: float

    def mean(self, part: str, measure: str) -> tuple[float, float]:
        """Mean, and its standard error over seeds (0 where there is no seed)."""
        by_seed = self.values[part][measure].mean(axis=1)
        error = by_seed.std(ddof=1) / len(by_seed) ** 0.5 if len(by_seed) > 1 else 0.0
        return float(by_seed.mean()), float(error)


def pooled(name: str, runs: Sequence[tuple[Mapping[str, Any], list[Found]]], seconds: float) -> Row:
    """The folds' users side by side."""
    parts = {part for _, found in runs for one in found for part in one}
    values = {
        part: {
            measure: np.array([
                np.concatenate([found[seed][part][measure] for _, found in runs if part in found[seed]])
                for seed in range(len(runs[0][1]))
            ])
            for measure in MEASURES
        }
        for part in parts
    }  # fmt: skip
    return Row(name, [chosen for chosen, _ in runs], values, seconds)


def print_rows(source: str, rows: Sequence[Row]) -> None:
    """A table: test period, all users; then new titles."""
    users = rows[0].values["all"]["recall_at_20"].shape[1]
    print(f"\n{source}: {users:,} users, mean ± s.e. over seeds (their 95 % interval over users: recall@200)")
    print(
        f"{'':<24}{'recall@20':>16}{'recall@200':>16}{'nDCG@20':>16}{'new titles @200':>18}{'s':>7}   interval"
    )
    for row in rows:
        cells = ["{:.4f} ± {:.4f}".format(*row.mean("all", measure)) for measure in MEASURES]
        new = (
            "{:.4f}".format(row.mean("new titles", "recall_at_200")[0]) if "new titles" in row.values else "-"
        )
        interval = estimate(row.values["all"]["recall_at_200"].mean(axis=0), np.random.default_rng(0))
        bounds = f"[{interval.low:.4f}, {interval.high:.4f}]"
        print(
            f"{row.name:<24}"
            + "".join(f"{c:>16}" for c in cells)
            + f"{new:>18}{row.seconds:>7.0f}   {bounds}"
        )


def tell(source: str, row: Row) -> None:
    """What came of one recommender, as soon as it is known: a run of hours may be ended early."""
    means = ", ".join("{} {:.4f} ± {:.4f}".format(m, *row.mean("all", m)) for m in MEASURES)
    print(f"{source}: {row.name} {row.chosen} {row.seconds:.0f} s: {means}", flush=True)


def verdicts(rows: Sequence[Row]) -> dict[str, Any]:
    """Ours against the best peer of each measure: difference, interval and p over the same users."""
    ours, peers = rows[-1], rows[:-1]
    said: dict[str, Any] = {}
    for part, measure in [("all", m) for m in MEASURES] + [("new titles", "recall_at_200")]:
        able = [row for row in peers if part in row.values]
        if not able or part not in ours.values:
            continue
        best = max(able, key=lambda row: row.mean(part, measure)[0])
        mine, theirs = (row.values[part][measure].mean(axis=0) for row in (ours, best))
        found = compare(mine, theirs, np.random.default_rng(0))
        gap = found.difference
        word = "above" if gap.value > 0 else "NOT above"
        print(
            f"  {part}, {measure}: ours {mine.mean():.4f} {word} {best.name} {theirs.mean():.4f}; "
            f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], p {found.p_value:.3f}"
        )
        said[f"{part} {measure}"] = {
            "ours": mine.mean(), "best_peer": best.name, "theirs": theirs.mean(),
            "low": gap.low, "high": gap.high, "p": found.p_value,
        }  # fmt: skip
    return said


def run_source(source: str, options: argparse.Namespace) -> dict[str, Any]:
    """All recommenders on one data set."""
    folds = list(folds_of(source, options.workspaces))
    everyone = peers_of(source, options.peer)
    days = [peer.days for peer in peers_of(source, ["popularity"]) if isinstance(peer, Popularity)]
    fallbacks = [tuned_popularity(fold, days) for fold in folds]
    rows = []
    for peer in everyone:
        began = time.perf_counter()
        runs = [
            run_peer(peer, fold, options.seeds, best) for fold, best in zip(folds, fallbacks, strict=True)
        ]
        rows.append(pooled(peer.name, runs, time.perf_counter() - began))
        tell(source, rows[-1])
    if grid := OUR_GRID[: options.our_settings]:
        began = time.perf_counter()
        runs = [run_ours(fold, options.seeds, grid) for fold in folds]
        rows.append(pooled(OURS, runs, time.perf_counter() - began))
        tell(source, rows[-1])
    print_rows(source, rows)
    table = {
        row.name: {m: row.mean("all", m) for m in MEASURES}
        | (
            {"new_titles_recall_at_200": row.mean("new titles", "recall_at_200")}
            if "new titles" in row.values
            else {}
        )
        for row in rows
    }
    return {"rows": table, "against_best": verdicts(rows) if grid else {}}


def main() -> None:
    """All data sets there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", nargs="*", default=["movielens", "world", "kuairand"])
    parser.add_argument("--peer", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--our-settings",
        type=int,
        default=len(OUR_GRID),
        help="settings of ours that are tried; 0 leaves ours out",
    )
    parser.add_argument("--workspaces", type=Path, default=Path(".matinee"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    use_threads(1)
    result = {}
    for source in options.source:
        if not (options.workspaces / source / "offline").exists():
            print(f"{source}: not measured; first run: matinee --source {source} day")
            continue
        result[source] = run_source(source, options)
    print("RESULT " + json.dumps({"benchmark": "quality", **result}))


if __name__ == "__main__":
    main()
