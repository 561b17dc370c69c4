"""Weights in memory: a process that loads a model reads the file's pages, which all processes share."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mapped import tensor_of
from models.ranker import Ranker
from models.retrieval import Retriever


def test_an_array_that_lies_as_pytorchs_own_memory_does_is_used_as_it_lies():
    block = np.zeros(64, dtype=np.float32)
    start = -block.ctypes.data % 64 // 4
    assert tensor_of(block[start : start + 16]).data_ptr() == block[start:].ctypes.data
    copied = tensor_of(block[start + 1 : start + 17])
    assert copied.data_ptr() != block[start + 1 :].ctypes.data
    assert copied.data_ptr() % 64 == 0


@pytest.mark.parametrize("kind", [Ranker, Retriever])
def test_no_weight_of_a_loaded_model_is_a_copy_of_the_process(kind, ranker, retriever, tmp_path):
    model = {Ranker: ranker, Retriever: retriever}[kind]
    model.save(tmp_path / "m")
    loaded = kind.load(tmp_path / "m")
    modules = [loaded.network] if kind is Ranker else [loaded.towers.user, loaded.towers.title]
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    mapped = _addresses_of(tmp_path / "m" / "weights.safetensors")
    assert sum(map(torch.numel, tensors)) > 1000
    assert all(any(t.data_ptr() in block for block in mapped) for t in tensors if t.numel())


def _addresses_of(path):
    """Where in this process a mapped file lies (Linux, proc(5))."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    blocks = [re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line).groups() for line in lines]
    return [range(int(start, 16), int(end, 16)) for start, end in blocks]
