"""Plays as they happen: checked, recorded if wanted, and in the online store for the next page to know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, create_model

from events.checks import arrow_schema
from events.lake import Ingest, RowsRefused
from events.schema import PLAYS
from feature_repo.materialize import PROJECT, push
from feature_repo.session import KEPT_IN
from feature_repo.snapshot import current
from matinee.desk import Desk, literal
from matinee.workspace import Workspace
from validations.expectations import DType, NullShare

_TYPES = {
    DType.BIGINT: int, DType.DOUBLE: float, DType.BOOLEAN: bool, DType.VARCHAR: str, DType.TIMESTAMP: AwareDatetime,
}  # fmt: skip


@dataclass(frozen=True)
class Pushed:
    """What became of a batch: `recorded` is what the lake made of it, None where it was not asked to keep it."""

    plays: int
    users: int
    recorded: Ingest | None


def push_plays(workspace: Workspace, plays: pa.Table, *, received_at: datetime, record: bool) -> Pushed:
    """Take in a batch of raw plays, all of it or nothing: durable, and seen by every reader's next refresh.

    The lake comes first: a play that the online store knows and the lake does not would be a feature that no
    training set can reproduce. A batch may be pushed again, as after a failure between the two, and changes nothing.

    Args:
        workspace: whose online store.
        plays: columns of the event table `plays`; those that may be null may be left out.
        received_at: when the batch came; nothing in it may be later.
        record: whether to append the batch to the raw events as well.

    Raises:
        RowsRefused: rows break the rules of the event table, or contradict the lake. Nothing was pushed.
        NothingPublished: there is no snapshot yet that pushes could lie over.
        RecordBusy: another process is writing the record. Pushing again is safe.
    """
    current(workspace.online)
    good = workspace.lake.checked("plays", plays, received_at=received_at)
    recorded = workspace.lake.append("plays", plays, received_at=received_at) if record else None
    push(workspace.declarations.table(KEPT_IN), good, workspace.online, PROJECT)
    return Pushed(len(good), len(good["user_id"].unique()), recorded)


def catch_up(desk: Desk, online: Path, since: datetime) -> int:
    """Push the plays that the raw events came to know at `since` or later, as a stream would have; how many there are.

    A day's kept plays are those known before its `as_of`. What the lake has beyond that was recorded without a push, and
    a request would otherwise know less of a session than training and checks do.
    """
    with desk.events() as connection:
        rows = connection.sql(f"""
            SELECT user_id, play_id, title_id, event_timestamp, created_timestamp FROM plays
            WHERE created_timestamp >= {literal(since)}""").to_arrow_table()
    push(desk.declarations.table(KEPT_IN), rows, online, PROJECT)
    return len(rows)


def plays_of_lines(lines: Iterable[str]) -> pa.Table:
    """Raw plays from JSON, one object a line; empty lines are skipped.

    Raises:
        RowsRefused: lines are no plays.
    """
    found, refused = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_play().model_validate_json(line, strict=True).model_dump())
            except ValidationError as problem:
                refused.append((number, _said(problem)))
    if refused:
        raise RowsRefused("plays", refused)
    return pa.Table.from_pylist(found, schema=arrow_schema(PLAYS))


@cache
def _play() -> type[BaseModel]:
    """A raw play, as the event table's contract types it."""
    fields = {
        c.name: (_TYPES[c.dtype], ...) if NullShare(0) in c.expectations else (_TYPES[c.dtype] | None, None)
        for c in PLAYS.columns
    }
    made: type[BaseModel] = create_model("Play", __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]
    return made


def _said(problem: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the line'}: {e['msg']}" for e in problem.errors())
