"""From the ledger to Bentos: which versions go in, and what the ledger is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from experiments.live import LiveExperiments
from matinee.context import Day, fetched
from matinee.progress import Stage
from matinee.publishing import publish_champions
from matinee.training import popularity_list
from models.objective import ObjectiveWeights
from registry import BentoRecord
from serving.bento import BuiltBento, build
from serving.manifest import NEEDS, Defaults, ServiceName
from serving.rollout import Rollout
from serving.running import Serving

KINDS = ("retriever", "ranker", "artwork")


class NotBuilt(LookupError):
    """A service has no Bento yet."""

    def __init__(self, service: str) -> None:
        super().__init__(f"no Bento of {service!r} was built. Run `matinee bento build {service}` first.")


class NoSuchBento(LookupError):
    """A tag names no Bento of this workspace."""

    def __init__(self, tag: str, built: Iterable[str]) -> None:
        super().__init__(f"no Bento {tag!r} here. There are: {', '.join(sorted(set(built))) or 'none'}.")


class NoChampion(LookupError):
    """A source has no champion to serve."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source}: no retriever is champion yet. Run `matinee day --source {source}` first."
        )


def champions(day: Day) -> dict[str, str]:
    """Kind of model → its champion's pinned reference, for the kinds that have one."""
    found = {}
    for model in day.registry.models():
        if model.name in KINDS and "champion" in model.aliases:
            found[model.name] = f"{model.name}/{model.aliases['champion']}"
    if "retriever" not in found:
        raise NoChampion(day.workspace.source.name)
    return found


def services_of(day: Day) -> tuple[ServiceName, ...]:
    """The services this source has models for."""
    have = champions(day)
    return tuple(service for service in NEEDS if service == "homepage" or service in have)


def build_bento(day: Day, service: ServiceName, stage: Stage) -> BuiltBento:
    """Build a Bento of the champions and of every version that a live arm, a shadow or a canary asks for; record it."""
    have = champions(day)
    defaults = Defaults(
        **{kind: ref for kind, ref in have.items() if kind in NEEDS[service]},
        popular=tuple(popularity_list(day.bench, day.as_of).tolist()),
        weights=ObjectiveWeights(),
    )
    asked = (
        LiveExperiments.read(day.workspace.live).references + Rollout.read(day.workspace.rollout).references
    )
    wanted = {ref for ref in (*have.values(), *asked) if ref.split("/")[0] in NEEDS[service]}
    folders: dict[str, Path] = {ref: fetched(day, ref) for ref in sorted(wanted)}
    frameworks = {ref: day.registry.get(ref).signature.framework for ref in folders}
    built = build(service, folders, defaults, day.workspace.root, day.workspace.bentos, frameworks)
    day.registry.record_bento(BentoRecord(built.tag, built.digest, tuple(folders)))
    publish_champions(day)  # whoever moved the aliases, services follow what this Bento has for defaults
    stage.note = f"{built.tag} with {', '.join(folders)}"
    return built


def serving(day: Day, tag: str, port: int, starts_at: datetime | None = None) -> Serving:
    """How this workspace's Bento is served; `starts_at` sets its clock, for simulated sessions."""
    w = day.workspace
    return Serving(tag=tag, home=w.root, bento_store=w.bentos, port=port, starts_at=starts_at)


def newest_tag(day: Day, service: str) -> str:
    """The tag of the Bento of a service that was recorded last.

    Raises:
        NotBuilt: there is none.
    """
    since = {live.where: live.since for live in day.registry.live() if live.kind == "bento"}
    mine = [tag for tag in since if tag.split(":")[0] == service]
    if not mine:
        raise NotBuilt(service)
    return max(mine, key=lambda tag: since[tag])


def bento_root(day: Day, tag: str) -> Path:
    """Where a built Bento lies.

    Raises:
        NoSuchBento: it was not built in this workspace.
    """
    name, _, version = tag.partition(":")
    root = day.workspace.bentos / "bentos" / name / version
    if not version or not (root / "bento.yaml").exists():
        raise NoSuchBento(tag, [live.where for live in day.registry.live() if live.kind == "bento"])
    return root


def bento_folder(day: Day, tag: str) -> Path:
    """Where the sources, versions and manifest of a built Bento lie."""
    return bento_root(day, tag) / "src"
