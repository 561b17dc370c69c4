"""From a hypothesis and the past to a test of the right size, written as YAML that `check` accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import yaml

from experiments.definitions import DefinedMetric
from experiments.power import Plan
from experiments.values import JSON, Declaration


class Arrivals(Declaration):
    """New units on each day of the past, the first day being when counting began."""

    daily: tuple[int, ...]

    def days_for(self, units: int) -> int | None:
        """Days until `units` different ones have come; beyond the past at the pace of its last week. None where that is nought."""
        seen = 0
        for day, new in enumerate(self.daily, 1):
            seen += new
            if seen >= units:
                return day
        last = self.daily[-7:]
        return None if sum(last) == 0 else len(self.daily) - ((seen - units) * len(last) // sum(last))

    def units_in(self, days: int) -> int:
        """How many different units come in `days`; beyond the past at the pace of its last week."""
        last = self.daily[-7:]
        beyond = max(days - len(self.daily), 0)
        return sum(self.daily[: max(days, 0)]) + (beyond and sum(last) * beyond // len(last))


class Draft(Declaration):
    """What a person says; the rest of the YAML follows from the past."""

    name: str
    hypothesis: str
    owner: str
    layer: str
    primary: str
    guardrails: Mapping[str, float | None]  # name → margin; None for the metric's own
    effect: float
    parameters: Mapping[str, JSON] = {}
    traffic: float = 1.0  # share of units that take part
    power: float = 0.8
    looks: int = 4


class Scope(Declaration):
    """A planned test: its size, how long it takes, and its YAML."""

    draft: Draft
    plan: Plan
    exposure_days: int | None
    window_days: int
    yaml: str
    sentence: str

    @property
    def days(self) -> int | None:
        """From the first exposure until the last unit's window is over."""
        return None if self.exposure_days is None else self.exposure_days + self.window_days + 1


def scope(
    draft: Draft, plan: Plan, arrivals: Arrivals, metrics: Sequence[DefinedMetric], start: datetime
) -> Scope:
    """The plan with its duration and its declaration, which starts at `start`.

    A test that the past says can never fill runs a year in the draft, and the sentence says so.
    """
    exposure_days = arrivals.days_for(math.ceil(plan.units / draft.traffic))
    window = max(metric.window_days for metric in metrics)
    end = start + timedelta(days=(365 if exposure_days is None else exposure_days) + window + 1)
    return Scope(
        draft=draft, plan=plan, exposure_days=exposure_days, window_days=window,
        yaml=_yaml(draft, plan, start, end), sentence=_sentence(draft, plan, exposure_days, window),
    )  # fmt: skip


def _yaml(draft: Draft, plan: Plan, start: datetime, end: datetime) -> str:
    guardrails = [
        name if margin is None else {"metric": name, "margin": margin}
        for name, margin in draft.guardrails.items()
    ]
    document = {
        "name": draft.name, "layer": draft.layer, "owner": draft.owner, "hypothesis": draft.hypothesis,
        "start": start.date(), "end": end.date(), "rollout": draft.traffic, "planned_units": plan.units,
        "effect": draft.effect, "power": draft.power, "looks": draft.looks,
        "arms": {"control": {"share": 0.5}, "treatment": {"share": 0.5, "parameters": dict(draft.parameters)}},
        "metrics": {"primary": draft.primary, "guardrails": guardrails},
    }  # fmt: skip
    head = f"# Scoped for {draft.effect:.3g} relative at a decision power of {plan.power:.0%}, {plan.looks} looks.\n"
    return head + str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110))


def _sentence(draft: Draft, plan: Plan, exposure_days: int | None, window: int) -> str:
    hardest = max(plan.needs, key=lambda need: need.units)
    first = (
        f"{plan.units:,} units find {draft.effect:+.2%} in {draft.primary} and clear every guardrail "
        f"{plan.power:.0%} of the time; {hardest.metric} asks for the most"
    )
    if exposure_days is None:
        return f"{first}. The past brings too few new units for that, ever: look for a larger effect or wider margins."
    return f"{first}. That is {exposure_days} days of exposure and {window + 1} more until the last window is over."
