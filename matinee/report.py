"""Figures of model versions, and the registry at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from matinee.session import print_table
from registry import ModelVersion, Registry


def print_metrics(versions: Sequence[ModelVersion]) -> None:
    """Every test metric, a model's beside popularity's of the same cut-off."""
    rows = []
    for version in versions:
        found = {metric.name: metric.value for metric in version.metrics if metric.split != "valid"}
        for name, value in found.items():
            if not name.startswith("popularity_"):
                beside = {
                    key.removesuffix(f"_{name}"): v
                    for key, v in found.items()
                    if key.endswith(f"_{name}") and key.startswith("popularity_")
                }
                rows.append(
                    [version.ref, name, f"{value:.4g}", ", ".join(f"{k} {v:.4f}" for k, v in beside.items())]
                )
    print_table(
        "measured on the test period",
        ("version", "metric", "value", "popularity, same users and titles"),
        rows,
    )


def print_registry(registry: Registry) -> None:
    """Models, and which version is live where."""
    rows = [
        [m.name, str(m.latest), ", ".join(f"{a} → {n}" for a, n in m.aliases.items())]
        for m in registry.models()
    ]
    print_table("registry", ("model", "latest version", "aliases"), rows)
    print_table("live", ("version", "as", "where"), [[x.ref, x.kind, x.where] for x in registry.live()])
