"""How many cores the numerical libraries of this package may use."""

from __future__ import annotations

import faiss
import torch


def use_threads(count: int) -> None:
    """Let PyTorch and faiss use `count` threads in this process; called once, where the process starts.

    A request is answered fastest on one. Training with another count adds in another order, so its weights
    differ in their last digits.
    """
    if count < 1:
        raise ValueError(f"use_threads({count}): at least one thread must do the work.")
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
