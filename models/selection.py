"""Which features each head reads: those that say most to it, found by leaving the others out again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data import Float32, Int64
from models.inputs import by_feature
from models.network import RankerNetwork

_STEPS = 8  # of the midpoint rule: features are put in order, not accounted for


@dataclass(frozen=True)
class Rounds:
    """What one method brings to elimination.

    `made` is a network that has learnt nothing, the same every time; `train` trains it in round r, from 0. `loss` is each
    head's on validation data, and `told` how much each feature (F,) says to a head. `owners` (I,) says which feature an input
    is made from (`Standardiser.owners`).
    """

    made: Callable[[], RankerNetwork]
    train: Callable[[RankerNetwork, int], None]
    loss: Callable[[RankerNetwork], Mapping[str, float]]
    told: Callable[[RankerNetwork], Mapping[str, Float32]]
    owners: Int64


def eliminated(rounds: Rounds, halvings: int) -> RankerNetwork:
    """A trained network each of whose heads reads the features that serve it best.

    Recursive feature elimination (Guyon et al., Machine Learning 2002), for each head of its own accord:

    for round 0 … `halvings`:
      1. train, a head's body reading its features       all of them in round 0
      2. keep the bodies of those heads whose validation loss is the least of all rounds
      3. halve each head's features                      those that told it most stay
    """
    best = rounds.made()
    least = dict.fromkeys(best.heads, float("inf"))
    reads: Mapping[str, Int64] = {}
    for number in range(halvings + 1):
        network = rounds.made()
        if reads:
            network.read_only(
                {head: torch.from_numpy(np.isin(rounds.owners, kept)) for head, kept in reads.items()}
            )
        rounds.train(network, number)  # 1
        for head, loss in rounds.loss(network).items():
            if loss < least[head]:
                least[head] = loss
                best.take(head, network)  # 2
        if number < halvings:
            reads = halved(rounds.told(network), reads)  # 3
    return best.eval()


def halved(told: Mapping[str, Float32], reads: Mapping[str, Int64]) -> dict[str, Int64]:
    """Of the features that each head reads, or of all where it is not said, the half that told it most; at least one."""
    return {
        head: most(weights, max(1, (len(reads[head]) if head in reads else len(weights)) // 2))
        for head, weights in told.items()
    }


def most(weights: Float32, kept: int) -> Int64:
    """The `kept` features of the largest weights (F,), ascending; of equals the first."""
    return np.sort(np.argsort(-weights, kind="stable")[:kept])


def brought(
    network: RankerNetwork, heads: Sequence[str], inputs: Tensor, place: Tensor, owners: Int64
) -> dict[str, Float32]:
    """What each feature brought to the logits of some heads, (n, F), on the way from inputs of 0, which are the average row.

    Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of rows `inputs` (n, I) shown in `place` (n,). What a
    feature's null mark and its pieces bring counts to it.
    """
    slopes = {head: torch.zeros_like(inputs) for head in heads}
    for step in range(_STEPS):
        x = (inputs * ((step + 0.5) / _STEPS)).requires_grad_()
        logits = network(x, place)
        for head in heads:
            (slope,) = torch.autograd.grad(logits[head].sum(), x, retain_graph=True)
            slopes[head] += slope / _STEPS
    return {head: by_feature((slope * inputs).numpy(), owners) for head, slope in slopes.items()}


def told_rows(parts: Float32) -> Float32:
    """How much each feature says: the deviation over rows of what it brought, (n, F) → (F,)."""
    return np.asarray(parts.std(axis=0), np.float32)


def told_lists(parts: Float32, there: NDArray[np.bool_]) -> Float32:
    """The same of lists to choose from, (L, W, F) → (F,): the deviation within a list, as what all its titles share chooses none.

    `there` (L, W) is False where a list has no more titles.
    """
    rows = there.sum(axis=1)[:, None]
    mean = np.where(there[..., None], parts, 0).sum(axis=1) / rows
    apart = np.where(there[..., None], parts - mean[:, None], 0)
    return np.asarray(np.sqrt((apart**2).sum(axis=(0, 1)) / rows.sum()), np.float32)
