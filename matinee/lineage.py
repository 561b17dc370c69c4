"""What is written into the ledger about where a model came from."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING

from events.lake import Lake
from events.schema import TABLES
from feature_repo.compute import offline_path, recorded
from feature_repo.declarations import Declarations, FeatureService
from matinee.desk import Desk
from matinee.periods import Split
from matinee.recipes import Held, Recipe
from registry import (
    FeatureRecord,
    Input,
    Metric,
    ModelVersion,
    Registry,
    ServiceRecord,
    Signature,
    TrainingSetRecord,
)

if TYPE_CHECKING:
    from matinee.training import Fitted

LIBRARIES = ("torch", "numpy", "faiss-cpu", "duckdb")
"""What decides a model's weights beside our own code: they add in an order of their own."""


def record_declarations(registry: Registry, declarations: Declarations) -> None:
    """Every feature and feature service of a source, by digest."""
    records: dict[str, FeatureRecord] = {}
    for table in declarations.tables:
        for feature in table.features:
            definition = {"description": feature.description, "unit": feature.unit, "owner": feature.owner}
            records.setdefault(
                feature.digest,
                FeatureRecord(feature.digest, feature.name, table.name, feature.dtype.value, definition),
            )
    registry.record_features(tuple(records.values()))
    for service in declarations.services:
        registry.record_service(service_record(service))


def service_record(service: FeatureService) -> ServiceRecord:
    """A feature service as the ledger keeps it."""
    return ServiceRecord(service.name, tuple(service.digests.values()))


def recorded_signature(fitted: Fitted) -> Signature:
    """What a model takes and gives, and the libraries that made it, as the ledger keeps them."""
    inputs = tuple(Input(name, service_record(service).digest) for name, service in fitted.inputs.items())
    return Signature(inputs, fitted.outputs, framework())


def framework() -> dict[str, str]:
    """The libraries that training depends on, with the versions installed here."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def training_set_record(desk: Desk, split: Split, fitted: Fitted) -> TrainingSetRecord:
    """Labels of the split's train periods, joined to the features of a model's services."""
    return TrainingSetRecord(
        digest=fitted.training_set,
        source=desk.source.name,
        interval_start=split.train[0].start,
        interval_end=split.train[-1].end,
        rows=fitted.rows,
        as_of=split.as_of,
        event_digests=event_digests(desk.lake, split.as_of),
        services=tuple(service_record(service).digest for service in fitted.inputs.values()),
    )


def event_digests(lake: Lake, before: datetime) -> dict[str, str]:
    """Event table → digest of what it holds before a moment."""
    return {table: lake.digest(table, before) for table in TABLES}


def events_digest(lake: Lake, before: datetime) -> str:
    """One digest over all event tables before a moment."""
    return hashlib.sha256(json.dumps(event_digests(lake, before)).encode()).hexdigest()[:16]


def inputs_digest(desk: Desk, split: Split, recipe: Recipe) -> str:
    """What decides a trained model: its recipe, and the computed features of every snapshot it reads."""
    return recipe.inputs(desk.declarations, split.as_ofs, held(desk))


def held(desk: Desk) -> Held:
    """What the computed files on disk say of themselves."""
    return lambda table, moment: recorded(offline_path(desk.offline, table, moment))


def trained_already(registry: Registry, name: str, inputs: str) -> ModelVersion | None:
    """The version of a model that was trained from exactly these inputs."""
    found = registry.search(f"name = '{name}' AND tags.inputs = '{inputs}'", limit=1).versions
    return found[0] if found else None


_AT = re.compile(r"^(?P<key>.+)_at_(?P<k>\d+)$")


def as_metrics(values: Mapping[str, float], source: str, split: str, prefix: str = "") -> tuple[Metric, ...]:
    """Measured numbers as the ledger keeps them, the cut-off taken from the name.

    >>> as_metrics({"recall_at_200": 0.5}, "world", "test")
    (Metric(key='recall', value=0.5, dataset='world', split='test', k=200),)
    """
    found = []
    for name, value in values.items():
        cut = _AT.match(name)
        key, k = (cut["key"], int(cut["k"])) if cut else (name, None)
        found.append(Metric(prefix + key, value, dataset=source, split=split, k=k))
    return tuple(found)
