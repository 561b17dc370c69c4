"""The ranking network: one body or a mixture of experts, under a head for each outcome."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.settings import RankerConfig


class RankerNetwork(nn.Module):
    """Standardised features → one logit a head.

    `mmoe` (Ma et al., KDD 2018, eq. 5 to 7): experts f_i(x), and for head k the mixture Σ_i g_k(x)_i f_i(x)
    with g_k = softmax(W_k x). `shared_bottom` is one expert as wide as all of them, and no gate.
    """

    def __init__(self, n_inputs: int, heads: Sequence[str], config: RankerConfig) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.n_experts = config.experts if config.architecture == "mmoe" else 1
        widen = config.experts // self.n_experts
        hidden, output = config.hidden * widen, config.output * widen
        self.first = nn.Linear(n_inputs, self.n_experts * hidden)  # all experts side by side
        self.second = nn.Parameter(torch.empty(self.n_experts, hidden, output))
        self.second_bias = nn.Parameter(torch.zeros(self.n_experts, 1, output))
        nn.init.kaiming_uniform_(self.second.view(self.n_experts * hidden, output).T, a=5**0.5)
        self.gates = nn.Linear(n_inputs, self.n_experts * len(self.heads)) if self.n_experts > 1 else None
        self.dropout = nn.Dropout(config.dropout)
        self.towers = nn.ModuleDict({
            head: nn.Sequential(nn.Linear(output, config.tower), nn.ReLU(), nn.Linear(config.tower, 1))
            for head in self.heads
        })  # fmt: skip
        self.examination = nn.Embedding(config.positions + 1, 1, padding_idx=0)
        nn.init.zeros_(self.examination.weight)

    def forward(self, inputs: Tensor, place: Tensor) -> dict[str, Tensor]:
        """(N, I) inputs and (N,) places (see `places`) → (N,) logits by head.

        The play logit is that of the title plus that of its place being looked at, so what a place does for
        plays is not mistaken for the title's merit (PAL: Guo et al., RecSys 2019, in logits).
        """
        mixtures = self._mixtures(inputs)
        logits = {head: self.towers[head](mixtures[k]).squeeze(-1) for k, head in enumerate(self.heads)}
        logits["play"] = logits["play"] + self.examination(place).squeeze(-1)
        return logits

    def _mixtures(self, inputs: Tensor) -> Sequence[Tensor]:
        """What each head reads, (N, output)."""
        n = len(inputs)
        hidden = self.dropout(torch.relu(self.first(inputs))).view(n, self.n_experts, -1)
        experts = torch.relu(
            torch.baddbmm(self.second_bias, hidden.transpose(0, 1), self.second)
        )  # (E, N, O)
        if self.gates is None:
            return [experts[0]] * len(self.heads)
        gates = self.gates(inputs).view(n, len(self.heads), self.n_experts).softmax(dim=-1)
        mixtures: Tensor = gates @ experts.transpose(0, 1)  # (N, K, E) @ (N, E, O)
        return mixtures.unbind(dim=1)


def places(position: Tensor, positions: int) -> Tensor:
    """Rows of the examination table: 0 where the position is unknown (NaN), 1 + position elsewhere."""
    known = ~position.isnan()
    return torch.where(known, position.nan_to_num().clamp(0, positions - 1) + 1, 0).long()
