"""JSON Schema of a folder's files, for editors: it knows the folder's layers, parameters and metrics by name.

Draft 7, which every editor's YAML support reads. What depends on several fields (shares, dates, the kind of a metric) or on the
ledger is for `checking.check`; whatever passes that is valid here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from events.schema import TABLES
from experiments.config import REFERENCE, Experiment, ExperimentBook, Holdout, Layer, Parameter
from experiments.definitions import USER_TABLES, DefinedMetric

FOLDER = "schemas"
Schema = dict[str, Any]
_DIALECT = "http://json-schema.org/draft-07/schema#"


def write_schemas(book: ExperimentBook, folder: Path) -> tuple[Path, ...]:
    """Write the schema of each kind of file of `folder` into its folder `schemas`; return where."""
    (folder / FOLDER).mkdir(exist_ok=True)
    written = []
    for name, schema in schemas(book).items():
        path = folder / FOLDER / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return tuple(written)


def modeline(folder: Path) -> str:
    """The comment that names the schema of an experiment to an editor; nothing where none was written."""
    name = f"{FOLDER}/experiment.schema.json"
    return f"# yaml-language-server: $schema={name}\n" if (folder / name).is_file() else ""


def schemas(book: ExperimentBook) -> dict[str, Schema]:
    """By kind of file: `experiment`, `parameters`, `metrics`, `holdouts`."""
    return {
        "experiment": _experiment(book),
        "parameters": _whole(
            {"layers": _entries(Layer), "parameters": _entries(Parameter, layer={"enum": list(book.layers)})}
        ),
        "metrics": _whole({"metrics": _entries(DefinedMetric)}),
        "holdouts": _whole({"holdouts": _entries(Holdout)}),
    }


def _experiment(book: ExperimentBook) -> Schema:
    schema = _plain(TypeAdapter(Experiment).json_schema())
    of, defined = schema["properties"], schema["$defs"]
    of["layer"] = {"enum": list(book.layers), "description": "whose parameters its arms set"}
    of["segments"]["items"]["examples"] = [column.name for column in TABLES["users"].columns]
    defined["Arm"]["properties"]["parameters"] = {
        "type": "object",
        "properties": {name: _parameter(parameter) for name, parameter in book.parameters.items()},
        "additionalProperties": False,
    }
    metrics = defined["Metrics"]["properties"]
    metrics["primary"] = {"anyOf": [_name(book.metrics), {"$ref": "#/$defs/Metric"}]}
    metrics["guardrails"]["items"] = {"anyOf": [*_guardrails(book.metrics), {"$ref": "#/$defs/Guardrail"}]}
    return {"$schema": _DIALECT, **schema, "allOf": [_of_layer(book, layer) for layer in book.layers]}


def _of_layer(book: ExperimentBook, layer: str) -> Schema:
    """Arms of an experiment set parameters of its own layer only."""
    own = [name for name, parameter in book.parameters.items() if parameter.layer == layer]
    arm = {"properties": {"parameters": {"propertyNames": {"enum": own}}}}
    return {
        "if": {"properties": {"layer": {"const": layer}}, "required": ["layer"]},
        "then": {"properties": {"arms": {"additionalProperties": arm}}},
    }


def _parameter(parameter: Parameter) -> Schema:
    told: Schema = {"description": parameter.description, "default": parameter.default}
    if parameter.kind == "choice":
        return told | {"enum": list(parameter.choices)}
    if parameter.kind == "model":
        return told | {
            "type": "string",
            "pattern": f"^(?:{REFERENCE.pattern})$",
            "examples": [parameter.default],
        }
    low, high = parameter.bounds or (None, None)
    return told | {
        "type": "integer" if parameter.kind == "whole" else "number",
        "minimum": low,
        "maximum": high,
    }


def _guardrails(metrics: Mapping[str, DefinedMetric]) -> list[Schema]:
    """A metric that has a margin by its name alone or with another; one that has none with a margin."""
    bounded = {name: metric for name, metric in metrics.items() if metric.margin is not None}
    margin = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "description": "largest relative loss that is acceptable"}  # fmt: skip
    return [
        _name(bounded),
        *(
            {
                "type": "object",
                "properties": {"metric": _name(named), "margin": margin},
                "required": ["metric", *more],
                "additionalProperties": False,
            }
            for named, more in ((bounded, []), (metrics, ["margin"]))
        ),
    ]


def _name(metrics: Mapping[str, DefinedMetric]) -> Schema:
    told = "; ".join(f"{name}: {metric.description}" for name, metric in metrics.items())
    return {"type": "string", "enum": list(metrics), "description": told}


def _whole(fields: Mapping[str, Schema]) -> Schema:
    """A file that holds the given mappings by name and nothing else."""
    defined: Schema = {}
    for schema in fields.values():
        defined |= schema.pop("$defs", {})
    return {
        "$schema": _DIALECT,
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
        "$defs": defined,
    }


def _entries(kind: type[Layer | Parameter | DefinedMetric | Holdout], **fields: Schema) -> Schema:
    """Declarations by name: what is their key in the file is no field of theirs. `fields` are put otherwise."""
    schema = _plain(TypeAdapter(kind).json_schema())
    name = schema["properties"].pop("name")
    schema["required"] = [field for field in schema["required"] if field != "name"]
    schema["properties"] |= fields
    return {
        "type": "object",
        "propertyNames": {"pattern": name["pattern"]},
        "additionalProperties": {key: value for key, value in schema.items() if key != "$defs"},
        "$defs": schema.get("$defs", {}),
    }


def _plain(node: Any) -> Any:
    """What pydantic wrote, as draft 7 says it and as YAML is written: a date is a text that begins with one."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: _plain(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))
    }
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    if made.get("format") == "date-time":
        made = {key: value for key, value in made.items() if key != "format"} | {
            "pattern": r"^\d{4}-\d\d?-\d\d?"
        }
    if "patternProperties" in made:
        made["additionalProperties"] = False
    if "Measure" in made.get("$defs", {}):
        made["$defs"]["Measure"]["properties"]["source"]["enum"] = sorted(USER_TABLES)
    return made
