"""Moving aliases: compare-and-set, on evidence, with history and the way back.

Every move holds the model's row locked, so that what is compared is what is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import reading
from registry.canonical import JSON, plain
from registry.errors import AliasMoved, NoEvidence, NothingToRollBack, NotRecorded
from registry.refs import Ref, check_name
from registry.results import AliasMove
from registry.schema import AliasMoveRow, AliasRow, GateRow, MetricRow, TrainingSetRow, VersionRow


class Unset(Enum):
    """The type of `ANYWHERE`."""

    ANYWHERE = "wherever the alias stands"


ANYWHERE = Unset.ANYWHERE
"""As `expect`: move the alias from wherever it stands. None means from nowhere: it must not exist yet."""

Expected = int | None | Unset


def promote(
    session: Session,
    ref: Ref,
    alias: str,
    *,
    expect: Expected,
    protected: bool,
    by: str,
    reason: str,
    evidence: Mapping[str, JSON],
    at: datetime,
) -> None:
    """Point `alias` at the version `ref` means. Where it already stands, nothing changes and nothing is logged.

    Raises:
        AliasMoved: it is not where `expect` says.
        NoEvidence: the alias is protected and the version has no metrics, or its tables did not pass the gate.
    """
    check_name("alias", alias)
    model = reading.model(session, ref.name, lock=True)
    version = reading.version(session, ref)
    current = _standing(session, model.id, alias)
    found = None if current is None else current.number
    if expect is not ANYWHERE and expect != found:
        raise AliasMoved(ref.name, alias, expect, found)
    if found == version.number:
        return
    seen = gather_evidence(session, version)
    if protected and (lacks := seen.lacks()):
        raise NoEvidence(f"{ref.name}/{version.number}", alias, lacks)
    _move(session, model.id, alias, version.number, at)
    move = AliasMoveRow(
        kind="promote",
        by=by,
        reason=reason,
        evidence=plain({**seen.to_dict(), **evidence}),
        from_number=found,
    )
    _log(session, model.id, alias, move, version.number, at)


def rollback(session: Session, name: str, alias: str, *, by: str, reason: str, at: datetime) -> int:
    """Put `alias` back where it stood before its last move that was not taken back yet; returns that number.

    Raises:
        NothingToRollBack: it has stood in one place only.
        NotRecorded: the version it stood on has been deleted since.
    """
    model = reading.model(session, name, lock=True)
    places = _places(_moves(session, model.id, alias))
    if len(places) < 2 or places[-2] is None:
        raise NothingToRollBack(name, alias)
    target = places[-2]
    reading.version(session, Ref(name, number=target))
    _move(session, model.id, alias, target, at)
    move = AliasMoveRow(kind="rollback", by=by, reason=reason, evidence={}, from_number=places[-1])
    _log(session, model.id, alias, move, target, at)
    return target


def remove(session: Session, name: str, alias: str, *, by: str, reason: str, at: datetime) -> None:
    """Take an alias away; its history stays.

    Raises:
        NotRecorded: the model has no such alias.
    """
    model = reading.model(session, name, lock=True)
    current = _standing(session, model.id, alias)
    if current is None:
        known = session.scalars(sa.select(AliasRow.alias).where(AliasRow.model_id == model.id)).all()
        raise NotRecorded("alias", f"{name}@{alias}", [f"{name}@{other}" for other in known])
    session.delete(current)
    move = AliasMoveRow(kind="remove", by=by, reason=reason, evidence={}, from_number=current.number)
    _log(session, model.id, alias, move, None, at)


def history(session: Session, name: str, alias: str) -> tuple[AliasMove, ...]:
    """Every move of an alias, oldest first."""
    model = reading.model(session, name)
    return tuple(
        AliasMove(
            name=name,
            alias=alias,
            kind=row.kind,
            from_number=row.from_number,
            to_number=row.to_number,
            at=row.at,
            by=row.by,
            reason=row.reason,
            evidence=row.evidence,
        )
        for row in _moves(session, model.id, alias)
    )


class Evidence:
    """What speaks for a version: how many metrics it has, and the newest gate verdict on each of its tables."""

    def __init__(self, metrics: Mapping[str, float], gates: Sequence[GateRow]) -> None:
        self._metrics = metrics
        self._gates = {
            (gate.table, gate.as_of): gate for gate in gates
        }  # in order of recording: the newest stays

    def lacks(self) -> tuple[str, ...]:
        """What is missing, in words; empty when the version may take a protected alias."""
        lacks = [] if self._metrics else ["metrics: evaluate it and record what came out"]
        for (table, as_of), gate in sorted(self._gates.items()):
            if not gate.passed:
                lacks.append(f"a passed gate on {table!r} as of {as_of:%Y-%m-%dT%H:%M:%SZ}")
        return tuple(lacks)

    def to_dict(self) -> dict[str, JSON]:
        """The evidence as it is written into the alias's history."""
        return {
            "metrics": dict(self._metrics),
            "gates": {
                gate.table: {"passed": gate.passed, "digest": gate.digest} for gate in self._gates.values()
            },
        }


def gather_evidence(session: Session, version: VersionRow) -> Evidence:
    """The metrics of a version, and the gate's reports on the tables its training set was built from."""
    metrics = {
        " ".join(filter(None, (row.name, row.dataset, row.split))): row.value
        for row in session.scalars(sa.select(MetricRow).where(MetricRow.version_id == version.id))
    }
    if version.training_set_digest is None:
        return Evidence(metrics, [])
    made_from = session.get_one(TrainingSetRow, version.training_set_digest)
    same_day = sa.and_(GateRow.as_of == made_from.as_of, GateRow.source.in_(["", made_from.source]))
    theirs = (
        same_day if made_from.generation is None else same_day | (GateRow.generation == made_from.generation)
    )
    return Evidence(metrics, session.scalars(sa.select(GateRow).where(theirs).order_by(GateRow.id)).all())


def _standing(session: Session, model_id: int, alias: str) -> AliasRow | None:
    return session.get(AliasRow, (model_id, alias), populate_existing=True)


def _moves(session: Session, model_id: int, alias: str) -> Sequence[AliasMoveRow]:
    theirs = sa.select(AliasMoveRow).where(AliasMoveRow.model_id == model_id, AliasMoveRow.alias == alias)
    return session.scalars(theirs.order_by(AliasMoveRow.id)).all()


def _places(moves: Sequence[AliasMoveRow]) -> list[int | None]:
    """Where the alias stood, oldest first, leaving out what was rolled back: a rollback undoes one move."""
    places: list[int | None] = []
    for move in moves:
        if move.kind == "rollback":
            places.pop()
        else:
            places.append(move.to_number)
    return places


def _move(session: Session, model_id: int, alias: str, number: int, at: datetime) -> None:
    session.merge(AliasRow(model_id=model_id, alias=alias, number=number, since=at))
    session.flush()


def _log(
    session: Session, model_id: int, alias: str, move: AliasMoveRow, to: int | None, at: datetime
) -> None:
    move.model_id, move.alias, move.to_number, move.at = model_id, alias, to, at
    session.add(move)
    session.flush()
