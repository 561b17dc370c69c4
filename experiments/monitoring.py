"""Guardrails watched all the time: confidence sequences say when one is surely worse, however often one looks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from experiments.config import Experiment, Guardrail
from experiments.decision import DecisionRule
from experiments.estimates import Estimate, estimate, p_inferior, p_worse, unreadable
from experiments.health import Health, examine
from experiments.metrics import ArmStatistics, Statistics
from experiments.sequential import Looks
from experiments.values import Declaration

LEAST_UNITS = 100
"""An arm with fewer is not watched: the sequences are asymptotic."""


class Watched(Declaration):
    """A guardrail in one treatment. The interval holds at all times together; None while nothing can be said.

    `worse` is a fall that is certain, `breached` one beyond the margin.
    """

    guardrail: str
    treatment: str
    margin: float
    estimate: Estimate | None
    state: Literal["unread", "fine", "worse", "breached"]


class Watch(Declaration):
    """What a look at the guardrails comes to. A test that cannot ship any more need not run: any certain fall rolls it back."""

    experiment: str
    at: AwareDatetime
    health: Health
    guardrails: tuple[Watched, ...]
    roll_back: bool
    sentence: str


def watch(
    experiment: Experiment,
    statistics: Statistics,
    at: datetime,
    rule: DecisionRule = DecisionRule(),  # noqa: B008  (a frozen value)
) -> Watch:
    """Every guardrail in every treatment, now; may be asked at any time and as often as wished.

    Over all guardrails, treatments and looks, a treatment that harms nothing is rolled back with a probability of at most
    `rule.alpha_deterioration`. A broken experiment is not rolled back: its estimates mean nothing, in either direction.
    """
    arms = {arm.arm: arm for arm in statistics.arms}
    health = examine(experiment, statistics, rule.health)
    alpha = rule.alpha_deterioration / (len(experiment.metrics.guardrails) * len(experiment.treatments))
    found = tuple(
        _watched(guardrail, arms[experiment.control], arms[name], alpha, experiment.planned_units)
        for name in experiment.treatments
        for guardrail in experiment.metrics.guardrails
    )
    harmed = [w for w in found if w.state in {"worse", "breached"}]
    return Watch(
        experiment=experiment.name,
        at=at,
        health=health,
        guardrails=found,
        roll_back=health.healthy and bool(harmed),
        sentence=_sentence(health, found, harmed),
    )


def _watched(
    guardrail: Guardrail, control: ArmStatistics, treatment: ArmStatistics, alpha: float, planned: int | None
) -> Watched:
    known = {"guardrail": guardrail.name, "treatment": treatment.arm, "margin": guardrail.margin}
    counts = [arm.count(guardrail.value) for arm in (control, treatment)]
    if min(counts) < LEAST_UNITS or unreadable(guardrail, control, treatment) is not None:
        return Watched.model_validate({**known, "estimate": None, "state": "unread"})
    looks = Looks(method="always-valid", units=sum(counts))
    looks = looks if planned is None else looks.model_copy(update={"tuned_units": planned})
    level = looks.level(alpha, 2)
    state = "fine"
    if p_worse(guardrail, control, treatment) < level / 2:
        # 1 - p is the p-value of the other side: that the loss is smaller than the margin
        state = "breached" if 1 - p_inferior(guardrail, control, treatment) < level / 2 else "worse"
    return Watched.model_validate(
        {**known, "estimate": estimate(guardrail, control, treatment, level), "state": state}
    )


def _sentence(health: Health, found: tuple[Watched, ...], harmed: list[Watched]) -> str:
    if not health.healthy:
        return f"Broken, so nothing is decided: {'; '.join(health.findings)}."
    if harmed:
        told = "; ".join(f"{w.guardrail} is surely worse in {w.treatment}{_beyond(w)}" for w in harmed)
        return f"Roll back: {told}."
    unread = sum(w.state == "unread" for w in found)
    rest = f" ({unread} cannot be read yet)" if unread else ""
    return f"No guardrail is surely worse{rest}."


def _beyond(watched: Watched) -> str:
    found = watched.estimate
    by = "" if found is None or found.relative is None else f", by {abs(found.relative):.1%}"
    return f"{by}, beyond its margin of {watched.margin:.3g}" if watched.state == "breached" else by
