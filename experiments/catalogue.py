"""Metrics that experiments refer to by name: `primary: minutes_7d` becomes the whole definition, so a ledger can keep it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from experiments.definitions import DefinedMetric

Path = tuple[str | int, ...]
Objection = tuple[Path, str]


def expanded(declared: Any, known: Mapping[str, DefinedMetric]) -> tuple[Any, list[Objection]]:
    """An experiment's YAML value with every named metric written out, and what kept one from being.

    A name stands for a metric: `primary: NAME`; a guardrail is `NAME` where the metric has a margin, or
    `{metric: NAME, margin: 0.02}`.
    """
    metrics = declared.get("metrics") if isinstance(declared, dict) else None
    if not isinstance(metrics, dict):
        return declared, []
    objections: list[Objection] = []
    whole = dict(metrics)
    if isinstance(name := metrics.get("primary"), str):
        whole["primary"] = _named(name, known, ("metrics", "primary"), objections)
    if isinstance(guardrails := metrics.get("guardrails"), list):
        whole["guardrails"] = [
            _guardrail(g, known, ("metrics", "guardrails", i), objections) for i, g in enumerate(guardrails)
        ]
    return declared | {"metrics": whole}, objections


def _guardrail(value: Any, known: Mapping[str, DefinedMetric], at: Path, objections: list[Objection]) -> Any:
    if isinstance(value, str):
        value = {"metric": value}
    if not isinstance(value, dict) or "metric" not in value:
        return value
    if unknown := sorted(set(value) - {"metric", "margin"}):
        message = f"there is no such field beside metric: a guardrail by name has a margin and nothing else ({', '.join(unknown)})."
        objections.append(((*at, unknown[0]), message))
    fields = _named(value["metric"], known, (*at, "metric"), objections)
    if fields is None:
        return None
    margin = value.get("margin", known[value["metric"]].margin)
    if margin is None:
        objections.append(
            (at, f"guardrail {value['metric']!r} has no margin: say what relative loss is acceptable.")
        )
    return fields | {"margin": margin}


def _named(
    name: str, known: Mapping[str, DefinedMetric], at: Path, objections: list[Objection]
) -> dict[str, Any] | None:
    if name in known:
        return known[name].fields()
    objections.append((at, f"there is no metric {name!r}.{_hint(name, known)}"))
    return None


def _hint(name: str, known: Collection[str]) -> str:
    near = get_close_matches(str(name), known, n=1)
    return (
        f" Did you mean {near[0]!r}?" if near else f" metrics.yaml has: {', '.join(sorted(known)) or 'none'}."
    )
