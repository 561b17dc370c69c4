"""A ranker that does once what does not change from title to title, or from request to request.

The first layer is linear in standardised inputs, and standardisation goes column by column. So its product is a sum of
three: of the user's columns, the same for all candidates; of the title's, the same in every request until the title's
features change; and of user × title's, new each time. The squashing, the clip, the null indicators and the pieces are not linear,
so nothing of them can go into the weights: the columns are standardised as they are in the plain module, each part where
it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data import Float32, Int64
from models.inputs import Standardiser, WrongWidth
from models.objective import HeadScores
from models.ranker import Ranker

USER, TITLE = "user", "title"


@dataclass(frozen=True)
class Side:
    """Some of the columns, how they are standardised, and their part of the first layer: (inputs, outputs)."""

    columns: Int64 | slice
    inputs: Standardiser
    weight: Tensor

    @classmethod
    def of(cls, ranker: Ranker, columns: Int64) -> Side:
        """The columns' share of a ranker."""
        inputs, rows = ranker.inputs.of(columns)
        weight = ranker.network.entrance.first.weight.detach()[:, torch.from_numpy(rows)].T.contiguous()
        return cls(_in_place(columns), inputs, weight)

    def of_all(self, features: Float32) -> Float32:
        """This side's columns of (n, F)."""
        mine: Float32 = features[:, self.columns]
        return mine

    def product(self, mine: Float32) -> Tensor:
        """(n, outputs) of this side's columns."""
        return torch.from_numpy(self.inputs.transform(mine)) @ self.weight


@dataclass(frozen=True)
class TitleProducts:
    """The title side's products (T, outputs) of titles, ids ascending, with the columns they were made from."""

    title_ids: Int64
    columns: Float32
    products: Tensor


@dataclass(frozen=True)
class CompiledRanker:
    """A ranker for one user's candidates, equal to it up to the order of sums.

    A title's product in `known` is used where the title's columns are, bit for bit, those it was made from; where newer
    features have come, it is computed. So nothing of the answer depends on when `known` was made.
    """

    ranker: Ranker
    user: Side
    title: Side
    pair: Side
    known: TitleProducts

    @classmethod
    def of(cls, ranker: Ranker) -> CompiledRanker:
        """A compiled ranker that knows no title yet."""
        features = ranker.signature.features
        sides = np.array([ranker.about.get(name.partition(":")[0], "") for name in features])
        user, title = np.flatnonzero(sides == USER), np.flatnonzero(sides == TITLE)
        pair = np.flatnonzero((sides != USER) & (sides != TITLE))
        parts = Side.of(ranker, user), Side.of(ranker, title), Side.of(ranker, pair)
        nothing = np.empty((0, len(title)), np.float32)
        products = torch.empty(0, ranker.network.entrance.first.out_features)
        return cls(ranker, *parts, TitleProducts(np.empty(0, np.int64), nothing, products))

    def over(self, title_ids: Int64, features: Float32) -> CompiledRanker:
        """This one with the products of a catalogue at hand; `features` (T, F) are any user's of all its titles."""
        order = np.argsort(title_ids, kind="stable")
        columns = np.ascontiguousarray(self.title.of_all(features)[order])
        with torch.inference_mode():
            return replace(self, known=TitleProducts(title_ids[order], columns, self.title.product(columns)))

    def score(self, features: Float32, title_ids: Int64, retrieval: Float32 | None = None) -> HeadScores:
        """Scores of one user's candidates, (n, F) and (n,), as `Ranker.score` gives at the serving position.

        Raises:
            WrongWidth: `features` is not (n, F).
            MalformedData: `retrieval` is not one finite score a row.
        """
        return self.ranker.scored(self.logits(features, title_ids), retrieval)

    def logits(self, features: Float32, title_ids: Int64) -> dict[str, Float32]:
        """What `score` calibrates, by head."""
        if features.ndim != 2 or features.shape[1] != self.ranker.signature.width:
            raise WrongWidth(features.shape, self.ranker.signature.width)
        network = self.ranker.network
        with torch.inference_mode():
            projected = self._titles(self.title.of_all(features), title_ids)
            projected += self.pair.product(self.pair.of_all(features))
            projected += self._users(self.user.of_all(features)) + network.entrance.first.bias
            logits = network.above(projected, self.ranker.places(len(features)))
        return {head: logit.numpy() for head, logit in logits.items()}

    def _users(self, columns: Float32) -> Tensor:
        """(1, outputs) where all rows are of one user, as they are when serving; else a row each."""
        alike = len(columns) > 0 and (_bits(columns) == _bits(columns[:1])).all()
        return self.user.product(columns[:1] if alike else columns)

    def _titles(self, columns: Float32, title_ids: Int64) -> Tensor:
        """(n, outputs), of what is known as far as it still holds."""
        rows = np.searchsorted(self.known.title_ids, title_ids)
        holds = rows < len(self.known.title_ids)
        holds[holds] = self.known.title_ids[rows[holds]] == title_ids[holds]
        holds[holds] = (_bits(self.known.columns[rows[holds]]) == _bits(columns[holds])).all(axis=1)
        if holds.all():
            return self.known.products[torch.from_numpy(rows)]
        products = torch.empty(len(columns), self.title.weight.shape[1])
        products[torch.from_numpy(holds)] = self.known.products[torch.from_numpy(rows[holds])]
        products[torch.from_numpy(~holds)] = self.title.product(columns[~holds])
        return products


def _in_place(columns: Int64) -> Int64 | slice:
    """The columns as a slice, which copies nothing, where they stand side by side."""
    if len(columns) and columns[-1] - columns[0] == len(columns) - 1:
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


def _bits(values: Float32) -> NDArray[np.int32]:
    """The values' bits, so that a null equals a null."""
    bits: NDArray[np.int32] = values.view(np.int32)
    return bits
