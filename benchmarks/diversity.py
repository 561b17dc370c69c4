"""Re-ranking 200 candidates into 40 places: how long it takes, and what variety costs on real lists.

Candidates and scores are those of a workspace's newest retriever for the judged users of its test period; a workspace
is copied before, since a ledger opened by newer code is migrated. One thread. The naive peer takes a determinant for
every candidate and place; the window and the weight that a page uses by default are chosen from the second table.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from matinee.datasets import retrieval_period
from matinee.figures import ParetoPoint, on_front, pareto_front
from matinee.session import opened, print_table
from models.data import Candidates, Float32, Int64
from models.diversity import Method, intra_list_diversity, rerank
from models.evaluate import histories_of, judged
from models.metrics import hits, ndcg_at
from models.retrieval import Retriever
from models.threads import use_threads

N, SIZE, BAR_MS = 200, 40, 2.0
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
WINDOWS = (None, 5, 10, 20)


@dataclass(frozen=True)
class Lists:
    """What the retriever found for each judged user, the vectors of what it found, and what they played."""

    source: str
    found: Sequence[Candidates]
    vectors: Sequence[Float32]
    relevant: Sequence[Int64]


def lists_of(source: str, users: int) -> Lists:
    """The candidates of the first judged users of a workspace's test period."""
    with opened(source) as day, tempfile.TemporaryDirectory() as folder:
        retriever = Retriever.load(day.registry.fetch("retriever", Path(folder)))
        period = retrieval_period(day.desk, day.split.test, day.split.as_of)
    scored = judged(period)
    rows, relevant = scored.users[:users], scored.relevant[:users]
    over = retriever.with_titles(period.title_ids, period.title_features)
    found = over.candidates_batch(period.user_features[rows], histories_of(period.histories, rows), N)
    return Lists(source, found, [over.title_vectors(one.title_ids) for one in found], relevant)


def naive(scores: NDArray[np.floating], vectors: Float32, size: int, weight: float) -> Int64:
    """Greedy MAP by a determinant for each candidate and place."""
    kernel = 0.999 * (1 + vectors.astype(np.float64) @ vectors.T) / 2 + 0.001 * np.eye(len(vectors))
    relevance = (1 - weight) * (scores - scores.min()) / (scores.max() - scores.min())
    chosen: list[int] = []
    for _ in range(size):
        rest = np.setdiff1d(np.arange(len(scores)), chosen)
        items = np.stack([np.array([*chosen, candidate]) for candidate in rest])
        logdet = np.linalg.slogdet(kernel[items[:, :, None], items[:, None, :]])[1]
        chosen.append(int(rest[np.argmax(relevance[rest] + weight * logdet)]))
    return np.array(chosen)


def milliseconds(once: Callable[[], object], times: int) -> NDArray[np.float64]:
    """How long each of `times` calls took."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        once()
        taken.append(1e3 * (time.perf_counter() - began))
    return np.array(taken)


def speed(lists: Lists, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds for one full list of candidates, by method."""
    place = next(i for i, one in enumerate(lists.found) if len(one.title_ids) == N)
    scores, vectors = lists.found[place].scores, lists.vectors[place]
    assert naive(scores, vectors, SIZE, 0.3).tolist() == rerank(scores, vectors, SIZE, 0.3).order.tolist()
    ways: dict[str, Callable[[], object]] = {
        "naive": lambda: naive(scores, vectors, SIZE, 0.3),
        "dpp": lambda: rerank(scores, vectors, SIZE, 0.3),
        "dpp, window 10": lambda: rerank(scores, vectors, SIZE, 0.3, "dpp", 10),
        "mmr": lambda: rerank(scores, vectors, SIZE, 0.3, "mmr"),
        "mmr, window 10": lambda: rerank(scores, vectors, SIZE, 0.3, "mmr", 10),
    }
    taken = {name: milliseconds(once, 3 if name == "naive" else times) for name, once in ways.items()}
    return {
        name: {"p50": float(np.median(ms)), "p10": float(np.quantile(ms, 0.1)), "p90": float(np.quantile(ms, 0.9))}
        for name, ms in taken.items()
    }  # fmt: skip


def measured(lists: Lists, weight: float, method: Method, window: int | None) -> dict[str, float]:
    """Means over users of nDCG and of the distance within the list, at 20 and 40; and within each run of 10."""
    rows = []
    for one, vectors, relevant in zip(lists.found, lists.vectors, lists.relevant, strict=True):
        order = rerank(one.scores, vectors, SIZE, weight, method, window).order
        hit, shown = hits(one.title_ids[order], relevant), vectors[order]
        near = np.mean([intra_list_diversity(shown[start : start + 10]) for start in range(len(shown) - 9)])
        rows.append([
            *(ndcg_at(hit, len(relevant), k) for k in (20, 40)), *(intra_list_diversity(shown[:k]) for k in (20, 40)), near,
        ])  # fmt: skip
    names = ("ndcg_at_20", "ndcg_at_40", "diversity_at_20", "diversity_at_40", "diversity_of_10")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def main() -> None:
    """Both tables for every source asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", default=["kuairand", "movielens"])
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--figures", type=Path, default=Path(".matinee"))
    asked = parser.parse_args()
    use_threads(1)
    result: dict[str, object] = {"n": N, "size": SIZE, "bar_ms": BAR_MS}
    for source in asked.sources:
        lists = lists_of(source, asked.users)
        taken = speed(lists, asked.times)
        print_table(f"{source}: {N} → {SIZE}, one thread, ms", ("way", "p10", "p50", "p90"),
                    [[name, ms["p10"], ms["p50"], ms["p90"]] for name, ms in taken.items()])  # fmt: skip
        found = {
            (method, window, weight): measured(lists, weight, method, window)
            for method, window in (*(("dpp", window) for window in WINDOWS), ("mmr", None), ("mmr", 10))
            for weight in WEIGHTS
        }
        points = {
            way: [ParetoPoint(weight, m["ndcg_at_20"], m["diversity_at_20"]) for (*of, weight), m in found.items() if tuple(of) == way]
            for way in dict.fromkeys(key[:2] for key in found)
        }  # fmt: skip
        print_table(f"{source}: {len(lists.found)} users, retriever's scores", ("method", "window", "weight", *next(iter(found.values())), "on front"),
                    [[method, window or "all", weight, *m.values(), "yes" if _front(points[method, window], weight) else ""]
                     for (method, window, weight), m in found.items()])  # fmt: skip
        asked.figures.mkdir(parents=True, exist_ok=True)
        picture = asked.figures / f"pareto-{source}.svg"
        picture.write_bytes(
            pareto_front(points["dpp", None], k=20, data=f"{source}, retriever's scores, dpp", simulated=source == "world")
        )  # fmt: skip
        print(f"figure: {picture}")
        result[source] = {
            "users": len(lists.found), "ms": taken,
            "pareto": [{"method": method, "window": window, "weight": weight, **m} for (method, window, weight), m in found.items()],
        }  # fmt: skip
        over = [name for name, ms in taken.items() if name != "naive" and ms["p50"] >= BAR_MS]
        print(f"bar of {BAR_MS:g} ms: {'missed by ' + ', '.join(over) if over else 'met by all of ours'}")
    print("RESULT " + json.dumps(result))


def _front(points: Sequence[ParetoPoint], weight: float) -> bool:
    return any(point.weight == weight for point in on_front(points))


if __name__ == "__main__":
    main()
