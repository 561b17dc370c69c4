import numpy as np
import pytest
import torch

from models.network import Layout, RankerNetwork, layout_of, places
from models.settings import RankerConfig

HEADS = ("play", "retention")
KINDS = ("separate", "shared_bottom", "mmoe", "ple")
NOWHERE = torch.zeros(7, dtype=torch.long)


def made(heads=HEADS, n_inputs=6, **settings):
    torch.manual_seed(0)
    config = RankerConfig(**{"experts": 3, "hidden": 4, "output": 5, "tower": 2} | settings)
    network = RankerNetwork(n_inputs, heads, config).eval()
    with torch.no_grad():  # biases that start at zero would hide that one is forgotten
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        network.examination.weight[0] = network.selection.weight[0] = 0
    return network


def by_hand(entrance, x):
    """The mixture of every reader for one row x (I,), as the papers write it."""
    count, hidden, _ = entrance.second.shape
    weight, bias = entrance.first.weight, entrance.first.bias
    experts = []
    for e in range(count):
        rows = slice(e * hidden, (e + 1) * hidden)
        below = torch.relu(weight[rows] @ x + bias[rows])
        experts.append(torch.relu(entrance.second[e].T @ below + entrance.second_bias[e, 0]))
    if entrance.only:
        return [experts[e] for e in entrance.only]
    mixtures = []
    for k in range(entrance.readers):
        start = count * hidden + k * count
        logits = weight[start : start + count] @ x + bias[start : start + count]
        mixtures.append(weighed(experts, logits, entrance.closed[k, 0]))
    return mixtures


def above_by_hand(level, below):
    """The mixtures of a level that reads the mixtures `below`, one a reader."""
    experts = []
    for e, owner in enumerate(level.owner):
        hidden = torch.relu(level.first[e].T @ below[owner] + level.first_bias[e, 0])
        experts.append(torch.relu(level.second[e].T @ hidden + level.second_bias[e, 0]))
    return [
        weighed(experts, level.gates[k].T @ below[k] + level.gates_bias[k, 0], level.closed[k, 0])
        for k in range(len(level.gates))
    ]


def weighed(experts, logits, closed):
    readable = [e for e in range(len(experts)) if not closed[e]]
    shares = torch.softmax(logits[readable], dim=0)
    return sum(share * experts[e] for share, e in zip(shares, readable, strict=True))


def assert_as_by_hand(network):
    x = torch.randn(7, 6)
    logits = network(x, NOWHERE)
    for row in range(7):
        mixtures = by_hand(network.entrance, x[row])
        for level in network.extractions:
            mixtures = above_by_hand(level, mixtures)
        for k, head in enumerate(network.heads):
            assert logits[head][row].item() == pytest.approx(
                network.towers[head](mixtures[k]).item(), abs=1e-5
            )


def test_experts_are_mixed_for_each_head_as_the_paper_writes_it():
    assert_as_by_hand(made(architecture="mmoe"))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_extraction_is_progressive_as_the_paper_writes_it(levels):
    assert_as_by_hand(made(architecture="ple", experts=2, own_experts=2, levels=levels))


def test_of_ple_a_head_reads_the_shared_experts_and_its_own():
    config = RankerConfig(architecture="ple", experts=2, own_experts=1)
    open_, shut = True, False
    assert layout_of(HEADS, config) == Layout(
        HEADS,
        (2, 2, 0, 1),
        ((open_, open_, open_, shut), (open_, open_, shut, open_)),
    )


def test_below_another_level_the_shared_experts_have_a_reader_of_all():
    layout = layout_of(HEADS, RankerConfig(architecture="ple", experts=2, own_experts=1), last=False)
    assert layout.readers == (*HEADS, "shared")
    assert layout.reach[-1] == (True,) * 4


def test_of_mmoe_every_head_reads_every_expert():
    layout = layout_of(HEADS, RankerConfig(architecture="mmoe", experts=3))
    assert layout.reach == ((True,) * 3,) * 2


@pytest.mark.parametrize("levels", [1, 2])
def test_another_heads_own_expert_has_no_part_in_a_head(levels):
    network = made(architecture="ple", experts=2, own_experts=1, levels=levels, tower=8)
    logits = network(torch.randn(200, 6), torch.zeros(200, dtype=torch.long))
    (gradient,) = torch.autograd.grad(logits["play"].sum(), network.entrance.second)
    assert gradient.abs().sum(dim=(1, 2)).gt(0).tolist() == [True, True, True, levels == 2]
    # with two levels the shared experts above read the other's own expert below; what is above is the other's alone
    if levels == 2:
        logits = network(torch.randn(200, 6), torch.zeros(200, dtype=torch.long))
        (gradient,) = torch.autograd.grad(logits["play"].sum(), network.extractions[0].second)
        assert gradient.abs().sum(dim=(1, 2)).gt(0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("heads", [HEADS, ("play", "completion", "retention", "choice")])
def test_of_separate_bodies_each_head_reads_its_own_and_there_are_no_gates(heads):
    network = made(heads, architecture="separate")
    assert network.entrance.only == list(range(len(heads)))
    assert network.entrance.first.out_features == 4 * len(heads)
    assert_as_by_hand(network)


def test_separate_bodies_share_no_weight():
    network = made(architecture="separate", tower=8)
    for place, head in enumerate(HEADS):
        logit = network(torch.randn(200, 6), torch.zeros(200, dtype=torch.long))[head].sum()
        first, second = torch.autograd.grad(logit, (network.entrance.first.weight, network.entrance.second))
        reached = first.view(2, 4, 6).abs().sum(dim=(1, 2)).gt(0), second.abs().sum(dim=(1, 2)).gt(0)
        assert [found.tolist() for found in reached] == [[place == of for of in range(2)]] * 2


def test_readers_with_several_experts_mix_them_even_where_another_has_one():
    assert layout_of(HEADS, RankerConfig(architecture="ple")).only == []
    assert Layout(HEADS, (0, 1), ((True, True), (False, True))).only == []


def test_one_body_is_read_by_all_heads_and_has_no_gates():
    network = made(architecture="shared_bottom")
    assert network.entrance.first.out_features == 3 * 4
    assert_as_by_hand(network)


def test_one_body_has_about_as_many_weights_as_the_experts_it_replaces():
    def size(architecture):
        entrance = RankerNetwork(500, ("play",), RankerConfig(architecture=architecture)).entrance
        return entrance.first.weight.numel() + entrance.second.numel()

    assert size("mmoe") <= 1.01 * size("shared_bottom") <= 1.3 * size("mmoe")


def test_a_single_head_of_any_kind_can_stand_alone():
    for architecture in KINDS:
        network = made(heads=("retention",), architecture=architecture)
        assert network(torch.randn(7, 6), NOWHERE)["retention"].shape == (7,)


@pytest.mark.parametrize("architecture", KINDS)
def test_the_first_layer_and_all_above_it_make_the_whole(architecture):
    network, x = made(architecture=architecture, levels=2), torch.randn(7, 6)
    whole = network(x, NOWHERE)
    parts = network.above(x[:, :4] @ network.entrance.first.weight[:, :4].T + x[:, 4:] @ network.entrance.first.weight[:, 4:].T + network.entrance.first.bias, NOWHERE)  # fmt: skip
    for head in HEADS:
        torch.testing.assert_close(parts[head], whole[head])


def test_a_place_adds_to_the_chances_of_a_play_and_of_its_completion_and_to_nothing_else():
    network, x = made(("play", "completion", "retention")), torch.randn(1, 6).expand(3, -1)
    logits = network(x, torch.tensor([0, 1, 5]))
    for head, table in (("play", network.examination), ("completion", network.selection)):
        weight = table.weight.detach().ravel()
        torch.testing.assert_close(logits[head] - logits[head][0], weight[[0, 1, 5]])
    torch.testing.assert_close(logits["retention"], logits["retention"][:1].expand(3))


def test_no_rows_have_no_logits():
    for architecture in KINDS:
        logits = made(architecture=architecture, levels=2)(torch.empty(0, 6), NOWHERE[:0])
        assert [len(logit) for logit in logits.values()] == [0, 0]


def test_dropping_out_happens_in_training_alone():
    for architecture in ("mmoe", "ple"):
        network, x = made(architecture=architecture, levels=2, dropout=0.5), torch.randn(7, 6)
        assert torch.equal(network(x, NOWHERE)["play"], network(x, NOWHERE)["play"])
        network.train()
        assert not torch.equal(network(x, NOWHERE)["play"], network(x, NOWHERE)["play"])


def test_places_are_counted_from_one_capped_at_the_last_and_zero_where_unknown():
    position = torch.tensor([0.0, 3.0, 99.0, float("nan")])
    assert places(position, positions=10).tolist() == [1, 4, 10, 0]
    assert places(torch.tensor(np.array([9.0, 10.0])), positions=10).tolist() == [10, 10]
