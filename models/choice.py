"""Which of a user's candidates they would choose: a softmax over the catalogue, learnt from samples of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.calibration import Derivatives, minimised
from models.data import Float32, Int64, MalformedData

_PRIOR = 1.0  # pseudo-observations in favour of the network's logit alone


@dataclass(frozen=True)
class ChoiceSet:
    """L lists of W titles each, at the moment one of them was played: the title in column 0.

    `features` is (L, W, F), NaN where null. `log_inclusion` (L, W) is the log of the chance that a title that was not
    played came into its list, 0 for one that is certain to and in column 0, and +∞ where a list has no more titles.
    `retrieval` (L, W) is the retriever's score, NaN where the title was not among its candidates.
    """

    features: Float32
    log_inclusion: Float32
    retrieval: Float32

    def __post_init__(self) -> None:
        shape = self.features.shape[:2]
        if self.features.ndim != 3 or shape[1] < 2:
            raise MalformedData(
                f"lists of at least two titles are (L, W, F); features are {self.features.shape}."
            )
        for name in ("log_inclusion", "retrieval"):
            if getattr(self, name).shape != shape:
                raise MalformedData(f"{name} is {getattr(self, name).shape}, features say {shape}.")
        if np.isnan(self.log_inclusion).any() or (self.log_inclusion[:, 0] != 0).any():
            raise MalformedData(
                "log_inclusion holds NaN, or is not 0 in column 0, where the title played stands."
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def there(self) -> NDArray[np.bool_]:
        """(L, W), False where a list has no more titles."""
        return ~np.isposinf(self.log_inclusion)


@dataclass(frozen=True)
class Sample:
    """Titles a list holds beside the one played, (n,), and for each the log of its chance to be there."""

    title_ids: Int64
    log_inclusion: Float32


def sample_beside(near: Int64, far: Int64, counts: tuple[int, int], rng: np.random.Generator) -> Sample:
    """So many of the `near` titles and so many of the `far` ones, each group drawn evenly and without repeats.

    A group with no more titles than asked for is taken whole, with certainty.
    """
    titles, logs = [], []
    for group, count in zip((near, far), counts, strict=True):
        taken = group if len(group) <= count else rng.choice(group, count, replace=False)
        titles.append(taken)
        logs.append(
            np.full(len(taken), np.log(len(taken) / len(group)) if len(taken) else 0, dtype=np.float32)
        )
    return Sample(np.concatenate(titles), np.concatenate(logs))


def choice_loss(logits: Tensor, log_inclusion: Tensor) -> Tensor:
    """Mean over lists of -log softmax of column 0, in nats, (L, W) logits.

    The denominator e^{z₀} + Σ_j e^{z_j} / π_j is an unbiased estimate of the sum over the whole catalogue, whatever the
    titles were sampled by (Horvitz & Thompson 1952, as in `catalogue_softmax_loss`). So the retriever that half of them
    come from does not shape what is learnt.
    """
    corrected = logits - log_inclusion
    return (corrected.logsumexp(dim=1) - logits[:, 0]).mean()


@dataclass(frozen=True)
class Fusion:
    """A candidate's utility: z·`network` + s·`retrieval`, of its choice logit and of the retriever's score. None is negative."""

    network: float = 1.0
    retrieval: float = 0.0

    def __call__(self, logits: NDArray[np.floating], retrieval: NDArray[np.floating]) -> NDArray[np.float64]:
        """Utilities (n,), on the scale of logits.

        Raises:
            MalformedData: a score is missing or not finite, so there is no utility.
        """
        if retrieval.shape != logits.shape or not np.isfinite(retrieval).all():
            raise MalformedData(
                f"{logits.shape} candidates need as many finite retrieval scores; {retrieval.shape} were given."
            )
        return self.network * logits.astype(np.float64) + self.retrieval * retrieval.astype(np.float64)


def fit_fusion(logits: Float32, retrieval: Float32) -> Fusion:
    """Conditional logit (McFadden 1974) of which candidate was played, by Newton's method; the played one is in column 0.

    `logits` and `retrieval` are (L, W), NaN where a list has no more candidates. The lists must be of a period that
    neither model was trained on: the retriever knows the plays that it learned from, and there it would be trusted too
    much. A part that would count against a title gets weight 0. A Gaussian prior worth one list keeps both finite.

    Raises:
        ValueError: there is no list, or column 0 is not known everywhere.
    """
    there = ~(np.isnan(logits) | np.isnan(retrieval))
    if len(logits) == 0 or not there[:, 0].all():
        raise ValueError(
            f"{len(logits)} lists, of {int(there[:, :1].sum())} the title played is among the candidates."
        )
    spread = float(retrieval[there].std()) or 1.0
    design = np.stack([logits, retrieval / spread], axis=2).astype(np.float64)
    design = np.where(there[:, :, None], design - design[:, :1], 0)
    weights = _fitted(design, there, [0, 1])
    if (weights < 0).any():  # the least cost without a negative weight has one of them 0
        weights = _fitted(design, there, [1] if weights[0] < 0 else [0])
    network, retrieved = np.maximum(weights, 0) / (1, spread)
    return Fusion(float(network), float(retrieved))


def _fitted(design: NDArray[np.float64], there: NDArray[np.bool_], columns: list[int]) -> NDArray[np.float64]:
    """Weights (2,), only those in `columns` not 0, of (L, W, 2) differences from the title played."""
    prior = np.array([1.0, 0.0])[columns]
    part = design[:, :, columns]

    def derivatives(weights: NDArray[np.float64]) -> Derivatives:
        utility = np.where(there, part @ weights, -np.inf)
        log_total = np.logaddexp.reduce(utility, axis=1)
        share = np.exp(utility - log_total[:, None])
        mean = np.einsum("lw,lwk->lk", share, part)
        square = np.einsum("lw,lwk,lwm->km", share, part, part)
        away = weights - prior
        return Derivatives(
            float(log_total.sum() + 0.5 * _PRIOR * away @ away),
            mean.sum(axis=0) + _PRIOR * away,
            square - mean.T @ mean + _PRIOR * np.eye(len(columns)),
        )

    weights = np.zeros(2)
    weights[columns] = minimised(derivatives, prior)
    return weights


def over_typical(utility: NDArray[np.float64]) -> Float32:
    """Each candidate's chance (n,) to be chosen where only it and a typical one are there (Luce 1959).

    A title's weight is e^u; typical is the mean weight of the candidates given. More of them like these change nothing.
    """
    if len(utility) == 0:
        return np.empty(0, np.float32)
    weight = np.exp(utility - utility.max())
    chance: Float32 = (weight / (weight + weight.mean())).astype(np.float32)
    return chance
