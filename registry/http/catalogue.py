"""Registered models as the HTTP edge asks for them: one, a page of them, their tags, and making an empty one.

The ledger makes a model with its first version. MLflow's protocol makes it before, so that is done here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry import reading
from registry.access import ModelTagRow
from registry.canonical import digest_of
from registry.conditions import holds
from registry.errors import InvalidPageToken, QuerySyntax
from registry.http import problems
from registry.http.problems import Refused
from registry.query import AllOf, AnyOf, Comparison, Condition, Not, parse_query
from registry.records import check_pair
from registry.refs import check_name
from registry.results import RegisteredModel
from registry.schema import AliasMoveRow, AliasRow, ModelRow, VersionRow


@dataclass(frozen=True)
class Entry:
    """A registered model with what the MLflow protocol adds to it; `touched` is when a version or alias last came."""

    id: int
    model: RegisteredModel
    tags: Mapping[str, str]
    touched: datetime


@dataclass(frozen=True)
class Entries:
    """One page of models."""

    entries: tuple[Entry, ...]
    next_page_token: str | None


def _newest(column: Any) -> ColumnElement[Any]:
    theirs = sa.select(column).where(VersionRow.model_id == ModelRow.id)
    return theirs.order_by(VersionRow.number.desc()).limit(1).scalar_subquery()


def _touched() -> ColumnElement[datetime]:
    moved = sa.select(AliasMoveRow.at).where(AliasMoveRow.model_id == ModelRow.id)
    last = moved.order_by(AliasMoveRow.id.desc()).limit(1).scalar_subquery()
    made = sa.func.coalesce(_newest(VersionRow.created_at), ModelRow.created_at)
    return sa.case((last > made, last), else_=made)


ORDERS: Mapping[str, ColumnElement[Any]] = {
    "name": ModelRow.name.expression,
    "creation_timestamp": ModelRow.created_at.expression,
    "last_updated_timestamp": _touched(),
}
"""What a page of models can be sorted by."""


def entry(session: Session, name: str) -> Entry:
    """One model. Raises `NotRecorded`."""
    row = reading.model(session, name)
    return _entries(session, sa.select(ModelRow.id, ModelRow).where(ModelRow.id == row.id))[0]


def search(
    session: Session, query: str, order_by: tuple[str, bool], limit: int, page_token: str | None
) -> Entries:
    """One page of the models that `query` holds for, over `name` and `tags.…`.

    Args:
        session: a reading transaction.
        query: as in `registry.query`, with fewer fields.
        order_by: one of `ORDERS`, and whether the largest comes first; models that are equal in it go by name.
        limit: how many on a page.
        page_token: `next_page_token` of the page before.

    Raises:
        QuerySyntax: the query cannot be understood, or asks for what only versions have.
        InvalidPageToken: the token belongs to another query or order.
    """
    column, descending = ORDERS[order_by[0]], order_by[1]
    asked = [query, *map(str, order_by)]
    found = sa.select(ModelRow.id, ModelRow, column.label("sorted_by")).where(ModelRow.deleted_at.is_(None))
    found = found.where(_compiled(parse_query(query), query))
    if page_token is not None:
        found = found.where(_behind(column, descending, _read_token(page_token, asked)))
    direction = column.desc() if descending else column.asc()
    rows = found.order_by(direction, ModelRow.name).limit(limit + 1)
    entries = _entries(session, rows)
    if len(entries) <= limit:
        return Entries(entries, None)
    return Entries(entries[:limit], _write_token(asked, order_by[0], entries[limit - 1]))


def create(session: Session, name: str, description: str, tags: Mapping[str, str], at: datetime) -> None:
    """Make a model without versions. One that was deleted comes back empty, and its numbers go on.

    Raises:
        InvalidRecord: the name or a tag cannot be one.
        Refused: there is one of that name.
    """
    check_name("model", name)
    row = session.scalars(sa.select(ModelRow).where(ModelRow.name == name).with_for_update()).first()
    if row is not None and row.deleted_at is None:
        raise Refused(problems.exists(f"there is a registered model {name!r} already."))
    if row is None:
        row = ModelRow(name=name, description=description, next_version=1, created_at=at)
        session.add(row)
    row.deleted_at, row.description = None, description
    try:
        session.flush()
    except IntegrityError as error:  # made by somebody else since we looked
        raise Refused(problems.exists(f"there is a registered model {name!r} already.")) from error
    for key, value in tags.items():
        check_pair(key, value)
        session.add(ModelTagRow(model_id=row.id, key=key, value=value))


def describe(session: Session, name: str, description: str) -> None:
    """Give a model another description. Raises `NotRecorded`."""
    reading.model(session, name, lock=True).description = description


def rename(session: Session, name: str, new_name: str) -> None:
    """Give another name to a model that never had a version.

    Raises:
        NotRecorded: there is none of that name.
        Refused: it has had versions, or the new name is taken.
    """
    check_name("model", new_name)
    row = reading.model(session, name, lock=True)
    if row.next_version > 1:
        raise Refused(
            problems.conflict(
                f"model {name!r} has had {row.next_version - 1} versions, and Bentos, arms, digests and histories know "
                "them by that name. Copy the versions you need to a model of the new name (copy_model_version)."
            )
        )
    row.name = new_name
    try:
        session.flush()
    except IntegrityError as error:
        raise Refused(problems.exists(f"the name {new_name!r} is taken, or was once.")) from error


def tag(session: Session, name: str, key: str, value: str | None) -> None:
    """Set a tag of a model, or remove it with None. Raises `NotRecorded`."""
    check_pair(key, value or "")
    row = reading.model(session, name, lock=True)
    if value is None:
        session.execute(sa.delete(ModelTagRow).where(ModelTagRow.model_id == row.id, ModelTagRow.key == key))
    else:
        session.merge(ModelTagRow(model_id=row.id, key=key, value=value))


def _entries(session: Session, rows: sa.Executable) -> tuple[Entry, ...]:
    """The models that `rows` finds (id, row, …), in its order: four queries, however many there are."""
    found = [(row[0], row[1]) for row in session.execute(rows)]
    ids = [row_id for row_id, _ in found]
    counts = (
        sa.select(VersionRow.model_id, sa.func.count(), sa.func.max(VersionRow.number))
        .where(VersionRow.model_id.in_(ids))
        .group_by(VersionRow.model_id)
    )
    counted = {model_id: (count, latest) for model_id, count, latest in session.execute(counts)}
    moments = session.execute(sa.select(ModelRow.id, _touched()).where(ModelRow.id.in_(ids)))
    touched = {model_id: at for model_id, at in moments}  # noqa: C416 - dict() would not type-check
    aliases, tags = _pairs(session, AliasRow, AliasRow.number, ids), _pairs(session, ModelTagRow, None, ids)
    made = []
    for row_id, row in found:
        count, latest = counted.get(row_id, (0, None))
        model = RegisteredModel(row.name, row.description, row.created_at, count, latest, aliases[row_id])
        made.append(Entry(row_id, model, tags[row_id], touched[row_id]))
    return tuple(made)


def _pairs(session: Session, row: Any, number: Any, ids: Sequence[int]) -> Mapping[int, dict[str, Any]]:
    """Aliases (name → number) or tags (key → value) of each model."""
    key, value = (row.alias, number) if number is not None else (row.key, row.value)
    grouped: dict[int, dict[str, Any]] = {model_id: {} for model_id in ids}
    query = sa.select(row.model_id, key, value).where(row.model_id.in_(ids)).order_by(key)
    for model_id, name, held in session.execute(query):
        grouped[model_id][name] = held
    return grouped


def _compiled(condition: Condition, text: str) -> ColumnElement[bool]:
    match condition:
        case AllOf(terms):
            return sa.and_(sa.true(), *(_compiled(term, text) for term in terms))
        case AnyOf(terms):
            return sa.or_(sa.false(), *(_compiled(term, text) for term in terms))
        case Not(term):
            return sa.not_(_compiled(term, text))
        case Comparison(field) if field.name == "name":
            return holds(ModelRow.name.expression, condition)
        case Comparison(field) if field.name == "tags":
            held = sa.select(ModelTagRow.model_id).where(ModelTagRow.key == field.key)
            return ModelRow.id.in_(held.where(holds(ModelTagRow.value.expression, condition)))
        case Comparison(field):
            place = max(text.lower().find(field.name), 0)
            raise QuerySyntax(
                text, place, f"models are searched by name and tags; {field.name} is of versions."
            )


def _behind(column: ColumnElement[Any], descending: bool, last: tuple[Any, str]) -> ColumnElement[bool]:
    value, name = last
    bound = sa.literal(value, column.type)
    further = column < bound if descending else column > bound
    return sa.or_(further, sa.and_(column == bound, ModelRow.name > name))


def _write_token(asked: Sequence[str], key: str, last: Entry) -> str:
    values = {
        "name": last.model.name,
        "creation_timestamp": last.model.created_at.isoformat(),
        "last_updated_timestamp": last.touched.isoformat(),
    }
    held = [values[key], last.model.name]
    return base64.urlsafe_b64encode(json.dumps([_seal(asked, held), key, *held]).encode()).decode()


def _read_token(token: str, asked: Sequence[str]) -> tuple[Any, str]:
    try:
        seal, key, value, name = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        if seal != _seal(asked, [value, name]):
            raise InvalidPageToken
        return (value if key == "name" else datetime.fromisoformat(value)), name
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidPageToken from error


def _seal(asked: Sequence[str], values: Sequence[str]) -> str:
    return digest_of([asked, values])[:16]
