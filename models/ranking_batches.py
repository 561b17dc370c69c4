"""Ranking rows and lists to choose from as the network reads them, and the batches that training meets them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.choice import ChoiceSet
from models.data import Float32, Int64, RankingSet
from models.inputs import Standardiser
from models.network import places
from models.parallel import Team
from models.settings import RankerConfig
from models.shadows import READINGS, shadows_of


@dataclass(frozen=True)
class Lists:
    """Lists to choose from as tensors: inputs (L, W, I) and log inclusions (L, W), the title played in column 0."""

    inputs: Tensor
    log_inclusion: Tensor

    def __len__(self) -> int:
        return len(self.log_inclusion)

    def some(self, lists: Tensor) -> Lists:
        """The lists with these numbers."""
        return Lists(self.inputs[lists], self.log_inclusion[lists])

    def reading(self, inputs: Int64) -> Lists:
        """The same lists with some of the inputs."""
        return replace(self, inputs=self.inputs[..., torch.from_numpy(inputs)])


@dataclass(frozen=True)
class Rows:
    """Ranking rows, standardised only when a batch asks for them: the features may lie in a file.

    `shadow` (N,), where there are shadows, says which row of the data set is read as each row's.
    """

    features: Float32  # raw, of the whole data set
    numbers: Int64  # (N,) which of its rows these are
    user: Int64  # (N,) whose they are
    inputs: Standardiser
    place: Tensor  # (N,)
    labels: dict[str, Tensor]  # (N,) by head, NaN where unknown
    shadow: Int64 | None = None

    def __len__(self) -> int:
        return len(self.place)

    @property
    def readings(self) -> Int64:
        """The reading that each input of `some` belongs to (`Standardiser.readings`); those of shadows are numbered behind."""
        mine = self.inputs.readings
        behind = READINGS * self.inputs.n_features
        return mine if self.shadow is None else np.concatenate([mine, behind + mine])

    def some(self, rows: Tensor) -> Batch:
        """The rows with these numbers, in their order, inputs of shadows behind their own."""
        inputs = self._read(self.numbers[rows.numpy()])
        if self.shadow is not None:
            inputs = np.concatenate([inputs, self._read(self.shadow[rows.numpy()])], axis=1)
        labels = {head: label[rows] for head, label in self.labels.items()}
        return Batch(torch.from_numpy(inputs), self.place[rows], labels)

    def _read(self, numbers: Int64) -> Float32:
        return self.inputs.transform(np.asarray(self.features[numbers]))

    def shadowed(self, rng: np.random.Generator) -> Rows:
        """The same with shadows: each row's is one of another user."""
        return replace(self, shadow=self.numbers[shadows_of(self.user, rng)])

    def share_of(self, rows: Tensor, team: Team) -> Batch:
        """A team member's share of a batch, each head weighted by the share of the batch's known labels that it holds."""
        mine, held = team.share(rows), self.labels.items()
        shares = {head: _known(label[mine]) / max(_known(label[rows]), 1) for head, label in held}
        return replace(self.some(mine), shares=shares)

    def in_order(self, at_once: int) -> Iterator[Batch]:
        """All rows, `at_once` at a time."""
        return map(self.some, torch.split(torch.arange(len(self)), at_once))


@dataclass(frozen=True)
class Batch:
    """Some rows: inputs (n, I), places (n,), labels (n,) by head, and each head's share of its batch's known labels.

    With them go lists to choose from; the share of head `choice` is that of the batch's lists.
    """

    inputs: Tensor
    place: Tensor
    labels: dict[str, Tensor]
    shares: dict[str, float] = field(default_factory=dict)
    lists: Lists | None = None


def rows_of(
    data: RankingSet, inputs: Standardiser, config: RankerConfig, chosen: Int64 | None = None
) -> Rows:
    """What the network reads of a data set, or of the rows `chosen` from it."""
    numbers = np.arange(len(data)) if chosen is None else chosen
    return Rows(
        data.features,
        numbers,
        data.user_id[numbers],
        inputs,
        places(torch.from_numpy(data.position[numbers]), config.positions),
        {head: torch.from_numpy(label[numbers]) for head, label in labels_of(data).items()},
    )


def _known(label: Tensor) -> int:
    return int((~label.isnan()).sum())


def labels_of(data: RankingSet) -> dict[str, NDArray[np.float32]]:
    """Labels (N,) by head, NaN where unknown: how far a title was watched is known of plays alone."""
    completion = np.where(data.play > 0, data.completion, np.float32("nan"))
    return {"play": data.play, "completion": completion, "retention": data.retention}


def lists_of(choices: ChoiceSet, inputs: Standardiser) -> Lists:
    """What the network reads of lists to choose from."""
    count, width = choices.log_inclusion.shape
    flat = inputs.transform(choices.features.reshape(count * width, -1))
    return Lists(torch.from_numpy(flat).view(count, width, -1), torch.from_numpy(choices.log_inclusion))


def ranking_batches(
    rows: Rows, lists: Lists | None, size: int, rng: np.random.Generator, team: Team
) -> Iterator[Batch]:
    """One member's share of every row once, `size` at a time in random order, each with its part of the lists."""
    parts = torch.split(torch.from_numpy(rng.permutation(len(rows))), size)
    for some, numbers in zip(parts, _list_parts(lists, len(parts), rng), strict=True):
        batch = rows.share_of(some, team)
        yield batch if lists is None else _with_lists(batch, lists, numbers, team)


def _list_parts(lists: Lists | None, count: int, rng: np.random.Generator) -> Sequence[Tensor]:
    """Numbers of lists for each of `count` batches, so that an epoch sees all of them once."""
    order = np.arange(0) if lists is None else rng.permutation(len(lists))
    return torch.from_numpy(order).tensor_split(count)


def _with_lists(batch: Batch, lists: Lists, numbers: Tensor, team: Team) -> Batch:
    """A member's rows with its share of the batch's lists."""
    mine = team.share(numbers)
    shares = {**batch.shares, "choice": len(mine) / max(len(numbers), 1)}
    return replace(batch, shares=shares, lists=lists.some(mine))
