"""What a workspace holds, read for a plan; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from experiments.live import LiveExperiments
from feature_repo.compute import Step, plan
from feature_repo.materialize import LOCK_WAIT_S, PROJECT, RECORD, layout_of_table
from feature_repo.record import View, opened_to_read
from feature_repo.snapshot import NothingPublished, current
from feature_repo.taken import has_taken
from matinee.context import Day
from matinee.lineage import events_digest, trained_already
from matinee.planning import Plan, State, Version, plan_day
from matinee.recipes import recipes
from models import artifact
from registry import ModelVersion, Registry
from serving.rollout import Rollout


def plan_of(day: Day, as_ofs: Sequence[datetime] | None = None) -> Plan:
    """What `matinee day` does now, step by step."""
    moments = tuple(as_ofs or day.split.as_ofs)
    tables = table_steps(day, moments)
    models = recipes(day.workspace.source, day.settings)
    return plan_day(
        day.workspace.declarations, day.split.as_ofs, tables, state_of(day, tables, [r.model for r in models]), models
    )  # fmt: skip


def table_steps(day: Day, as_ofs: Sequence[datetime] | None = None) -> tuple[Step, ...]:
    """The computed tables of every snapshot the day needs."""
    lake = day.workspace.lake
    return plan(
        day.workspace.declarations,
        as_ofs or day.split.as_ofs,
        lambda moment: events_digest(lake, moment),
        day.workspace.offline,
    )


def state_of(day: Day, tables: Sequence[Step], models: Sequence[str]) -> State:
    """Everything that a plan asks of the workspace and its ledger."""
    source = day.workspace.source.name
    return State(
        passed={(s.table.name, s.as_of) for s in tables if s.fresh and day.gatekeeper.has_passed(s.table, s.as_of)},
        taken=_taken(day, [step for step in tables if step.as_of == day.as_of]),
        generation=_generation(day),
        trained=partial(_trained, day.registry),
        newest={model: version for model in models if (version := _newest(day.registry, model, source))},
        bentos=_bentos(day.registry),
        asked=frozenset(
            LiveExperiments.read(day.workspace.live).references + Rollout.read(day.workspace.rollout).references
        ),
    )  # fmt: skip


def _taken(day: Day, steps: Sequence[Step]) -> frozenset[str]:
    record = day.workspace.online / RECORD
    if not record.exists():
        return frozenset()
    with opened_to_read(record, LOCK_WAIT_S) as connection:
        return frozenset(
            s.table.name
            for s in steps
            if s.fresh
            and has_taken(connection, View(PROJECT, s.table.name), layout_of_table(s.table), s.path)
        )


def _generation(day: Day) -> str | None:
    try:
        return current(day.workspace.online)
    except NothingPublished:
        return None


def _trained(registry: Registry, model: str, inputs: str) -> Version | None:
    found = trained_already(registry, model, inputs)
    return _version(found) if found else None


def _newest(registry: Registry, model: str, source: str) -> Version | None:
    found = registry.search(f"name = '{model}' AND tags.source = '{source}'", limit=1).versions
    return _version(found[0]) if found else None


def _version(found: ModelVersion) -> Version:
    digest = artifact.digest_of({file.path: file.sha256 for file in found.files})
    champion = "champion" in found.aliases
    return Version(found.ref, digest, found.training_set or "", found.tags.get("as_of", ""), champion)


def _bentos(registry: Registry) -> dict[str, tuple[str, frozenset[str]]]:
    inside: dict[str, set[str]] = {}
    for live in registry.live():
        if live.kind == "bento":
            inside.setdefault(live.where, set()).add(live.ref)
    return {tag.split(":")[0]: (tag, frozenset(refs)) for tag, refs in inside.items()}
