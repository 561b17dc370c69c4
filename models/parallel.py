"""Training by several processes at once, each with its share of every batch (data parallelism)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """The processes that train one model, as one of them sees it: it is number `rank` of `size`.

    All hold the same weights and go through the same batches. What one computes is its part of a sum.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """The team of this process: itself alone outside `process_group`."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def leads(self) -> bool:
        """Whether this is the one that reports, writes checkpoints and registers."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Every `size`-th of `rows`; the shares of all members are the rows, each once."""
        return rows[self.rank :: self.size]

    def add(self, values: Tensor) -> None:
        """Replace `values` by their sum over all members, the same to the last bit for each."""
        if self.size > 1:
            dist.all_reduce(values)

    def add_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replace every weight's gradient by its sum, all in one message; one that nobody has stays None."""
        if self.size == 1:
            return
        held = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        message = torch.cat([held, *(part.flatten() for part in parts)])
        self.add(message)
        holders, *sums = torch.split(message, [len(weights), *(weight.numel() for weight in weights)])
        for weight, total, count in zip(weights, sums, holders.tolist(), strict=True):
            weight.grad = total.view_as(weight) if count else None

    def told(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The leader's `document`, a JSON value, for every member; that of the others is not looked at."""
        if self.size == 1:
            return dict(document)
        said = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        length = torch.tensor([len(said)])
        dist.broadcast(length, src=0)
        heard = said if self.leads else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(heard, src=0)
        found: dict[str, Any] = json.loads(heard.numpy().tobytes())
        return found

    def wait(self) -> None:
        """Go on when every member has come this far."""
        self.add(torch.zeros(1))


@contextmanager
def process_group() -> Iterator[Team]:
    """The team that `torchrun` started this process in, joined until the block ends; without it, this process alone.

    What lies in memory is added by gloo, what lies on GPUs by NCCL.
    """
    if not dist.is_torchelastic_launched():
        yield Team()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Team.here()
    finally:
        dist.destroy_process_group()
