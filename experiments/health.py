"""Whether an experiment can be read at all: this is asked before anything else."""

from __future__ import annotations

import math

from experiments.config import Declaration, Experiment
from experiments.metrics import Statistics
from experiments.stats import log_sample_ratio_e_value, sample_ratio_p_value


class HealthRule(Declaration):
    """When an experiment counts as broken."""

    sample_ratio_alpha: float = 0.01  # of ever alarming while the design holds, however often one looks
    crossover_share: float = 0.001  # of exposed units that may have been seen in two arms


class Health(Declaration):
    """The outcome of the checks; `findings` is empty for a healthy experiment.

    `log_e_value` is the sequential sample-ratio test, which decides; `p_value` is χ² at this one look.
    """

    units: tuple[int, ...]
    shares: tuple[float, ...]
    log_e_value: float
    p_value: float | None
    crossovers: int
    findings: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether estimates mean anything."""
        return not self.findings


def examine(experiment: Experiment, statistics: Statistics, rule: HealthRule) -> Health:
    """Sample ratio, crossovers and undeclared arms.

    Only units seen in one arm are counted: those that crossed are a finding of their own.
    """
    units = tuple(arm.units for arm in statistics.arms)
    shares = tuple(arm.share for arm in experiment.arms.values())
    log_e_value = log_sample_ratio_e_value(units, shares)
    findings = []
    if log_e_value >= -math.log(rule.sample_ratio_alpha):
        findings.append(_mismatch(experiment, units, log_e_value))
    exposed = sum(units) + statistics.crossovers
    if statistics.crossovers > rule.crossover_share * exposed:
        findings.append(f"{statistics.crossovers} of {exposed} units were seen in more than one arm")
    if statistics.strangers:
        seen = ", ".join(f"{count} in {arm!r}" for arm, count in statistics.strangers.items())
        findings.append(f"units were seen in arms that are not declared: {seen}")
    return Health(
        units=units,
        shares=shares,
        log_e_value=log_e_value,
        p_value=sample_ratio_p_value(units, shares),
        crossovers=statistics.crossovers,
        findings=tuple(findings),
    )


def _mismatch(experiment: Experiment, units: tuple[int, ...], log_e_value: float) -> str:
    total = sum(units)
    told = ", ".join(
        f"{name} has {count} units where {total * arm.share:.0f} were due"
        for (name, arm), count in zip(experiment.arms.items(), units, strict=True)
    )
    return f"sample ratio mismatch: {told} (e-value 10^{log_e_value / math.log(10):.1f})"
