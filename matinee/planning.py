"""The plan of a day: declarations and recorded state in, steps out; nothing runs and nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from feature_repo.compute import Recorded, Step, stamp
from feature_repo.declarations import Declarations
from matinee.recipes import Recipe
from serving.manifest import NEEDS, REQUIRES, ServiceName


class AnyStep(Protocol):
    """One thing that is done, or need not be; its text says what."""

    @property
    def runs(self) -> bool:
        """Whether anything is done."""

    @property
    def reason(self) -> str:
        """Why, or why not."""


@dataclass(frozen=True)
class Planned:
    """A step after the tables are computed: `done` says what is made, `kept` what stands instead."""

    done: str
    kept: str
    runs: bool
    reason: str
    subject: str  # the table, model or service it is about

    def __str__(self) -> str:
        return self.done if self.runs else self.kept


@dataclass(frozen=True)
class Version:
    """A registered version, as far as plans ask."""

    ref: str
    digest: str  # of its artifact
    training_set: str
    as_of: str
    champion: bool


@dataclass(frozen=True)
class State:
    """What is on disk and in the ledger: all that a plan depends on beside declarations and computed files."""

    passed: Collection[tuple[str, datetime]]  # (table, as_of) whose file has passed the gate as it is
    taken: Collection[str]  # tables whose newest file the online record holds
    generation: str | None
    trained: Callable[[str, str], Version | None]  # (model, digest of its inputs)
    newest: Mapping[str, Version]  # model → its newest version for this source
    bentos: Mapping[str, tuple[str, frozenset[str]]]  # service → newest tag, references inside
    asked: frozenset[str]  # references that live arms ask for


@dataclass(frozen=True)
class Plan:
    """Every step of a day, in the order in which they run."""

    tables: tuple[Step, ...]
    gate: tuple[Planned, ...]
    online: tuple[Planned, ...]
    models: tuple[Planned, ...]
    bentos: tuple[Planned, ...]

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """All of them."""
        return (*self.tables, *self.gate, *self.online, *self.models, *self.bentos)


def plan_day(
    declarations: Declarations,
    as_ofs: Sequence[datetime],
    tables: tuple[Step, ...],
    state: State,
    recipes: Sequence[Recipe],
) -> Plan:
    """What a day does after the last of `as_ofs`, given which `tables` are to be computed and what there is."""
    decided = tuple(_decided(declarations, as_ofs, tables, state, recipes))
    return Plan(
        tables,
        gate=tuple(_checked(step, state) for step in tables),
        online=tuple(_served([step for step in tables if step.as_of == max(as_ofs)], state)),
        models=tuple(step for one in decided for step in _trained(one)),
        bentos=tuple(_built({one.model: one for one in decided}, state)),
    )


def _checked(step: Step, state: State) -> Planned:
    what = f"{step.table.name} as of {stamp(step.as_of)}"
    stands = not step.runs and (step.table.name, step.as_of) in state.passed
    reason = "it is written anew" if step.runs else "the file and its contract together have not passed"
    if stands:
        reason = "this file has passed this contract"
    return Planned(f"check {what}", f"keep verdict on {what}", not stands, reason, step.table.name)


def _served(steps: Sequence[Step], state: State) -> Iterator[Planned]:
    """The tables that the record takes in, and the snapshot of it all."""
    new = []
    for step in steps:
        name = step.table.name
        stands = not step.runs and name in state.taken
        reason = "it is written anew" if step.runs else "the record does not hold this file"
        if not stands:
            new.append(name)
        yield Planned(
            f"materialize {name}", f"keep {name} online", not stands, "the record holds this file" if stands else reason, name,
        )  # fmt: skip
    reason = f"materialized: {', '.join(new)}" if new else "nothing is materialized"
    if state.generation is None:
        reason = "nothing is published yet"
    publishes = bool(new) or state.generation is None
    yield Planned(
        "publish a generation", f"keep generation {state.generation}", publishes, reason, "generation"
    )


@dataclass(frozen=True)
class _Decided:
    """The version that stands for a model, or None and why one is trained."""

    model: str
    version: Version | None
    reason: str


def _decided(declarations: Declarations, as_ofs: Sequence[datetime], tables: Sequence[Step], state: State,
             recipes: Sequence[Recipe]) -> Iterator[_Decided]:  # fmt: skip
    """Model by model; one trained anew takes those behind it along."""
    will_hold = {(step.table.name, step.as_of): step.recorded for step in tables}
    stands: dict[str, Version | None] = {}
    for recipe in recipes:
        before = stands.get(recipe.behind)
        version = None
        if before or not recipe.behind:
            known = recipe.after(before.digest) if before else recipe
            version = state.trained(recipe.model, known.inputs(declarations, as_ofs, _reader(will_hold)))
        stands[recipe.model] = version
        reason = "these inputs have made it"
        if version is None:
            anew = bool(recipe.behind) and before is None
            reason = _why(declarations, max(as_ofs), tables, recipe, state, anew=anew)
        yield _Decided(recipe.model, version, reason)


def _reader(files: Mapping[tuple[str, datetime], Recorded]) -> Callable[[str, datetime], Recorded | None]:
    return lambda table, moment: files.get((table, moment))


def _trained(one: _Decided) -> Iterator[Planned]:
    """The training set, the version and the alias of one model."""
    model, version = one.model, one.version
    ref, data = (version.ref, version.training_set[:8]) if version else (f"the new {model}", "")
    anew = version is None
    yield Planned(
        f"make training set of {model}", f"keep training set {data} of {model}", anew, one.reason, model
    )
    yield Planned(f"train {model}", f"keep {ref}", anew, one.reason, model)
    moves = version is None or not version.champion
    why = "it is the newest" if moves else "it is champion"
    yield Planned(f"promote {ref}", f"keep {ref} champion", moves, why, model)


def _why(declarations: Declarations, as_of: datetime, tables: Sequence[Step], recipe: Recipe, state: State, *, anew: bool) -> str:  # fmt: skip
    newest = state.newest.get(recipe.model)
    if newest is None:
        return "there is no version of it yet"
    if newest.as_of != as_of.isoformat():
        return f"{newest.ref} is of another day, {newest.as_of}"
    read = {table.name for table in recipe.reads(declarations)}
    causes = dict.fromkeys(step.reason for step in tables if step.runs and step.table.name in read)
    if causes:
        return "; ".join(causes)
    return (
        f"it stands behind {recipe.behind}, which is trained anew"
        if anew
        else f"{newest.ref} was trained otherwise"
    )


def _built(models: Mapping[str, _Decided], state: State) -> Iterator[Planned]:
    """For each service there will be models for: whether its newest Bento holds what it should."""
    for service, needs in NEEDS.items():
        if REQUIRES[service] not in models:
            continue
        mine = [models[kind] for kind in needs if kind in models]
        wanted = {one.version.ref for one in mine if one.version}
        wanted |= {ref for ref in state.asked if ref.split("/")[0] in needs}
        yield _bento(service, [one.model for one in mine if one.version is None], wanted, state)


def _bento(service: ServiceName, anew: Sequence[str], wanted: set[str], state: State) -> Planned:
    tag, inside = state.bentos.get(service, ("", frozenset()))
    missing = sorted(wanted - inside)
    reason = f"it holds {', '.join(sorted(inside))}"
    if missing:
        reason = f"{tag} lacks {', '.join(missing)}"
    if anew:
        reason = f"{', '.join(anew)} is trained anew"
    if not tag:
        reason = "none is built yet"
    runs = bool(anew or missing or not tag)
    return Planned(f"build a Bento of {service}", f"keep {tag}", runs, reason, service)
