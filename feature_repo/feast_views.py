"""Declarations as Feast objects, with lineage in tags: entities, file sources, feature views and services."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np
import pyarrow as pa
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    PushSource,
    ValueType,
)
from feast.data_format import ParquetFormat
from feast.transformation.python_transformation import PythonTransformation
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import Array, Bool, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from feature_repo import declarations as declared
from feature_repo.arithmetic import Ref, from_data, references, to_data
from feature_repo.pairing import Pairing, compile_pairing
from validations.expectations import DType

TYPES: dict[DType, FeastType] = {
    DType.FLOAT: Float32, DType.DOUBLE: Float64, DType.BIGINT: Int64, DType.BOOLEAN: Bool,
    DType.VARCHAR: String, DType.TIMESTAMP: UnixTimestamp, DType.BIGINTS: Array(Int64), DType.VARCHARS: Array(String),
}  # fmt: skip


@dataclass(frozen=True)
class FeastObjects:
    """Everything of one source that a Feast registry should hold."""

    entities: tuple[Entity, ...]
    sources: tuple[FileSource | PushSource, ...]
    views: tuple[FeatureView, ...]
    on_demand: tuple[OnDemandFeatureView, ...]
    services: tuple[FeatureService, ...]

    def named(self) -> dict[str, Any]:
        """Each object under a name of its own, for `feast apply` to find in a module."""
        kinds = {"entity": self.entities, "source": self.sources, "view": (*self.views, *self.on_demand),
                 "service": self.services}  # fmt: skip
        return {f"{kind}_{item.name}": item for kind, items in kinds.items() for item in items}

    def all(self) -> list[Any]:
        """In the order in which `FeatureStore.apply` wants them."""
        return [*self.entities, *self.sources, *self.views, *self.on_demand, *self.services]


class AmbiguousInputs(ValueError):
    """Features of two views that share a name were asked for without their views' names."""

    def __init__(self, first: Ref, second: Ref) -> None:
        super().__init__(
            f"{first} and {second} arrived as one column {first.feature!r}: ask Feast with full_feature_names=True."
        )


def feast_objects(declarations: declared.Declarations, offline: Path) -> FeastObjects:
    """The Feast objects of `declarations`, their sources the computed tables under `offline`."""
    of_entity = {table.entity.name: table.entity for table in declarations.stored}
    entities = {name: _entity(entity) for name, entity in of_entity.items()}
    sources = {table.name: _source(table, offline) for table in declarations.stored}
    views: dict[str, FeatureView | OnDemandFeatureView] = {
        table.name: _view(table, entities[table.entity.name], sources[table.name])
        for table in declarations.stored
    }
    views |= {t.name: _on_demand(t, views) for t in declarations.tables if not t.stored and not t.of_sessions}
    services = tuple(_service(service, views) for service in declarations.services)
    return FeastObjects(
        tuple(entities.values()), tuple(sources.values()),
        tuple(view for view in views.values() if isinstance(view, FeatureView)),
        tuple(view for view in views.values() if isinstance(view, OnDemandFeatureView)), services,
    )  # fmt: skip


def cross(expressions: str, inputs: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """User × title features of rows that Feast has gathered; what on-demand views call.

    Args:
        expressions: JSON of the view's name and, by feature, its expression (`arithmetic.to_data`).
        inputs: `view__feature` → one value a row, None where null.

    Returns:
        The features under the kind of name, long or short, that the caller asked Feast for.

    Raises:
        AmbiguousInputs: under short names, two inputs share one.
    """
    view, names, pairing = _compiled(expressions)
    prefix = f"{view}__" if _long_names(pairing.titles, list(inputs)) else ""
    columns = [inputs[_long(ref)] for ref in pairing.titles]
    stored = np.array(columns, dtype=np.float32).T.reshape(-1, len(columns))
    out = np.empty((len(stored), pairing.width), dtype=np.float32)
    pairing.run(np.empty(0, dtype=np.float32), stored, out)
    return {
        prefix + name: [None if math.isnan(value) else value for value in out[:, place].tolist()]
        for place, name in enumerate(names)
    }


def vectorised(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """The view; one of ours with a transformation that takes whole Arrow columns where Feast's takes Python values."""
    expressions = _expressions_of(view)
    if expressions is None:
        return view
    quick = copy(view)
    quick.feature_transformation = _Vectorised(
        udf=view.feature_transformation.udf, udf_string=view.feature_transformation.udf_string
    )
    quick.feature_transformation.expressions = expressions
    return quick


def cross_columns(expressions: str, inputs: pa.Table, rows: int = 16_384) -> pa.Table:
    """As `cross`, of whole columns: float32, null where unknown; `rows` are computed at a time."""
    view, names, pairing = _compiled(expressions)
    prefix = f"{view}__" if _long_names(pairing.titles, inputs.column_names) else ""
    place_of = {name: place for place, name in enumerate(inputs.column_names)}
    read = [place_of[_long(ref)] for ref in pairing.titles]
    out = np.empty((inputs.num_rows, pairing.width), dtype=np.float32)
    for start in range(0, inputs.num_rows, rows):
        part = inputs.slice(start, rows)
        stored = np.empty((part.num_rows, len(read)), dtype=np.float32)
        for place, index in enumerate(read):
            stored[:, place] = part.column(index).to_numpy()
        pairing.run(np.empty(0, dtype=np.float32), stored, out[start : start + rows])
    columns = (pa.array(out[:, place], from_pandas=True) for place in range(pairing.width))
    return pa.table(dict(zip((prefix + name for name in names), columns, strict=True)))


def _expressions_of(view: OnDemandFeatureView) -> str | None:
    """What `_on_demand` put into the view's source, or None where the source is someone else's."""
    source = getattr(view.feature_transformation, "udf_string", "")
    head, tail = _source_text(view.name, "").split("''")
    if not (source.startswith(head) and source.endswith(tail)):
        return None
    found: str = ast.literal_eval(source[len(head) : -len(tail)])
    return found


def _long_names(refs: Sequence[Ref], arrived: list[str]) -> bool:
    """Whether inputs came under long names: Feast adds the other kind of name after the one asked for."""
    if arrived.index(_long(refs[0])) < arrived.index(refs[0].feature):
        return True
    first: dict[str, Ref] = {}
    for ref in refs:
        if first.setdefault(ref.feature, ref) != ref:
            raise AmbiguousInputs(first[ref.feature], ref)
    return False


def _long(ref: Ref) -> str:
    return f"{ref.table}__{ref.feature}"


@lru_cache(maxsize=8)
def _compiled(expressions: str) -> tuple[str, tuple[str, ...], Pairing]:
    data = json.loads(expressions)
    trees = [from_data(tree) for tree in data["features"].values()]
    return data["view"], tuple(data["features"]), compile_pairing(trees, ())


def _entity(entity: declared.Entity) -> Entity:
    return Entity(
        name=entity.name, join_keys=[entity.join_key], value_type=ValueType.INT64, description=entity.description
    )  # fmt: skip


def _source(table: declared.FeatureTable, offline: Path) -> FileSource | PushSource:
    """The computed files; where events may be pushed as well, a push source over them."""
    files = _files(table, offline)
    if not table.push_source:
        return files
    return PushSource(
        name=table.push_source, batch_source=files, description=f"events as they come, for {table.name}"
    )


def _files(table: declared.FeatureTable, offline: Path) -> FileSource:
    return FileSource(
        name=f"{table.name}_snapshots",
        path=str(offline / table.name / "as_of=*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"{table.name} as it was computed for each as_of",
    )


def _view(table: declared.FeatureTable, entity: Entity, source: FileSource | PushSource) -> FeatureView:
    key = Field(name=table.entity.join_key, dtype=Int64, description=f"id of {table.entity.description}")
    return FeatureView(
        name=table.name,
        entities=[entity],
        ttl=timedelta(days=table.ttl_days),
        schema=[key, *(_field(feature) for feature in table.features)],
        source=source,
        description=table.description,
        tags={"digest": table.digest, "weight": table.weight.value, "keep": str(table.keep)},
        owner=_owner(table),
    )


def _on_demand(
    table: declared.FeatureTable, views: Mapping[str, FeatureView | OnDemandFeatureView]
) -> OnDemandFeatureView:
    computations = {f.name: f.computation for f in table.features}
    trees = {n: c.expression for n, c in computations.items() if isinstance(c, declared.Derived)}
    read = dict.fromkeys(ref.table for tree in trees.values() for ref in references(tree))
    fields = [Field(name=feature.name, dtype=TYPES[feature.dtype]) for feature in table.features]
    lineage = {f.name: _tags(f) | {"description": f.description} for f in table.features}
    expressions = json.dumps({"view": table.name, "features": {n: to_data(t) for n, t in trees.items()}})
    return OnDemandFeatureView(
        name=table.name,
        sources=[views[name] for name in read],
        schema=fields,
        feature_transformation=_transformation(table.name, expressions, fields),
        mode="python",
        description=table.description,
        # Feast forgets the tags of an on-demand view's fields, and then takes them for other fields.
        tags={"digest": table.digest, "weight": table.weight.value, "features": json.dumps(lineage)},
        owner=_owner(table),
    )


class _Declared(PythonTransformation):  # type: ignore[misc] # feast ships no types
    """A transformation whose output is declared, where Feast would guess it from a trial run."""

    fields: list[Field]

    def infer_features(self, *_: object, **__: object) -> list[Field]:
        return self.fields


class _Vectorised(_Declared):
    """`cross_columns` in the place of `cross`."""

    expressions: str

    def transform_arrow(self, pa_table: pa.Table, features: list[Field]) -> pa.Table:  # noqa: ARG002
        return cross_columns(self.expressions, pa_table)


def _source_text(name: str, expressions: str) -> str:
    return (
        f"def {name}(inputs):\n"
        "    from feature_repo.feast_views import cross\n"
        f"    return cross({expressions!r}, inputs)\n"
    )


def _transformation(name: str, expressions: str, fields: list[Field]) -> PythonTransformation:
    """Its source is what Feast keeps and runs: one call of `cross` with the expressions as data."""
    source = _source_text(name, expressions)
    function = rehydrate_udf_from_source(source, preferred_name=name)
    transformation = _Declared(udf=cast("FunctionType", function), udf_string=source)
    transformation.fields = fields
    return transformation


def _service(
    service: declared.FeatureService, views: Mapping[str, FeatureView | OnDemandFeatureView]
) -> FeatureService:
    """Without session features, which Feast cannot evaluate: the tag `beyond_feast` says which those are."""
    beyond = {
        f"{table.name}:{f.name}": f.digest
        for table in service.tables
        if table.name not in views
        for f in table.features
    }
    return FeatureService(
        name=service.name,
        features=[views[table.name] for table in service.tables if table.name in views],
        description=service.description,
        tags={"beyond_feast": json.dumps(beyond)} if beyond else {},
    )


def _field(feature: declared.Feature) -> Field:
    return Field(
        name=feature.name, dtype=TYPES[feature.dtype], description=feature.description, tags=_tags(feature)
    )


def _tags(feature: declared.Feature) -> dict[str, str]:
    tags = {
        "digest": feature.digest,
        "unit": feature.unit,
        "owner": feature.owner,
        "needs": " ".join(sorted(feature.needs)),
    }
    return tags if feature.over is None else tags | {"over_days": str(feature.over)}


def _owner(table: declared.FeatureTable) -> str:
    return table.features[0].owner
