"""Weights as tensors over mapped arrays, where that changes no bit of what a network answers."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.arrays import ALIGNED


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The array itself as a tensor if it lies as PyTorch's memory does, else a copy that does."""
    tensor = torch.from_numpy(array)
    return tensor if tensor.data_ptr() % ALIGNED == 0 else tensor.clone()
