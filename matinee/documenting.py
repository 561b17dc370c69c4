"""What the documentation site says of the rest of the system: which models and arms read each feature."""

from __future__ import annotations

from pathlib import Path

from feature_repo.docs import newest_computed, write_site
from feature_repo.pages import Usage
from matinee.context import Day
from registry import Lineage


def write_docs(day: Day, folder: Path) -> Path:
    """Write the site of a workspace's features as they are now; returns its first page."""
    declarations = day.workspace.declarations
    computed = newest_computed(declarations, day.workspace.offline)
    return write_site(declarations, folder, computed, usage(day))


def usage(day: Day) -> dict[str, Usage]:
    """Feature digest → the versions in use that were trained on it, and the running arms that serve those."""
    models: dict[str, list[str]] = {}
    arms: dict[str, list[str]] = {}
    for ref in sorted({live.ref for live in day.registry.live()}):
        lineage = day.registry.explain(ref)
        told = _version(lineage, ref)
        running = sorted(
            {f"{arm.ref} (running)" for arm in lineage.arms if arm.state == "running" and arm.version == ref}
        )
        for feature in lineage.features:
            models.setdefault(feature.digest, []).append(told)
            arms.setdefault(feature.digest, []).extend(running)
    return {digest: Usage(tuple(models[digest]), tuple(dict.fromkeys(arms[digest]))) for digest in models}


def _version(lineage: Lineage, ref: str) -> str:
    """A version with its aliases, such as "ranker/3 @champion"."""
    aliases = {alias for version in lineage.versions if version.ref == ref for alias in version.aliases}
    return " ".join([ref, *(f"@{alias}" for alias in sorted(aliases))])
