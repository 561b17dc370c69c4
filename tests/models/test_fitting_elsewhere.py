"""Training on another device than the processor: all that it needs is moved there, and it learns the same.

There is no GPU in the machines that run these tests, so the other device is a second memory: tensors whose device is `meta` by
name, whose numbers are real, and that will not be mixed with others, as PyTorch refuses an operation on tensors of two
devices. The processor computes what is computed there, so it can be compared to the last bit.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from models.devices import Hardware
from models.fitting import Verdict, fit
from models.network import RankerNetwork
from models.ranking_batches import lists_of, rows_of
from models.train_ranker import heads_in, inputs_of
from models.train_ranker import lesson_of as ranking_lesson
from models.train_retrieval import lesson_of as retrieval_lesson
from models.train_retrieval import new_towers

DEVICE = torch.device("meta")  # the only other name under which autograd works without such a device
_aten = torch.ops.aten
_CROSSES = {_aten._to_copy.default, _aten.copy_.default}
_LISTS = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_READS = {_aten._local_scalar_dense.default}


class Mixed(RuntimeError):
    """An operation on tensors of both memories."""


class _There(Tensor):
    """A tensor of the second memory, and the tensor that it is."""

    def __new__(cls, real):
        shape = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        made = Tensor._make_wrapper_subclass(cls, real.size(), **shape, device=DEVICE)
        made.numbers = real
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside `SecondMemory`")


class SecondMemory(TorchDispatchMode):
    """While it is entered there is a second memory, under the name of `DEVICE`.

    As on a GPU, numbers (tensors without dimensions) and the lists of rows that a tensor is indexed with may lie in memory.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {**(kwargs or {})}
        asked = given.get("device")
        if asked is not None:
            given["device"] = torch.device("cpu")
        tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, _There)]
        if there and func not in _CROSSES:
            _refuse_mixed(func, args[:1] if func in _LISTS else tensors)
        found = func(*_numbers(args), **_numbers(given))
        if func is _aten.copy_.default:
            return args[0]
        stays = asked == DEVICE if asked is not None else bool(there)
        if not stays or func in _READS:
            return found
        # what works in place gives back what it was given
        known = {id(tensor.numbers): tensor for tensor in there}
        return tree_map_only(
            Tensor, lambda made: known[id(made)] if id(made) in known else _There(made), found
        )


def _numbers(value):
    return tree_map_only(_There, lambda tensor: tensor.numbers, value)


def _refuse_mixed(func, tensors):
    here = [one for one in tensors if isinstance(one, Tensor) and not isinstance(one, _There) and one.ndim]
    if here:
        raise Mixed(f"{func}: in memory are {[tuple(one.shape) for one in here]}, the others are not.")


class SecondHardware(Hardware):
    """Training in the second memory, in float32."""

    def __init__(self):
        super().__init__(DEVICE)

    def autocast(self):
        """None: `meta` has no lower precision."""
        return torch.autocast("cpu", enabled=False)


def unfused(network):
    """PyTorch's fused step knows its devices by name."""
    return torch.optim.AdamW(network.parameters(), lr=1e-2)


def ranked(hardware, rows, choices, config):
    data, validation, lists = rows(600, seed=0), rows(300, seed=1, period=1), choices(90)
    standardiser = inputs_of(data, config)
    read, judged = (rows_of(some, standardiser, config) for some in (data, validation))
    heads = (*heads_in(read), "choice")
    torch.manual_seed(0)
    network = RankerNetwork(standardiser.width, heads, config)
    if network.parted:
        shares = torch.arange(standardiser.width) % 3 / 2
        network.heed({**dict.fromkeys(heads, shares), "play": 1 - shares})
    taught, held_out = (lists_of(part, standardiser) for part in (lists.train, lists.validation))
    lesson = ranking_lesson(read, judged, heads, config, taught, held_out)
    return network, fit(network, replace(lesson, optimizer=unfused), config, hardware, lambda _: None)


def retrieved(hardware, periods, config):
    torch.manual_seed(0)
    towers = new_towers(periods[:1], config)
    network = nn.ModuleDict({"user": towers.user, "title": towers.title})

    def judge(judged):  # it is in memory, where it will serve
        assert judged.user.taste.weight.device.type == "cpu"
        return Verdict(float(judged.user.taste.weight.detach().abs().sum()), {})

    lesson = retrieval_lesson(towers, periods[:1], judge, hardware)
    return network, fit(network, replace(lesson, optimizer=unfused), config, hardware, lambda _: None)


def same(one, other):
    assert one[1] == other[1]
    for name, value in one[0].state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, other[0].state_dict()[name]), name


@pytest.mark.parametrize("kind", ["separate", "shared_bottom", "mmoe", "ple"])
def test_a_ranker_trained_elsewhere_is_the_one_trained_in_memory(kind, rows, choices, ranker_config):
    config = ranker_config.model_copy(update={"architecture": kind, "levels": 2, "epochs": 2})
    with SecondMemory():
        other = ranked(SecondHardware(), rows, choices, config)
    same(other, ranked(Hardware(), rows, choices, config))


@pytest.mark.parametrize("negatives", [0, 50], ids=["whole catalogue", "sampled"])
def test_towers_trained_elsewhere_are_those_trained_in_memory(negatives, periods, retrieval_config):
    config = retrieval_config.model_copy(update={"negatives": negatives, "epochs": 2})
    with sdpa_kernel(SDPBackend.MATH):  # others add attention up in another order
        with SecondMemory():
            other = retrieved(SecondHardware(), periods, config)
        same(other, retrieved(Hardware(), periods, config))


def test_the_second_memory_refuses_what_a_gpu_would():
    with SecondMemory():
        here, there = torch.arange(3.0), torch.arange(3.0).to(DEVICE)
        assert ((there * 2)[here.long()] + torch.tensor(1.0)).cpu().tolist() == [1.0, 3.0, 5.0]
        with pytest.raises(Mixed, match=r"in memory are \[\(3,\)\]"):
            there + here
        with pytest.raises(Mixed):
            nn.functional.embedding(here.long(), there[:, None])
        with pytest.raises(RuntimeError, match="numpy"):
            np.asarray(there)
