"""How two artifacts differ, and that training twice leaves no difference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.artifact import Artifact
from models.determinism import arithmetic, deterministic
from models.devices import Hardware
from models.difference import differences
from models.threads import use_threads


def artifact(kind="ranker", documents=None, **arrays):
    return Artifact(
        kind, {"weights": {name: np.asarray(values) for name, values in arrays.items()}}, documents or {}
    )


FLOATS = np.array([1.0, 2.0, np.nan, 4.0], dtype=np.float32)


def test_equal_artifacts_do_not_differ_whatever_they_hold():
    made = artifact(a=FLOATS, b=np.arange(3), documents={"config": {"seed": 0, "layers": [1, 2]}})
    assert differences(made, made) == ()
    again = artifact(a=FLOATS.copy(), b=np.arange(3), documents={"config": {"seed": 0, "layers": [1, 2]}})
    assert differences(made, again) == ()


@pytest.mark.parametrize(
    ("changed", "said", "largest", "share"),
    [
        ({"a": FLOATS + np.float32([0, 0.5, 0, -1])}, "weights.safetensors a: 50.0% of 4 values differ, by 1 at most", 1, 0.5),
        ({"a": np.float32([1, 2, 3, 4])}, "25.0% of 4 values differ, by inf at most", math.inf, 0.25),
        ({"a": FLOATS[:3]}, "float32[4] was recorded, float32[3] was made", None, None),
        ({"a": FLOATS.astype(np.float64)}, "float32[4] was recorded, float64[4] was made", None, None),
        ({"a": FLOATS, "b": [1]}, "weights.safetensors b: was not recorded", None, None),
        ({}, "weights.safetensors a: was recorded and is missing", None, None),
    ],
)  # fmt: skip
def test_arrays_differ_in_values_shape_type_or_by_being_there(changed, said, largest, share):
    (found,) = differences(artifact(a=FLOATS), artifact(**changed))
    assert said in str(found)
    assert (found.largest, found.share) == (largest, share)


@pytest.mark.parametrize(
    ("was", "now", "said", "largest"),
    [
        (
            {"m": {"auc": 0.5, "n": 3}},
            {"m": {"auc": 0.75, "n": 3}},
            "m.json auc: 0.5 was recorded, 0.75 was made",
            0.25,
        ),
        (
            {"m": ["play"]},
            {"m": ["play", "stay"]},
            "m.json: ['play'] was recorded, ['play', 'stay'] was made",
            None,
        ),
        ({"m": 1}, {}, "m.json: was recorded and is missing", None),
    ],
)
def test_documents_differ_at_the_key_that_does(was, now, said, largest):
    (found,) = differences(artifact(documents=was), artifact(documents=now))
    assert (str(found), found.largest) == (said, largest)


def test_a_model_of_another_kind_differs_in_that_and_nothing_else_is_looked_at():
    assert [str(d) for d in differences(artifact(a=FLOATS), artifact("retriever"))] == [
        "kind: ranker was recorded, retriever was made"
    ]


@given(st.lists(st.floats(width=32), min_size=1), st.data())
def test_one_bit_in_one_number_is_one_difference(values, data):
    recorded = np.array(values, dtype=np.float32)
    made = recorded.copy()
    place = data.draw(st.integers(0, len(values) - 1))
    made[place] = np.float32(0) if recorded[place] != 0 else np.float32(1e-45)
    (found,) = differences(artifact(a=recorded), artifact(a=made))
    assert found.share == 1 / len(values)


def gradient(rows, width=64):
    """Of a sum over an indexed table in which every row is asked for thousands of times."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, width, generator=generator, requires_grad=True)
    picked = torch.randint(0, 20, (rows,), generator=generator)
    weights = torch.randn(rows, width, generator=generator)
    (table[picked] * weights).sum().backward()
    return table.grad


def test_with_two_threads_the_gradient_of_indexing_is_the_same_every_time():
    before = torch.get_num_threads()
    use_threads(2)
    try:
        with deterministic():
            first = gradient(60_000)
            assert all(torch.equal(gradient(60_000), first) for _ in range(8))
        assert arithmetic(Hardware())["threads"] == "2"
    finally:
        use_threads(before)


def test_determinism_ends_with_the_block_even_when_it_fails():
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(AssertionError), deterministic():
        assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_determinism_fills_no_memory_for_nothing_and_leaves_the_callers_choice_alone():
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic():
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory
