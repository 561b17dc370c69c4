"""Experiments of the scenarios, as anyone would declare them: arms of weights, a metric that decides, guardrails."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from experiments.config import Arm, Experiment, Guardrail, Metric, Metrics
from models.objective import ObjectiveWeights

CONTROL = "control"
RENEWALS = {"name": "renewal_share", "value": "renewals", "per": "renewals_due"}
PLAYS = {"name": "plays_per_member", "value": "plays"}
MINUTES = {"name": "minutes_per_member", "value": "watch_minutes"}
BEFORE = "minutes_before"
"""Minutes watched in the history, where outcomes have them: they take the member's habits out of the variance."""


def weights_test(
    name: str,
    arms: Mapping[str, ObjectiveWeights],
    metrics: Metrics,
    hypothesis: str,
    start: datetime,
    end: datetime,
    *,
    slot: tuple[float, float] = (0.0, 1.0),
) -> Experiment:
    """An experiment in the ranking layer whose arms, of equal shares, set every weight; one of them is `control`."""
    share = 1 / len(arms)
    return Experiment(
        name=name, layer="ranking", owner="simulation", hypothesis=hypothesis, control=CONTROL,
        arms={arm: Arm(share=share, parameters=parameters(weights)) for arm, weights in arms.items()},
        metrics=metrics, start=start, end=end, slot=slot,
    )  # fmt: skip


def parameters(weights: ObjectiveWeights) -> dict[str, str | float | int | bool]:
    """Weights as an arm sets them."""
    return {f"weights.{name}": value for name, value in weights.model_dump().items()}


def more_plays(margin: float = 0.01) -> Metrics:
    """More plays, without fewer renewals."""
    return Metrics(primary=Metric(**PLAYS), guardrails=(Guardrail(**RENEWALS, margin=margin),))


def more_renewals(margin: float = 0.03, covariate: str | None = None) -> Metrics:
    """More renewals, without fewer minutes watched. A play is no more than a click: fewer of them are no loss by themselves."""
    minutes = Guardrail(**MINUTES, covariate=covariate, margin=margin)
    return Metrics(primary=Metric(**RENEWALS), guardrails=(minutes,))


ALLURING = ObjectiveWeights(play=1, completion=0, retention=0, choice=0, diversity=0)
"""Whatever calls loudest, however alike: more plays today, and pages that members tire of."""
VARIED = ObjectiveWeights(diversity=0.3, diversity_window=24)
"""The product's own weights with more variety over the whole page."""
