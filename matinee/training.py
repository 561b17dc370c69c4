"""Train, measure on the test period beside popularity, and register: one function a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from feature_repo.declarations import FeatureService
from feature_repo.training_set import training_set
from matinee import recipes
from matinee.datasets import (
    CANDIDATES,
    Float32,
    Int64,
    choice_pairs,
    choice_set,
    entity_matrix,
    first_plays,
    play_log,
    ranking_set,
    retrieval_period,
    spine_of,
)
from matinee.desk import Desk
from matinee.lineage import (
    as_metrics,
    held,
    inputs_digest,
    recorded_signature,
    trained_already,
    training_set_record,
)
from matinee.periods import Split
from matinee.progress import Stage
from matinee.recipes import CHOICE_BESIDE, CHOICE_LISTS, RANKING_ROWS, Recipe, features_digest
from models import artifact
from models.data import Candidates, RetrievalPeriod
from models.determinism import arithmetic
from models.evaluate import (
    Metrics,
    evaluate_lists,
    evaluate_popularity,
    evaluate_ranking,
    evaluate_retrieval,
    histories_of,
    judged,
    judged_only,
    popularity,
    rank,
)
from models.importance import as_numbers, permutation_importance
from models.objective import ObjectiveWeights, objective
from models.progress import Epoch, Progress
from models.ranker import Ranker
from models.retrieval import Retriever
from models.settings import RankerConfig, RetrievalConfig
from models.signature import Signature
from models.train_ranker import Choices, train_ranker
from models.train_retrieval import train_retrieval
from registry import Metric, ModelVersion, Output, Registry, VersionDraft

RETRIEVAL_KS = (20, 100, 200)
N_CANDIDATES = 200
JUDGED_USERS = 400
"""Users of the test period whose two-stage lists are scored; every one costs 200 rows of heavy features."""


LOOKED_AT = 10
"""Plays of the valid period looked at for each that is wanted, as only those among the candidates count."""


class Saveable(Protocol):
    """A model that writes itself, whole, into a folder."""

    def save(self, folder: Path) -> str:
        """Write it there and return its digest."""


@dataclass(frozen=True)
class Bench:
    """What every training needs: data, split, ledger."""

    desk: Desk
    split: Split
    registry: Registry

    def service(self, name: str) -> FeatureService:
        """A feature service of this source."""
        return self.desk.declarations.service(name)


@dataclass(frozen=True)
class Fitted:
    """A trained and tested model with all that the ledger is to know of it.

    `inputs` are the services its inputs are, by the input's name; `training_set` is a digest of `rows` rows;
    `upstream` are the versions it was trained behind, by role.
    """

    recipe: Recipe
    model: Saveable
    config: BaseModel
    inputs: Mapping[str, FeatureService]
    outputs: tuple[Output, ...]
    training_set: str
    rows: int
    metrics: tuple[Metric, ...]
    upstream: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.recipe.model


def kept_version(bench: Bench, recipe: Recipe, stage: Stage) -> ModelVersion | None:
    """The version that was trained by `recipe` from the very features there are now, if one was."""
    kept = trained_already(bench.registry, recipe.model, inputs_digest(bench.desk, bench.split, recipe))
    if kept:
        stage.skip(f"{kept.ref} was trained from these inputs")
    return kept


def register(bench: Bench, fitted: Fitted) -> ModelVersion:
    """Save a model into the ledger with its training set, its lineage and its figures."""
    made, source = training_set_record(bench.desk, bench.split, fitted), bench.desk.source.name
    bench.registry.record_training_set(made)
    settings = fitted.config.model_dump(mode="json")
    inputs = inputs_digest(bench.desk, bench.split, fitted.recipe)
    with tempfile.TemporaryDirectory() as folder:
        return bench.registry.register(VersionDraft(
            name=fitted.name, files=saved(fitted.model, Path(folder)), metrics=fitted.metrics,
            config=settings, seed=settings.get("seed"),
            params={key: value for key, value in settings.items() if isinstance(value, str | float | int)},
            tags={"source": source, "as_of": bench.split.as_of.isoformat(), "inputs": inputs, **arithmetic()},
            signature=recorded_signature(fitted), training_set=made.digest, upstream=fitted.upstream,
            source=source, created_by="matinee train",
        ))  # fmt: skip


def saved(model: Saveable, folder: Path) -> dict[str, Path | bytes]:
    """The files of a model, written into a new folder within `folder`, by name."""
    model.save(folder / "model")
    return {path.name: path for path in sorted((folder / "model").iterdir())}


def signature(service: FeatureService) -> Signature:
    """The ordered features a model of this service reads."""
    return Signature(tuple(service.digests), tuple(service.digests.values()))


def train_retriever_version(bench: Bench, config: RetrievalConfig, stage: Stage) -> ModelVersion:
    """Two towers on the train periods, stopped on validation, tested against popularity, registered."""
    if kept := kept_version(bench, recipes.retriever(config), stage):
        return kept
    fitted = fit_retriever(bench, config, stage)
    version = register(bench, fitted)
    stage.note = f"{version.ref}: {_against_popularity(fitted.metrics, 'recall_at_200')}"
    return version


def fit_retriever(bench: Bench, config: RetrievalConfig, stage: Stage) -> Fitted:
    """The retriever of a bench's split, trained and tested, not registered."""
    split, user, title = bench.split, bench.service("retrieval_user"), bench.service("retrieval_title")
    train = [retrieval_period(bench.desk, period, split.as_of) for period in split.train]
    valid = retrieval_period(bench.desk, split.valid, split.as_of)
    retriever = train_retrieval(train, valid, config, signature(user), signature(title), _told(stage))
    test = retrieval_period(bench.desk, split.test, split.as_of)
    ids, features = entity_matrix(bench.desk, title, split.as_of)
    return Fitted(
        recipe=recipes.retriever(config),
        model=retriever.with_titles(ids, features),
        config=config,
        inputs={"user": user, "title": title},
        outputs=(
            Output("title_ids", "int64", meaning="titles of the catalogue, best first"),
            Output("scores", meaning="inner product of user and title vector, plus the title's bias"),
        ),
        training_set=features_digest((user, title), split.as_ofs, held(bench.desk)),
        rows=sum(len(period.play_user) for period in train),
        metrics=_retrieval_metrics(bench, retriever, test),
    )


def _retrieval_metrics(bench: Bench, retriever: Retriever, test: RetrievalPeriod) -> tuple[Metric, ...]:
    name = bench.desk.source.name
    found = [*as_metrics(evaluate_retrieval(retriever, test, RETRIEVAL_KS), name, "test")]
    for label, ranking in popularity_lists(bench, test).items():
        found += as_metrics(evaluate_popularity(ranking, test, RETRIEVAL_KS), name, "test", f"{label}_")
    found.append(Metric("judged_users", len(judged(test).users), dataset=name, split="test"))
    return tuple(found)


def popularity_lists(bench: Bench, test: RetrievalPeriod) -> dict[str, Int64]:
    """Titles by plays in the source's middle window, and by plays of all time."""
    plays = play_log(bench.desk, test.as_of)
    days = bench.desk.source.windows[2]
    return {
        f"popularity_{days}d": popularity(plays, test.as_of, days, test.title_ids),
        "popularity_ever": popularity(plays, test.as_of, None, test.title_ids),
    }


def popularity_list(bench: Bench, as_of: datetime, size: int = 200) -> Int64:
    """The most played titles of the source's middle window, for users of whom nothing is known."""
    ids, _ = entity_matrix(bench.desk, bench.service("retrieval_title"), as_of)
    ranking = popularity(play_log(bench.desk, as_of), as_of, bench.desk.source.windows[2], ids)
    return ranking[:size]


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
    stage.note = f"{version.ref}: {_against_popularity(fitted.metrics, 'ndcg_at_20')}"
    return version


def fit_ranker(
    bench: Bench, behind: ModelVersion, folder: Path, config: RankerConfig, stage: Stage
) -> Fitted:
    """The ranker of a bench's split, trained and tested behind a retriever, not registered."""
    service, split = bench.service("ranking"), bench.split
    retriever = Retriever.load(folder)
    found = None if bench.desk.source.has("impressions") else retrieved(bench, retriever)
    train, made = ranking_set(bench.desk, split, split.train, RANKING_ROWS["train"], config.seed, found)
    valid, _ = ranking_set(bench.desk, split, [split.valid], RANKING_ROWS["valid"], config.seed, found)
    choices = choices_behind(bench, retriever, config.seed)
    ranker = train_ranker(train, valid, config, signature(service), _told(stage), choices)
    ranker = replace(ranker, about={table.name: table.entity.name for table in service.tables})
    test, _ = ranking_set(bench.desk, split, [split.test], RANKING_ROWS["test"], config.seed, found)
    source = bench.desk.source.name
    metrics = (
        *as_metrics(_determined(evaluate_ranking(ranker, test)), source, "test"),
        *as_metrics(_determined(evaluate_ranking(ranker, valid)), source, "valid"),
        *as_metrics(as_numbers(permutation_importance(ranker, valid, config.seed)), source, "valid"),
        *_two_stage_metrics(bench, retriever, ranker),
    )
    return Fitted(
        recipe=recipes.ranker(config).after(artifact.digest(folder)),
        model=ranker,
        config=config,
        inputs={"ranking": service},
        outputs=tuple(Output(head, meaning=HEADS[head]) for head in ranker.heads),
        training_set=made.digest,
        rows=len(train),
        metrics=metrics,
        upstream={"retriever": behind.ref},
    )


HEADS = {
    "play": "calibrated probability that the title is played",
    "completion": "calibrated probability that a play is watched to its end",
    "retention": "calibrated probability that the member is still one at the horizon",
    "choice": "probability that a candidate is chosen where only it and a typical one are there",
}
"""What the ranker's heads say, each between 0 and 1."""


def retrieved(bench: Bench, retriever: Retriever) -> pa.Table:
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


def _candidate_pairs(retriever: Retriever, data: RetrievalPeriod, rows: Int64) -> tuple[Int64, Int64]:
    """(user ids, title ids) of the candidates that the users in `rows` would have had at the period's start."""
    lists = candidates_of(retriever, data, rows)
    titles = np.concatenate([np.zeros(0, np.int64), *(one.title_ids for one in lists)])
    return np.repeat(data.user_ids[rows], [len(one.title_ids) for one in lists]), titles


def candidates_of(retriever: Retriever, data: RetrievalPeriod, rows: Int64) -> list[Candidates]:
    """What the retriever would have found for the users in `rows` at the period's start."""
    return retriever.with_titles(data.title_ids, data.title_features).candidates_batch(
        data.user_features[rows], histories_of(data.histories, rows), N_CANDIDATES
    )


def choices_behind(bench: Bench, retriever: Retriever, seed: int) -> Choices | None:
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


def _two_stage_metrics(bench: Bench, retriever: Retriever, ranker: Ranker) -> tuple[Metric, ...]:
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

    def measured(self, score: Callable[[Float32, Float32], NDArray[np.floating]]) -> Metrics:
        """Metrics at 20 of the candidates ordered by a score of features and retrieval scores."""
        ranked = [
            rank(one.title_ids, score(features, one.scores))
            for one, features in zip(self.found, self.features, strict=True)
        ]
        return evaluate_lists(ranked, self.relevant, self.catalogue, (20,))


def candidate_lists(bench: Bench, retriever: Retriever, test: RetrievalPeriod) -> CandidateLists:
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
                        events=bench.desk.lake.register, threads=bench.desk.threads)  # fmt: skip
    features = np.split(made.features, np.cumsum(counts)[:-1])
    return CandidateLists(found, features, scored.relevant, len(test.title_ids))


def _told(stage: Stage) -> Progress:
    def tell(epoch: Epoch) -> None:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in epoch.metrics.items())
        stage.step(epoch.number, epoch.of, f"epoch {epoch.number}, loss {epoch.loss:.3f}, {shown}")

    return tell


def _against_popularity(metrics: Sequence[Metric], name: str) -> str:
    """One model's figure beside popularity's, for a person.

    >>> _against_popularity([Metric("recall", 0.5, k=200), Metric("popularity_7d_recall", 0.4, k=200)], "recall_at_200")
    'recall_at_200 0.500 (popularity_7d 0.400)'
    """
    found = {metric.name: metric.value for metric in metrics}
    others = ", ".join(
        f"{key.removesuffix('_' + name)} {v:.3f}" for key, v in found.items() if key.endswith(f"_{name}")
    )
    return f"{name} {found[name]:.3f}" + (f" ({others})" if others else "")
