import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.network import RankerNetwork
from models.settings import RankerConfig
from models.shadows import bends_heeded, brought, heeded, of_inputs, shadows_of, told

HEADS = ("play", "retention")


def network(n_inputs=5, architecture="separate"):
    torch.manual_seed(0)
    return RankerNetwork(
        n_inputs, HEADS, RankerConfig(architecture=architecture, hidden=4, output=3, tower=2)
    ).eval()


def straightened(one):
    """All its units far above 0 for inputs near 0, so that every logit is linear in them."""
    with torch.no_grad():
        one.entrance.first.bias.fill_(50.0)
        one.entrance.second.abs_()
        one.entrance.second_bias.fill_(50.0)
        for tower in one.towers.values():
            tower[0].weight.abs_()
            tower[0].bias.fill_(50.0)
    return one


def rows(n=40, n_inputs=5):
    x = np.random.default_rng(3).normal(size=(n, n_inputs)).astype(np.float32)
    return torch.from_numpy(x), torch.zeros(n, dtype=torch.long)


def slopes(one, head):
    """Of a linear network, input by input: steps of 1 from nothing, in float64."""
    exact, nothing = copy.deepcopy(one).double(), torch.zeros(5).double()
    steps = torch.stack([nothing, *torch.eye(5).double()])
    with torch.no_grad():
        logits = exact(steps, torch.zeros(6, dtype=torch.long))[head].numpy()
    return logits[1:] - logits[0]


def test_of_a_linear_network_a_feature_is_told_by_its_weight_times_its_deviation():
    one, (x, place) = straightened(network()), rows()
    x[:, 1] *= 3
    found = told(one, x, place, np.arange(5), 5)
    for head in HEADS:
        wanted = np.abs(slopes(one, head)) * x.numpy().std(axis=0)
        np.testing.assert_allclose(found[head], wanted, rtol=1e-3)


def test_what_a_readings_inputs_bring_is_added_up_before_it_is_compared():
    """Inputs 1 and 3 are of reading 1, and cancel; readings without inputs say nothing."""
    one, (x, place) = straightened(network()), rows()
    slope = slopes(one, "play")
    x[:, 3] = -x[:, 1] * float(slope[1] / slope[3])
    found = told(one, x, place, np.array([0, 1, 2, 1, 5]), 7)["play"]
    assert found.shape == (7,)
    assert found[1] < 1e-3 * found.max()
    assert (found[[0, 2, 5]] > 0).all()
    assert not found[[3, 4, 6]].any()


def test_what_all_rows_share_tells_nothing():
    one, (x, place) = straightened(network()), rows()
    x[:, 2] = 2.0
    found = told(one, x, place, np.arange(5), 5)["retention"]
    assert found[2] < 1e-4 < found[1]


def test_the_parts_of_a_bent_network_add_up_to_what_its_logit_differs_by():
    """Completeness (Sundararajan et al., proposition 1), up to the error of eight steps."""
    one, (x, place) = network(), rows()
    with torch.no_grad():
        logit, start = one(x, place)["play"], one(0 * x, place)["play"]
    parts = brought(one, x, place, np.arange(5), 5)["play"]
    apart = parts.sum(axis=1) - (logit - start).numpy()
    assert apart.std() < 0.2 * logit.numpy().std()


def test_a_feature_that_counts_beyond_half_the_way_brings_half_a_slope():
    """All units of the first layer are max(0, x₀ - ½); what is above them is straight."""
    one = straightened(network())
    with torch.no_grad():
        one.entrance.first.weight.zero_()
        one.entrance.first.weight[:, 0] = 1
        one.entrance.first.bias.fill_(-0.5)
    x = torch.tensor([[1.0, 0, 0, 0, 0], [2.0, 0, 0, 0, 0]])
    nowhere = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        logit, start = one(x, nowhere)["play"], one(0 * x, nowhere)["play"]
    np.testing.assert_allclose(
        brought(one, x, nowhere, np.arange(5), 5)["play"][:, 0], (logit - start).numpy(), rtol=1e-3
    )


def test_a_feature_is_heeded_by_what_it_says_beyond_what_shadows_say():
    """The mean square of the shadows 1, 1, 3, 5 is 9; with a weight of 4 a feature that says 6 is heeded half."""
    told = np.array([[[0, 6, 3, 18]], [[1, 1, 3, 5]]], np.float32)
    np.testing.assert_allclose(heeded(told, 4.0), [[0, 36 / 72, 9 / 45, 324 / 360]], rtol=1e-6)


def test_each_reading_is_held_against_shadows_of_its_own_kind():
    """Features 0 and 2 are read in pieces; the mean square of their pieces' shadows is 5, of the numbers' 2."""
    own, shadows = [[2, 4, 0], [5, 0, 10]], [[1, 1, 2], [3, 0, 1]]
    found = heeded(np.array([own, shadows], np.float32), 1.0)
    np.testing.assert_allclose(found, [[4 / 6, 16 / 18, 0], [25 / 30, 0, 100 / 105]], rtol=1e-6)


def test_where_shadows_say_nothing_all_that_says_something_is_heeded():
    assert heeded(np.array([[[0, 1e-8, 2]], [[0, 0, 0]]], np.float32), 8.0).tolist() == [[0, 1, 1]]


def test_where_no_feature_says_anything_all_are_heeded():
    assert heeded(np.array([[[0, 0]], [[1, 2]]], np.float32), 8.0).tolist() == [[1, 1]]


def test_pieces_are_heeded_as_pieces_and_a_numbers_mark_as_the_number():
    """Of two features: their numbers, the first one's mark, a piece of the second and one of the first."""
    shares = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    found = of_inputs(shares, np.array([0, 1, 0, 3, 2]))
    np.testing.assert_array_equal(found, np.array([0.1, 0.2, 0.1, 0.4, 0.3], np.float32))


def test_pieces_are_read_where_some_head_heeds_them_by_half():
    play = np.array([[0.9, 0.9, 0.9, 0.9], [0.2, 0.5, 0.49, 0.0]], np.float32)
    retention = np.array([[0.1, 0.1, 0.1, 0.1], [0.6, 0.0, 0.49, 0.0]], np.float32)
    assert bends_heeded([play, retention]).tolist() == [0, 1]
    assert bends_heeded([play]).tolist() == [1]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 9))
def test_the_shadows_of_an_owners_rows_are_those_of_one_other_as_evenly_as_can_be(owner, seed):
    owner = np.array(owner)
    shadow = shadows_of(owner, np.random.default_rng(seed))
    others = {one: set(owner[shadow[owner == one]]) for one in set(owner.tolist())}
    assert all(len(other) == 1 for other in others.values())
    assert {other for (other,) in others.values()} == set(others)  # each is the shadow of one
    for one, (other,) in others.items():
        assert one != other or len(others) == 1
        rows, used = np.flatnonzero(owner == other), np.bincount(shadow[owner == one], minlength=len(owner))
        assert used[rows].max() - used[rows].min() <= 1


def test_whose_shadow_is_whose_and_in_which_order_is_chance():
    owner = np.repeat(np.arange(40), 5)
    one, other = (shadows_of(owner, np.random.default_rng(seed)) for seed in (0, 1))
    assert (owner[one] != owner[other]).any()
    assert len(np.unique(one % 5, return_counts=True)[1]) == 5
    assert np.abs(np.corrcoef(one % 5, np.arange(200) % 5)[0, 1]) < 0.3
    assert np.array_equal(one, shadows_of(owner, np.random.default_rng(0)))


def test_what_a_head_does_not_heed_its_body_never_learns_of():
    one, (x, place) = straightened(network()), rows()
    shares = {"play": torch.tensor([1, 1, 0, 0, 0.5]), "retention": torch.tensor([0, 0, 1, 0.2, 0])}
    one.heed(shares)
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.001, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits = one(x, place)
        (logits["play"] ** 2 + logits["retention"] ** 2).sum().backward()
        optimizer.step()
    one.settle()
    heeds = torch.stack([shares[head] for head in HEADS]).repeat_interleave(4, dim=0)
    assert torch.equal(one.entrance.first.weight.detach() != 0, heeds > 0)
    other = x.clone()
    other[:, 2:4] += 5
    with torch.no_grad():
        assert torch.equal(one(other, place)["play"], one(x, place)["play"])
        assert not torch.equal(one(other, place)["retention"], one(x, place)["retention"])


def test_settling_leaves_the_logits_as_they_are_and_nothing_to_heed_by():
    one, (x, place) = network(), rows()
    plain = one(x, place)["play"]
    one.heed(dict.fromkeys(HEADS, torch.tensor([1, 0.5, 0.1, 0.9, 0])))
    heeded_by, names = one(x, place)["play"], set(one.state_dict())
    one.settle()
    assert torch.equal(one(x, place)["play"], heeded_by)
    assert not torch.equal(plain, heeded_by)
    assert set(one.state_dict()) == names == set(network().state_dict())
    one.settle()
    assert torch.equal(one(x, place)["play"], heeded_by)


def test_a_weight_moves_by_its_share_of_a_step():
    """The first step of AdamW is as long as the rate, whatever the gradient."""
    one, (x, place) = straightened(network()), rows()
    shares = torch.tensor([1, 0.5, 0.1, 0.9, 0.7])
    one.heed(dict.fromkeys(HEADS, shares))
    start = (one.entrance.first.weight * shares).detach()
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.01, weight_decay=0.0, eps=1e-30)
    (one(x, place)["play"] + one(x, place)["retention"]).sum().backward()
    optimizer.step()
    one.settle()
    moved = (one.entrance.first.weight.detach() - start).abs()
    np.testing.assert_allclose(moved.numpy(), np.tile(0.01 * shares.numpy(), (8, 1)), rtol=1e-3)


def test_a_head_of_which_nothing_is_said_heeds_all_alike():
    one, (x, place) = network(), rows()
    before = one(x, place)
    one.heed({"play": torch.full((5,), 0.5)})
    assert torch.equal(one(x, place)["retention"], before["retention"])
    assert not torch.equal(one(x, place)["play"], before["play"])


@pytest.mark.parametrize("architecture", ["shared_bottom", "mmoe", "ple"])
def test_heads_that_share_a_body_cannot_heed_features_of_their_own(architecture):
    with pytest.raises(ValueError, match="only `separate` ones"):
        network(architecture=architecture).heed(dict.fromkeys(HEADS, torch.ones(5)))
