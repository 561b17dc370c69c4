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
        self.plainly = nn.Linear(
            n_inputs, config.channels
        )  # how often a title was played needs no hidden layer
        self.popularity = nn.Sequential(nn.Linear(n_inputs, 32), nn.ReLU(), nn.Linear(32, config.channels))
        self.identity = nn.Embedding(n_known + 1, config.dimension, padding_idx=0)
        nn.init.zeros_(self.identity.weight)

    def forward(self, inputs: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """(T, I) inputs and (T,) rows of the id table → (T, D) unit vectors and (T, M) popularities."""
        identity = self.identity(row)
        if self.training:
            shown = torch.rand(len(row), 1, device=identity.device) >= self.cold_start
            identity = identity * shown
        vectors = F.normalize(self.content(inputs) + identity, dim=-1)
        return vectors, self.plainly(inputs) + self.popularity(inputs)


class Block(nn.Module):
    """One block of causal self-attention and a feed-forward layer, normalised before each (Xiong et al. 2020)."""

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__()
        d = config.dimension
        self.heads = config.heads
        self.before_attention = nn.LayerNorm(d)
        self.queries_keys_values = nn.Linear(d, 3 * d)
        self.mixed = nn.Linear(d, d)
        self.before_layer = nn.LayerNorm(d)
        self.layer = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) and (B, 1, L, L) which places each place may look at → (B, L, D)."""
        b, length, d = x.shape
        parts = self.queries_keys_values(self.before_attention(x)).view(b, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        looked = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.mixed(looked.transpose(1, 2).reshape(b, length, d)))
        out: Tensor = x + self.dropout(self.layer(self.before_layer(x)))
        return out


class UserTower(nn.Module):
    """Standardised user features and the vectors of watched titles → taste, and pull of the popular.

    Watched titles are read in order by causal self-attention (Kang & McAuley, ICDM 2018): what is read up to a
    place says what may come next. The last place, and the user's features, say what the user looks for now.
    """

    def __init__(self, n_inputs: int, config: RetrievalConfig) -> None:
        super().__init__()
        d = config.dimension
        self.dimension, self.scale, self.temperature = d, d**0.5, config.temperature
        self.coplay_place = nn.Parameter(torch.zeros(config.history))  # log of a place's weight
        self.coplay_gain = nn.Linear(config.hidden, 1)
        nn.init.constant_(self.coplay_gain.bias, 5.0)  # co-plays are shares of a play; a logit wants more
        self.place = nn.Parameter(torch.zeros(config.history, d))  # the newest title stands last
        nn.init.normal_(self.place, std=0.02)
        self.nobody = nn.Parameter(torch.zeros(d))  # what is read in an empty history
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.after = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.next = nn.Linear(d, d, bias=False)
        self.hidden = nn.Sequential(
            nn.Linear(n_inputs + 2 * d, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.taste = nn.Linear(config.hidden, d)
        self.gate = nn.Linear(config.hidden, config.channels)
        for weight in (self.next.weight, self.taste.weight, self.taste.bias):
            nn.init.zeros_(
                weight
            )  # at first a user has no taste of their own: what is popular, and co-plays, rank

    def read(self, watched: Tensor, seen: Tensor) -> Tensor:
        """(B, L, D) title vectors and (B, L) which of them are titles → (B, L, D) what is known at each place."""
        length = watched.shape[1]
        x = self.dropout(watched * self.scale + self.place) * seen.unsqueeze(-1)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=x.device)
        visible = ((causal & seen[:, None, :]) | itself)[:, None]
        for block in self.blocks:
            x = block(x, visible)
        known: Tensor = self.after(x)
        return known

    def forward(self, inputs: Tensor, reads: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(B, I) inputs, (B, L, D + R) what titles are read by, (B, L) which of them are titles.

        Returns the query (B, D + R + M), and (B, L, D) the taste for the next title after each place.
        """
        watched, coplayed = reads[..., : self.dimension], reads[..., self.dimension :]
        known = self.read(watched, seen)
        empty = ~seen.any(dim=1, keepdim=True)
        last = torch.where(empty, self.nobody, known[:, -1])
        mean = (watched * seen.unsqueeze(-1)).sum(dim=1) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        hidden = self.hidden(torch.cat([inputs, last, mean], dim=1))
        following = self.next(known)
        taste = self.taste(hidden) + torch.where(empty, 0.0, following[:, -1])
        weight = self.coplay_place.exp() * seen
        company = (weight.unsqueeze(1) @ coplayed).squeeze(1) * F.softplus(self.coplay_gain(hidden))
        query = torch.cat([taste / self.temperature, company, F.softplus(self.gate(hidden))], dim=1)
        return query, following / self.temperature
