"""Training of both networks: minutes, the share of what the processor's matrix products can do, the price of equal bits.

Beside every step stand the bare matrix products of that very step, forward and backward, of the same shapes and layouts,
with nothing between them: what no training can be faster than here. `used` is their time over the step's. FLOPs are
those PyTorch's counter finds in a step. Beside the deterministic step stands the same step without
`torch.use_deterministic_algorithms`. Each case runs in a process of its own.

With one thread the clock of a step is the processor's, which does not run while others have the core; with more it is
the wall's. Whole trainings have both.

`--source kuairand` trains on a workspace whose features are computed (MATINEE_WORKSPACES); without it, data are random
numbers in KuaiRand's shapes, which say nothing about what is learnt, so all epochs are run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `matinee` does, before PyTorch reads it

import numpy as np
import torch
from one_process import in_its_own_process, measured, tell
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.data import Histories, RankingSet, RetrievalPeriod
from models.devices import Hardware
from models.fitting import Lesson, Verdict
from models.inputs import fit_standardiser
from models.network import RankerNetwork
from models.parallel import Team
from models.progress import Epoch
from models.ranking_batches import rows_of
from models.settings import RankerConfig, RetrievalConfig
from models.signature import Signature
from models.threads import use_threads
from models.train_ranker import heads_in, train_ranker
from models.train_ranker import lesson_of as ranking_lesson
from models.train_retrieval import lesson_of as retrieval_lesson
from models.train_retrieval import new_towers, train_retrieval

ROWS, WIDTH = {"train": 107_766, "valid": 26_000}, 594
USERS, TITLES, USER_WIDTH, TITLE_WIDTH, PLAYS, PERIODS = 27_285, 7_583, 82, 64, 16_000, 7
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default,
            torch.ops.aten.baddbmm.default}  # fmt: skip


# --- data


def ranking_rows(rows: int, period: int, folder: Path | None) -> RankingSet:
    """Random rows in KuaiRand's shape, a tenth of the values null, in memory or in a file."""
    rng = np.random.default_rng(period)
    features = (
        np.empty((rows, WIDTH), np.float32) if folder is None
        else np.asarray(np.memmap(folder / f"rows{period}", np.float32, "w+", shape=(rows, WIDTH)))
    )  # fmt: skip
    for start in range(0, rows, 8192):
        block = rng.standard_normal(features[start : start + 8192].shape, dtype=np.float32)
        block[:, ::2] = np.exp(2 * block[:, ::2])  # as many heavy tails as there are
        block[rng.random(block.shape) < 0.1] = np.nan
        features[start : start + 8192] = block
    play = (rng.random(rows) < 0.4).astype(np.float32)
    share = np.where(play > 0, rng.random(rows, dtype=np.float32), np.float32("nan"))
    stays = (rng.random(rows) < 0.7).astype(np.float32)
    unknown = np.full(rows, np.nan, np.float32)
    ids = np.arange(rows)
    return RankingSet(features, play, share, stays, unknown, ids % 5000, ids, np.full(rows, period))


def periods() -> list[RetrievalPeriod]:
    """Random label periods in KuaiRand's shapes, the last for validation."""
    return [_period(number) for number in range(PERIODS)]


def _period(number: int) -> RetrievalPeriod:
    rng = np.random.default_rng(number)
    lengths = rng.integers(0, 60, USERS)
    titles = (TITLES * rng.random(int(lengths.sum())) ** 3).astype(
        np.int64
    )  # some are watched far more than others
    return RetrievalPeriod(
        datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
        np.arange(USERS), rng.standard_normal((USERS, USER_WIDTH), dtype=np.float32),
        Histories(np.concatenate([[0], np.cumsum(lengths)]), titles),
        np.arange(TITLES), rng.standard_normal((TITLES, TITLE_WIDTH), dtype=np.float32),
        rng.integers(0, USERS, PLAYS), (TITLES * rng.random(PLAYS) ** 3).astype(np.int64),
    )  # fmt: skip


def signature(width: int) -> Signature:
    """Names for so many columns."""
    return Signature(tuple(f"f{i}" for i in range(width)), tuple(f"d{i}" for i in range(width)))


def ranking_data(source: str, folder: Path | None) -> tuple[RankingSet, RankingSet]:
    """Training and validation rows, of a workspace or random."""
    if source == "random":
        return tuple(ranking_rows(rows, n, folder) for n, rows in enumerate(ROWS.values()))  # type: ignore[return-value]
    from dataclasses import replace  # noqa: PLC0415

    from matinee.datasets import ranking_set  # noqa: PLC0415  (brings Feast, which random data do without)
    from matinee.recipes import RANKING_ROWS  # noqa: PLC0415
    from matinee.session import opened  # noqa: PLC0415

    with opened(source) as day:
        desk, split = replace(day.desk, scratch=folder), day.split
        return tuple(
            ranking_set(desk, split, some, RANKING_ROWS[name], 0)[0]
            for name, some in (("train", split.train), ("valid", [split.valid]))
        )  # type: ignore[return-value]


def retrieval_data(source: str) -> list[RetrievalPeriod]:
    """Training periods and the one for validation, of a workspace or random."""
    if source == "random":
        return periods()
    from matinee.datasets import retrieval_period  # noqa: PLC0415
    from matinee.session import opened  # noqa: PLC0415

    with opened(source) as day:
        split = day.split
        return [retrieval_period(day.desk, period, split.as_of) for period in (*split.train, split.valid)]


# --- what a step costs


@dataclass
class Products(TorchDispatchMode):
    """Notes every matrix product that runs under it."""

    found: list[tuple[Any, list[Tensor]]]

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.found.append((func, [_like(one) for one in args if isinstance(one, Tensor)]))
        return func(*args, **(kwargs or {}))


def _like(tensor: Tensor) -> Tensor:
    """Random numbers in the same shape and layout."""
    spread = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    if len(spread) < tensor.dim():  # a bias, read by every row
        return torch.randn([n if stride else 1 for n, stride in zip(tensor.shape, tensor.stride(), strict=True)]).expand(tensor.shape)  # fmt: skip
    made = torch.empty_strided(tensor.shape, tensor.stride())
    return made.copy_(torch.randn(tensor.shape))


@dataclass(frozen=True)
class Step:
    """One step of a training, as its loop takes it, on batches made before."""

    network: nn.Module
    lesson: Lesson[Any]
    batches: Sequence[Any]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, network: nn.Module, lesson: Lesson[Any], n: int) -> Step:
        """With the first `n` batches of an epoch."""
        made = list(islice(lesson.batches(np.random.default_rng(0), Team()), n))
        return cls(network.train(), lesson, made, lesson.optimizer(network))

    def gradient(self, batch: Any) -> None:
        """Loss and gradient."""
        self.optimizer.zero_grad()
        self.lesson.loss(self.network, batch).backward()  # type: ignore[no-untyped-call]

    def take(self, batch: Any) -> None:
        """All of a step."""
        self.gradient(batch)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    """Once, by the processor's clock if one thread works, else by the wall's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    work()
    return clock() - began


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """With or without equal bits."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def steps(step: Step, rounds: int) -> dict[str, float]:
    """Medians over rounds that take each side in turn: milliseconds of a step, without equal bits, of its products."""
    with deterministic(True), FlopCounterMode(display=False) as flops, Products() as products:
        step.gradient(step.batches[0])
    took: dict[str, list[float]] = {"step": [], "free": [], "products": [], "batch": []}
    fresh = step.lesson.batches(np.random.default_rng(1), Team())
    for number in range(rounds):
        batch = step.batches[number % len(step.batches)]
        for name, wanted in (("step", True), ("free", False)):
            with deterministic(wanted):
                took[name].append(seconds(lambda batch=batch: step.take(batch)))  # type: ignore[misc]
        took["products"].append(seconds(lambda: [func(*args) for func, args in products.found]))
        took["batch"].append(seconds(lambda: next(fresh, None)))
    typical = {name: statistics.median(values[2:]) for name, values in took.items()}
    work = flops.get_total_flops()
    return {
        **{f"{name}_ms": value * 1e3 for name, value in typical.items()},
        "step_gflop": work / 1e9, "gflop_s": work / typical["step"] / 1e9,
        "products_gflop_s": work / typical["products"] / 1e9, "used": typical["products"] / typical["step"],
        "determinism": typical["step"] / typical["free"],
    }  # fmt: skip


# --- cases, each in a process of its own


def _ranker(source: str) -> tuple[Callable[[Callable[[Epoch], None]], Any], Step, int]:
    train, validation = ranking_data(source, None)
    config = RankerConfig(patience=99) if source == "random" else RankerConfig()
    standardiser = fit_standardiser(train.features)
    rows = rows_of(train, standardiser, config)
    network = RankerNetwork(standardiser.width, heads_in(rows), config)
    lesson = ranking_lesson(rows, rows_of(validation, standardiser, config), network.heads, config)
    run = lambda told: train_ranker(train, validation, config, signature(train.features.shape[1]), told)  # noqa: E731
    return run, Step.of(network, lesson, 8), len(train)


def _retriever(source: str) -> tuple[Callable[[Callable[[Epoch], None]], Any], Step, int]:
    *train, validation = retrieval_data(source)
    config = RetrievalConfig(patience=99) if source == "random" else RetrievalConfig()
    towers = new_towers(train, config)
    network = nn.ModuleDict({"user": towers.user, "title": towers.title})
    lesson = retrieval_lesson(towers, train, lambda _: Verdict(0.0, {}), Hardware())
    signatures = signature(validation.user_features.shape[1]), signature(validation.title_features.shape[1])
    run = lambda told: train_retrieval(train, validation, config, *signatures, told)  # noqa: E731
    return run, Step.of(network, lesson, 8), sum(len(period.play_user) for period in train)


CASES = {"ranker": _ranker, "retriever": _retriever}


def train_case(what: str, source: str, threads: int, rounds: int) -> dict[str, Any]:
    """A whole training with the clock read after every epoch, and what a step of it costs."""
    use_threads(threads)
    run, step, rows = CASES[what](source)
    now = lambda: (time.perf_counter(), time.process_time())  # noqa: E731
    clocks = [now()]
    run(lambda _: clocks.append(now()))
    total, cpu = np.subtract(now(), clocks[0])
    epochs = np.diff(np.array(clocks), axis=0)
    epoch, epoch_cpu = np.median(epochs[1:] if len(epochs) > 1 else epochs, axis=0)
    return {
        "model": what, "threads": threads, "rows": rows, "epochs": len(epochs), "steps": step.lesson.steps,
        "total_s": float(total), "total_cpu_s": float(cpu), "epoch_s": float(epoch), "epoch_cpu_s": float(epoch_cpu),
        "rows_s": rows / float(epoch), **steps(step, rounds),
    }  # fmt: skip


@contextmanager
def anonymous_memory() -> Iterator[list[float]]:
    """What this process holds beyond files that it maps, in MB, every 10 ms: the kernel cannot drop that."""
    held: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            status = Path("/proc/self/status").read_text()
            held.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield held
    finally:
        over.set()
        watching.join()


def memory_case(source: str, where: str) -> dict[str, float]:
    """One epoch of the ranker on rows in memory or on disk: the most it held beyond libraries."""
    use_threads(1)
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("MATINEE_WORKSPACES")) as folder,
        anonymous_memory() as held,
    ):
        time.sleep(0.1)
        began = held[-1]
        train, validation = ranking_data(source, Path(folder) if where == "disk" else None)
        made = max(held)
        features = signature(train.features.shape[1])
        held.clear()
        train_ranker(train, validation, RankerConfig(epochs=1), features)
        return {
            "matrix_mb": (train.features.nbytes + validation.features.nbytes) / 2**20,
            "making_mb": made - began, "training_mb": max(held) - began,
        }  # fmt: skip


def main(asked: argparse.Namespace) -> None:
    """Every case, a line each, then all of them for a program."""
    said: list[dict[str, Any]] = []
    print(f"{'':10} {'threads':>7} {'rows':>8} {'epochs':>6} {'total':>7} {'of CPU':>7} {'epoch':>7} {'rows/s':>8} {'step':>8} {'batch':>7} "
          f"{'GFLOP/s':>8} {'bare':>6} {'used':>5} {'determinism':>11}")  # fmt: skip
    for what in CASES:
        for threads in asked.threads:
            found = in_its_own_process(
                Path(__file__), "--case", what, "--threads", str(threads), "--source", asked.source,
                "--rounds", str(asked.rounds),
            ).told  # fmt: skip
            said.append(found)
            print(
                f"{what:10} {threads:7} {found['rows']:8,} {found['epochs']:6} {found['total_s']:6.1f}s "
                f"{found['total_cpu_s']:6.1f}s {found['epoch_s']:6.2f}s "
                f"{found['rows_s']:8,.0f} {found['step_ms']:6.1f}ms {found['batch_ms']:5.1f}ms {found['gflop_s']:8.1f} "
                f"{found['products_gflop_s']:6.1f} {found['used']:5.0%} {found['determinism']:10.2f}×", flush=True,
            )  # fmt: skip
    memory = {}
    for where in ("memory", "disk"):
        memory[where] = in_its_own_process(Path(__file__), "--case", where, "--source", asked.source).told
        print(f"ranker's rows in {where}: {memory[where]['matrix_mb']:,.0f} MB of features; at most "
              f"{memory[where]['making_mb']:,.0f} MB held while they are made, {memory[where]['training_mb']:,.0f} MB while trained on")  # fmt: skip
    print(
        "RESULT "
        + json.dumps({"benchmark": "training", "data": asked.source, "cases": said, "memory": memory})
    )


def _arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "--source", default="random", help="a source with a computed workspace, or random numbers"
    )
    asked.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    asked.add_argument("--rounds", type=int, default=40)
    asked.add_argument("--case", help=argparse.SUPPRESS)
    return asked.parse_args()


if __name__ == "__main__":
    given = _arguments()
    if given.case in CASES:
        tell(measured(lambda: train_case(given.case, given.source, given.threads[0], given.rounds)))
    elif given.case:
        tell(measured(lambda: memory_case(given.source, given.case)))
    else:
        main(given)
    sys.exit(0)
