"""Deleting: refused, with the list, while anything refers to what would go."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from registry import outbox, reading
from registry.access import ModelTagRow
from registry.errors import InvalidReference, StillReferenced
from registry.refs import Ref
from registry.schema import (
    AliasRow,
    ArmRow,
    BentoRow,
    BentoVersionRow,
    BindingRow,
    ExperimentRow,
    ModelRow,
    UpstreamRow,
    VersionRow,
)


def delete_version(session: Session, ref: Ref, at: datetime) -> None:
    """Delete a version by number. Its number is not given out again; stored bytes stay in the store.

    Raises:
        InvalidReference: `ref` is not a number: a name that moves is no way to say what should go.
        StillReferenced: an alias, a Bento, an arm or a version that was trained behind it refers to it.
    """
    if ref.number is None:
        raise InvalidReference(str(ref))
    reading.model(session, ref.name, lock=True)
    row = reading.version(session, ref)
    if found := referrers(session, row):
        raise StillReferenced(str(ref), found)
    outbox.tell(session, outbox.VersionDeleted(ref.name, row.number, row.digest), at)
    session.execute(sa.delete(VersionRow).where(VersionRow.id == row.id))


def delete_model(session: Session, name: str, at: datetime) -> None:
    """Delete a model that has no versions left. Its counter stays, should the name come back.

    Raises:
        StillReferenced: it has versions.
    """
    row = reading.model(session, name, lock=True)
    versions = sa.select(VersionRow.number).where(VersionRow.model_id == row.id).order_by(VersionRow.number)
    if numbers := session.scalars(versions).all():
        raise StillReferenced(name, [f"{name}/{number}" for number in numbers])
    session.execute(sa.delete(ModelTagRow).where(ModelTagRow.model_id == row.id))
    row.deleted_at = at


def referrers(session: Session, row: VersionRow) -> list[str]:
    """What refers to a version, in words."""
    aliases = sa.select(AliasRow.alias).where(
        AliasRow.model_id == row.model_id, AliasRow.number == row.number
    )
    bentos = (
        sa.select(BentoRow.tag)
        .join(BentoVersionRow, BentoVersionRow.bento_id == BentoRow.id)
        .where(BentoVersionRow.version_id == row.id)
    )
    arms = (
        sa.select(ExperimentRow.name, ArmRow.name, ExperimentRow.state)
        .join(ArmRow, ArmRow.experiment_id == ExperimentRow.id)
        .join(BindingRow, BindingRow.arm_id == ArmRow.id)
        .where(BindingRow.version_id == row.id)
        .distinct()
    )
    behind = (
        sa.select(ModelRow.name, VersionRow.number)
        .join(VersionRow, VersionRow.model_id == ModelRow.id)
        .join(UpstreamRow, UpstreamRow.version_id == VersionRow.id)
        .where(UpstreamRow.upstream_id == row.id)
        .distinct()
    )
    return [
        *(f"alias {alias!r}" for alias in session.scalars(aliases.order_by(AliasRow.alias))),
        *(f"Bento {tag!r}" for tag in session.scalars(bentos.order_by(BentoRow.tag))),
        *(
            f"arm '{name}/{arm}' ({state})"
            for name, arm, state in session.execute(arms.order_by(ExperimentRow.name))
        ),
        *(
            f"version '{name}/{number}', trained behind it"
            for name, number in session.execute(behind.order_by(ModelRow.name, VersionRow.number))
        ),
    ]
