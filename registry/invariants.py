"""What must hold within the ledger's own rows, whatever happened to the processes that wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.findings import ALIAS_UNEXPLAINED, COUNTER_BEHIND, HALF, HISTORY_BROKEN, Finding
from registry.schema import (
    AliasMoveRow,
    AliasRow,
    BentoRow,
    BentoVersionRow,
    FileRow,
    InputRow,
    ModelRow,
    ParameterRow,
    ServiceMemberRow,
    ServiceRow,
    TrainingSetRow,
    TrainingSetServiceRow,
    UpstreamRow,
    VersionRow,
)

_VERSION = "version " + ModelRow.name + "/" + sa.cast(VersionRow.number, sa.Text)
# (what the whole is called, how many parts it says it has, its key, the parts' key, the parts in words)
_WHOLES: tuple[tuple[sa.ColumnElement[str], InstrumentedAttribute[int], Any, Any, str], ...] = (
    (_VERSION, VersionRow.file_count, VersionRow.id, FileRow.version_id, "files"),
    (_VERSION, VersionRow.parameter_count, VersionRow.id, ParameterRow.version_id, "parameters"),
    (_VERSION, VersionRow.input_count, VersionRow.id, InputRow.version_id, "inputs"),
    (_VERSION, VersionRow.upstream_count, VersionRow.id, UpstreamRow.version_id, "upstream versions"),
    ("training set " + TrainingSetRow.digest, TrainingSetRow.service_count, TrainingSetRow.digest,
     TrainingSetServiceRow.training_set_digest, "services"),
    ("service " + ServiceRow.name + " " + ServiceRow.digest, ServiceRow.feature_count, ServiceRow.digest,
     ServiceMemberRow.service_digest, "features"),
    ("Bento " + BentoRow.tag, BentoRow.version_count, BentoRow.id, BentoVersionRow.bento_id, "versions"),
)  # fmt: skip


def half(session: Session) -> Iterator[Finding]:
    """Whatever has not as many parts as its own row says."""
    for name, count, key, owner, parts in _WHOLES:
        there = sa.select(sa.func.count()).where(owner == key).scalar_subquery()
        query = sa.select(name, count, there).where(there != count).order_by(name)
        if name is _VERSION:
            query = query.join(ModelRow, ModelRow.id == VersionRow.model_id)
        for where, says, has in session.execute(query):
            yield Finding(HALF, where, f"has {has} of its {says} {parts}")


def counters(session: Session) -> Iterator[Finding]:
    """Counters that would give out a number again: behind a version, or behind one that history speaks of."""
    of_versions = sa.select(sa.func.max(VersionRow.number)).where(VersionRow.model_id == ModelRow.id)
    of_moves = sa.select(sa.func.max(AliasMoveRow.to_number)).where(AliasMoveRow.model_id == ModelRow.id)
    query = sa.select(
        ModelRow.name, ModelRow.next_version, of_versions.scalar_subquery(), of_moves.scalar_subquery()
    )
    for name, following, *known in session.execute(query.order_by(ModelRow.name)):
        highest = max((number for number in known if number is not None), default=0)
        if following <= highest:
            yield Finding(
                COUNTER_BEHIND,
                f"model {name}",
                f"next_version is {following}, and {name}/{highest} was given out",
            )


def aliases(session: Session) -> Iterator[Finding]:
    """Aliases that do not stand where their last move put them, and histories that are no unbroken walk."""
    names: Mapping[int, str] = dict(session.execute(sa.select(ModelRow.id, ModelRow.name)).all())
    standing = {(row.model_id, row.alias): row.number for row in session.scalars(sa.select(AliasRow))}
    moves = sa.select(
        AliasMoveRow.model_id, AliasMoveRow.alias, AliasMoveRow.from_number, AliasMoveRow.to_number
    ).order_by(AliasMoveRow.model_id, AliasMoveRow.alias, AliasMoveRow.id)
    last: dict[tuple[int, str], int | None] = {}
    for (model_id, alias), walk in groupby(session.execute(moves), key=lambda move: (move[0], move[1])):
        where, stood = f"alias {names[model_id]}@{alias}", None
        for step, (_, _, came_from, went_to) in enumerate(walk, start=1):
            if came_from != stood:
                what = f"move {step} of its history begins at {_at(came_from)}, and the one before ended at {_at(stood)}"
                yield Finding(HISTORY_BROKEN, where, what)
            stood = went_to
        last[model_id, alias] = stood
    for place in sorted(standing.keys() | last.keys()):
        now, should = standing.get(place), last.get(place)
        if now != should:
            what = f"stands at {_at(now)}, and its last move put it at {_at(should)}"
            yield Finding(ALIAS_UNEXPLAINED, f"alias {names[place[0]]}@{place[1]}", what)


def gone(session: Session) -> dict[str, tuple[int, ...]]:
    """By model, the numbers that were given out and have no version now."""
    query = (
        sa.select(ModelRow.name, ModelRow.next_version, VersionRow.number)
        .outerjoin(VersionRow, VersionRow.model_id == ModelRow.id)
        .order_by(ModelRow.name)
    )
    missing: dict[str, tuple[int, ...]] = {}
    for (name, following), rows in groupby(session.execute(query), key=lambda row: (row[0], row[1])):
        there = {number for _, _, number in rows}
        missing[name] = tuple(number for number in range(1, following) if number not in there)
    return {name: numbers for name, numbers in missing.items() if numbers}


def _at(number: int | None) -> str:
    return "no version" if number is None else str(number)
