"""Where versions go to work: Bentos, experiments with pinned arms, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from registry import outbox, reading
from registry.canonical import JSON, digest_of, plain
from registry.errors import DefinitionConflict, ExperimentState, NotRecorded
from registry.records import BentoRecord, ExperimentRecord
from registry.refs import parse_ref
from registry.results import Arm, Bento, Binding, Experiment, Live, Readout, StateChange
from registry.schema import (
    AliasRow,
    ArmRow,
    BentoRow,
    BentoVersionRow,
    BindingRow,
    ExperimentRow,
    ExperimentStateRow,
    ModelRow,
    ReadoutRow,
    VersionRow,
)
from registry.states import OPEN, Outcome, RunState, require_step

_REF = (ModelRow.name + "/" + sa.cast(VersionRow.number, sa.Text)).label("ref")


def record_bento(session: Session, bento: BentoRecord, at: datetime) -> Bento:
    """Record a built Bento; the same again is no change.

    Raises:
        NotRecorded: a version it holds is not in the ledger.
        DefinitionConflict: its tag is recorded with another digest.
    """
    row = session.scalars(sa.select(BentoRow).where(BentoRow.tag == bento.tag)).first()
    if row is not None and row.digest != bento.digest:
        raise DefinitionConflict("Bento", bento.tag, ["digest"])
    if row is None:
        ids = {reading.version(session, parse_ref(ref)).id for ref in bento.versions}
        row = BentoRow(tag=bento.tag, digest=bento.digest, version_count=len(ids), created_at=at)
        row.versions = [BentoVersionRow(version_id=version_id) for version_id in sorted(ids)]
        session.add(row)
        session.flush()
    held = (
        sa.select(_REF)
        .select_from(BentoVersionRow)
        .join(VersionRow, VersionRow.id == BentoVersionRow.version_id)
        .join(ModelRow)
        .where(BentoVersionRow.bento_id == row.id)
        .order_by(ModelRow.name, VersionRow.number)
    )
    return Bento(row.tag, row.digest, row.created_at, tuple(session.scalars(held)))


def record_experiment(session: Session, experiment: ExperimentRecord, *, by: str, at: datetime) -> None:
    """Record an experiment as a draft; the same declaration again, while it is open, is no change.

    Raises:
        ExperimentState: another declaration of this name is a draft or running.
    """
    there = _open(session, experiment.name)
    if there is not None and there.digest == experiment.digest:
        return
    if there is not None:
        raise ExperimentState(
            f"experiment {experiment.name!r} is {there.state} with another declaration. "
            "Stop it first, or give the new one a name of its own."
        )
    row = ExperimentRow(
        name=experiment.name,
        layer=experiment.layer,
        state=RunState.DRAFT.value,
        config=plain(experiment.config),
        digest=experiment.digest,
        created_at=at,
    )
    row.arms = [
        ArmRow(name=arm.name, position=place, requested=plain({"models": arm.models, "values": arm.values}))
        for place, arm in enumerate(experiment.arms)
    ]
    session.add(row)
    session.flush()
    _log_state(session, row, at, by, "recorded")


def start_experiment(session: Session, name: str, *, by: str, reason: str, at: datetime) -> None:
    """Start a draft: every reference of its arms is pinned to the version it means now. Running already is fine.

    Raises:
        ExperimentState: there is no open experiment of this name.
        NotRecorded: an arm refers to a version that does not exist.
    """
    row = _require_open(session, name)
    if row.state == RunState.RUNNING:
        return
    for arm in session.scalars(sa.select(ArmRow).where(ArmRow.experiment_id == row.id)).all():
        models: Mapping[str, str] = arm.requested["models"]
        values: Mapping[str, JSON] = arm.requested["values"]
        for parameter, ref in models.items():
            version = reading.version(session, parse_ref(ref))
            session.add(BindingRow(arm_id=arm.id, parameter=parameter, version_id=version.id))
        session.add_all(
            BindingRow(arm_id=arm.id, parameter=key, value=value) for key, value in values.items()
        )
    session.flush()  # arms are bound while the experiment is a draft
    _step(session, row, RunState.RUNNING, at, by, reason)
    for arm_name, models, values in _bound(session, name):
        outbox.tell(session, outbox.ArmBound(name, arm_name, models, values, by, reason), at)


def stop_experiment(session: Session, name: str, *, by: str, reason: str, at: datetime) -> None:
    """Stop an experiment; its name may be used again, and what came of it may be said later.

    Raises:
        ExperimentState: there is no open experiment of this name.
    """
    row = _require_open(session, name)
    _step(session, row, RunState.STOPPED, at, by, reason)


def conclude_experiment(
    session: Session, name: str, outcome: Outcome, *, by: str, reason: str, at: datetime
) -> None:
    """Say what came of the newest run of an experiment, for good; one that runs stops by it.

    Raises:
        NotRecorded: there is no such experiment.
        ExperimentState: it is a draft, or something was said of it before.
    """
    _step(session, newest(session, name, lock=True), outcome, at, by, reason)


def record_readout(session: Session, name: str, verdict: Mapping[str, JSON], at: datetime) -> Readout:
    """Record what came out of the newest run of an experiment; the same verdict again is no change.

    Raises:
        NotRecorded: there is no such experiment.
        ExperimentState: it has not started.
    """
    experiment = newest(session, name)
    if experiment.state == RunState.DRAFT:
        raise ExperimentState(f"experiment {name!r} is a draft: nothing can have come out of it yet.")
    digest = digest_of(verdict)
    same = sa.select(ReadoutRow).where(ReadoutRow.experiment_id == experiment.id, ReadoutRow.digest == digest)
    row = session.scalars(same).first()
    if row is None:
        row = ReadoutRow(experiment_id=experiment.id, verdict=plain(verdict), digest=digest, created_at=at)
        session.add(row)
        session.flush()
    return Readout(row.id, name, row.created_at, row.verdict)


def readouts(session: Session, name: str) -> tuple[Readout, ...]:
    """Every read-out of every run of an experiment, oldest first."""
    newest(session, name)
    theirs = (
        sa.select(ReadoutRow).join(ExperimentRow).where(ExperimentRow.name == name).order_by(ReadoutRow.id)
    )
    return tuple(Readout(row.id, name, row.created_at, row.verdict) for row in session.scalars(theirs))


def newest(session: Session, name: str, *, lock: bool = False) -> ExperimentRow:
    """The newest run of an experiment; `lock` it against other writers.

    Raises:
        NotRecorded: there is none of that name.
    """
    runs = (
        sa.select(ExperimentRow).where(ExperimentRow.name == name).order_by(ExperimentRow.id.desc()).limit(1)
    )
    row = session.scalars(runs.with_for_update() if lock else runs).first()
    if row is None:
        raise NotRecorded("experiment", name, session.scalars(sa.select(ExperimentRow.name).distinct()).all())
    return row


def experiments(
    session: Session, names: Sequence[str] | None = None, state: RunState | None = None
) -> tuple[Experiment, ...]:
    """Every run of the experiments called `names` (None: of all), oldest first, whole: four queries in all.

    Those that stand in `state` now, where one is given.
    """
    chosen = sa.select(ExperimentRow).order_by(ExperimentRow.id)
    if names is not None:
        chosen = chosen.where(ExperimentRow.name.in_(names))
    if state is not None:
        chosen = chosen.where(ExperimentRow.state == state.value)
    rows = session.scalars(
        chosen.options(selectinload(ExperimentRow.arms).selectinload(ArmRow.bindings))
    ).all()
    ids = [row.id for row in rows]
    refs = dict(
        session.execute(
            sa.select(VersionRow.id, _REF)
            .join(ModelRow)
            .where(
                VersionRow.id.in_([b.version_id for row in rows for arm in row.arms for b in arm.bindings])
            )
        ).all()
    )
    changes: dict[int, list[StateChange]] = {row_id: [] for row_id in ids}
    logged = sa.select(ExperimentStateRow).where(ExperimentStateRow.experiment_id.in_(ids))
    for change in session.scalars(logged.order_by(ExperimentStateRow.id)):
        told = StateChange(RunState(change.state), change.at, change.by, change.reason)
        changes[change.experiment_id].append(told)
    return tuple(_experiment(row, refs, changes[row.id]) for row in rows)


def live(session: Session) -> tuple[Live, ...]:
    """Every version in use: by an alias, in the newest Bento of a name, in an arm that runs. Three queries."""
    at_alias = (
        sa.select(_REF, AliasRow.alias, AliasRow.since)
        .select_from(VersionRow)
        .join(
            AliasRow, sa.and_(AliasRow.model_id == VersionRow.model_id, AliasRow.number == VersionRow.number)
        )
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .order_by(ModelRow.name, AliasRow.alias)
    )
    packed = (
        sa.select(_REF, BentoRow.tag, BentoRow.created_at)
        .select_from(VersionRow)
        .join(BentoVersionRow, BentoVersionRow.version_id == VersionRow.id)
        .join(BentoRow, BentoRow.id == BentoVersionRow.bento_id)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .order_by(BentoRow.id, ModelRow.name, VersionRow.number)
    )
    in_arms = (
        sa.select(_REF, ExperimentRow.name + "/" + ArmRow.name, sa.func.max(ExperimentStateRow.at))
        .select_from(VersionRow)
        .join(BindingRow, BindingRow.version_id == VersionRow.id)
        .join(ArmRow, ArmRow.id == BindingRow.arm_id)
        .join(ExperimentRow, ExperimentRow.id == ArmRow.experiment_id)
        .join(ExperimentStateRow, ExperimentStateRow.experiment_id == ExperimentRow.id)
        .join(ModelRow, ModelRow.id == VersionRow.model_id)
        .where(
            ExperimentRow.state == RunState.RUNNING.value, ExperimentStateRow.state == RunState.RUNNING.value
        )
        .group_by(ModelRow.name, VersionRow.number, ExperimentRow.name, ArmRow.name)
        .order_by(ExperimentRow.name, ArmRow.name, ModelRow.name)
    )
    newest_bento: dict[str, str] = {}
    bentos = [Live(ref, "bento", tag, since) for ref, tag, since in session.execute(packed)]
    for entry in bentos:  # in order of recording
        newest_bento[entry.where.partition(":")[0]] = entry.where
    return (
        *(Live(ref, "alias", alias, since) for ref, alias, since in session.execute(at_alias)),
        *(entry for entry in bentos if entry.where in newest_bento.values()),
        *(Live(ref, "arm", arm, since) for ref, arm, since in session.execute(in_arms)),
    )


def _experiment(row: ExperimentRow, refs: Mapping[int, str], history: Sequence[StateChange]) -> Experiment:
    arms = tuple(
        Arm(
            arm.name,
            tuple(
                Binding(b.parameter, None if b.version_id is None else refs[b.version_id], b.value)
                for b in sorted(arm.bindings, key=lambda binding: binding.parameter)
            ),
        )
        for arm in row.arms
    )
    return Experiment(row.name, row.layer, RunState(row.state), row.digest, row.config, arms, tuple(history))


def _open(session: Session, name: str) -> ExperimentRow | None:
    still = sa.select(ExperimentRow).where(
        ExperimentRow.name == name, ExperimentRow.state.in_([state.value for state in OPEN])
    )
    return session.scalars(still.with_for_update()).first()


def _require_open(session: Session, name: str) -> ExperimentRow:
    row = _open(session, name)
    if row is None:
        over = newest(session, name)  # says so, if there is none at all
        raise ExperimentState(f"experiment {name!r} is {over.state}; record it again to run it again.")
    return row


def _step(session: Session, row: ExperimentRow, to: RunState, at: datetime, by: str, reason: str) -> None:
    """The state of a run goes to `to`; arms that serve no longer by that are told."""
    before = RunState(row.state)
    require_step(row.name, before, to)
    if before is RunState.RUNNING:  # the arms of a draft were never bound
        for arm, models, values in _bound(session, row.name):
            released = outbox.ArmReleased(row.name, arm, models, values, by, reason, to.value)
            outbox.tell(session, released, at)
    row.state = to.value
    _log_state(session, row, at, by, reason)


def _log_state(session: Session, row: ExperimentRow, at: datetime, by: str, reason: str) -> None:
    session.add(ExperimentStateRow(experiment_id=row.id, state=row.state, at=at, by=by, reason=reason))
    session.flush()


def _bound(session: Session, name: str) -> Iterator[tuple[str, dict[str, str], dict[str, JSON]]]:
    """Each arm of the newest run: its name, the versions it is bound to, and its plain values."""
    for arm in experiments(session, [name])[-1].arms:
        models = {one.parameter: one.version for one in arm.bindings if one.version is not None}
        values = {one.parameter: one.value for one in arm.bindings if one.version is None}
        yield arm.name, models, values
