"""Figures of model versions, and the registry at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matinee.evaluation import is_popularity
from matinee.session import print_table
from registry import ModelVersion, Registry


def print_metrics(versions: Sequence[ModelVersion]) -> None:
    """Every test metric, a model's beside popularity's of the same cut-off, users and titles."""
    for version in versions:
        found = {metric.name: metric.value for metric in version.metrics if metric.split != "valid"}
        peers = sorted(
            {name.rsplit(f"_{metric}", 1)[0] for metric in found for name in found if _beside(name, metric)}
        )
        rows = [
            [name, f"{value:.4g}", *(_figure(found, f"{peer}_{name}") for peer in peers)]
            for name, value in found.items() if not name.startswith("popularity_")
        ]  # fmt: skip
        print_table(
            f"{version.ref}, measured on periods it was not trained on",
            ("metric", version.name, *peers),
            rows,
        )


def _beside(name: str, metric: str) -> bool:
    return is_popularity(name.removesuffix(f"_{metric}"))


def _figure(found: Mapping[str, float], name: str) -> str:
    return f"{found[name]:.4g}" if name in found else ""


def print_registry(registry: Registry) -> None:
    """Models, and which version is live where."""
    rows = [
        [m.name, str(m.latest), ", ".join(f"{a} → {n}" for a, n in m.aliases.items())]
        for m in registry.models()
    ]
    print_table("registry", ("model", "latest version", "aliases"), rows)
    print_table("live", ("version", "as", "where"), [[x.ref, x.kind, x.where] for x in registry.live()])
