"""Where training computes. There is no GPU in the machines that run these tests: what needs one is not tested here (but see `test_fitting_elsewhere.py`)."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.determinism import arithmetic
from models.devices import Hardware, NoSuchDevice, hardware
from models.parallel import Team, process_group

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_gpu
@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_without_a_gpu_training_is_on_the_processor_in_float32(asked):
    assert hardware(asked) == Hardware(torch.device("cpu"), None, Team(0, 1))


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_with_what_would_work():
    with pytest.raises(NoSuchDevice, match=r"'cuda' is asked for.*sees no GPU; say 'auto' or 'cpu'"):
        hardware("cuda")


def test_a_device_of_another_name_is_refused_with_those_there_are():
    with pytest.raises(NoSuchDevice, match="no device 'tpu': there are auto, cpu and cuda"):
        hardware("tpu")


@dataclass(frozen=True)
class Inner:
    table: torch.Tensor
    rows: np.ndarray


@dataclass(frozen=True)
class Outer:
    inner: Inner
    labels: dict[str, torch.Tensor]
    weight: float
    derived: int = field(default=3)


def test_every_tensor_of_a_batch_moves_to_the_device_and_nothing_else_does():
    rows = np.arange(3)
    batch = Outer(Inner(torch.zeros(2), rows), {"play": torch.ones(4)}, 0.5)
    moved = Hardware(torch.device("meta")).moved(batch)
    assert moved.inner.table.device.type == moved.labels["play"].device.type == "meta"
    assert moved.inner.rows is rows
    assert (moved.weight, moved.derived) == (0.5, 3)
    assert Hardware().moved(batch) is batch


def test_a_network_is_worked_on_in_place_on_a_processor_and_as_a_copy_elsewhere():
    network = torch.nn.Linear(2, 2)
    assert Hardware().worked_on(network) is network
    assert Hardware().in_memory(network) is network
    other = Hardware(torch.device("meta")).worked_on(network)
    assert other.weight.device.type == "meta"
    assert network.weight.device.type == "cpu"


@pytest.mark.parametrize(("low", "scales"), [(None, False), (torch.bfloat16, False), (torch.float16, True)])
def test_gradients_are_scaled_in_float16_only(low, scales):
    assert Hardware(low=low).scaler().is_enabled() is scales


def test_what_decides_rounding_is_recorded():
    known = arithmetic(Hardware(low=torch.bfloat16, team=Team(1, 3)))
    assert known["device"] == "cpu, bfloat16"
    assert known["processes"] == "3"
    assert known["threads"] == str(torch.get_num_threads())
    assert set(known) == {"cpu", "device", "processes", "threads"}


@given(n=st.integers(0, 50), size=st.integers(1, 7))
def test_the_shares_of_a_team_are_all_rows_each_once_and_as_even_as_can_be(n, size):
    shares = [Team(rank, size).share(torch.arange(n)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_a_team_of_its_own_that_leads_and_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with process_group() as team:
        assert team == Team.here() == Team(0, 1)
        values = torch.tensor([1.5])
        team.add(values)
        team.wait()
        assert (values.item(), team.leads, team.told({"a": 1})) == (1.5, True, {"a": 1})
    assert not Team(1, 2).leads
