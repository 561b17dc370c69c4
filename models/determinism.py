"""The same training twice gives the same weights, to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from models.devices import Hardware


def arithmetic(hardware: Hardware) -> dict[str, str]:
    """What decides in which order sums are taken, and how they are rounded.

    It is the number of threads, the processor's instructions, the device with its precision, and how many processes
    share a batch.
    """
    return {
        "threads": str(torch.get_num_threads()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": hardware.name,
        "processes": str(hardware.team.size),
    }


@contextmanager
def deterministic() -> Iterator[None]:
    """Have PyTorch take the way whose sums come in one order, where it has a faster one whose do not.

    On a CPU that is the gradient of indexing: with several threads rows are added as the threads come by. The same
    number of threads and the same kind of processor are still needed, as both decide how sums are split. On a GPU,
    cuBLAS needs a workspace of fixed size, which it reads from the environment when it is first used.

    PyTorch's other care, to fill memory that nothing has been written to yet, is left out: it is for finding programs
    that read such memory, and costs a twentieth of a step.

    Raises:
        RuntimeError: from within, for an operation that has no such way.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    care: Any = torch.utils.deterministic
    filled = care.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    care.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        care.fill_uninitialized_memory = filled
