import math

import numpy as np
import pytest
import torch

from models.losses import catalogue_softmax_loss, heads_loss, next_title_loss


def by_hand(logits, hidden, log_inclusion, plays):
    """The mean of -log(e^s+ / (e^s+ + Σ e^s / π)), one play at a time."""
    losses = []
    for user, title in plays:
        positive = math.exp(logits[user][title])
        negatives = sum(
            math.exp(score) / math.exp(log_inclusion[j])
            for j, score in enumerate(logits[user])
            if not hidden[user][j]
        )
        losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def example(seed, users=4, titles=9):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(users, titles))
    plays = sorted({(int(rng.integers(users)), int(rng.integers(titles))) for _ in range(6)})
    hidden = rng.random((users, titles)) < 0.2
    for user, title in plays:
        hidden[user, title] = True
    return logits, hidden, np.log(rng.uniform(0.2, 1, titles)), plays


def loss_of(logits, hidden, log_inclusion, plays, weights=None):
    row, column = np.array(plays).T
    return catalogue_softmax_loss(
        torch.tensor(logits),
        torch.tensor(hidden),
        torch.tensor(log_inclusion),
        torch.tensor(row),
        torch.tensor(column),
        torch.full((len(plays),), 1 / len(plays), dtype=torch.float64)
        if weights is None
        else torch.tensor(weights),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_retrieval_loss_is_what_its_formula_says(seed):
    assert loss_of(*example(seed)).item() == pytest.approx(by_hand(*example(seed)), rel=1e-9)


def test_plays_count_by_their_weight():
    logits, hidden, log_inclusion, plays = example(0)
    weights = np.random.default_rng(1).dirichlet(np.ones(len(plays)))
    each = [by_hand(logits, hidden, log_inclusion, [play]) for play in plays]
    found = loss_of(logits, hidden, log_inclusion, plays, weights).item()
    assert found == pytest.approx(sum(w * one for w, one in zip(weights, each, strict=True)), rel=1e-6)


def test_over_the_whole_catalogue_a_single_play_has_the_plain_softmax_loss():
    logits = np.random.default_rng(0).normal(size=(1, 6))
    hidden = np.eye(6, dtype=bool)[[2]]
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor([2])).item()
    assert loss_of(logits, hidden, np.zeros(6), [(0, 2)]).item() == pytest.approx(expected, rel=1e-9)


def test_the_played_title_is_not_corrected_for_its_popularity():
    logits, hidden, log_inclusion, _ = example(1)
    hidden[0] = np.eye(9, dtype=bool)[3]
    rarer = log_inclusion.copy()
    rarer[3] -= 5
    assert (
        loss_of(logits, hidden, rarer, [(0, 3)]).item()
        == loss_of(logits, hidden, log_inclusion, [(0, 3)]).item()
    )


def test_sampling_negatives_estimates_the_catalogues_sum_without_bias():
    rng = np.random.default_rng(0)
    logits, chance = rng.normal(size=30), rng.uniform(0.1, 0.9, 30)
    whole = np.exp(logits).sum()
    present = rng.random((20_000, 30)) < chance
    estimates = (present * np.exp(logits) / chance).sum(axis=1)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - whole) < 4 * error
    # and this is the denominator of the loss: exp(loss) = 1 + Σ/e^s+ for one play with s+ = 0
    sampled = np.flatnonzero(present[0])
    logits_of_sample = np.concatenate([[0.0], logits[sampled]])[None]
    hidden = np.zeros_like(logits_of_sample, dtype=bool)
    hidden[0, 0] = True
    loss = loss_of(
        logits_of_sample, hidden, np.concatenate([[0.0], np.log(chance[sampled])]), [(0, 0)]
    ).item()
    assert math.exp(loss) - 1 == pytest.approx(estimates[0], rel=1e-9)


def test_a_user_with_nothing_to_tell_a_play_from_costs_nothing_and_has_a_finite_gradient():
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = catalogue_softmax_loss(
        logits,
        torch.tensor([[True, True]]),
        torch.zeros(2),
        torch.tensor([0]),
        torch.tensor([1]),
        torch.ones(1),
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_each_heads_loss_is_over_the_rows_whose_label_is_known():
    logits = {"play": torch.tensor([0.0, 2.0]), "retention": torch.tensor([1.0, -1.0])}
    labels = {"play": torch.tensor([1.0, 0.0]), "retention": torch.tensor([math.nan, 0.25])}
    softplus = lambda z: math.log(1 + math.exp(z))  # noqa: E731
    play = (softplus(0) + softplus(2)) / 2
    retention = 0.25 * softplus(1) + 0.75 * softplus(-1)
    weighted = heads_loss(logits, labels, {"play": 1.0, "retention": 3.0}).item()
    assert weighted == pytest.approx(play + 3 * retention, rel=1e-6)


def test_a_head_without_labels_in_the_batch_adds_neither_loss_nor_gradient():
    logit = torch.tensor([1.0, 2.0], requires_grad=True)
    play = torch.tensor([0.5, -0.5], requires_grad=True)
    labels = {"play": torch.tensor([1.0, 0.0]), "completion": torch.full((2,), math.nan)}
    loss = heads_loss({"play": play, "completion": logit}, labels, {"play": 1.0, "completion": 1.0})
    loss.backward()
    assert math.isfinite(loss.item())
    assert logit.grad is None


def test_what_is_watched_next_is_told_from_what_is_watched_anywhere():
    rng = np.random.default_rng(0)
    logits, share, target = rng.normal(size=(3, 5)), np.array([0.5, 0.2, 0.1, 0.1, 0.1]), [4, 0, 2]
    expected = -np.mean(
        [
            math.log(
                share[t] * math.exp(row[t]) / sum(q * math.exp(z) for q, z in zip(share, row, strict=True))
            )
            for row, t in zip(logits, target, strict=True)
        ]
    )
    found = next_title_loss(torch.tensor(logits), torch.tensor(np.log(share)), torch.tensor(target))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_title_that_is_as_likely_here_as_anywhere_asks_for_no_logit():
    share = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    logits = torch.zeros(10, 3, dtype=torch.float64, requires_grad=True)
    next_title_loss(logits, share.log(), torch.tensor([0] * 6 + [1] * 3 + [2])).backward()
    np.testing.assert_allclose(logits.grad.sum(dim=0), 0, atol=1e-12)
