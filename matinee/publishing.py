"""The ledger's champions as a file that running services follow."""

from __future__ import annotations

from matinee.context import Day, fetched
from serving.champions import Champions
from serving.manifest import NEEDS, PackedVersion
from serving.versions import described


def publish_champions(day: Day) -> tuple[str, ...]:
    """Tell running services which versions are champions now; returns what changed, as `ranker/4`.

    The files of each are fetched first, so that a service whose Bento does not hold a version finds it in the workspace.
    """
    held = Champions.read(day.workspace.champions)
    known = {(version.ref, version.digest): version for version in held.versions}
    versions = tuple(_champion(day, name, known) for name in champion_names(day))
    if versions == held.versions:
        return ()
    Champions(versions=versions).write(day.workspace.champions)
    return tuple(version.ref for version in versions if version not in held.versions)


def champion_names(day: Day) -> tuple[str, ...]:
    """The models that have a champion and are served, in order."""
    models = {model.name for model in day.registry.models() if "champion" in model.aliases}
    return tuple(kind for kind in NEEDS["homepage"] if kind in models)


def _champion(day: Day, name: str, known: dict[tuple[str, str], PackedVersion]) -> PackedVersion:
    version = day.registry.get(f"{name}@champion")
    same = known.get((version.ref, version.digest))
    if same is not None and (day.workspace.root / same.folder).is_dir():
        return same  # whoever loads it checks its bytes
    folder = fetched(day, version.ref)
    found = described(version.ref, folder, version.signature.framework)
    return found.model_copy(update={"folder": folder.relative_to(day.workspace.root).as_posix()})
