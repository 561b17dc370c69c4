"""How much a page is allowed to weigh up, so that the slow ones stay within the budget.

Twitter's quality factor (the-algorithm, product-mixer: `LinearLatencyQualityFactor`): each answer within the target raises the
factor by a step, each one beyond lowers it by p / (1 − p) steps. The two balance where a share p is within, so the factor moves
until the p-quantile of latency is the target; it is a quantile estimate by stochastic approximation (Robbins, Monro, 1951).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field


class QualityConfig(BaseModel):
    """What the factor steers by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_share: float = Field(
        0.8, gt=0, le=1, description="of the request's budget: where the quantile of latency is held"
    )
    quantile: float = Field(0.99, gt=0, lt=1, description="share of answers that are to be within the target")
    floor: float = Field(0.25, gt=0, le=1, description="the least share of the candidates that is ranked")
    step: float = Field(0.0005, gt=0, lt=1, description="by which an answer in time raises the factor")


@dataclass(frozen=True)
class QualityFactor:
    """The share of candidates that go on to ranking, in floor..1."""

    config: QualityConfig = QualityConfig()  # noqa: RUF009  (a frozen value)
    value: float = 1.0

    def after(self, latency_ms: float, budget_ms: float) -> QualityFactor:
        """The factor after one more answer."""
        p, step = self.config.quantile, self.config.step
        within = latency_ms <= self.config.target_share * budget_ms
        moved = self.value + (step if within else -step * p / (1 - p))
        return replace(self, value=min(1.0, max(self.config.floor, moved)))

    def of(self, n_candidates: int, size: int) -> int:
        """How many of `n_candidates` to rank for a page of `size` titles: never fewer than are shown."""
        return min(n_candidates, max(size, round(self.value * n_candidates)))


@dataclass
class Quality:
    """The factor of a process, moved by every page that it makes."""

    factor: QualityFactor
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def observe(self, latency_ms: float, budget_ms: float) -> None:
        """One more answer took so long."""
        with self._lock:
            self.factor = self.factor.after(latency_ms, budget_ms)
