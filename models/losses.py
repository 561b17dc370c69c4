"""Losses, each a function of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (the name every PyTorch program gives it)
from torch import Tensor


def catalogue_softmax_loss(
    logits: Tensor,  # (B, C) score of each of B users for each of C candidate titles
    hidden: Tensor,  # (B, C) True where a title is no negative for a user: played, or watched before
    log_inclusion: Tensor,  # (C,) log of the chance that the title is among the C; 0 = certainly
    play_row: Tensor,  # (P,) the user of each play, a row of `logits`
    play_column: Tensor,  # (P,) the title of each play, a column of `logits`
    play_weight: Tensor,  # (P,) how much each play counts; a batch's add up to 1
) -> Tensor:
    """Weighted sum over plays of -log softmax, in nats: the played title against all titles the user did not play.

    The denominator is e^{s⁺} + Σ_{j sampled} e^{s_j} / π_j, where π_j is the chance that j was sampled: an
    unbiased estimate (Horvitz & Thompson 1952) of the sum over the catalogue, and that very sum when C is the
    catalogue and π = 1. The played title was not sampled but is there for certain, so it alone is not
    corrected (Khrylchenko et al., RecSys 2025, arXiv 2507.09331); correcting it too, as in
    Yi et al. 2019, biases the gradient against what is popular.
    """
    negatives = (logits - log_inclusion).masked_fill(hidden, -torch.inf).logsumexp(dim=1)  # (B,)
    each = F.softplus(negatives[play_row] - logits[play_row, play_column])
    return (play_weight * each).sum()


def next_title_loss(
    logits: Tensor,  # (N, C) score of each of C titles at each of N places in histories
    log_share: Tensor,  # (C,) log of each title's share of all that is watched next
    target: Tensor,  # (N,) the column of the title that was watched next
) -> Tensor:
    """Mean -log softmax, in nats, of what was watched next; popularity is given, so that it is not learnt.

    With log q added to every logit the logits themselves come to the log of how much likelier a title is *here* than
    anywhere, log p(j | history) / q_j, as with sampled negatives that come by their share (Levy & Goldberg 2014).
    """
    return F.cross_entropy(logits + log_share, target)


def heads_loss(
    logits: Mapping[str, Tensor],  # (N,) by head
    labels: Mapping[str, Tensor],  # (N,) by head, each in 0..1, NaN where unknown
    weights: Mapping[str, float],
) -> Tensor:
    """Weighted sum over heads of the mean binary cross-entropy, in nats, over the rows whose label is known.

    A label between 0 and 1, a share watched, is fitted as an expectation: the loss is least where σ(z) is its
    mean. A head without a label in these rows adds nothing.
    """
    total = next(iter(logits.values())).new_zeros(())
    for head, logit in logits.items():
        known = ~labels[head].isnan()
        if known.any():
            loss = F.binary_cross_entropy_with_logits(logit[known], labels[head][known])
            total = total + weights[head] * loss
    return total
