"""Shadows and canaries, declared in a file that running services follow."""

from __future__ import annotations

from matinee.context import Day
from matinee.deployment import bento_folder, newest_tag
from serving.champions import Champions
from serving.manifest import NEEDS, Kind, Manifest
from serving.rollout import Canary, Rollout, Shadow


class KindNotServed(ValueError):
    """A version of a model that no page is made with."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"{ref} is not served by itself. Served are: {', '.join(NEEDS['homepage'])}.")


def shadow(day: Day, ref: str) -> Rollout:
    """Let a version score unseen from now on, where a Bento holds it."""
    kind, pinned = _pinned(day, ref)
    return _written(day, Rollout.read(day.workspace.rollout).with_shadow(Shadow(kind=kind, ref=pinned)))


def canary(day: Day, ref: str, share: float) -> Rollout:
    """Serve a version to a share of the users from now on, where a Bento holds it."""
    kind, pinned = _pinned(day, ref)
    declared = Canary(kind=kind, ref=pinned, share=share)
    return _written(day, Rollout.read(day.workspace.rollout).with_canary(declared))


def end_shadow(day: Day, ref: str) -> Rollout:
    """Let a shadow go.

    Raises:
        NotRolledOut: it is none.
    """
    return _written(day, Rollout.read(day.workspace.rollout).without_shadow(day.registry.get(ref).ref))


def end_canary(day: Day, ref: str) -> Rollout:
    """Serve the default again to those who were served a canary; raises as `end_shadow` does."""
    return _written(day, Rollout.read(day.workspace.rollout).without_canary(day.registry.get(ref).ref))


def not_in_newest_bento(day: Day, rollout: Rollout) -> tuple[str, ...]:
    """What of a roll-out the newest homepage Bento lacks, so that a service that runs from it refuses."""
    folder = bento_folder(day, newest_tag(day, "homepage"))
    champions = Champions.read(day.workspace.champions)
    manifest = champions.over(Manifest.load(folder), NEEDS["homepage"], day.workspace.root)
    held = {version.ref for version in manifest.versions}
    return tuple(ref for ref in rollout.references if ref not in held)


def _pinned(day: Day, ref: str) -> tuple[Kind, str]:
    version = day.registry.get(ref)
    if version.name not in NEEDS["homepage"]:
        raise KindNotServed(version.ref)
    return version.name, version.ref


def _written(day: Day, rollout: Rollout) -> Rollout:
    rollout.write(day.workspace.rollout)
    return rollout
