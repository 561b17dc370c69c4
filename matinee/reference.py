"""What drift is measured from: for each feature table, the newest snapshot that a champion reading it learned from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from events.sources import Source
from feature_repo.compute import offline_path
from matinee.periods import split
from registry import ModelVersion, Registry
from validations.gate import Reference

AT_ITS_DAY = frozenset({"creative_quality"})
"""Models that learn from features as of the day they are trained; the others from those of their train periods."""


class NoChampion(LookupError):
    """Nothing to measure drift from: no model is champion."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source}: no model is champion yet, so nothing was learned from that today's features could have drifted "
            f"from. Run `matinee day --source {source}` first."
        )


@dataclass(frozen=True)
class Champion:
    """A version that is champion, and the feature tables it reads."""

    version: ModelVersion
    tables: frozenset[str]


def champions(registry: Registry) -> tuple[Champion, ...]:
    """The champion of each model, by name."""
    found = []
    for model in registry.models():
        if "champion" in model.aliases:
            ref = f"{model.name}/{model.aliases['champion']}"
            columns = registry.columns(ref).values()
            found.append(Champion(registry.get(ref), frozenset(c.view for held in columns for c in held)))
    return tuple(found)


def training_references(
    champions: Iterable[Champion], source: Source, offline: Path, before: datetime
) -> dict[str, Reference]:
    """Feature table → the newest of its snapshots that its champion was fitted to, from before `before`.

    Snapshots that only validated or tested a model taught it nothing. Where several champions read a table, the
    one trained longest ago counts: it has the most to lose.
    """
    found: dict[str, tuple[datetime, Reference]] = {}
    for champion in champions:
        learned = learned_at(champion.version, source)
        for table in champion.tables:
            name = f"{table} as of {learned:%Y-%m-%d %H:%M} UTC, which {champion.version.ref} learned from"
            reference = Reference(name, offline_path(offline, table, learned))
            if learned < before and (table not in found or learned < found[table][0]):
                found[table] = (learned, reference)
    return {table: reference for table, (_, reference) in found.items()}


def learned_at(version: ModelVersion, source: Source) -> datetime:
    """The newest `as_of` whose features a version was fitted to."""
    trained = datetime.fromisoformat(version.tags["as_of"])
    return trained if version.name in AT_ITS_DAY else split(source, trained).train[-1].start
