"""The two towers of retrieval, as PyTorch modules over standardised inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the name every PyTorch program gives it)
from torch import Tensor, nn

from models.settings import RetrievalConfig


class TitleTower(nn.Module):
    """Standardised title features and a learnt vector a title → unit vector and popularity.

    The id vector starts at zero and is hidden in a share of the training steps, so a title that training
    never saw (row 0 of the table, always zero) gets a vector its features alone can stand for.
    """

    def __init__(self, n_inputs: int, n_known: int, config: RetrievalConfig) -> None:
        super().__init__()
        self.cold_start = config.cold_start
        self.content = nn.Sequential(
            nn.Linear(n_inputs, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dimension),
        )
        self.popularity = nn.Sequential(nn.Linear(n_inputs, 32), nn.ReLU(), nn.Linear(32, 1))
        self.identity = nn.Embedding(n_known + 1, config.dimension, padding_idx=0)
        nn.init.zeros_(self.identity.weight)

    def forward(self, inputs: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """(T, I) inputs and (T,) rows of the id table → (T, D) unit vectors and (T,) popularities."""
        identity = self.identity(row)
        if self.training:
            shown = torch.rand(len(row), 1, device=identity.device) >= self.cold_start
            identity = identity * shown
        vectors = F.normalize(self.content(inputs) + identity, dim=-1)
        return vectors, self.popularity(inputs).squeeze(-1)


class UserTower(nn.Module):
    """Standardised user features and the vectors of watched titles → unit vector and taste for the popular.

    Watched titles are pooled with weights learnt from their vectors and from how long ago each was watched.
    """

    def __init__(self, n_inputs: int, config: RetrievalConfig) -> None:
        super().__init__()
        dimension = config.dimension
        self.interest = nn.Linear(dimension, 1)
        self.recency = nn.Parameter(torch.zeros(config.history))  # the newest title stands last
        self.direct = nn.Linear(dimension, dimension, bias=False)
        nn.init.eye_(self.direct.weight)  # at first a user looks for more of the same
        self.hidden = nn.Sequential(
            nn.Linear(n_inputs + 2 * dimension, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.taste = nn.Linear(config.hidden, dimension)
        self.gate = nn.Linear(config.hidden, 1)

    def forward(self, inputs: Tensor, watched: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(B, I) inputs, (B, L, D) title vectors, (B, L) which of them are titles → (B, D) and (B,).

        An empty history pools to the zero vector.
        """
        weight = self.interest(watched).squeeze(-1) + self.recency
        weight = weight.masked_fill(~seen, -1e9).softmax(dim=1) * seen
        pooled = (weight.unsqueeze(1) @ watched).squeeze(1)
        mean = (watched * seen.unsqueeze(-1)).sum(dim=1) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        hidden = self.hidden(torch.cat([inputs, pooled, mean], dim=1))
        vectors = F.normalize(self.taste(hidden) + self.direct(pooled), dim=-1)
        return vectors, F.softplus(self.gate(hidden)).squeeze(-1)
