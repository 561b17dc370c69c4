"""The same training twice gives the same weights, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def arithmetic() -> dict[str, str]:
    """What decides in which order sums are taken here: the number of threads, and the processor's instructions."""
    return {"threads": str(torch.get_num_threads()), "cpu": torch.backends.cpu.get_cpu_capability()}


@contextmanager
def deterministic() -> Iterator[None]:
    """Have PyTorch take the way whose sums come in one order, where it has a faster one whose do not.

    On a CPU that is the gradient of indexing: with several threads rows are added as the threads come by. The same
    number of threads and the same kind of processor are still needed, as both decide how sums are split.

    Raises:
        RuntimeError: from within, for an operation that has no such way.
    """
    before = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # no operation here reads what none has written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling
