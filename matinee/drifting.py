"""How far the day's features have moved from what the champions learned from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from feature_repo.compute import offline_path
from feature_repo.contracts import contract
from feature_repo.declarations import FeatureTable
from matinee.context import Day
from matinee.reference import NoChampion, champions, training_references
from validations.drift import Drift, limits_of
from validations.expectations import SEVERITIES, Severity
from validations.gate import Reference, drift_from, read_table


@dataclass(frozen=True)
class Moved:
    """One feature against its training reference; `severity` is None where it moved no further than allowed."""

    feature: str  # table:feature
    reference: str
    drift: Drift
    severity: Severity | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: PSI in nats, KS and shares in 0..1."""
        figures = {key: value for key, value in asdict(self.drift).items() if key != "column"}
        return {"feature": self.feature, "severity": self.severity, **figures, "null_change": self.drift.null_change,
                "reference": self.reference}  # fmt: skip


def moved(day: Day) -> tuple[Moved, ...]:
    """Every numeric feature of the day's computed tables, the one that moved furthest first.

    Worst is judged by severity, then by PSI. Tables that no champion reads, or of which either file is not there,
    are left out.

    Raises:
        NoChampion: nothing was learned from anything yet.
    """
    source, offline = day.workspace.source, day.workspace.offline
    versions = champions(day.registry)
    if not versions:
        raise NoChampion(source.name)
    learned = training_references(versions, source, offline, day.as_of)
    found = [
        one
        for table in day.workspace.declarations.stored
        if table.name in learned
        for one in _moved(day, table, learned[table.name])
    ]
    return tuple(sorted(found, key=_order))


def _moved(day: Day, table: FeatureTable, reference: Reference) -> list[Moved]:
    path = offline_path(day.workspace.offline, table.name, day.as_of)
    if not (path.exists() and reference.data.exists()):
        return []
    expected = contract(table)
    limits = limits_of(expected)
    return [
        Moved(f"{table.name}:{one.column}", reference.name, one, one.severity(limits[one.column]))
        for one in drift_from(expected, read_table(path), reference)
    ]


def _order(one: Moved) -> tuple[int, float]:
    place = SEVERITIES.index(one.severity) if one.severity else len(SEVERITIES)
    return place, -one.drift.psi
