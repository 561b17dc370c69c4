"""MLflow's words for ours: its filter language, its stages, its wire format. Pure functions.

Our search grammar is a superset of MLflow's, except for the names of some fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.errors import InvalidRecord
from registry.results import ModelVersion

FIELDS: Mapping[str, str] = {
    "version_number": "version",
    "creation_timestamp": "created_at",
    "last_updated_timestamp": "created_at",  # a version never changes
    "source_path": "source",
    "run_id": "training_set",
}
STAGES: Mapping[str, str | None] = {
    "None": None,
    "Staging": "challenger",
    "Production": "champion",
    "Archived": None,
}
"""MLflow's stages; two of them are aliases of ours."""
DESCRIPTION, RUN_LINK, STAGE = "mlflow.note.content", "mlflow.run_link", "mlflow.stage"
"""Tags in which a version keeps what MLflow has fields for. On the wire they are those fields, not tags."""
HIDDEN = frozenset({DESCRIPTION, RUN_LINK, STAGE})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORD = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|[A-Za-z_][A-Za-z_0-9.\-/]*""")


def our_query(text: str) -> str:
    """A filter of MLflow's in our grammar.

    >>> our_query("name = 'run_id' AND run_id = 'x' and tags.run_id != 'y' and attributes.version_number > 2")
    "name = 'run_id' AND training_set = 'x' and tags.run_id != 'y' and version > 2"
    """
    return _WORD.sub(lambda match: _our_word(match[0]), text)


def our_order(text: str) -> str:
    """A sort key of MLflow's in our grammar.

    >>> our_order("last_updated_timestamp DESC")
    'created_at DESC'
    """
    return our_query(text)


def model_order(order_by: Sequence[str]) -> tuple[str, bool]:
    """How models are to be sorted: the key, and whether the largest comes first. A second key may only be the name.

    >>> model_order(["timestamp DESC", "name"]), model_order([])
    (('last_updated_timestamp', True), ('name', False))

    Raises:
        InvalidRecord: it names what models are not sorted by.
    """
    keys = [_model_key(text) for text in order_by] or [("name", False)]
    if any(key != ("name", False) for key in keys[1:]):
        raise InvalidRecord(
            f"order_by {list(order_by)}: models are sorted by one key; equals go by name ASC."
        )
    return keys[0]


def canonical_stage(stage: str) -> str:
    """MLflow's spelling of a stage, which may come in any case.

    Raises:
        InvalidRecord: there is no such stage.
    """
    for known in STAGES:
        if known.lower() == stage.lower():
            return known
    raise InvalidRecord(f"there is no stage {stage!r}. There are: {', '.join(STAGES)}.")


def stage_of(version: ModelVersion) -> str:
    """The stage a version is in: Production behind `champion`, Staging behind `challenger`, or archived, or None."""
    if "champion" in version.aliases:
        return "Production"
    if "challenger" in version.aliases:
        return "Staging"
    return "Archived" if version.tags.get(STAGE) == "Archived" else "None"


def milliseconds(at: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def tags_on_wire(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as MLflow writes them, without those that are fields on the wire."""
    return [{"key": key, "value": value} for key, value in tags.items() if key not in HIDDEN]


def version_on_wire(version: ModelVersion, location: str) -> dict[str, Any]:
    """A version as MLflow writes one. `location` is where its files are had, for those that do not say `source`."""
    created = milliseconds(version.created_at)
    maybe = {"description": version.tags.get(DESCRIPTION), "run_id": version.training_set}
    return {
        **{name: value for name, value in maybe.items() if value is not None},
        "name": version.name,
        "version": str(version.number),
        "creation_timestamp": created,
        "last_updated_timestamp": created,
        "user_id": version.created_by,
        "current_stage": stage_of(version),
        "source": version.source if ":/" in version.source else location,
        "run_link": version.tags.get(RUN_LINK, ""),
        "status": "READY",
        "tags": tags_on_wire(version.tags),
        "aliases": list(version.aliases),
        "model_params": [{"name": name, "value": value} for name, value in version.params.items()],
        "model_metrics": [
            {
                "key": metric.name,
                "value": metric.value,
                "timestamp": created,
                "step": 0,
                "dataset_name": " ".join(filter(None, (metric.dataset, metric.split))),
            }
            for metric in version.metrics
        ],
    }


def _our_word(word: str) -> str:
    if word[0] in "'\"`":
        return word
    plain = re.sub(r"^attributes?\.", "", word)
    return FIELDS.get(plain, plain)


def _model_key(text: str) -> tuple[str, bool]:
    match = re.fullmatch(r"\s*`?(?:attributes?\.)?(\w+)`?(?:\s+(asc|desc))?\s*", text, re.IGNORECASE)
    key = match[1] if match else text
    key = "last_updated_timestamp" if key == "timestamp" else key
    if match is None or key not in {"name", "creation_timestamp", "last_updated_timestamp"}:
        known = "name, creation_timestamp, last_updated_timestamp"
        raise InvalidRecord(f"order_by {text!r}: models are sorted by {known}, each ASC or DESC.")
    return key, (match[2] or "asc").lower() == "desc"
