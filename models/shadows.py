"""How much each head heeds each feature: the less, the less it says beyond what shadows of features say.

A shadow is a feature as another user has it. It says nothing of any outcome, so what a network makes of it is chance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.data import Float32, Int64
from models.inputs import by_feature
from models.network import RankerNetwork

_STEPS = 8  # of the midpoint rule: features are put in order, not accounted for


def heeded(told: Float32, weight: float) -> Float32:
    """How much to heed each feature (F,), in 0..1: t² / (t² + `weight` · mean s²), with what shadows say (s) as the size of chance.

    `told` (2F,) is what the F features say (t), then what their shadows do. A feature that says nothing is not heeded; where
    none says anything all are.

    A Wiener filter (Wiener 1949) has (t² - s²) / t² in its place, which drops what says less than chance; here nothing that says
    something is dropped. The trick of the shadows is Boruta's (Kursa & Rudnicki, J. Stat. Softw. 2010, section 2).
    """
    features, shadows = np.split(told.astype(np.float64) ** 2, 2)
    if not features.any():
        return np.ones(len(features), np.float32)
    among = features + weight * shadows.mean()
    shares = np.divide(features, among, out=np.zeros_like(features), where=among > 0)
    return np.asarray(shares, np.float32)


def shadows_of(owner: Int64, rng: np.random.Generator) -> Int64:
    """Whose each row is, (N,) → (N,) the row that holds its shadow, which is somebody else's.

    All of an owner's rows have theirs from one other owner, in random order and again from the first where those are fewer. So
    the shadow of what is an owner's own tells owners apart as well as it does, and says nothing of any outcome. An
    owner who is alone has their own rows in random order.
    """
    _, who, rows = np.unique(owner, return_inverse=True, return_counts=True)
    order = rng.permutation(len(owner))
    order = order[np.argsort(who[order], kind="stable")]
    starts = np.cumsum(rows) - rows
    place = np.empty_like(order)  # of a row among its owner's
    place[order] = np.arange(len(owner)) - np.repeat(starts, rows)
    circle = rng.permutation(len(rows))
    other = np.empty_like(circle)
    other[circle] = np.roll(circle, 1)
    theirs = other[who]
    return order[starts[theirs] + place % rows[theirs]]


def told(network: RankerNetwork, inputs: Tensor, place: Tensor, owners: Int64) -> dict[str, Float32]:
    """How much each feature says to each head, (F,): the deviation over rows of what it brings to the logit."""
    parts = brought(network, inputs, place, owners)
    return {head: np.asarray(part.std(axis=0), np.float32) for head, part in parts.items()}


def brought(network: RankerNetwork, inputs: Tensor, place: Tensor, owners: Int64) -> dict[str, Float32]:
    """What each feature brought to the logits, (n, F) by head, on the way from inputs of 0, which are the average row.

    Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of rows `inputs` (n, I) shown in `place` (n,). What a
    feature's null mark and its pieces bring counts to it: `owners` (I,) says which feature an input is made from.
    """
    slopes = {head: torch.zeros_like(inputs) for head in network.heads}
    for step in range(_STEPS):
        x = (inputs * ((step + 0.5) / _STEPS)).requires_grad_()
        for head, logit in network(x, place).items():
            (slope,) = torch.autograd.grad(logit.sum(), x, retain_graph=True)
            slopes[head] += slope / _STEPS
    return {head: by_feature((slope * inputs).numpy(), owners) for head, slope in slopes.items()}
