"""Train the ranker behind a retriever, measure both stages together beside popularity, and register it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.training_set import training_set
from matinee import recipes
from matinee.bench import Bench
from matinee.datasets import (
    CANDIDATES,
    Float32,
    Int64,
    choice_pairs,
    choice_set,
    first_plays,
    ranking_set,
    retrieval_period,
    spine_of,
)
from matinee.evaluating import popularity_lists
from matinee.lineage import as_metrics
from matinee.progress import Stage
from matinee.recipes import CHOICE_BESIDE, CHOICE_LISTS, RANKING_ROWS
from matinee.training import (
    Fitted,
    against_popularity,
    checkpoint,
    kept_version,
    register,
    signature,
    told_to,
)
from matinee.version_documents import documented, noting
from models import artifact
from models.data import Candidates, RetrievalPeriod
from models.evaluate import (
    ListScores,
    Metrics,
    evaluate_popularity,
    evaluate_ranking,
    histories_of,
    judged,
    judged_only,
    rank,
    score_lists,
)
from models.importance import as_numbers, permutation_importance
from models.objective import ObjectiveWeights, objective
from models.progress import Epoch
from models.ranker import Ranker
from models.retrieval import Retriever
from models.settings import RankerConfig
from models.train_ranker import Choices, train_ranker
from registry import Metric, ModelVersion, Output

N_CANDIDATES = 200
JUDGED_USERS = 400
"""Users of the test period whose two-stage lists are scored; every one costs 200 rows of heavy features."""
LOOKED_AT = 10
"""Plays of the valid period looked at for each that is wanted, as only those among the candidates count."""


@dataclass(frozen=True)
class AsItWas:
    """A retriever as it could have been when each period began: made once for each, as co-plays take seconds."""

    retriever: Retriever
    made: dict[datetime, Retriever] = field(default_factory=dict)

    def at(self, period: RetrievalPeriod) -> Retriever:
        """The retriever over what was on offer and known then."""
        if period.as_of not in self.made:
            self.made[period.as_of] = self.retriever.at(period)
        return self.made[period.as_of]


def train_ranker_version(
    bench: Bench, behind: ModelVersion, folder: Path, config: RankerConfig, stage: Stage
) -> ModelVersion:
    """Heads for play, completion and retention on the train periods, tested alone and behind a retriever.

    `folder` holds the files of `behind`, the retriever.
    """
    if kept := kept_version(bench, recipes.ranker(config).after(artifact.digest(folder)), stage):
        return kept
    fitted = fit_ranker(bench, behind, folder, config, stage)
    version = register(bench, fitted)
    stage.note = f"{version.ref}: {against_popularity(fitted.metrics, 'ndcg_at_20')}"
    return version


def fit_ranker(
    bench: Bench, behind: ModelVersion, folder: Path, config: RankerConfig, stage: Stage
) -> Fitted:
    """The ranker of a bench's split, trained and tested behind a retriever, not registered."""
    service, split = bench.service("ranking"), bench.split
    recipe = recipes.ranker(config).after(artifact.digest(folder))
    retriever = AsItWas(Retriever.load(folder))
    found = None if bench.desk.source.has("impressions") else retrieved(bench, retriever)
    train, made = ranking_set(bench.desk, split, split.train, RANKING_ROWS["train"], config.seed, found)
    valid, _ = ranking_set(bench.desk, split, [split.valid], RANKING_ROWS["valid"], config.seed, found)
    choices = choices_behind(bench, retriever, config.seed)
    epochs: list[Epoch] = []
    ranker = train_ranker(
        train, valid, config, signature(service), noting(epochs, told_to(stage)), choices,
        hardware=bench.hardware, checkpoint=checkpoint(bench, recipe),
    )  # fmt: skip
    ranker = replace(ranker, about={table.name: table.entity.name for table in service.tables})
    test, _ = ranking_set(bench.desk, split, [split.test], RANKING_ROWS["test"], config.seed, found)
    source = bench.desk.source.name
    metrics = (
        *as_metrics(_determined(evaluate_ranking(ranker, test)), source, "test"),
        *as_metrics(_determined(evaluate_ranking(ranker, valid)), source, "valid"),
        *as_metrics(as_numbers(permutation_importance(ranker, valid, config.seed)), source, "valid"),
        *_two_stage_metrics(bench, retriever, ranker),
    )
    fitted = Fitted(
        recipe=recipe,
        model=ranker,
        config=config,
        inputs={"ranking": service},
        outputs=tuple(Output(head, meaning=HEADS[head]) for head in ranker.heads),
        training_set=made.digest,
        rows=len(train),
        metrics=metrics,
        upstream={"retriever": behind.ref},
        hardware=bench.hardware,
    )
    return documented(bench, fitted, epochs, (ranker, test))


HEADS = {
    "play": "calibrated probability that the title is played",
    "completion": "calibrated probability that a play is watched to its end",
    "retention": "calibrated probability that the member is still one at the horizon",
    "choice": "probability that a candidate is chosen where only it and a typical one are there",
}
"""What the ranker's heads say, each between 0 and 1."""


def retrieved(bench: Bench, retriever: AsItWas) -> pa.Table:
    """What the retriever would have put before each user who played something, period by period."""
    tables = []
    for period in (*bench.split.train, bench.split.valid, bench.split.test):
        data = retrieval_period(bench.desk, period, bench.split.as_of)
        users, titles = _candidate_pairs(retriever, data, np.unique(data.play_user))
        pairs = {
            "user_id": users,
            "title_id": titles,
            "period_start": [period.start] * len(users),
            "period_end": [period.end] * len(users),
        }
        tables.append(pa.table(pairs, schema=CANDIDATES))
    return pa.concat_tables(tables)


def _candidate_pairs(retriever: AsItWas, data: RetrievalPeriod, rows: Int64) -> tuple[Int64, Int64]:
    """(user ids, title ids) of the candidates that the users in `rows` would have had at the period's start."""
    lists = candidates_of(retriever, data, rows)
    titles = np.concatenate([np.zeros(0, np.int64), *(one.title_ids for one in lists)])
    return np.repeat(data.user_ids[rows], [len(one.title_ids) for one in lists]), titles


def candidates_of(retriever: AsItWas, data: RetrievalPeriod, rows: Int64) -> list[Candidates]:
    """What the retriever would have found for the users in `rows` at the period's start."""
    known = histories_of(data.histories, rows)
    return retriever.at(data).candidates_batch(data.user_features[rows], known, N_CANDIDATES)


def choices_behind(bench: Bench, retriever: AsItWas, seed: int) -> Choices | None:
    """Lists to choose from: a sample of candidates and others beside plays, and in the valid period all candidates.

    Of the valid period only plays count that were among the candidates: there the question is which of those. None
    where there is no such play, or nothing new was played before.
    """
    split, rng = bench.split, np.random.default_rng(seed)
    count = -(-CHOICE_LISTS["train"] // len(split.train))
    train = []
    for period in split.train:
        data = retrieval_period(bench.desk, period, split.as_of)
        plays = first_plays(bench.desk, period, data, split.as_of, count, seed)
        train.append(
            choice_pairs(plays, data, candidates_of(retriever, data, plays.user), CHOICE_BESIDE, rng)
        )
    data = retrieval_period(bench.desk, split.valid, split.as_of)
    plays = first_plays(bench.desk, split.valid, data, split.as_of, LOOKED_AT * CHOICE_LISTS["valid"], seed)
    found = candidates_of(retriever, data, plays.user)
    among = [row for row, title in enumerate(plays.title_id) if title in found[row].title_ids]
    kept = np.sort(rng.permutation(np.array(among, dtype=np.int64))[: CHOICE_LISTS["valid"]])
    if not len(kept) or not any(len(pairs.title_id) for pairs in train):
        return None
    valid = choice_pairs(plays.take(kept), data, [found[row] for row in kept], (N_CANDIDATES, 0), rng)
    return Choices(choice_set(bench.desk, split, train), choice_set(bench.desk, split, [valid]))


def _determined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the heads that have no AUC: their labels are all alike, as few outcomes are closed yet."""
    heads = {name.removesuffix("_auc") for name in metrics if name.endswith("_auc") and "_user_" not in name}
    return {name: value for name, value in metrics.items() if name.split("_")[0] in heads}


def _two_stage_metrics(bench: Bench, retriever: AsItWas, ranker: Ranker) -> tuple[Metric, ...]:
    """Lists by choice, by the objective and as retrieved, for the same users and titles as popularity's.

    A ranker that learned no choice is measured by plays.
    """
    name = bench.desk.source.name
    test = judged_only(retrieval_period(bench.desk, bench.split.test, bench.split.as_of), JUDGED_USERS)
    lists = candidate_lists(bench, retriever, test)
    by_choice = ObjectiveWeights(play=0 if ranker.fusion else 1, completion=0, retention=0)
    found = [
        *as_metrics(lists.measured(lambda m, s: objective(ranker.score(m, retrieval=s), by_choice)), name, "test"),
        *as_metrics(lists.measured(lambda m, s: objective(ranker.score(m, retrieval=s), ObjectiveWeights())),
                    name, "test", "objective_"),
        *as_metrics(lists.measured(lambda _, s: s), name, "test", "retriever_"),
    ]  # fmt: skip
    for label, ranking in popularity_lists(bench, test).items():
        found += as_metrics(evaluate_popularity(ranking, test, (20,)), name, "test", f"{label}_")
    return tuple(found)


@dataclass(frozen=True)
class CandidateLists:
    """Every test user's candidates, their features (n, F) in that order, and what they went on to play."""

    found: Sequence[Candidates]
    features: Sequence[Float32]
    relevant: Sequence[Int64]
    catalogue: int

    def scored(self, score: Callable[[Float32, Float32], NDArray[np.floating]]) -> ListScores:
        """Measures at 20 of the candidates ordered by a score of features and retrieval scores, user by user."""
        ranked = [
            rank(one.title_ids, score(features, one.scores))
            for one, features in zip(self.found, self.features, strict=True)
        ]
        return score_lists(ranked, self.relevant, self.catalogue, (20,))

    def measured(self, score: Callable[[Float32, Float32], NDArray[np.floating]]) -> Metrics:
        """The means of `scored`."""
        return self.scored(score).means()


def candidate_lists(bench: Bench, retriever: AsItWas, test: RetrievalPeriod) -> CandidateLists:
    """The candidates of all judged users, their features computed in one go."""
    scored = judged(test)
    found = candidates_of(retriever, test, scored.users)
    counts = [len(one.title_ids) for one in found]
    spine = spine_of(
        np.repeat(test.user_ids[scored.users], counts),
        np.concatenate([f.title_ids for f in found]),
        test.as_of,
    )
    made = training_set(spine, bench.service("ranking"), bench.desk.declarations, bench.desk.offline, [test.as_of],
                        events=bench.desk.lake.register, threads=bench.desk.threads, scratch=bench.desk.scratch)  # fmt: skip
    features = np.split(made.features, np.cumsum(counts)[:-1])
    return CandidateLists(found, features, scored.relevant, len(test.title_ids))
