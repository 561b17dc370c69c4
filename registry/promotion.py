"""Moving aliases: compare-and-set, on evidence, with history and the way back.

Every move holds the model's row locked, so that what is compared is what is set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import outbox, reading
from registry.canonical import JSON, plain
from registry.errors import AliasMoved, NoEvidence, NothingToRollBack, NotRecorded
from registry.refs import Ref, check_name
from registry.results import AliasMove, Consistency
from registry.schema import (
    AliasMoveRow,
    AliasRow,
    GateRow,
    InputRow,
    MetricRow,
    ModelRow,
    ServiceMemberRow,
    ServiceRow,
    TrainingSetRow,
    VersionRow,
)


class Unset(Enum):
    """The type of `ANYWHERE`."""

    ANYWHERE = "wherever the alias stands"


ANYWHERE = Unset.ANYWHERE
"""As `expect`: move the alias from wherever it stands. None means from nowhere: it must not exist yet."""

Expected = int | None | Unset

_SHOWN = 5
"""Features that a refusal names one by one."""


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
        NoEvidence: the alias is protected and the version has no metrics, no gate passed the tables that its training
            set was built from, or features it reads were last found to be served otherwise than computed.
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
    """What speaks for a version: its metrics, the gate's newest verdict on each of its tables, and `verdicts`.

    `tables` says in words which tables `gates` are the reports on, None where the version names no training set.
    `verdicts` are the newest consistency verdicts on the services it may read, None where there never was one.
    """

    def __init__(
        self,
        metrics: Mapping[str, float],
        tables: str | None,
        gates: Sequence[GateRow],
        verdicts: Mapping[str, Verdict | None],
    ) -> None:
        self._metrics, self._tables, self._verdicts = metrics, tables, verdicts
        self._gates = {
            (gate.table, gate.as_of): gate for gate in gates
        }  # in order of recording: the newest stays

    def lacks(self) -> tuple[str, ...]:
        """What is missing, in words; empty when the version may take a protected alias."""
        lacks = [] if self._metrics else ["metrics: evaluate it and record what came out"]
        if self._tables is None:
            lacks.append(
                "a training set: through it the gate's reports on the tables it learned from are found"
            )
        elif not self._gates:
            lacks.append(f"a passed gate on the tables {self._tables}: no report on them was ever recorded")
        for (table, as_of), gate in sorted(self._gates.items()):
            if not gate.passed:
                lacks.append(f"a passed gate on {table!r} as of {as_of:%Y-%m-%dT%H:%M:%SZ}")
        lacks += [verdict.lack for verdict in self._verdicts.values() if verdict and verdict.lack]
        return tuple(lacks)

    def to_dict(self) -> dict[str, JSON]:
        """The evidence as it is written into the alias's history."""
        return {
            "metrics": dict(self._metrics),
            "gates": {
                gate.table: {"passed": gate.passed, "digest": gate.digest} for gate in self._gates.values()
            },
            "consistency": {
                name: None if verdict is None else verdict.to_dict()
                for name, verdict in self._verdicts.items()
            },
        }


@dataclass(frozen=True)
class Verdict:
    """A consistency verdict as it bears on one version: `failing` are the features found that the version reads."""

    found: Consistency
    failing: tuple[str, ...]

    @property
    def lack(self) -> str:
        """What is missing, in words; empty when nothing is."""
        if not self.failing:
            return ""
        count = len(self.failing)
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        return (
            f"a passed consistency check of {self.found.service!r} on {self.found.source}: {', '.join(self.failing[:_SHOWN])}"
            f"{more} {'was' if count == 1 else 'were'} served otherwise than computed offline "
            f"({self.found.requests} requests up to {self.found.newest_request:%Y-%m-%dT%H:%M:%SZ}); mend it, then run "
            f"`matinee features verify --source {self.found.source}` on requests served since"
        )

    def to_dict(self) -> dict[str, JSON]:
        """As it is written into the alias's history."""
        return {
            "passed": self.found.passed,
            "failing": list(self.failing),
            "requests": self.found.requests,
            "at": self.found.at.isoformat(),
            "digest": self.found.digest,
        }


def gather_evidence(session: Session, version: VersionRow) -> Evidence:
    """The metrics of a version, and the gate's reports on the tables its training set was built from."""
    metrics = {
        " ".join(filter(None, (row.name, row.dataset, row.split))): row.value
        for row in session.scalars(sa.select(MetricRow).where(MetricRow.version_id == version.id))
    }
    verdicts = gather_verdicts(session, version)
    if version.training_set_digest is None:
        return Evidence(metrics, None, [], verdicts)
    made_from = session.get_one(TrainingSetRow, version.training_set_digest)
    same_day = sa.and_(GateRow.as_of == made_from.as_of, GateRow.source.in_(["", made_from.source]))
    theirs = (
        same_day if made_from.generation is None else same_day | (GateRow.generation == made_from.generation)
    )
    gates = session.scalars(sa.select(GateRow).where(theirs).order_by(GateRow.id)).all()
    day = "" if made_from.as_of is None else f" as of {made_from.as_of:%Y-%m-%dT%H:%M:%SZ}"
    built = "" if made_from.generation is None else f" of generation {made_from.generation}"
    return Evidence(metrics, f"of {made_from.source}{day}{built}", gates, verdicts)


def gather_verdicts(session: Session, version: VersionRow) -> dict[str, Verdict | None]:
    """The newest consistency verdict of the version's source on each service it may read, by the service's name.

    With known inputs it is that of their services, under whatever digest it was checked, and of its findings those
    count whose feature the version reads: a feature that has been declared anew is another one, not served yet. A
    version that does not say what it reads may read anything of its source.
    """
    found = reading.consistency(session, _source_of(session, version))
    members = (
        sa.select(ServiceRow.name, ServiceMemberRow.feature_digest)
        .join(InputRow, InputRow.service_digest == ServiceRow.digest)
        .join(ServiceMemberRow, ServiceMemberRow.service_digest == ServiceRow.digest)
        .where(InputRow.version_id == version.id)
    )
    reads: dict[str, set[str]] = {}
    for name, digest in session.execute(members.order_by(InputRow.position)):
        reads.setdefault(name, set()).add(digest)
    if not reads:
        return {name: Verdict(one, _features(one.findings)) for name, one in found.items()}
    return {name: _verdict(found.get(name), digests) for name, digests in reads.items()}


def _verdict(found: Consistency | None, reads: Collection[str]) -> Verdict | None:
    if found is None:
        return None
    return Verdict(found, _features([finding for finding in found.findings if finding["digest"] in reads]))


def _features(findings: Sequence[Mapping[str, JSON]]) -> tuple[str, ...]:
    return tuple(str(finding["feature"]) for finding in findings)


def _source_of(session: Session, version: VersionRow) -> str:
    if version.training_set_digest is None:
        return version.source
    return session.get_one(TrainingSetRow, version.training_set_digest).source


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
    name = session.get_one(ModelRow, model_id).name
    moved = outbox.AliasTransition(name, alias, move.kind, move.from_number, to, move.by, move.reason)
    outbox.tell(session, moved, at)
