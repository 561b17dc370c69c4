"""The one training loop, whatever is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from models import checkpoint
from models.checkpoint import Checkpoint
from models.determinism import arithmetic
from models.devices import Hardware
from models.parallel import Team
from models.progress import Epoch, Progress

Batch = TypeVar("Batch")


class Pace(Protocol):
    """The settings of the loop itself; every config of a trained network has them."""

    @property
    def epochs(self) -> int:
        """Passes over the training data at most."""

    @property
    def patience(self) -> int:
        """Epochs without a better score before stopping."""

    @property
    def max_grad_norm(self) -> float:
        """The gradient is clipped to this length."""

    @property
    def seed(self) -> int:
        """Of the order of batches and of everything drawn within them."""


class Verdict(NamedTuple):
    """What validation says of a network: `score`, of which more is better, and metrics for people."""

    score: float
    metrics: Mapping[str, float]


_NONE = Verdict(float("-inf"), {})


class Best(NamedTuple):
    """The epoch whose weights were kept, and what validation said of them."""

    epoch: int
    verdict: Verdict


@dataclass(frozen=True)
class Lesson(Generic[Batch]):
    """What one method brings to the loop.

    `batches` are those of one epoch, of each the share of one member of the team; their order and all else that members
    must agree on comes from the generator, which is the same for all. `loss` is one member's part of a batch's loss:
    the parts of all members add up to it.
    """

    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    batches: Callable[[np.random.Generator, Team], Iterator[Batch]]
    steps: int  # batches in an epoch
    loss: Callable[[nn.Module, Batch], Tensor]
    judge: (
        Callable[[nn.Module], Verdict] | None
    )  # of a network in memory, in evaluation mode; None likes the last best
    averaging: float = (
        0.0  # share that the average over steps keeps at each; 0 judges and keeps the weights themselves
    )


@dataclass(frozen=True)
class Notebook:
    """Where the state between two epochs is kept, and the run that it is of (settings, data, PyTorch, hardware)."""

    path: Path
    run: Mapping[str, str]

    @classmethod
    def at(cls, path: Path | None, config: BaseModel, hardware: Hardware, *data: Any) -> Notebook | None:
        """A notebook for the run that these make; none where it has no place."""
        if path is None:
            return None
        run = {
            "settings": config.model_dump_json(), "data": checkpoint.data_digest(*data), "torch": torch.__version__,
            **arithmetic(hardware),
        }  # fmt: skip
        return cls(path, run)

    def of(self, part: int) -> Notebook:
        """That of one part of the run, from 0; the first is kept where the whole is."""
        return replace(self, path=self.path.with_stem(f"{self.path.stem}-{part}")) if part else self


class Diverged(ArithmeticError):
    """A loss or a score that is no number: what came out would be no model."""

    def __init__(self, epoch: int, name: str, value: float) -> None:
        super().__init__(f"in epoch {epoch} the {name} is {value}; try a lower learning_rate.")


def fit(network: nn.Module, lesson: Lesson[Batch], pace: Pace, hardware: Hardware, progress: Progress,
        notebook: Notebook | None = None) -> Best:  # fmt: skip
    """Train `network` in place, leave it with the weights that validation liked best, and say which those are.

    for each epoch, until the score has not risen for `patience` epochs:
      for each batch x:
        1. this process's part of the loss         L = loss(θ, x)
        2. its gradient, added up over the team    g = Σ ∇L
        3. step on the clipped gradient            θ ← AdamW(θ, clip(g)), the rate on a cosine to 0
           and let the average follow              θ̄ ← a·θ̄ + (1 - a)·θ    (Polyak & Juditsky 1992)
      4. judge θ̄, and keep it where it is best
      5. write down where training stands

    What an epoch draws depends on nothing but the seed, the epoch's number and the process's, so a training that
    goes on from its notebook ends with the very bits of one that was never interrupted.

    Raises:
        Diverged: a loss or a score is no number.
        OtherRun: the notebook is of another run.
        DamagedCheckpoint: the notebook cannot be read.
    """
    training = _Training.begun(network, lesson, pace, hardware)
    if notebook and (found := checkpoint.read(notebook.path, notebook.run)):
        training.go_on(found)
        progress(training.report(pace, resumed=True))
    _refuse_different_starts(training.epoch, hardware.team)
    while training.epoch < pace.epochs and training.since_best < pace.patience:
        training.epoch += 1
        training.loss = _epoch(training, lesson, pace)  # 1, 2, 3
        training.weigh(_verdict(training, lesson))  # 4
        if notebook and hardware.team.leads:
            checkpoint.write(training.noted(notebook.run), notebook.path)  # 5
        progress(training.report(pace))
    network.load_state_dict(training.best)
    network.eval()
    return Best(training.best_epoch, training.best_verdict)


@dataclass
class _Training:
    """A training between two steps: all that changes while it runs."""

    network: nn.Module  # on the device
    average: nn.Module  # of the network over its steps; the network itself where there is no averaging
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    hardware: Hardware
    epoch: int = 0
    loss: float = float("nan")  # mean over the steps of the last epoch
    verdict: Verdict = _NONE
    best: dict[str, Tensor] = field(default_factory=dict)
    best_verdict: Verdict = _NONE
    best_epoch: int = 0
    since_best: int = 0  # epochs
    steps: int = 0

    @classmethod
    def begun(cls, network: nn.Module, lesson: Lesson[Any], pace: Pace, hardware: Hardware) -> _Training:
        working = hardware.worked_on(network)
        optimizer = lesson.optimizer(working)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, pace.epochs * lesson.steps)
        average = copy.deepcopy(working) if lesson.averaging else working
        return cls(working, average, optimizer, schedule, hardware.scaler(), hardware)

    def follow(self, averaging: float) -> None:
        """Let the average follow a step; of the first steps it keeps less, so that it soon forgets where it began."""
        self.steps += 1
        if self.average is self.network:
            return
        kept = min(averaging, self.steps / (10 + self.steps))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - kept)

    def weigh(self, verdict: Verdict) -> None:
        """Keep the weights if they are the best so far."""
        self.verdict, self.since_best = verdict, self.since_best + 1
        if verdict.score > self.best_verdict.score:
            self.best = {name: value.detach().clone() for name, value in self.average.state_dict().items()}
            self.best_verdict, self.best_epoch, self.since_best = verdict, self.epoch, 0

    def report(self, pace: Pace, *, resumed: bool = False) -> Epoch:
        return Epoch(self.epoch, pace.epochs, self.loss, dict(self.verdict.metrics), resumed)

    def noted(self, run: Mapping[str, str]) -> Checkpoint:
        """Everything that `go_on` needs."""
        optimizer = self.optimizer.state_dict()
        moments = {
            f"{i}.{name}": value for i, one in optimizer["state"].items() for name, value in one.items()
        }
        parts = {"network": self.network.state_dict(), "best": self.best, "optimizer": moments}
        if self.average is not self.network:
            parts["average"] = self.average.state_dict()
        state = {
            "epoch": self.epoch, "loss": self.loss, "since_best": self.since_best, "best_epoch": self.best_epoch,
            "steps": self.steps,
            "verdict": self.verdict._asdict(), "best_verdict": self.best_verdict._asdict(),
            "groups": optimizer["param_groups"], "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }  # fmt: skip
        tensors = {f"{part}.{name}": value for part, some in parts.items() for name, value in some.items()}
        return Checkpoint(run, tensors, state)

    def go_on(self, found: Checkpoint) -> None:
        """Stand where the checkpoint was written."""
        state = found.state
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(found, "optimizer").items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = value
        self.network.load_state_dict(_part(found, "network"))
        if self.average is not self.network:
            self.average.load_state_dict(_part(found, "average"))
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = _part(found, "best")
        self.verdict, self.best_verdict = Verdict(**state["verdict"]), Verdict(**state["best_verdict"])
        self.epoch, self.loss, self.since_best = state["epoch"], state["loss"], state["since_best"]
        self.best_epoch, self.steps = state["best_epoch"], state["steps"]


def _epoch(training: _Training, lesson: Lesson[Batch], pace: Pace) -> float:
    """One pass over the batches, steps 1 to 3; the mean loss over them."""
    hardware, network, scaler = training.hardware, training.network.train(), training.scaler
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    losses = []
    for batch in lesson.batches(_fresh_generator(pace, training.epoch, hardware.team), hardware.team):
        with hardware.autocast():
            loss = lesson.loss(network, hardware.moved(batch))  # 1
        training.optimizer.zero_grad()
        if loss.requires_grad:  # a small batch may have no share for this process
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # 2
        hardware.team.add_gradients(weights)
        scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(weights, pace.max_grad_norm)  # 3
        scaler.step(training.optimizer)
        scaler.update()
        training.schedule.step()
        training.follow(lesson.averaging)
        losses.append(loss.detach())
    whole = torch.stack(losses).double()
    hardware.team.add(whole)
    return _number(training.epoch, "loss", whole.mean().item())


def _verdict(training: _Training, lesson: Lesson[Any]) -> Verdict:
    """The leader's judgement of the network as it is now, the same for every member of the team."""
    if lesson.judge is None:
        return Verdict(float(training.epoch), {})
    said = {}
    if training.hardware.team.leads:
        said = lesson.judge(training.hardware.in_memory(training.average.eval()))._asdict()
    verdict = Verdict(**training.hardware.team.told(said))
    _number(training.epoch, "validation score", verdict.score)
    return verdict


def _fresh_generator(pace: Pace, epoch: int, team: Team) -> np.random.Generator:
    """For the order of an epoch, the same for the whole team; PyTorch's is seeded for this process alone."""
    own = np.random.SeedSequence([pace.seed, epoch, team.rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(own[0]))
    return np.random.default_rng([pace.seed, epoch])


def _refuse_different_starts(epoch: int, team: Team) -> None:
    """A member that does not see the leader's notebook would wait for the others for ever."""
    if (leaders := team.told({"epoch": epoch})["epoch"]) != epoch:
        raise RuntimeError(
            f"process {team.rank} stands after epoch {epoch}, the leading one after epoch {leaders}: "
            "all must see the same folder of checkpoints."
        )


def _number(epoch: int, name: str, value: float) -> float:
    if not math.isfinite(value):
        raise Diverged(epoch, name, value)
    return value


def _part(found: Checkpoint, part: str) -> dict[str, Tensor]:
    start = part + "."
    return {
        name.removeprefix(start): value for name, value in found.tensors.items() if name.startswith(start)
    }
