"""Why a title has the score it has: how much of its objective each feature brought, by integrated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from models.calibration import Calibration
from models.data import Float32, Int64
from models.inputs import added_up
from models.objective import NothingToRankBy, ObjectiveWeights
from models.ranker import Ranker

STEPS = 128
"""Points of the midpoint rule on the way from the baseline."""


@dataclass(frozen=True)
class Attributions:
    """What m titles' objectives are made of, on the scale of the objective.

    `objective` (m,) is what they have, `baseline` what a title of average features and of the candidates' mean retrieval
    score has. `features` (m, F) and `retrieval` (m,) is what each input brought; they sum to `objective` - `baseline` up
    to the error of the integration, which is `unexplained` (m,).
    """

    objective: Float32
    baseline: float
    features: Float32
    retrieval: Float32

    @property
    def unexplained(self) -> Float32:
        """What no input accounts for, (m,)."""
        told = self.features.sum(axis=1) + self.retrieval
        rest: Float32 = self.objective - np.float32(self.baseline) - told
        return rest


def attributions(
    ranker: Ranker,
    features: Float32,
    retrieval: Float32 | None,
    weights: ObjectiveWeights,
    rows: Int64,
    steps: int = STEPS,
) -> Attributions:
    """Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of the objective of some of one user's candidates.

    `features` (n, F) and `retrieval` (n,) are those of all candidates, as for `Ranker.score`; `rows` (m,) says of which
    titles to tell. The path goes from the inputs of a title with every feature at its average, and the mean retrieval
    score, straight to the title's. What the other candidates weigh in `choice` is held at what it is. A feature's null mark
    and its pieces count to it.

    Raises:
        NothingToRankBy: all heads with a weight above 0 are absent.
        WrongWidth, MalformedData: as `Ranker.score` does.
    """
    inputs = torch.from_numpy(ranker.inputs.transform(features))
    scores = torch.zeros(len(inputs)) if retrieval is None else torch.from_numpy(retrieval.astype(np.float32))
    place = ranker.places(len(inputs))
    value = _objective(ranker, weights, inputs, scores if retrieval is not None else None)
    start, offset = _average(ranker), scores.mean().expand(1) if len(scores) else scores
    chosen = torch.from_numpy(rows)
    slopes = _mean_slopes(value, inputs[chosen], start, scores[chosen], offset, place[chosen], steps)
    with torch.inference_mode():
        ends = value(inputs[chosen], scores[chosen], place[chosen])
        baseline = float(value(start, offset, place[:1]))
    parts = ((inputs[chosen] - start) * slopes[0]).numpy()
    return Attributions(
        ends.numpy(),
        baseline,
        added_up(parts, ranker.inputs.owners, ranker.inputs.n_features),
        ((scores[chosen] - offset) * slopes[1]).numpy(),
    )


Value = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Inputs (k, I), retrieval scores (k,) and places (k,) → objectives (k,)."""


def _objective(ranker: Ranker, weights: ObjectiveWeights, inputs: Tensor, scores: Tensor | None) -> Value:
    """The objective as torch has it: `models.objective.objective` over `Ranker.score`, and differentiable."""
    fusion = ranker.fusion if scores is not None else None
    heads = [head for head in ranker.heads if head != "choice" or fusion is not None]
    shares = _shares(weights, heads)
    typical = torch.zeros(())
    if fusion is not None and scores is not None:
        with torch.inference_mode():
            logit = ranker.network(inputs, ranker.places(len(inputs)))["choice"]
            utility = fusion.network * logit.double() + fusion.retrieval * scores.double()
            typical = utility.logsumexp(0) - np.log(len(utility))

    def value(x: Tensor, score: Tensor, place: Tensor) -> Tensor:
        logits = ranker.network(x, place)
        chance = {
            head: _calibrated(ranker.calibration[head], logits[head]) for head in heads if head != "choice"
        }
        if fusion is not None:
            utility = fusion.network * logits["choice"] + fusion.retrieval * score
            chance["choice"] = torch.sigmoid(utility - typical.float())
        if "completion" in chance:
            chance["completion"] = chance["completion"] * chance["play"]
        return torch.stack([share * chance[head] for head, share in shares.items()]).sum(0)

    return value


def _shares(weights: ObjectiveWeights, heads: list[str]) -> dict[str, float]:
    """Each head's share of the weights of those that are present."""
    total = sum(getattr(weights, head) for head in heads)
    if total <= 0:
        raise NothingToRankBy(weights, tuple(heads))
    return {head: getattr(weights, head) / total for head in heads}


def _calibrated(calibration: Calibration, logit: Tensor) -> Tensor:
    bent = calibration.above * softplus(logit) - calibration.below * softplus(-logit)
    return torch.sigmoid(bent + calibration.intercept)


def _mean_slopes(
    value: Value, ends: Tensor, start: Tensor, score: Tensor, offset: Tensor, place: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The gradient by inputs (m, I) and by retrieval score (m,), averaged over the way from start to end."""
    by_input, by_score = torch.zeros_like(ends), torch.zeros_like(score)
    for step in range(steps):
        share = (step + 0.5) / steps
        x = (start + share * (ends - start)).requires_grad_()
        s = (offset + share * (score - offset)).requires_grad_()
        slope_x, slope_s = torch.autograd.grad(value(x, s, place).sum(), (x, s), allow_unused=True)
        by_input += slope_x / steps
        if slope_s is not None:  # the model weighs no retrieval score
            by_score += slope_s / steps
    return by_input, by_score


def _average(ranker: Ranker) -> Tensor:
    """(1, I) inputs of a title with every feature at its average."""
    return torch.from_numpy(ranker.inputs.transform(ranker.inputs.average[None]))
