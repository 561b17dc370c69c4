"""A verdict said in one sentence that a product person can forward."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.decision import Comparison, GuardrailResult, Levels, Verdict
from experiments.estimates import Estimate
from experiments.health import Health
from experiments.sequential import Looks


def sentence_of(
    verdict: Verdict,
    winner: str | None,
    reason: str | None,
    health: Health,
    comparisons: Sequence[Comparison],
) -> str:
    """What the read-out says, its doubt included."""
    if verdict is Verdict.BROKEN:
        return f"Broken, so there is no winner: {'; '.join(health.findings)}."
    if verdict is Verdict.NO_VERDICT:
        return f"No verdict: {reason}."
    if verdict is Verdict.SHIP:
        won = next(c for c in comparisons if c.treatment == winner)
        return f"Ship {winner}: {_moved(won.primary)}, and {_margins(won.guardrails)}."
    lead = "Stop" if verdict is Verdict.STOP else "Inconclusive, keep control"
    return f"{lead}: {'; '.join(_objections(comparison) for comparison in comparisons)}."


def _moved(estimate: Estimate) -> str:
    """`minutes_per_member rose by 3.1 % (95 % interval …)`, relative where that means something."""
    verb = "rose" if estimate.difference > 0 else "fell"
    low, high = estimate.relative_low, estimate.relative_high
    if estimate.relative is None or low is None or high is None or estimate.control <= 0:
        return f"{estimate.metric} {verb} by {abs(estimate.difference):.4g} (from {estimate.low:.4g} to {estimate.high:.4g})"
    return f"{estimate.metric} {verb} by {abs(estimate.relative):.1%} (from {low:+.1%} to {high:+.1%})"


def _margins(guardrails: Sequence[GuardrailResult]) -> str:
    told = ", ".join(f"{g.estimate.metric} ({100 * g.margin:.3g}%)" for g in guardrails)
    return f"every guardrail is within its margin: {told}"


def _objections(comparison: Comparison) -> str:
    if comparison.deteriorated:
        worse = {e.metric: e for e in (comparison.primary, *(g.estimate for g in comparison.guardrails))}
        moved = ", ".join(_moved(worse[name]) for name in comparison.deteriorated)
        return f"{comparison.treatment} makes things worse, {moved}"
    said = [_moved(comparison.primary) + ("" if comparison.success else ", which is no clear win")]
    said += [
        f"{g.estimate.metric} may lose {100 * g.margin:.3g}% or more"
        for g in comparison.guardrails
        if not g.non_inferior
    ]
    return f"in {comparison.treatment} {', and '.join(said)}"


def looks_said(looks: Looks, levels: Levels) -> str:
    """How far along the test is, and how that is paid for.

    >>> looks_said(Looks(), Levels(interval=0.05, success=0.05, guardrail=0.05, deterioration=0.01))
    'One look, with all of alpha: success counts below p = 0.05. No planned_units are declared; looking again costs.'
    """
    bar = f"success counts below p = {levels.success:.2g}"
    if looks.method == "fixed":
        return f"One look, with all of alpha: {bar}. No planned_units are declared; looking again costs."
    if looks.method == "always-valid":
        return f"Looked at before without a plan, so intervals hold at all times: {bar}. Declare planned_units for narrower ones."
    done, number = looks.fractions[-1], len(looks.fractions)
    last = ", the last," if looks.final else ""
    return f"Look {number}{last} at {done:.0%} of the planned units: {bar} now, and over all looks together alpha is kept."
