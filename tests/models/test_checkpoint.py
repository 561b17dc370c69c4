"""How far a training has come, on disk."""

import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import checkpoint
from models.checkpoint import Checkpoint, OtherRun, data_digest

RUN = {"settings": "{}", "data": "abc", "threads": "1"}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    tensors = {
        "network.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "optimizer.0.step": torch.tensor(7.0),
        "network.rows": torch.tensor([1, -(2**40)]),
        "network.nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    state = {"epoch": 3, "loss": 0.1 + 0.2, "groups": [{"lr": 1e-3, "betas": [0.9, 0.999]}], "none": None}
    checkpoint.write(Checkpoint(RUN, tensors, state), tmp_path / "new" / "c")
    found = checkpoint.read(tmp_path / "new" / "c", RUN)
    assert found.state == state
    assert found.run == RUN
    assert {n: (t.shape, t.dtype, t.contiguous().numpy().tobytes()) for n, t in found.tensors.items()} == {
        n: (t.shape, t.dtype, t.contiguous().numpy().tobytes()) for n, t in tensors.items()
    }


def test_weights_that_share_their_memory_are_kept_too(tmp_path):
    tied = torch.arange(3.0)
    checkpoint.write(Checkpoint(RUN, {"a": tied, "b": tied, "c": tied[1:]}, {}), tmp_path / "c")
    found = checkpoint.read(tmp_path / "c", RUN).tensors
    assert {name: value.tolist() for name, value in found.items()} == {"a": [0, 1, 2], "b": [0, 1, 2], "c": [1, 2]}  # fmt: skip


def test_where_there_is_no_file_there_is_no_checkpoint(tmp_path):
    assert checkpoint.read(tmp_path / "c", RUN) is None


def test_a_checkpoint_takes_the_place_of_the_one_before_and_nothing_else_is_left(tmp_path):
    for epoch in (1, 2):
        checkpoint.write(Checkpoint(RUN, {}, {"epoch": epoch}), tmp_path / "c")
    assert checkpoint.read(tmp_path / "c", RUN).state == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_writer_that_dies_before_its_file_is_whole_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint.write(Checkpoint(RUN, {}, {"epoch": 1}), tmp_path / "c")

    def died(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", died)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(Checkpoint(RUN, {}, {"epoch": 2}), tmp_path / "c")
    assert checkpoint.read(tmp_path / "c", RUN).state == {"epoch": 1}


@pytest.mark.parametrize("name", RUN)
def test_what_makes_it_another_run_is_named(name, tmp_path):
    checkpoint.write(Checkpoint(RUN, {}, {}), tmp_path / "c")
    with pytest.raises(OtherRun, match=rf"another training \({name} {RUN[name]} there, 2 here\)"):
        checkpoint.read(tmp_path / "c", RUN | {name: "2"})
    with pytest.raises(OtherRun, match=rf"{name} {RUN[name]} there, unknown here"):
        checkpoint.read(tmp_path / "c", {key: value for key, value in RUN.items() if key != name})


@dataclass(frozen=True)
class Data:
    features: np.ndarray
    names: tuple[str, ...]


BASE = Data(np.arange(12, dtype=np.float32).reshape(6, 2), ("a", "b"))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(BASE, features=BASE.features[::-1]), id="order"),
        pytest.param(replace(BASE, features=BASE.features.reshape(3, 4)), id="shape"),
        pytest.param(replace(BASE, features=BASE.features.view(np.int32)), id="type"),
        pytest.param(replace(BASE, names=("ab", "")), id="names that join to the same"),
        pytest.param(replace(BASE, names=("a",)), id="fewer names"),
    ],
)
def test_other_data_has_another_digest(other):
    assert data_digest(other) != data_digest(BASE)


@given(values=arrays(np.float32, (5, 3), elements=st.floats(-4, 4, width=32)), data=st.data())
def test_one_number_makes_another_digest_and_the_same_numbers_the_same(values, data):
    changed = values.copy()
    place = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 2)))
    changed[place] = data.draw(st.floats(-4, 4, width=32))
    assert (data_digest(values) == data_digest(changed)) == (values.tobytes() == changed.tobytes())


def test_rows_in_a_file_have_the_digest_of_the_same_rows_in_memory(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40_000, 3)).astype(np.float32)
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=rows.shape)
    mapped[:] = rows
    assert data_digest(mapped) == data_digest(rows) == data_digest(np.asfortranarray(rows))
    mapped[39_999, 2] += 1
    assert data_digest(mapped) != data_digest(rows)
