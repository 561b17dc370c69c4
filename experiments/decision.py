"""The decision rule: one treatment against control, metric by metric."""

from __future__ import annotations

from enum import StrEnum

from experiments.config import Declaration, Experiment, Guardrail
from experiments.estimates import Estimate, estimate, p_inferior, p_worse
from experiments.health import HealthRule
from experiments.metrics import ArmStatistics, Statistics


class Verdict(StrEnum):
    """What to do."""

    SHIP = "ship"
    STOP = "stop"
    INCONCLUSIVE = "inconclusive"
    BROKEN = "broken"
    NO_VERDICT = "no verdict"


class DecisionRule(Declaration):
    """Ship only if the success metric wins, every guardrail is non-inferior, and nothing deteriorates.

    Schultzberg, Ankargren & Frånberg (Spotify, 2024), decision rule 2. `alpha` of success is two-sided and split
    over treatments; that of guardrails is one-sided and not split, since all of them must hold;
    that of deterioration is one-sided and split over all metrics and treatments, since any one of them stops.
    """

    alpha: float = 0.05
    alpha_guardrail: float = 0.05
    alpha_deterioration: float = 0.01
    health: HealthRule = HealthRule()


class GuardrailResult(Declaration):
    """A guardrail's estimate and whether it stays within its margin."""

    estimate: Estimate
    margin: float
    p_value: float  # of the loss being at least the margin
    non_inferior: bool


class Comparison(Declaration):
    """One treatment against control."""

    treatment: str
    primary: Estimate
    success: bool
    guardrails: tuple[GuardrailResult, ...]
    deteriorated: tuple[str, ...]  # metrics that are significantly worse

    @property
    def may_ship(self) -> bool:
        """Whether the decision rule holds for this treatment."""
        return self.success and not self.deteriorated and all(g.non_inferior for g in self.guardrails)


def compare(experiment: Experiment, statistics: Statistics, rule: DecisionRule) -> tuple[Comparison, ...]:
    """Every treatment against control, in order."""
    arms = {arm.arm: arm for arm in statistics.arms}
    control = arms[experiment.control]
    return tuple(_comparison(experiment, control, arms[name], rule) for name in experiment.treatments)


def _comparison(
    experiment: Experiment, control: ArmStatistics, treatment: ArmStatistics, rule: DecisionRule
) -> Comparison:
    metrics, treatments = experiment.metrics, len(experiment.treatments)
    primary = estimate(metrics.primary, control, treatment, rule.alpha)
    better = primary.difference > 0 if metrics.primary.direction == "increase" else primary.difference < 0
    threshold = rule.alpha_deterioration / (len(metrics.all) * treatments)
    return Comparison(
        treatment=treatment.arm,
        primary=primary,
        success=better and primary.p_value < rule.alpha / treatments,
        guardrails=tuple(_guarded(guardrail, control, treatment, rule) for guardrail in metrics.guardrails),
        deteriorated=tuple(m.name for m in metrics.all if p_worse(m, control, treatment) < threshold),
    )


def _guarded(
    guardrail: Guardrail, control: ArmStatistics, treatment: ArmStatistics, rule: DecisionRule
) -> GuardrailResult:
    p_value = p_inferior(guardrail, control, treatment)
    return GuardrailResult(
        estimate=estimate(guardrail, control, treatment, rule.alpha),
        margin=guardrail.margin,
        p_value=p_value,
        non_inferior=p_value < rule.alpha_guardrail,
    )
