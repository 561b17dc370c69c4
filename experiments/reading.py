"""A folder of YAML files, read into an `ExperimentBook`; what is wrong is said with file, line and field."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from experiments.catalogue import expanded
from experiments.config import Experiment, ExperimentBook, Holdout, Layer, Located, Parameter, Problem
from experiments.definitions import DefinedMetric

PARAMETERS = "parameters.yaml"
METRICS = "metrics.yaml"
HOLDOUTS = "holdouts.yaml"
SHIPPED = Path(__file__).parent / "configs"
"""The declarations that come with the product."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EXPERIMENT = TypeAdapter(Experiment)
_LAYERS = TypeAdapter(dict[str, Layer])
_PARAMETERS = TypeAdapter(dict[str, Parameter])
_METRICS = TypeAdapter(dict[str, DefinedMetric])
_HOLDOUTS = TypeAdapter(dict[str, Holdout])
Lines = dict[tuple[str | int, ...], int]
T = TypeVar("T")


class InvalidConfig(ValueError):
    """Declarations that cannot be used; `problems` lists all that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def load(folder: Path) -> ExperimentBook:
    """Read `parameters.yaml`, `metrics.yaml` and `holdouts.yaml` where there are any, and from every other `*.yaml` one experiment each.

    Whether the declarations fit each other is for `checking.check` to say.

    Raises:
        InvalidConfig: a file is no YAML, lacks or misspells a field, or holds a value of the wrong kind.
        FileNotFoundError: the folder has no `parameters.yaml`.
    """
    if not (folder / PARAMETERS).is_file():
        raise FileNotFoundError(f"{folder} has no {PARAMETERS}: it declares the layers and parameters.")
    problems: list[Problem] = []
    layers, parameters = _read_parameters(folder / PARAMETERS, problems)
    metrics = _read_named(folder / METRICS, "metrics", _METRICS, problems)
    holdouts = _read_named(folder / HOLDOUTS, "holdouts", _HOLDOUTS, problems)
    experiments: dict[str, Experiment] = {}
    located: dict[str, Located] = {}
    for file in sorted(
        set(folder.glob("*.yaml")) - {folder / name for name in (PARAMETERS, METRICS, HOLDOUTS)}
    ):
        experiment, place = _read_experiment(file, metrics, problems)
        if experiment is None:
            continue
        if experiment.name in experiments:
            other = located[experiment.name].file.name
            problems.append(place.problem(("name",), f"{experiment.name!r} is declared in {other} too."))
        experiments[experiment.name] = experiment
        located[experiment.name] = place
    if problems:
        raise InvalidConfig(tuple(problems))
    return ExperimentBook(layers, parameters, experiments, located, metrics, holdouts)


def _read_parameters(
    file: Path, problems: list[Problem]
) -> tuple[Mapping[str, Layer], Mapping[str, Parameter]]:
    value, place, found = parse(file)
    problems.extend(found)
    if found:
        return {}, {}
    if not isinstance(value, dict) or set(value) != {"layers", "parameters"}:
        problems.append(place.problem((), "holds two mappings by name: layers and parameters."))
        return {}, {}
    layers = _validated(_LAYERS, _named(value["layers"]), place, ("layers",), problems)
    parameters = _validated(_PARAMETERS, _named(value["parameters"]), place, ("parameters",), problems)
    for parameter in (parameters or {}).values():
        if layers is not None and parameter.layer not in layers:
            path = ("parameters", parameter.name, "layer")
            message = f"there is no layer {parameter.layer!r}. Layers: {', '.join(layers)}."
            problems.append(place.problem(path, message))
    return layers or {}, parameters or {}


def _named(entries: object) -> object:
    """Each entry of a mapping with its key as its name."""
    if not isinstance(entries, dict):
        return entries
    return {
        key: {"name": key} | entry if isinstance(entry, dict) else entry for key, entry in entries.items()
    }


def _read_named(
    file: Path, field: str, adapter: TypeAdapter[dict[str, T]], problems: list[Problem]
) -> Mapping[str, T]:
    """The entries of a file that holds one mapping by name; none where there is no file."""
    if not file.is_file():
        return {}
    value, place, found = parse(file)
    problems.extend(found)
    if found:
        return {}
    if not isinstance(value, dict) or set(value) != {field}:
        problems.append(place.problem((), f"holds one mapping by name: {field}."))
        return {}
    return _validated(adapter, _named(value[field]), place, (field,), problems) or {}


def _read_experiment(
    file: Path, metrics: Mapping[str, DefinedMetric], problems: list[Problem]
) -> tuple[Experiment | None, Located]:
    value, place, found = parse(file)
    problems.extend(found)
    if found:
        return None, place
    whole, objections = expanded(value, metrics)
    problems.extend(place.problem(path, message) for path, message in objections)
    if objections:
        return None, place
    return _validated(_EXPERIMENT, whole, place, (), problems), place


def _validated(
    adapter: TypeAdapter[T], value: object, place: Located, at: tuple[str, ...], problems: list[Problem]
) -> T | None:
    try:
        return adapter.validate_python(value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = (*at, *(part for part in error["loc"] if part != "[key]"))
            problems.append(place.problem(path, _said(error, adapter)))
        return None


def _said(error: Any, adapter: TypeAdapter[Any]) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no such field.{_fields_hint(error['loc'], adapter)}"
    if error["type"] == "missing":
        return "is missing."
    message: str = error["msg"]
    return message.removeprefix("Value error, ")


def _fields_hint(path: tuple[str | int, ...], adapter: TypeAdapter[Any]) -> str:
    """The field meant at the top of an experiment, or all there are."""
    if adapter is not _EXPERIMENT or len(path) != 1:
        return ""
    near = get_close_matches(str(path[0]), Experiment.model_fields, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Fields: {', '.join(Experiment.model_fields)}."


def parse(file: Path) -> tuple[Any, Located, tuple[Problem, ...]]:
    """The value of a YAML file, the line of each of its fields, and what kept it from being read."""
    lines: Lines = {}
    place = Located(file, lines)
    with file.open(encoding="utf-8") as text:
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None, place, (Problem(file.name, 1, "file", "is empty."),)
            return _value(root, (), lines, loader, ()), place, ()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            return None, place, (Problem(file.name, line, "file", f"is no YAML: {error.problem}."),)
        finally:
            loader.dispose()


def _value(
    node: yaml.Node, path: tuple[str | int, ...], lines: Lines, loader: Any, above: tuple[yaml.Node, ...]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if any(node is ancestor for ancestor in above):
        raise yaml.MarkedYAMLError(problem="an alias holds itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_value(v, (*path, i), lines, loader, (*above, node)) for i, v in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
        lines[*path, key] = key_node.start_mark.line + 1
        found[key] = _value(value_node, (*path, key), lines, loader, (*above, node))
    return found
