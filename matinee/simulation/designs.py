"""Experiments of the scenarios, as anyone would declare them: arms of weights, and the product's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache

from experiments.config import Arm, Experiment, Metrics
from experiments.definitions import DefinedMetric
from experiments.reading import SHIPPED, load
from models.objective import ObjectiveWeights

CONTROL = "control"
COMING = 4
"""Days in which nearly every member comes once: a run's windows leave so many for members to be first exposed in."""
_MEASURED = {"plays": "plays_7d", "minutes": "minutes_7d", "renewals": "renewals_28d"}


@cache
def measured(days: int) -> Mapping[str, DefinedMetric]:
    """The product's plays, minutes and renewals (`metrics.yaml`), over the longest window that a run of `days` sees the end of."""
    known, window = load(SHIPPED).metrics, max(1, days - COMING)
    return {
        what: known[name].model_copy(
            update={"name": f"{what}_{window}d", "window_days": window, "description": f"{name} at another window"}
        )
        for what, name in _MEASURED.items()
    }  # fmt: skip


def more_plays(days: int) -> Metrics:
    """More plays, without fewer renewals."""
    known = measured(days)
    return Metrics(primary=known["plays"].metric(), guardrails=(known["renewals"].guardrail(),))


def more_renewals(days: int) -> Metrics:
    """More renewals, without fewer minutes watched. A play is no more than a click: fewer of them are no loss by themselves."""
    known = measured(days)
    return Metrics(primary=known["renewals"].metric(), guardrails=(known["minutes"].guardrail(),))


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


ALLURING = ObjectiveWeights(play=1, completion=0, retention=0, choice=0, diversity=0)
"""Whatever calls loudest, however alike: more plays today, and pages that members tire of."""


def varied(weight: float) -> ObjectiveWeights:
    """Plays and completions alike, with so much variety of genres over the whole page."""
    return ObjectiveWeights(
        play=1, completion=1, retention=0, choice=0, diversity=weight, diversity_window=24, diversity_genres=1
    )
