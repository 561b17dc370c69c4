"""Evaluate a model on the test period of its split, beside popularity, on the same users and titles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from events.sources import Source
from matinee.bench import Bench
from matinee.context import Day, fetched
from matinee.datasets import entity_matrix, play_log, retrieval_period
from matinee.evaluation import Evaluation
from matinee.lineage import as_metrics
from models import artifact
from models.data import Float32, Int64, RetrievalPeriod
from models.evaluate import (
    CandidateModel,
    Floats,
    ListScores,
    PlayLog,
    popular_lists,
    popularity,
    retrieved_lists,
    score_slice,
    slices_of,
)
from models.retrieval import KIND as RETRIEVER
from models.retrieval import Retriever
from models.uncertainty import Comparison, Estimate, comparisons, estimates
from registry import Metric

KS = (20, 200)
WINDOWS = (1, 7, 30)
"""Days that popularity is counted over, besides the source's own middle window and all time."""

Vectors = Callable[[Int64], Float32]


@dataclass(frozen=True)
class Lists:
    """Ranked title ids of every judged user, and what that takes to be read as measures."""

    period: RetrievalPeriod
    played: Int64  # titles of which a play was known at the period's start
    ks: tuple[int, ...]
    vectors: Vectors | None

    def measured(self, lists: Sequence[Int64]) -> dict[str, ListScores]:
        """The measures of one model's lists, by slice."""
        size = len(self.period.title_ids)
        return {
            part.name: score_slice(part, lists, size, self.ks, self.vectors)
            for part in slices_of(self.period, self.played)
        }


def popularity_lists(bench: Bench, period: RetrievalPeriod, known: PlayLog | None = None) -> dict[str, Int64]:
    """Titles by plays in each window, and by plays of all time, as they were `known` when the period began."""
    plays = known or play_log(bench.desk, period.as_of)
    return {
        name: popularity(plays, period.as_of, days, period.title_ids)
        for name, days in popularity_windows(bench.desk.source).items()
    }


def popularity_windows(source: Source) -> dict[str, int | None]:
    """The windows of popularity that models stand beside, in days by name; None is all time."""
    days = sorted({*WINDOWS, source.windows[2]})
    return {**{f"popularity_{d}d": d for d in days}, "popularity_ever": None}


def evaluate_lists_of(
    bench: Bench,
    ours: str,
    lists: Mapping[str, Sequence[Int64]],
    period: RetrievalPeriod,
    ks: tuple[int, ...],
) -> Evaluation:
    """Every model's lists of the judged users of `period`; `ours` is one of them, popularity is added."""
    k, plays = max(ks), play_log(bench.desk, period.as_of)
    popular = {
        name: popular_lists(ranking, period, k)
        for name, ranking in popularity_lists(bench, period, plays).items()
    }
    task = Lists(period, np.unique(plays.title_id), ks, content_vectors(bench, period))
    scores = {name: task.measured(found) for name, found in {**lists, **popular}.items()}
    return Evaluation(
        source=bench.desk.source.name,
        as_of=period.as_of,
        until=period.as_of + bench.desk.source.period,
        ours=ours,
        estimates={name: _estimates(of_slices) for name, of_slices in scores.items()},
        of_all={name: {s: dict(one.of_all) for s, one in of.items()} for name, of in scores.items()},
        comparisons={
            name: _comparisons(scores[ours], theirs) for name, theirs in scores.items() if name != ours
        },
        simulated=bench.simulated,
    )


def evaluate_retriever(
    bench: Bench, model: CandidateModel, period: RetrievalPeriod, ks: tuple[int, ...]
) -> Evaluation:
    """A retriever's lists over the whole catalogue of `period`."""
    return evaluate_lists_of(
        bench, "retriever", {"retriever": retrieved_lists(model, period, max(ks))}, period, ks
    )


def evaluation_metrics(evaluation: Evaluation) -> tuple[Metric, ...]:
    """What the ledger is to know of an evaluation: means over all users, a peer's under its name; recall by slice.

    A slice's figures are of ours and of the peers alike, `new_titles_recall` beside `popularity_7d_new_titles_recall`.
    """
    found: list[Metric] = []
    for name in evaluation.models:
        prefix = "" if name == evaluation.ours else f"{name}_"
        for part, measures in evaluation.estimates[name].items():
            whole = part == "all"
            values = {k: e.value for k, e in measures.items() if whole or k.startswith("recall_at_")}
            values |= dict(evaluation.of_all[name][part]) if whole else {}
            label = prefix if whole else f"{prefix}{part.replace(' ', '_')}_"
            found += as_metrics(values, evaluation.source, "test", label)
    judged = next(iter(evaluation.estimates[evaluation.ours]["all"].values())).users
    return (*found, Metric("judged_users", judged, dataset=evaluation.source, split="test"))


def content_vectors(bench: Bench, period: RetrievalPeriod) -> Vectors | None:
    """Unit vectors of what titles are (their slices and sketches), whoever plays them; None where nothing says it.

    They belong to no model, so the diversity of two models' lists can be compared.
    """
    service = bench.service("retrieval_title")
    told = [n for n, name in enumerate(service.digests) if ":in_" in name or ":sketch_" in name]
    if not told:
        return None
    ids, features = entity_matrix(bench.desk, service, period.as_of)
    values = np.nan_to_num(features[:, told])
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return lambda titles: values[np.searchsorted(ids, titles)]


def _estimates(of_slices: Mapping[str, ListScores]) -> dict[str, dict[str, Estimate]]:
    return {
        part: dict(zip(scores.of_users, estimates(_columns(scores), _generator()), strict=True))
        for part, scores in of_slices.items()
    }


def _comparisons(
    ours: Mapping[str, ListScores], theirs: Mapping[str, ListScores]
) -> dict[str, dict[str, Comparison]]:
    return {
        part: dict(
            zip(
                scores.of_users,
                comparisons(_columns(scores), _columns(theirs[part]), _generator()),
                strict=True,
            )
        )
        for part, scores in ours.items()
    }


def _columns(scores: ListScores) -> Floats:
    """(U, M), a column for each measure."""
    return np.column_stack(list(scores.of_users.values()))


def _generator() -> np.random.Generator:
    """The same resamples for every figure, so that they can be told again."""
    return np.random.default_rng(0)


def evaluate_version(day: Day, ref: str) -> Evaluation:
    """A retriever of the ledger on the test period of the day's split, as it could have been when that began.

    Raises:
        NotEvaluated: the version is of another kind of model.
    """
    version = day.registry.get(ref)
    folder = fetched(day, version.ref)
    if (kind := artifact.kind(folder)) != RETRIEVER:
        raise NotEvaluated(version.ref, kind)
    period = retrieval_period(day.desk, day.split.test, day.split.as_of)
    return evaluate_retriever(day.bench, Retriever.load(folder), period, KS)


class NotEvaluated(ValueError):
    """A model that makes no lists of a whole catalogue."""

    def __init__(self, ref: str, kind: str) -> None:
        super().__init__(
            f"{ref} is a {kind}; lists of the whole catalogue come from a {RETRIEVER}. "
            f"`matinee models report {ref}` shows what was measured when it was trained."
        )
