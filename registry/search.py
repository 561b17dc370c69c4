"""Searching versions, in order, a page at a time.

A page token holds the sort keys of the last version seen, so a page is never shifted by what was registered since.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session, aliased

from registry import reading
from registry.canonical import digest_of
from registry.conditions import COLUMNS, compiled
from registry.errors import InvalidPageToken, InvalidRecord
from registry.query import Field, Order, parse_order, parse_query
from registry.results import Page
from registry.schema import MetricRow, ModelRow, ParameterRow, TagRow, VersionRow

LARGEST_PAGE = 1000
_TIES = (Order(Field("name")), Order(Field("version"), descending=True))


@dataclass(frozen=True)
class _SortKey:
    column: ColumnElement[Any]
    descending: bool
    maybe: bool  # whether a version may lack it
    joined: tuple[Any, ColumnElement[bool]] | None = None  # the rows that the column is of, and which of them


def search(session: Session, query: str, order_by: Sequence[str], limit: int, page_token: str | None) -> Page:
    """One page of the versions that `query` holds for.

    Raises:
        QuerySyntax: the query or a sort key cannot be understood.
        InvalidPageToken: the token is not one of this query and order.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRecord(f"limit {limit}: a page has 1 to {LARGEST_PAGE} versions.")
    orders = (*map(parse_order, order_by), *_TIES)
    keys = [key for order in orders for key in _sort_keys(order)]
    found = _found(query, keys)
    asked = [query, *order_by]
    sorted_by = [replace(key, column=found.c[n + 1]) for n, key in enumerate(keys)]
    page = sa.select(found).order_by(*map(_direction, sorted_by)).limit(limit + 1)
    if page_token is not None:
        page = page.where(_after(sorted_by, _read_token(page_token, asked)))
    rows = session.execute(page).all()
    token = _write_token(asked, rows[limit - 1][1:]) if len(rows) > limit else None
    return Page(reading.by_ids(session, [row[0] for row in rows[:limit]]), token)


def _found(query: str, keys: Sequence[_SortKey]) -> sa.Subquery:
    """The versions that `query` holds for: row id, then one column for each sort key."""
    columns = [key.column.label(f"key_{n}") for n, key in enumerate(keys)]
    versions = sa.select(VersionRow.id, *columns).join(ModelRow, ModelRow.id == VersionRow.model_id)
    for joined, its in dict.fromkeys(key.joined for key in keys if key.joined is not None):
        versions = versions.outerjoin(joined, its)
    return versions.where(compiled(parse_query(query))).subquery()


def _sort_keys(order: Order) -> Iterator[_SortKey]:
    """The columns to sort by: a parameter sorts as a number where it is one, then as text."""
    field = order.field
    if field.name in COLUMNS:
        yield _SortKey(COLUMNS[field.name], order.descending, maybe=False)
    elif field.name == "metrics":  # the largest, where several data sets or splits are meant
        theirs = (MetricRow.version_id == VersionRow.id, MetricRow.name == field.key)
        labels = (getattr(MetricRow, label) == value for label, value in field.labels)
        largest = sa.select(sa.func.max(MetricRow.value)).where(*theirs, *labels).scalar_subquery()
        yield _SortKey(largest, order.descending, maybe=True)
    else:
        row: Any = aliased(TagRow if field.name == "tags" else ParameterRow)
        its = (row, sa.and_(row.version_id == VersionRow.id, row.key == field.key))
        for column in [row.value] if field.name == "tags" else [row.number, row.value]:
            yield _SortKey(column, order.descending, maybe=True, joined=its)


def _direction(key: _SortKey) -> ColumnElement[Any]:
    direction = key.column.desc() if key.descending else key.column.asc()
    return direction.nulls_last() if key.maybe else direction  # else an index gives the order


def _after(keys: Sequence[_SortKey], last: Sequence[Any]) -> ColumnElement[bool]:
    """Strictly behind `last` in the order of `keys`: equal on the first few keys, then behind on the next."""
    ways: list[ColumnElement[bool]] = []
    equal: list[ColumnElement[bool]] = []
    for key, value in zip(keys, last, strict=True):
        if value is None:  # nulls are last: nothing is behind them
            equal.append(key.column.is_(None))
            continue
        bound = sa.literal(value, sa.Double() if isinstance(value, float) else key.column.type)
        behind = key.column < bound if key.descending else key.column > bound
        ways.append(sa.and_(*equal, behind | key.column.is_(None)))
        equal.append(key.column == bound)
    return sa.or_(sa.false(), *ways)


def _write_token(asked: Sequence[str], last: Sequence[Any]) -> str:
    values = [{"at": value.isoformat()} if isinstance(value, datetime) else value for value in last]
    return base64.urlsafe_b64encode(json.dumps([_seal(asked, values), *values]).encode()).decode()


def _read_token(token: str, asked: Sequence[str]) -> list[Any]:
    try:
        seal, *values = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidPageToken from error
    if seal != _seal(asked, values):
        raise InvalidPageToken
    return [datetime.fromisoformat(value["at"]) if isinstance(value, dict) else value for value in values]


def _seal(asked: Sequence[str], values: Sequence[Any]) -> str:
    """Ties a token to its query and order, and shows when it was altered on the way."""
    return digest_of([asked, values])[:16]
