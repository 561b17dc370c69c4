import copy

import numpy as np
import pytest
import torch

from models.network import RankerNetwork
from models.selection import Rounds, brought, eliminated, halved, most, told_lists, told_rows
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
    found = brought(one, HEADS, x, place, np.arange(5))
    for head in HEADS:
        wanted = np.abs(slopes(one, head)) * x.numpy().std(axis=0)
        np.testing.assert_allclose(told_rows(found[head]), wanted, rtol=1e-3)


def test_what_a_features_inputs_bring_is_added_up_before_it_is_compared():
    """Inputs 1 and 3 are of feature 1, and cancel."""
    one, (x, place) = straightened(network()), rows()
    slope = slopes(one, "play")
    x[:, 3] = -x[:, 1] * float(slope[1] / slope[3])
    found = told_rows(brought(one, HEADS, x, place, np.array([0, 1, 2, 1, 3]))["play"])
    assert found.shape == (4,)
    assert found[1] < 1e-3 * found.max()


def test_what_all_rows_share_tells_nothing():
    one, (x, place) = straightened(network()), rows()
    x[:, 2] = 2.0
    parts = brought(one, HEADS, x, place, np.arange(5))["retention"]
    assert told_rows(parts)[2] < 1e-4 < told_rows(parts)[1]


def test_the_parts_of_a_bent_network_add_up_to_what_its_logit_differs_by():
    """Completeness (Sundararajan et al., proposition 1), up to the error of eight steps."""
    one, (x, place) = network(), rows()
    with torch.no_grad():
        logit, start = one(x, place)["play"], one(0 * x, place)["play"]
    parts = brought(one, HEADS, x, place, np.arange(5))["play"]
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
        brought(one, HEADS, x, nowhere, np.arange(5))["play"][:, 0], (logit - start).numpy(), rtol=1e-3
    )


def test_what_all_titles_of_a_list_share_does_not_tell_which_is_chosen():
    """Two lists of up to three titles by hand: deviations from their own means 0 and 4, 4 and 2 and 6, over five titles."""
    parts = np.array([[[7, 0], [7, 8], [99, 99]], [[1, 6], [1, 4], [1, 8]]], np.float32)
    there = np.array([[True, True, False], [True, True, True]])
    wanted = [0.0, np.sqrt((2 * 4**2 + 2 * 2**2) / 5)]
    np.testing.assert_allclose(told_lists(parts, there), wanted, rtol=1e-6)


def test_the_most_are_kept_and_of_equals_the_first():
    weights = np.array([0.1, 3, 2, 3, 2], np.float32)
    assert most(weights, 3).tolist() == [1, 2, 3]
    assert most(weights, 9).tolist() == [0, 1, 2, 3, 4]


def test_each_heads_features_are_halved_by_what_tells_it_until_one_is_left():
    told = {"play": np.array([5, 4, 3, 2, 1], np.float32), "retention": np.array([1, 2, 3, 4, 5], np.float32)}
    reads = {}
    for play, retention in (([0, 1], [3, 4]), ([0], [4]), ([0], [4])):
        reads = halved(told, reads)
        assert {head: kept.tolist() for head, kept in reads.items()} == {"play": play, "retention": retention}


@pytest.mark.parametrize(("losses", "kept"), [
    ({"play": [3, 1, 2], "retention": [3, 2, 1]}, {"play": 1, "retention": 2}),
    ({"play": [1, 1, 1], "retention": [1, 2, 0.5]}, {"play": 0, "retention": 2}),
])  # fmt: skip
def test_a_head_is_that_of_the_round_with_its_least_loss(losses, kept):
    """Feature k owns inputs k and k + 2. Training puts the round's number into every weight that may be other than 0."""
    seen = []

    def train(one, number):
        seen.append({head: _inputs_read(one, k) for k, head in enumerate(HEADS)})
        with torch.no_grad():
            for weight in one.parameters():
                weight[weight != 0] = 10.0 + number

    rounds = Rounds(
        lambda: network(4), train, lambda one: {head: losses[head][len(seen) - 1] for head in HEADS},
        lambda one: {"play": np.array([2, 1], np.float32), "retention": np.array([1, 2], np.float32)},
        np.array([0, 1, 0, 1]),
    )  # fmt: skip
    found = eliminated(rounds, 2)
    everything, halves = {head: [0, 1, 2, 3] for head in HEADS}, {"play": [0, 2], "retention": [1, 3]}
    assert seen == [everything, halves, halves]
    for k, head in enumerate(HEADS):
        body = found.entrance.first.weight[4 * k : 4 * k + 4]
        assert set(body[body != 0].tolist()) == {10.0 + kept[head]}
        assert _inputs_read(found, k) == (everything if kept[head] == 0 else halves)[head]
        assert set(found.entrance.second[k].flatten().tolist()) == {10.0 + kept[head]}
        assert set(found.towers[head][2].weight.flatten().tolist()) == {10.0 + kept[head]}
    assert not found.training


def _inputs_read(one, k):
    return one.entrance.first.weight[4 * k : 4 * k + 4].any(dim=0).nonzero().squeeze(1).tolist()


def test_a_head_is_taken_with_its_table_of_places():
    one, other = network(), network()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1)
    x, place = rows()
    before = one(x, place + 1)["retention"]
    one.take("play", other)
    assert torch.equal(one(x, place + 1)["play"], other(x, place + 1)["play"])
    assert torch.equal(one(x, place + 1)["retention"], before)


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
