"""How much each head heeds each feature: the less, the less it says beyond what shadows of features say.

A shadow is a feature as another user has it. It says nothing of any outcome, so what a network makes of it is chance. A feature
has two readings, as one number and in pieces, and each is heeded by itself: pieces are more numbers to find chance in.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from models.data import Float32, Int64
from models.inputs import added_up
from models.network import RankerNetwork

_STEPS = 8  # of the midpoint rule: features are put in order, not accounted for
_HEEDED = 0.5  # by how much pieces are to be heeded to be worth reading for every candidate
READINGS = 2  # of a feature: as one number, and in pieces


def heeded(told: Float32, weight: float) -> Float32:
    """How much to heed each reading (R, F), in 0..1: t² / (t² + `weight` · mean s²), with what shadows say (s) as the size of chance.

    `told` (2, R, F) is what the readings of F features say (t), then what their shadows do; the mean is over one reading's
    shadows that say anything, as not every feature is read in pieces. What says nothing is not heeded; where nothing does all is.

    A Wiener filter (Wiener 1949) has (t² - s²) / t² in its place, which drops what says less than chance; here nothing that says
    something is dropped. The trick of the shadows is Boruta's (Kursa & Rudnicki, J. Stat. Softw. 2010, section 2).
    """
    features, shadows = told.astype(np.float64) ** 2
    if not features.any():
        return np.ones(features.shape, np.float32)
    chance = shadows.sum(axis=1, keepdims=True) / np.maximum((shadows > 0).sum(axis=1, keepdims=True), 1)
    among = features + weight * chance
    shares = np.divide(features, among, out=np.zeros_like(features), where=among > 0)
    return np.asarray(shares, np.float32)


def of_inputs(shares: Float32, readings: Int64) -> Float32:
    """How much to heed each input (I,): as the reading, of (R, F), that it belongs to (`Standardiser.readings`)."""
    return np.asarray(shares.ravel()[readings])


def bends_heeded(shares: Iterable[Float32]) -> Int64:
    """The features that some head heeds by half or more in pieces, of how much it heeds each reading (R, F)."""
    in_pieces = np.max([share[1] for share in shares], axis=0)
    return np.flatnonzero(in_pieces >= _HEEDED)


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


def told(
    network: RankerNetwork, inputs: Tensor, place: Tensor, readings: Int64, count: int
) -> dict[str, Float32]:
    """How much each reading says to each head, (`count`,): the deviation over rows of what it brings to the logit."""
    parts = brought(network, inputs, place, readings, count)
    return {head: np.asarray(part.std(axis=0), np.float32) for head, part in parts.items()}


def brought(
    network: RankerNetwork, inputs: Tensor, place: Tensor, readings: Int64, count: int
) -> dict[str, Float32]:
    """What each reading brought to the logits, (n, `count`) by head, on the way from inputs of 0, which are the average row.

    Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of rows `inputs` (n, I) shown in `place` (n,). What the
    inputs of one reading bring is added up: `readings` (I,) says which an input belongs to.
    """
    slopes = {head: torch.zeros_like(inputs) for head in network.heads}
    for step in range(_STEPS):
        x = (inputs * ((step + 0.5) / _STEPS)).requires_grad_()
        for head, logit in network(x, place).items():
            (slope,) = torch.autograd.grad(logit.sum(), x, retain_graph=True)
            slopes[head] += slope / _STEPS
    return {head: added_up((slope * inputs).numpy(), readings, count) for head, slope in slopes.items()}
