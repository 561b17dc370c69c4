"""The decision rule: one treatment against control, metric by metric."""

from __future__ import annotations

from enum import StrEnum

from experiments.config import Declaration, Experiment, Guardrail
from experiments.estimates import Estimate, estimate, p_inferior, p_worse, variance_cut
from experiments.health import HealthRule
from experiments.metrics import ArmStatistics, Statistics
from experiments.sequential import Looks


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
    Each is for all looks together (`experiments.sequential`).
    """

    alpha: float = 0.05
    alpha_guardrail: float = 0.05
    alpha_deterioration: float = 0.01
    alpha_segments: float = 0.05  # false discovery rate over segments (Benjamini & Hochberg 1995)
    health: HealthRule = HealthRule()


class Levels(Declaration):
    """The p-values below which a test counts at one look, and the two-sided level of its intervals."""

    interval: float
    success: float
    guardrail: float
    deterioration: float


def levels_of(experiment: Experiment, rule: DecisionRule, looks: Looks) -> Levels:
    """The rule's alphas, split over treatments and metrics as it says, at the newest of `looks`."""
    treatments, metrics = len(experiment.treatments), len(experiment.metrics.all)
    return Levels(
        interval=looks.level(rule.alpha, 2),
        success=looks.level(rule.alpha / treatments, 2),
        guardrail=looks.level(rule.alpha_guardrail, 1),
        deterioration=looks.level(rule.alpha_deterioration / (metrics * treatments), 1),
    )


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
    variance_cut: float | None = None  # share of the primary's variance that its covariate takes away

    @property
    def may_ship(self) -> bool:
        """Whether the decision rule holds for this treatment."""
        return self.success and not self.deteriorated and all(g.non_inferior for g in self.guardrails)


def compare(experiment: Experiment, statistics: Statistics, levels: Levels) -> tuple[Comparison, ...]:
    """Every treatment against control, in order."""
    arms = {arm.arm: arm for arm in statistics.arms}
    control = arms[experiment.control]
    return tuple(_comparison(experiment, control, arms[name], levels) for name in experiment.treatments)


def _comparison(
    experiment: Experiment, control: ArmStatistics, treatment: ArmStatistics, levels: Levels
) -> Comparison:
    metrics = experiment.metrics
    primary = estimate(metrics.primary, control, treatment, levels.interval)
    better = metrics.primary.sign * primary.difference > 0
    worse = (m.name for m in metrics.all if p_worse(m, control, treatment) < levels.deterioration)
    return Comparison(
        treatment=treatment.arm,
        primary=primary,
        success=better and primary.p_value < levels.success,
        guardrails=tuple(_guarded(guardrail, control, treatment, levels) for guardrail in metrics.guardrails),
        deteriorated=tuple(worse),
        variance_cut=variance_cut(metrics.primary, control, treatment),
    )


def _guarded(
    guardrail: Guardrail, control: ArmStatistics, treatment: ArmStatistics, levels: Levels
) -> GuardrailResult:
    p_value = p_inferior(guardrail, control, treatment)
    return GuardrailResult(
        estimate=estimate(guardrail, control, treatment, levels.interval),
        margin=guardrail.margin,
        p_value=p_value,
        non_inferior=p_value < levels.guardrail,
    )
