"""From a feature table to SQL: text in, text out; no connection, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cache
from textwrap import indent

import ibis

from events.sources import Source
from feature_repo.arithmetic import Ref, to_sql
from feature_repo.declarations import Aggregated, Attribute, Derived, Feature, FeatureTable, Kept
from feature_repo.relations import Relations


def compile_table(table: FeatureTable, source: Source, only: Collection[str] | None = None) -> str:
    """One row an entity known at `as_of`, features in declared order, read from `known_*`.

    Computed in DOUBLE and rounded to the declared type once, in the outermost SELECT, where each feature's digest
    stands beside it. With `only`, just these features, from the same values as in the whole.
    """
    if not table.stored:
        raise ValueError(f"feature table {table.name!r} is evaluated at request time: it has no snapshot.")
    if table.keep > 1:
        return _kept_sql(table)
    wanted = [feature for feature in table.features if only is None or feature.name in only]
    read = {feature.name for one in wanted for feature in (one, *one.reads)}
    part = replace(table, features=tuple(feature for feature in table.features if feature.name in read))
    return _entity_sql(_relations(source), part, wanted)


@cache
def _relations(source: Source) -> Relations:
    return Relations(source)


def _entity_sql(r: Relations, table: FeatureTable, wanted: Iterable[Feature]) -> str:
    parts = {name: features for name, features in _by_relation(table.features).items() if features}
    key = table.entity.join_key
    named = [(f"{name}_part", _aggregate_sql(r, name, key, features)) for name, features in parts.items()]
    named.append(("stored", _stored_sql(r, table, parts)))
    above = ",\n".join(f'"{name}" AS (\n{indent(sql, "  ")}\n)' for name, sql in named)
    columns = ",\n  ".join([key, *(_final_column(feature) for feature in wanted)])
    return f"WITH {above}\nSELECT\n  {columns}\nFROM stored\nORDER BY {key}"


def _by_relation(features: Iterable[Feature]) -> dict[str, list[Feature]]:
    found: dict[str, list[Feature]] = {}
    for feature in features:
        if isinstance(feature.computation, Aggregated):
            found.setdefault(feature.computation.relation, []).append(feature)
    return found


def _aggregate_sql(r: Relations, relation: str, key: str, features: list[Feature]) -> str:
    """One pass over one relation for all its features."""
    values = [f.computation.value.name(f.name) for f in features if isinstance(f.computation, Aggregated)]
    return str(ibis.to_sql(r.named(relation).group_by(key).aggregate(values), dialect="duckdb"))


def _attribute_sql(r: Relations, table: FeatureTable) -> str:
    rows = r.named(f"{table.entity.name}s")
    values = [
        f.computation.value.name(f.name) for f in table.features if isinstance(f.computation, Attribute)
    ]
    return str(ibis.to_sql(rows.select(table.entity.join_key, *values), dialect="duckdb"))


def _stored_sql(r: Relations, table: FeatureTable, parts: dict[str, list[Feature]]) -> str:
    """Every entity once, with aggregates joined on; nothing counted becomes its declared empty value."""
    key = table.entity.join_key
    joins = "".join(f'\nLEFT JOIN "{name}_part" USING ({key})' for name in parts)
    stored = (_with_empty(f) for f in table.features if not isinstance(f.computation, Derived))
    columns = ",\n  ".join([key, *stored])
    return f"SELECT\n  {columns}\nFROM (\n{indent(_attribute_sql(r, table), '  ')}\n){joins}"


def _with_empty(feature: Feature) -> str:
    if isinstance(feature.computation, Aggregated) and feature.computation.empty is not None:
        return f'coalesce("{feature.name}", {feature.computation.empty}) AS "{feature.name}"'
    return f'"{feature.name}"'


def _final_column(feature: Feature) -> str:
    return f'CAST({_final(feature)} AS {feature.dtype.value}) AS "{feature.name}" /* {feature.digest} */'


def _final(feature: Feature) -> str:
    if isinstance(feature.computation, Derived):
        return to_sql(feature.computation.expression, lambda ref: f'"{ref.feature}"')
    return f'"{feature.name}"'


def _kept_sql(table: FeatureTable) -> str:
    """The newest known events of each entity under their own times, oldest first."""
    key, (relation,) = table.entity.join_key, {f.computation.relation for f in table.features if isinstance(f.computation, Kept)}  # fmt: skip
    place = ("event_timestamp", *table.identified_by)
    newest_first = ", ".join(f"{column} DESC" for column in place)
    columns = ",\n  ".join(
        [key, "event_timestamp", "created_timestamp", *(_kept_column(f) for f in table.features)]
    )
    return f"""\
SELECT
  {columns}
FROM known_{relation}
QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {newest_first}) <= {table.keep}
ORDER BY {", ".join((key, *place))}"""


def _kept_column(feature: Feature) -> str:
    if not isinstance(feature.computation, Kept):
        raise TypeError(f"{feature.name!r} is no column of a kept event.")
    return f'CAST({feature.computation.column} AS {feature.dtype.value}) AS "{feature.name}" /* {feature.digest} */'


def pair_sql(feature: Feature) -> str:
    """A user × title feature over columns written `table:feature`, rounded to float32 once."""
    if not isinstance(feature.computation, Derived):
        raise TypeError(f"{feature.name!r} is not a user × title feature.")
    value = to_sql(feature.computation.expression, _qualified)
    return f'CAST({value} AS FLOAT) AS "user_title:{feature.name}" /* {feature.digest} */'


def _qualified(ref: Ref) -> str:
    return f'"{ref.table}:{ref.feature}"'
