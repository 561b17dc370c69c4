import copy

import numpy as np
import pytest
import torch

from models.network import RankerNetwork
from models.selection import most, told
from models.settings import RankerConfig

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
    found = told(one, x, place, np.arange(5))
    for head in HEADS:
        wanted = np.abs(slopes(one, head)) * x.numpy().std(axis=0)
        np.testing.assert_allclose(found[head], wanted, rtol=1e-3)


def test_what_a_features_inputs_bring_is_added_up_before_it_is_compared():
    """Inputs 1 and 3 are of feature 1, and cancel."""
    one, (x, place) = straightened(network()), rows()
    slope = slopes(one, "play")
    x[:, 3] = -x[:, 1] * float(slope[1] / slope[3])
    found = told(one, x, place, np.array([0, 1, 2, 1, 3]))["play"]
    assert found.shape == (4,)
    assert found[1] < 1e-3 * found.max()


def test_what_all_rows_share_tells_nothing():
    one, (x, place) = straightened(network()), rows()
    x[:, 2] = 2.0
    assert told(one, x, place, np.arange(5))["retention"][2] < 1e-4


def test_the_parts_of_a_bent_network_add_up_to_its_logit():
    """Completeness of integrated gradients: with one feature that owns all inputs, what it brought is the logit itself."""
    one, (x, place) = network(), rows()
    with torch.no_grad():
        logit = one(x, place)["play"].numpy()
    assert told(one, x, place, np.zeros(5, np.int64))["play"] == pytest.approx([logit.std()], rel=0.05)


def test_the_most_are_kept_and_of_equals_the_first():
    weights = {
        "play": np.array([0.1, 3, 2, 3, 2], np.float32),
        "retention": np.array([5, 1, 0, 0, 0], np.float32),
    }
    assert {head: kept.tolist() for head, kept in most(weights, 3).items()} == {
        "play": [1, 2, 3],
        "retention": [0, 1, 2],
    }
    assert most(weights, 9)["play"].tolist() == [0, 1, 2, 3, 4]


def test_a_body_that_reads_some_inputs_never_learns_of_the_others():
    one, (x, place) = straightened(network()), rows()
    reads = {"play": torch.tensor([1, 1, 0, 0, 1]) > 0, "retention": torch.tensor([0, 0, 1, 1, 0]) > 0}
    one.read_only(reads)
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.001, weight_decay=0.1)
    before = one.entrance.first.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        logits = one(x, place)
        (logits["play"] ** 2 + logits["retention"] ** 2).sum().backward()
        optimizer.step()
    weight = one.entrance.first.weight.detach()
    whole = torch.stack([reads[head] for head in HEADS]).repeat_interleave(4, dim=0)
    assert (weight[~whole] == 0).all()
    assert (weight[whole] != before[whole]).all()
    other = x.clone()
    other[:, 2:4] += 5
    with torch.no_grad():
        assert torch.equal(one(other, place)["play"], one(x, place)["play"])
        assert not torch.equal(one(other, place)["retention"], one(x, place)["retention"])


@pytest.mark.parametrize("architecture", ["shared_bottom", "mmoe", "ple"])
def test_heads_that_share_a_body_cannot_read_features_of_their_own(architecture):
    with pytest.raises(ValueError, match="only `separate` ones"):
        network(architecture=architecture).read_only(dict.fromkeys(HEADS, torch.ones(5, dtype=torch.bool)))
