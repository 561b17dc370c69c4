"""The ranker beside single-task networks as wide as all its bodies, gradient boosting, the retriever alone and popularity; and its speed.

Needs workspaces whose retriever is trained. Every model is trained here on the same rows, with so many seeds, and measured on
the test period: mean ± standard error over seeds. What is simulated (source `world`) is so.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray

from matinee.context import Day, fetched
from matinee.datasets import play_log, ranking_set, retrieval_period
from matinee.recipes import RANKING_ROWS
from matinee.session import opened, print_table
from matinee.training import signature
from matinee.training_ranker import (
    AsItWas,
    CandidateLists,
    candidate_lists,
    choices_behind,
    retrieved,
)
from models.calibration import fit_calibration
from models.compiled import CompiledRanker
from models.data import Float32, RankingSet
from models.evaluate import COMPLETED_SHARE, evaluate_popularity, judged_only, popularity
from models.metrics import Undefined, auc, expected_calibration_error, grouped_auc, log_loss
from models.objective import ObjectiveWeights, objective
from models.ranker import Ranker
from models.retrieval import Retriever
from models.settings import RankerConfig
from models.signature import Signature
from models.threads import use_threads
from models.train_ranker import Choices, train_ranker
from models.uncertainty import compare

JUDGED_USERS = 1_200
"""Users of the test period whose lists of both stages are scored."""
HEADS = ("play", "completion", "retention")
MEASURES = ("auc", "user_auc", "ece", "log_loss")
BY_CHOICE = ObjectiveWeights(play=0, completion=0, retention=0)
LEAVES = (4, 8, 31)
"""Of a tree of LightGBM, one of which is chosen by the loss on validation."""
NO_TASK = 1e-9  # a weight so small that a head leaves no trace in what it shares
Figures = dict[str, float]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """What all models are trained and measured on."""

    train: RankingSet
    valid: RankingSet
    test: RankingSet
    choices: Choices | None
    lists: CandidateLists
    popular: Figures
    signature: Signature
    about: Mapping[str, str]

    def alone(self, head: str) -> Data:
        """The same with labels of one head, and of plays, and nothing to choose from."""
        others = {"completion", "retention"} - {head}

        def told(rows: RankingSet) -> RankingSet:
            return replace(rows, **{other: np.full_like(rows.play, np.nan) for other in others})

        return replace(self, train=told(self.train), valid=told(self.valid), choices=None)

    @property
    def learnable(self) -> tuple[str, ...]:
        """Heads that the rows can teach and whose AUC the test rows determine."""
        return tuple(
            head for head in HEADS if all(_both(head, rows) for rows in (self.train, self.valid, self.test))
        )


def labels(head: str, rows: RankingSet) -> Float32:
    """(N,), NaN where unknown; completion only among plays."""
    if head != "completion":
        found: Float32 = getattr(rows, head)
        return found
    return np.where(rows.play > 0, rows.completion, np.float32("nan"))


def _both(head: str, rows: RankingSet) -> bool:
    known = labels(head, rows)
    known = known[~np.isnan(known)] >= (COMPLETED_SHARE if head == "completion" else 0.5)
    return len(np.unique(known)) == 2


def gathered(day: Day, rows: int) -> Data:
    """At most `rows` training rows of a workspace, and everything beside them."""
    bench, split = day.bench, day.split
    retriever = AsItWas(Retriever.load(fetched(day, "retriever")))
    found = None if bench.desk.source.has("impressions") else retrieved(bench, retriever)
    service = bench.service("ranking")
    train, valid, test_rows = (
        ranking_set(bench.desk, split, periods, min(rows, RANKING_ROWS[name]), 0, found)[0]
        for name, periods in (("train", split.train), ("valid", [split.valid]), ("test", [split.test]))
    )
    test = judged_only(retrieval_period(bench.desk, split.test, split.as_of), JUDGED_USERS)
    plays = play_log(bench.desk, test.as_of)
    popular = {
        f"popularity, {'ever' if days is None else f'{days} d'}": evaluate_popularity(
            popularity(plays, test.as_of, days, test.title_ids), test, (20,)
        )["ndcg_at_20"]
        for days in (1, 7, 30, None)
    }
    return Data(
        train, valid, test_rows, choices_behind(bench, retriever, 0), candidate_lists(bench, retriever, test), popular,
        signature(service), {table.name: table.entity.name for table in service.tables},
    )  # fmt: skip


def measured(head: str, rows: RankingSet, probability: Float32) -> Figures:
    """One head on the rows whose label is known."""
    label = labels(head, rows)
    known = ~np.isnan(label)
    label, p = label[known], probability[known]
    positive = (label >= (COMPLETED_SHARE if head == "completion" else 0.5)).astype(np.float64)
    found = {
        "auc": auc(positive, p),
        "ece": expected_calibration_error(label, p),
        "log_loss": log_loss(label, p),
    }
    with suppress(Undefined):  # no user has both outcomes
        found["user_auc"] = grouped_auc(positive, p, rows.user_id[known])
    return {f"{head}_{name}": value for name, value in found.items()}


def network(
    data: Data, config: RankerConfig, heads: Sequence[str], choices: Choices | None = None
) -> tuple[Ranker, Figures]:
    """A network trained for all heads, for choice where there are lists, measured on those asked for."""
    ranker = train_ranker(data.train, data.valid, config, data.signature, choices=choices)
    ranker = replace(ranker, about=data.about)
    scores = ranker.score(data.test.features, data.test.position)
    figures: Figures = {}
    for head in heads:
        figures |= measured(head, data.test, getattr(scores, head))
    return ranker, figures


def single(data: Data, config: RankerConfig, head: str) -> Figures:
    """One head alone on one body as wide as the bodies of all heads together, learnt in the same way.

    Where it is not the head of plays, that one is there with a weight of nothing, as rows without plays are no ranking rows.
    """
    bodies = len(data.learnable) + 1
    weights = {} if head == "play" else {"play_weight": NO_TASK}
    alone = config.model_copy(update={"hidden": config.hidden * bodies, **weights})
    return network(data.alone(head), alone, [head])[1]


def boosted(data: Data, head: str, seed: int) -> Figures:
    """LightGBM on the same rows, features and position, its leaves and rounds chosen and its chances calibrated on validation."""
    parts = {}
    for name, rows in (("train", data.train), ("valid", data.valid)):
        known = ~np.isnan(labels(head, rows))
        parts[name] = lightgbm.Dataset(
            _with_position(rows.take(known)), labels(head, rows)[known], free_raw_data=False
        )
    every = [_forest(parts["train"], parts["valid"], leaves, seed) for leaves in LEAVES]
    trees = min(every, key=lambda trees: trees.best_score["valid_0"]["cross_entropy"])
    known = ~np.isnan(labels(head, data.valid))
    margins = [
        trees.predict(_with_position(rows), raw_score=True) for rows in (data.valid.take(known), data.test)
    ]
    chance = fit_calibration(margins[0], labels(head, data.valid)[known])
    return measured(head, data.test, chance(margins[1])) | {f"{head}_leaves": trees.params["num_leaves"]}


def _forest(train: lightgbm.Dataset, valid: lightgbm.Dataset, leaves: int, seed: int) -> lightgbm.Booster:
    settings = {
        "objective": "cross_entropy", "learning_rate": 0.1, "num_leaves": leaves, "min_data_in_leaf": 50, "feature_fraction": 0.5,
        "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 1.0, "num_threads": 1, "verbose": -1, "seed": seed,
    }  # fmt: skip
    stop = lightgbm.early_stopping(20, verbose=False)
    return lightgbm.train(settings, train, 400, valid_sets=[valid], callbacks=[stop])


def _with_position(rows: RankingSet) -> Float32:
    return np.concatenate([rows.features, rows.position[:, None]], axis=1)


RANKED_FOR = {"choice": BY_CHOICE, "the page's weights": ObjectiveWeights()}


def two_stage(ranker: Ranker, lists: CandidateLists) -> dict[str, Float64]:
    """nDCG@20 (U,) of each user's candidates ranked for choice, and for the weights that a page has."""
    return {
        f"ranked for {what}": lists.scored(
            lambda m, s, weights=weights: objective(ranker.score(m, retrieval=s), weights)
        ).of_users["ndcg_at_20"]
        for what, weights in RANKED_FOR.items()
    }  # fmt: skip


def configs(heads: Sequence[str], seed: int, shadow_weight: float) -> list[RankerConfig]:
    """Every architecture, with first layers of the same size where there are three heads and choice."""
    every = 2 + len(heads) + 1  # experts of ple
    mixed = {"ple": 2, "mmoe": every, "shared_bottom": every}
    return [
        RankerConfig(seed=seed, shadow_weight=shadow_weight),
        *(
            RankerConfig.model_validate({"architecture": kind, "experts": n, "hidden": 64, "seed": seed})
            for kind, n in mixed.items()
        ),
    ]


def compared(
    data: Data, seeds: int, kinds: Sequence[str], shadow_weight: float, tell: Callable[[str], None]
) -> tuple[dict[str, list[Figures]], list[Ranker], list[dict[str, Float64]]]:
    """Figures of every model by seed, and of the default architecture the rankers and what they were to each user."""
    heads, rankers, of_users = data.learnable, [], []
    found: dict[str, list[Figures]] = {}
    for seed in range(seeds):
        for config in configs(heads, seed, shadow_weight):
            architecture = config.architecture
            if architecture not in kinds:
                continue
            ranker, figures = network(data, config, heads, data.choices)
            by_user = two_stage(ranker, data.lists)
            means = {how: float(values.mean()) for how, values in by_user.items()}
            found.setdefault(architecture, []).append(figures | means)
            if architecture == RankerConfig().architecture:
                rankers.append(ranker)
                of_users.append(by_user)
            tell(f"{architecture}, seed {seed}")
        alone: Figures = {}
        trees: Figures = {}
        for head in heads:
            alone |= single(data, rankers[-1].config, head)
            trees |= boosted(data, head, seed)
            tell(f"{head} alone, seed {seed}")
        found.setdefault("single task", []).append(alone)
        found.setdefault("LightGBM", []).append(trees)
    return found, rankers, of_users


def against_retriever(lists: CandidateLists, of_users: Sequence[Mapping[str, Float64]]) -> dict[str, object]:
    """Both stages beside the retriever's own order, on the same users; a user counts by the mean over seeds."""
    own = lists.scored(lambda _, scores: scores).of_users["ndcg_at_20"]
    said: dict[str, object] = {}
    for how in of_users[0]:
        ours = np.mean([one[how] for one in of_users], axis=0)
        found = compare(ours, own, np.random.default_rng(0))
        gap = found.difference
        print(
            f"{how}: {ours.mean():.4f} against {own.mean():.4f} as retrieved, "
            f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], p {found.p_value:.3f}"
        )
        said[how] = {"difference": gap.value, "low": gap.low, "high": gap.high, "p": found.p_value}
    return said


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error (0 of one value)."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(error)


def report(source: str, data: Data, found: Mapping[str, list[Figures]]) -> dict[str, object]:
    """Tables for people, and the same numbers."""
    names = [f"{head}_{measure}" for head in data.learnable for measure in MEASURES]
    summary = {
        model: {name: mean_and_error([f[name] for f in runs]) for name in runs[0]}
        for model, runs in found.items()
    }

    def shown(model: str, name: str) -> str:
        return "{:.4f} ± {:.4f}".format(*summary[model][name]) if name in summary[model] else ""

    print_table(
        f"{source}: {len(data.train):,} rows × {data.signature.width}, {len(data.test):,} test rows", ("measure", *found),
        [[name, *(shown(model, name) for model in found)] for name in names],
    )  # fmt: skip
    own = data.lists.measured(lambda _, s: s)["ndcg_at_20"]
    stages = {**data.popular, "retriever's own order": own}
    rows = [[how, f"{value:.4f}"] for how, value in stages.items()]
    rows += [
        [f"{model}, {how}", shown(model, how)]
        for model in found for how in map("ranked for {}".format, RANKED_FOR) if how in summary[model]
    ]  # fmt: skip
    print_table(f"{source}: nDCG@20 of {len(data.lists.found)} users", ("list", "nDCG@20"), rows)
    return {"rows": len(data.train), "heads": summary, "one_stage": stages}


def p50_ms(ways: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each way, by the clock and of this thread's CPU, one after the other in every round."""
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(rounds):
            for way, work in ways.items():
                began = time.perf_counter(), time.thread_time()
                work(number)
                spent[way].append((time.perf_counter() - began[0], time.thread_time() - began[1]))
    medians = {way: np.median(times[rounds // 10 :], axis=0) * 1000 for way, times in spent.items()}
    return {way: {"wall": float(wall), "cpu": float(cpu)} for way, (wall, cpu) in medians.items()}


def speed(source: str, ranker: Ranker, lists: CandidateLists, rounds: int = 400) -> dict[str, object]:
    """One user's candidates scored: plain, compiled, and the bare product of as large matrices."""
    titles = np.concatenate([one.title_ids for one in lists.found])
    ids, first = np.unique(titles, return_index=True)
    compiled = CompiledRanker.of(ranker).over(ids, np.concatenate(lists.features)[first])
    users = len(lists.found)
    given = [(lists.features[n], lists.found[n].title_ids, lists.found[n].scores) for n in range(users)]
    weight = ranker.network.entrance.first.weight.detach()
    matrix = torch.randn(len(given[0][0]), weight.shape[1])
    found = p50_ms({
        "plain module": lambda n: ranker.score(given[n % users][0], retrieval=given[n % users][2]),
        "compiled": lambda n: compiled.score(*given[n % users]),
        "bare first matrix product": lambda _: matrix @ weight.T,
    }, rounds)  # fmt: skip
    apart = max(
        float(np.abs(compiled.logits(m, t)[head] - logit).max())
        for m, t, _ in given[:50] for head, logit in ranker.logits(m).items()
    )  # fmt: skip
    shape = f"{len(matrix)} × {ranker.signature.width} features, {weight.shape[1]} inputs, {weight.shape[0]} outputs"
    print_table(
        f"{source}: {shape}, one thread", ("how", "p50 ms", "p50 ms of CPU"),
        [[how, f"{ms['wall']:.2f}", f"{ms['cpu']:.2f}"] for how, ms in found.items()],
    )  # fmt: skip
    print(f"largest difference of a logit between the two: {apart:.1e}")
    return {"p50_ms": found, "shape": [*matrix.shape, weight.shape[0]], "largest_difference": apart}


def main() -> None:
    """Measure, print, and end with RESULT."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("sources", nargs="*", default=["world", "kuairand", "movielens"])
    asked.add_argument("--seeds", type=int, default=3)
    kinds = [config.architecture for config in configs(HEADS, 0, 0.0)]
    asked.add_argument(
        "--kinds", nargs="*", default=kinds, choices=kinds, help="of networks, the default kind among them"
    )
    asked.add_argument(
        "--shadow-weight", type=float, default=RankerConfig().shadow_weight, help="of the default kind"
    )
    asked.add_argument("--rows", type=int, default=max(RANKING_ROWS.values()), help="training rows at most")
    given = asked.parse_args()
    use_threads(1)
    result = {}
    for source in given.sources:
        began = time.perf_counter()
        with opened(source) as day:
            data = gathered(day, given.rows)
        tell = lambda what: print(f"{time.perf_counter() - began:6.0f} s  {what}", flush=True)  # noqa: E731, B023
        tell(f"{source} gathered")
        found, rankers, of_users = compared(data, given.seeds, given.kinds, given.shadow_weight, tell)
        result[source] = report(source, data, found) | {
            "against_retriever": against_retriever(data.lists, of_users),
            "speed": speed(source, rankers[0], data.lists),
        }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
