"""A typed condition as a SQLAlchemy expression with bound values; no SQL is made of text.

What hangs on versions is asked for as a set of their ids, once, and not once for each version.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased

from registry.columns import Instant
from registry.query import AllOf, AnyOf, Comparison, Condition, Not, Value
from registry.schema import (
    AliasRow,
    ArmRow,
    BindingRow,
    ExperimentRow,
    FeatureRow,
    InputRow,
    MetricRow,
    ModelRow,
    ParameterRow,
    ServiceMemberRow,
    TagRow,
    VersionRow,
)

COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "name": ModelRow.name.expression,
    "version": VersionRow.number.expression,
    "created_at": VersionRow.created_at.expression,
    "created_by": VersionRow.created_by.expression,
    "source": VersionRow.source.expression,
    "training_set": sa.func.coalesce(VersionRow.training_set_digest, ""),
}
"""The fields of which a version has exactly one."""


def compiled(condition: Condition) -> ColumnElement[bool]:
    """`condition` over `VersionRow` joined to `ModelRow`. It is true or false, never NULL, so NOT means not."""
    match condition:
        case AllOf(terms):
            return sa.and_(sa.true(), *map(compiled, terms))
        case AnyOf(terms):
            return sa.or_(sa.false(), *map(compiled, terms))
        case Not(term):
            return sa.not_(compiled(term))
        case Comparison(field) if field.name in COLUMNS:
            return holds(COLUMNS[field.name], condition)
        case Comparison(field):
            return _SOME[field.name](condition)


def _some_tag(comparison: Comparison) -> ColumnElement[bool]:
    row = TagRow
    held = sa.select(row.version_id).where(
        row.key == comparison.field.key, holds(row.value.expression, comparison)
    )
    return VersionRow.id.in_(held)


def _some_param(comparison: Comparison) -> ColumnElement[bool]:
    row = ParameterRow
    column = row.number if isinstance(comparison.values[0], float) else row.value
    held = sa.select(row.version_id).where(
        row.key == comparison.field.key, holds(column.expression, comparison)
    )
    return VersionRow.id.in_(held)


def _some_metric(comparison: Comparison) -> ColumnElement[bool]:
    row = MetricRow
    labels = (getattr(row, label) == value for label, value in comparison.field.labels)
    measured = sa.select(row.version_id).where(row.name == comparison.field.key, *labels)
    return VersionRow.id.in_(measured.where(holds(row.value.expression, comparison)))


def _some_alias(comparison: Comparison) -> ColumnElement[bool]:
    row, version = AliasRow, aliased(VersionRow)
    same = sa.and_(row.model_id == version.model_id, row.number == version.number)
    held = sa.select(version.id).join(row, same)
    return VersionRow.id.in_(held.where(holds(row.alias.expression, comparison)))


def _some_feature(comparison: Comparison) -> ColumnElement[bool]:
    """By name or by digest."""
    held = holds(FeatureRow.name.expression, comparison) | holds(FeatureRow.digest.expression, comparison)
    services = sa.select(ServiceMemberRow.service_digest).join(FeatureRow).where(held)
    return VersionRow.id.in_(sa.select(InputRow.version_id).where(InputRow.service_digest.in_(services)))


def _some_arm(comparison: Comparison) -> ColumnElement[bool]:
    """As `experiment/arm`, of any run of any experiment."""
    bound = (
        sa.select(BindingRow.version_id)
        .join(ArmRow, ArmRow.id == BindingRow.arm_id)
        .join(ExperimentRow, ExperimentRow.id == ArmRow.experiment_id)
        .where(BindingRow.version_id.is_not(None))  # with a NULL in the list, NOT IN is never true
    )
    return VersionRow.id.in_(bound.where(holds(ExperimentRow.name + "/" + ArmRow.name, comparison)))


_SOME: Mapping[str, Callable[[Comparison], ColumnElement[bool]]] = {
    "tags": _some_tag,
    "params": _some_param,
    "metrics": _some_metric,
    "aliases": _some_alias,
    "features": _some_feature,
    "arms": _some_arm,
}
_COMPARE: Mapping[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(column: ColumnElement[Any], comparison: Comparison) -> ColumnElement[bool]:
    """`column` compared as `comparison` says, its values bound."""
    value, *_ = comparison.values
    if comparison.operator == "IN":
        return column.in_([_bound(value) for value in comparison.values])
    if comparison.operator == "LIKE":
        return column.like(_pattern(str(value)), escape="\\")
    if comparison.operator == "ILIKE":
        return column.ilike(_pattern(str(value)), escape="\\")
    return _COMPARE[comparison.operator](column, _bound(value))


def _bound(value: Value) -> ColumnElement[Any]:
    if isinstance(value, float):
        return sa.literal(value, sa.Double())
    return sa.literal(value, Instant()) if isinstance(value, datetime) else sa.literal(value, sa.Text())


def _pattern(value: str) -> str:
    r"""A LIKE pattern in which `\%`, `\_` and `\\` are themselves, and any other backslash is one too."""
    return re.sub(r"\\([%_\\])|\\", lambda match: match[0] if match[1] else r"\\", value)
