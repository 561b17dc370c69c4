"""Whether the declarations of a book fit each other and the models there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from itertools import combinations

from experiments.config import Experiment, ExperimentBook, Problem

KnownVersions = Callable[[str], bool] | Collection[str]


def check(book: ExperimentBook, known_versions: KnownVersions | None = None) -> tuple[Problem, ...]:
    """Everything that is wrong, in the order of names; () when nothing is.

    `known_versions` says which model references mean something (`ranker/7`, `ranker@champion`); None
    leaves that question out.
    """
    problems: list[Problem] = []
    for experiment in book.experiments.values():
        problems += _metric_problems(book, experiment)
        problems += _layer_problems(book, experiment)
        problems += _arm_problems(book, experiment, known_versions)
    for first, second in conflicts(tuple(book.experiments.values())):
        problems.append(book.problem(second.name, ("slot",), _conflict(first, second)))
    return tuple(problems)


def problems_of(
    book: ExperimentBook, name: str, known_versions: KnownVersions | None = None
) -> tuple[Problem, ...]:
    """What is wrong with one experiment on its own."""
    experiment = book.experiments[name]
    return (
        *_metric_problems(book, experiment),
        *_layer_problems(book, experiment),
        *_arm_problems(book, experiment, known_versions),
    )


def conflicts(experiments: Collection[Experiment]) -> Iterator[tuple[Experiment, Experiment]]:
    """The pairs whose units could be in both at once though they share a layer."""
    by_layer: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_layer.setdefault(experiment.layer, []).append(experiment)
    for together in by_layer.values():
        yield from (pair for pair in combinations(together, 2) if conflict(*pair))


def conflict(first: Experiment, second: Experiment) -> bool:
    """Whether some unit would be in both: one layer, a common time, common buckets, nothing that parts them."""
    return (
        first.layer == second.layer
        and first.start < second.end
        and second.start < first.end
        and first.slot_buckets[0] < second.slot_buckets[1]
        and second.slot_buckets[0] < first.slot_buckets[1]
        and not parted(first, second)
    )


def parted(first: Experiment, second: Experiment) -> bool:
    """Whether an attribute both target keeps them apart."""
    shared = first.targeting.keys() & second.targeting.keys()
    return any(not set(first.targeting[key]) & set(second.targeting[key]) for key in shared)


def _conflict(first: Experiment, second: Experiment) -> str:
    def sets(experiment: Experiment) -> set[str]:
        return {name for arm in experiment.arms.values() for name in arm.parameters}

    both = sorted(sets(first) & sets(second))
    about = f"both set {', '.join(both)}" if both else f"both are in layer {first.layer!r}"
    return (
        f"{first.name!r} and {second.name!r} {about} for the same units at the same time. "
        "Give each a slot of its own, such as [0, 0.5] and [0.5, 1], or other dates."
    )


def _layer_problems(book: ExperimentBook, experiment: Experiment) -> Iterator[Problem]:
    if experiment.layer not in book.layers:
        message = f"there is no layer {experiment.layer!r}.{_hint(experiment.layer, book.layers)}"
        yield book.problem(experiment.name, ("layer",), message)


def _metric_problems(book: ExperimentBook, experiment: Experiment) -> Iterator[Problem]:
    """Metrics of one experiment are all computed from events, or none is."""
    loose = [metric.name for metric in experiment.metrics.all if metric.definition is None]
    if loose and len(loose) < len(experiment.metrics.all):
        message = f"{', '.join(loose)} is not defined over events, though others are. Name metrics of metrics.yaml only."
        yield book.problem(experiment.name, ("metrics",), message)
    if experiment.name in book.holdouts:
        yield book.problem(experiment.name, ("name",), f"{experiment.name!r} is a hold-out's name too.")


def _arm_problems(
    book: ExperimentBook, experiment: Experiment, known_versions: KnownVersions | None
) -> Iterator[Problem]:
    for arm_name, arm in experiment.arms.items():
        for name, value in arm.parameters.items():
            parameter = book.parameters.get(name)
            if parameter is None:
                message = f"there is no parameter {name!r}.{_hint(name, book.parameters)}"
            elif parameter.layer != experiment.layer:
                message = f"{name} belongs to layer {parameter.layer!r}, not to {experiment.layer!r}."
            elif (objection := parameter.objection(value)) is not None:
                message = objection
            elif parameter.kind == "model" and not _is_known(str(value), known_versions):
                message = _unknown_version(str(value), known_versions)
            else:
                continue
            yield book.problem(experiment.name, ("arms", arm_name, "parameters", name), message)


def _is_known(reference: str, known: KnownVersions | None) -> bool:
    if known is None:
        return True
    return known(reference) if callable(known) else reference in known


def _unknown_version(reference: str, known: KnownVersions | None) -> str:
    hint = "" if known is None or callable(known) else _hint(reference, known)
    return f"there is no model version {reference!r}.{hint}"


def _hint(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" There is: {', '.join(sorted(known)) or 'none'}."
