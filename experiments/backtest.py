"""What other decision rules would have shipped: stored read-outs hold all that a rule needs, so rules can be compared.

A rule is judged by what it ships is worth. As read, that favours rules that ship luck; so each effect is shrunk towards what
effects are like in all tests (`experiments.shrinkage`), which being picked does not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from experiments.decision import DecisionRule, Verdict
from experiments.holdout import relative_effect
from experiments.readout import Readout, read_out
from experiments.shrinkage import prior_of, shrink
from experiments.values import Declaration

Key = tuple[int, str]
"""The place of a read-out, and a treatment of it."""


class RuleResult(Declaration):
    """A rule over all stored tests. Returns are sums of relative effects on the primary."""

    name: str
    rule: DecisionRule
    shipped: tuple[str, ...]
    stopped: int
    naive_return: float
    expected_return: float = Field(description="shrunk")
    expected_per_ship: float | None


def back_test(readouts: Sequence[Readout], rules: Mapping[str, DecisionRule]) -> tuple[RuleResult, ...]:
    """Every rule over the last read-out of each test, best expected return first. Broken tests ship under none.

    The primaries are taken to be one currency; give read-outs of one primary.

    Raises:
        ValueError: fewer than three effects can be read, or the primaries differ.
    """
    healthy = [r for r in readouts if r.health.healthy]
    if len(primaries := {r.experiment.metrics.primary.name for r in healthy}) > 1:
        raise ValueError(
            f"returns in {', '.join(sorted(primaries))} do not add up: give read-outs of one primary."
        )
    effects = {
        (place, treatment): effect
        for place, r in enumerate(healthy)
        for treatment in r.experiment.treatments
        if (effect := relative_effect(r, treatment)) is not None
    }
    prior = prior_of([e for e, _ in effects.values()], [s for _, s in effects.values()])
    worth = {key: shrink(*effect, prior).shrunk for key, effect in effects.items()}
    results = [_under(name, rule, healthy, effects, worth) for name, rule in rules.items()]
    return tuple(sorted(results, key=lambda result: -result.expected_return))


def _under(
    name: str,
    rule: DecisionRule,
    readouts: Sequence[Readout],
    effects: Mapping[Key, tuple[float, float]],
    worth: Mapping[Key, float],
) -> RuleResult:
    """What one rule makes of the same statistics."""
    again = [read_out(r.experiment, r.statistics, r.at, rule, r.looks.fractions[:-1]) for r in readouts]
    won = [(place, r.winner) for place, r in enumerate(again) if r.winner is not None]
    expected = sum(worth[key] for key in won)
    return RuleResult(
        name=name,
        rule=rule,
        shipped=tuple(readouts[place].experiment.name for place, _ in won),
        stopped=sum(r.verdict is Verdict.STOP for r in again),
        naive_return=sum(effects[key][0] for key in won),
        expected_return=expected,
        expected_per_ship=expected / len(won) if won else None,
    )
