"""The ranking network: a tower for each outcome over experts of two layers, the head's own or mixed for it by a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.settings import RankerConfig


@dataclass(frozen=True)
class Layout:
    """Who reads which experts: of `readers` by name, each may read the experts where its row of `reach` is True.

    `owner` says of every expert whose mixture it reads in a level that is not the first: a place in `readers`.
    """

    readers: tuple[str, ...]
    owner: tuple[int, ...]
    reach: tuple[tuple[bool, ...], ...]

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return len(self.owner)

    @property
    def only(self) -> list[int]:
        """The one expert that each reader reads; empty where some reader has several to mix."""
        single = all(sum(row) == 1 for row in self.reach)
        return [row.index(True) for row in self.reach] if single else []


SHARED = "shared"
"""The reader of every expert: in a level of `ple` that is not the last, what the shared experts above it read."""


def layout_of(heads: Sequence[str], config: RankerConfig, *, last: bool = True) -> Layout:
    """The experts of one level.

    `separate` has one for each head, which it reads alone. `shared_bottom` (Caruana 1997) has one that all read. `mmoe` (Ma
    et al., KDD 2018) has `experts` that all read. `ple` (Tang et al., RecSys 2020, section 4) has `experts` that all read and `own_experts` for each head that it reads alone;
    except in the last level there is one more reader, of all experts, for the shared experts above.
    """
    if config.architecture == "separate":
        each = range(len(heads))
        return Layout(tuple(heads), tuple(each), tuple(tuple(k == of for of in each) for k in each))
    if config.architecture != "ple":
        count = config.experts if config.architecture == "mmoe" else 1
        return Layout(tuple(heads), (0,) * count, ((True,) * count,) * len(heads))
    readers = tuple(heads) if last else (*heads, SHARED)
    owner = [len(heads)] * config.experts + [k for k in range(len(heads)) for _ in range(config.own_experts)]
    reach = [[of == len(heads) or k in (of, len(heads)) for of in owner] for k in range(len(readers))]
    return Layout(readers, tuple(owner), tuple(map(tuple, reach)))


class RankerNetwork(nn.Module):
    """Standardised features → one logit a head.

    A level has experts f_i, and for reader k the mixture Σ_i g_k(x)_i f_i(x) with g_k = softmax(W_k x) over the
    experts that k may read (Ma et al., eq. 5 to 7). In the first level all read the inputs; in a later one, which only
    `ple` has, everyone reads its own mixture of the level before.
    """

    def __init__(self, n_inputs: int, heads: Sequence[str], config: RankerConfig) -> None:
        super().__init__()
        self.heads = tuple(heads)
        levels = config.levels if config.architecture == "ple" else 1
        widen = config.experts if config.architecture == "shared_bottom" else 1
        self.entrance = Entrance(n_inputs, layout_of(heads, config, last=levels == 1), config, widen)
        self.extractions = nn.ModuleList(
            Extraction(config.output, layout_of(heads, config, last=level == levels), config)
            for level in range(2, levels + 1)
        )
        self.towers = nn.ModuleDict({
            head: nn.Sequential(nn.Linear(config.output * widen, config.tower), nn.ReLU(), nn.Linear(config.tower, 1))
            for head in self.heads
        })  # fmt: skip
        self.examination, self.selection = (
            nn.Embedding(config.positions + 1, 1, padding_idx=0) for _ in range(2)
        )
        nn.init.zeros_(self.examination.weight)
        nn.init.zeros_(self.selection.weight)

    def heed(self, shares: Mapping[str, Tensor]) -> None:
        """Let the bodies of some heads heed their inputs by shares (I,) in 0..1, until `settle`: those of 0 they never read.

        Raises:
            ValueError: heads share a body.
        """
        if not self.parted:
            raise ValueError(
                "heads that share a body heed the same inputs; only `separate` ones have shares of their own."
            )
        whole = torch.ones(self.entrance.first.in_features)
        by_head = torch.stack([shares.get(head, whole) for head in self.heads])
        self.entrance.first.share = by_head.repeat_interleave(self.entrance.second.shape[1], dim=0)

    def settle(self) -> None:
        """Take the shares that inputs are heeded by into the weights: the logits stay as they are."""
        first = self.entrance.first
        if first.share is not None:
            with torch.no_grad():
                first.weight *= first.share
            first.share = None

    @property
    def parted(self) -> bool:
        """Whether every head has a body of its own, so that what one learns is nothing to the others."""
        return len(set(self.entrance.only)) == len(self.heads)

    def forward(self, inputs: Tensor, place: Tensor) -> dict[str, Tensor]:
        """(N, I) inputs and (N,) places (see `places`) → (N,) logits by head."""
        return self.above(self.entrance.first(inputs), place)

    def above(self, projected: Tensor, place: Tensor) -> dict[str, Tensor]:
        """The logits by head from what the first layer makes of the inputs, (N, `entrance.first.out_features`).

        The play logit is that of the title plus that of its place being looked at, so what a place does for
        plays is not mistaken for the title's merit (PAL: Guo et al., RecSys 2019, in logits). Completion is known of plays
        alone, and what was played in a place that few look at was wanted more: its logit has a term of the place as well.
        """
        mixtures = self.entrance.mixtures(projected)
        for extraction in self.extractions:
            mixtures = extraction(mixtures)
        logits = {head: self.towers[head](mixtures[k]).squeeze(-1) for k, head in enumerate(self.heads)}
        for head, table in _OF_PLACES.items():
            if head in logits:
                logits[head] = logits[head] + getattr(self, table)(place).squeeze(-1)
        return logits


_OF_PLACES = {"play": "examination", "completion": "selection"}
"""The table of what a place adds to a head's logit."""


class HeedingLinear(nn.Linear):
    """A linear layer whose weights, while there is a `share` (outputs, inputs), count by it.

    A weight then moves by so much less in a step of AdamW, whose steps have one length whatever the gradient's.
    """

    share: Tensor | None

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs)
        self.register_buffer("share", None, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        return linear(inputs, self.weight if self.share is None else self.weight * self.share, self.bias)


class Entrance(nn.Module):
    """The first level. All experts and gates read the same inputs, so one matrix does the work of all their first layers."""

    closed: Tensor
    single: Tensor

    def __init__(self, n_inputs: int, layout: Layout, config: RankerConfig, widen: int) -> None:
        super().__init__()
        hidden, output, n = config.hidden * widen, config.output * widen, layout.experts
        self.readers = len(layout.readers)
        self.only = layout.only
        self.sizes = [n * hidden, 0 if self.only else n * self.readers]
        self.first = HeedingLinear(n_inputs, sum(self.sizes))  # all experts side by side, then all gates
        self.second = nn.Parameter(torch.empty(n, hidden, output))
        self.second_bias = nn.Parameter(torch.zeros(n, 1, output))
        nn.init.kaiming_uniform_(self.second.view(n * hidden, output).T, a=5**0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("closed", _closed(layout), persistent=False)
        self.register_buffer("single", torch.tensor(self.only, dtype=torch.long), persistent=False)

    def mixtures(self, projected: Tensor) -> Tensor:
        """What each reader reads, (readers, N, output), from what `first` gave."""
        hidden, gates = torch.split(projected, self.sizes, dim=1)
        count, width, _ = self.second.shape
        hidden = self.dropout(torch.relu(hidden)).view(len(projected), count, width).transpose(0, 1)
        experts = torch.relu(torch.baddbmm(self.second_bias, hidden, self.second))  # (E, N, O)
        if self.only:
            return experts[self.single]
        gates = gates.view(len(projected), self.readers, count).transpose(0, 1)
        return mixed(experts, gates, self.closed)


class Extraction(nn.Module):
    """A level of `ple` above the first: every expert and every gate reads the mixture of its own reader below."""

    closed: Tensor
    owner: Tensor

    def __init__(self, n_inputs: int, layout: Layout, config: RankerConfig) -> None:
        super().__init__()
        n, readers = layout.experts, len(layout.readers)
        self.first, self.first_bias = _layer(n, n_inputs, config.hidden)
        self.second, self.second_bias = _layer(n, config.hidden, config.output)
        self.gates, self.gates_bias = _layer(readers, n_inputs, n)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("closed", _closed(layout), persistent=False)
        self.register_buffer("owner", torch.tensor(layout.owner), persistent=False)

    def forward(self, below: Tensor) -> Tensor:
        """(readers below, N, I) → (readers, N, output)."""
        hidden = self.dropout(torch.relu(torch.baddbmm(self.first_bias, below[self.owner], self.first)))
        experts = torch.relu(torch.baddbmm(self.second_bias, hidden, self.second))
        gates = torch.baddbmm(self.gates_bias, below[: len(self.gates)], self.gates)
        return mixed(experts, gates, self.closed)


def mixed(experts: Tensor, gates: Tensor, closed: Tensor) -> Tensor:
    """(E, N, O) experts, (R, N, E) gate logits, (R, 1, E) which are closed → (R, N, O) mixtures."""
    shares = gates.masked_fill(closed, -torch.inf).softmax(dim=-1)
    mixtures: Tensor = (shares.transpose(0, 1) @ experts.transpose(0, 1)).transpose(0, 1)
    return mixtures


def _closed(layout: Layout) -> Tensor:
    return ~torch.tensor(layout.reach).unsqueeze(1)


def _layer(n: int, inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights (n, inputs, outputs) and biases (n, 1, outputs) of n linear layers side by side."""
    bound = inputs**-0.5
    weight = nn.Parameter(torch.empty(n, inputs, outputs).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.zeros(n, 1, outputs))


def places(position: Tensor, positions: int) -> Tensor:
    """Rows of the examination table: 0 where the position is unknown (NaN), 1 + position elsewhere."""
    known = ~position.isnan()
    return torch.where(known, position.nan_to_num().clamp(0, positions - 1) + 1, 0).long()
