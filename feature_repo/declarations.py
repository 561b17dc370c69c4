"""What a feature is: frozen values that carry their computation, from which everything else is compiled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from typing import Self

import ibis
from ibis.expr import types as ir

from feature_repo.arithmetic import Expression, Ref, references
from feature_repo.session import OfLastTitle, Reading
from validations.expectations import Between, DriftLimits, DType, Expectation, Limits, NullShare, Quarantine

COMPUTE_VERSION = 1
"""Raise it when the meaning of compiled computations changes without their text changing."""


class Weight(StrEnum):
    """Light features are cheap enough for 20,000 titles; heavy ones are for the ranker's 200."""

    LIGHT = "light"
    HEAVY = "heavy"


@dataclass(frozen=True)
class Entity:
    """Whom a row is about, and the column that identifies it."""

    name: str
    join_key: str
    description: str


USER = Entity("user", "user_id", "a member")
TITLE = Entity("title", "title_id", "a film or video in the catalogue")
ARTWORK = Entity("artwork", "artwork_id", "an image that may stand for a title")


@dataclass(frozen=True)
class Aggregated:
    """An aggregate over the rows of one relation of known events, grouped by the entity."""

    relation: str
    value: ir.Value
    empty: float | None = None  # what it is for an entity without rows; None keeps it unknown

    def text(self) -> str:
        """The normalised computation."""
        return f"{self.relation}: {ibis.to_sql(self.value, dialect='duckdb')} empty={self.empty}"


@dataclass(frozen=True)
class Attribute:
    """A column, or an expression over columns, of the entity's own row."""

    value: ir.Value

    def text(self) -> str:
        """The normalised computation."""
        return f"attribute: {ibis.to_sql(self.value, dialect='duckdb')}"


@dataclass(frozen=True)
class Derived:
    """Arithmetic over stored features: of its own table, or of a user's and a title's together."""

    expression: Expression

    def text(self) -> str:
        """The normalised computation."""
        return f"derived: {self.expression}"


@dataclass(frozen=True)
class Kept:
    """A column of each of the entity's `newest` known events: one row an event, at the event's own time."""

    relation: str
    column: str
    newest: int

    def text(self) -> str:
        """The normalised computation."""
        return f"{self.relation}: {self.column} of each of the newest {self.newest}"


@dataclass(frozen=True)
class InSession:
    """What the user's `newest` plays say at the moment of a request: evaluated then, from the plays kept."""

    reading: Reading
    newest: int

    def text(self) -> str:
        """The normalised computation."""
        return f"at request time, of the newest {self.newest} plays: {self.reading}"


Computation = Aggregated | Attribute | Derived | Kept | InSession


@dataclass(frozen=True)
class Feature:
    """One feature: its derived name, its computation, and what a person needs to know to use it.

    `needs` names the event columns without which it does not exist; `over` is its window in days. `reads` are
    the features that its arithmetic reads: it means something else when one of them does.
    """

    name: str
    computation: Computation = field(repr=False)
    description: str
    unit: str
    expect: tuple[Expectation, ...]
    needs: frozenset[str]
    over: int | None = None
    dtype: DType = DType.FLOAT
    owner: str = "recommendations"
    entity: str = ""  # set by the table that holds it
    weight: Weight = Weight.HEAVY
    drift: DriftLimits | None = None  # how far it may move from what models learned; None: as its table says
    reads: tuple[Feature, ...] = field(default=(), repr=False)  # set by the table, or the declarations

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ValueError(f"feature name {self.name!r} is not a lower-case identifier.")
        if not self.description or not self.unit:
            raise ValueError(f"feature {self.name!r} needs a description and a unit.")

    @cached_property
    def digest(self) -> str:
        """sha256 over the normalised computation, dtype, entity, window and what it reads (16 hex digits)."""
        parts: list[object] = [
            COMPUTE_VERSION,
            self.computation.text(),
            self.dtype.value,
            self.entity,
            self.over,
        ]
        if self.reads:
            parts.append([read.digest for read in self.reads])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class UnknownFeature(LookupError):
    """A reference to a feature that no table declares."""

    def __init__(self, reference: str, where: str, known: Iterable[str]) -> None:
        near = get_close_matches(reference, list(known), n=1, cutoff=0.5)
        super().__init__(
            f"{where} has no feature {reference!r}." + (f" Did you mean {near[0]!r}?" if near else "")
        )


class ReadsArithmetic(ValueError):
    """A derived feature that reads another of its own table, which is not there yet when it is computed."""

    def __init__(self, feature: str, reads: str) -> None:
        super().__init__(
            f"{feature} reads {reads!r}, which is derived too: write its arithmetic out over what it is derived from."
        )


@dataclass(frozen=True)
class FeatureTable:
    """Features of one entity that are computed, checked and stored together.

    A `stored=False` table is evaluated at request time from the stored ones. Of each entity the online store
    keeps the `keep` newest rows. A table is fresh while its newest `as_of` is at most `slo_hours` old.

    Rows of which more than one is kept are events: they stand at their own time, the features in `identified_by`
    tell an entity's apart, and what is pushed to the Feast source `push_source` is added to them.

    `drift` is how far its features may move from what the champions learned from before the gate says so, or stops
    the table. With `quarantine` the gate sets a few rows that break their contract aside; without, one stops it.
    """

    name: str
    entity: Entity
    weight: Weight
    description: str
    features: tuple[Feature, ...]
    ttl_days: int = 7
    stored: bool = True
    keep: int = 1
    slo_hours: float = 30.0
    identified_by: tuple[str, ...] = ()
    push_source: str = ""
    drift: DriftLimits = field(default_factory=DriftLimits)
    quarantine: Quarantine | None = None

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"feature table {self.name!r} declares {', '.join(twice[:5])} more than once.")
        mine = tuple(_placed(feature, self.entity.name, self.weight) for feature in self.features)
        if self.stored:
            readable = {(self.name, f.name): f for f in mine}
            mine = tuple(_reading(self.name, feature, readable) for feature in mine)
        object.__setattr__(self, "features", mine)

    def linked(self, stored: Mapping[tuple[str, str], Feature]) -> Self:
        """This table, its features knowing those of other tables that they read, by (table, feature)."""
        return replace(self, features=tuple(_reading(self.name, f, stored) for f in self.features))

    def __getitem__(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise UnknownFeature(name, f"table {self.name!r}", [feature.name for feature in self.features])

    @property
    def of_sessions(self) -> bool:
        """Whether it is evaluated from the plays kept of a user, and not by arithmetic over stored features."""
        return any(isinstance(feature.computation, InSession) for feature in self.features)

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in packed order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def digest(self) -> str:
        """sha256 over the ordered feature names and digests (16 hex digits)."""
        parts = [[feature.name, feature.digest] for feature in self.features]
        return hashlib.sha256(json.dumps([self.name, parts]).encode()).hexdigest()[:16]

    def without(self, lacking: Mapping[str, tuple[str, ...]]) -> Self:
        """This table less the features named in `lacking`."""
        return replace(self, features=tuple(f for f in self.features if f.name not in lacking))


def references_of(computation: Computation) -> tuple[Ref, ...]:
    """Every stored feature that a computation reads, in reading order."""
    match computation:
        case Derived(expression):
            return references(expression)
        case InSession(OfLastTitle(feature)):
            return (feature,)
    return ()


def _placed(feature: Feature, entity: str, weight: Weight) -> Feature:
    """The feature as one of this entity and weight; the same object, its digest known, where it is one already."""
    if (feature.entity, feature.weight) == (entity, weight):
        return feature
    return replace(feature, entity=entity, weight=weight)


def _reading(table: str, feature: Feature, readable: Mapping[tuple[str, str], Feature]) -> Feature:
    """The feature, knowing which others its arithmetic reads.

    Raises:
        UnknownFeature: it reads what is not there.
        ReadsArithmetic: it reads what its own table derives in the same pass.
    """
    refs = references_of(feature.computation)
    for ref in refs:
        if (ref.table, ref.feature) not in readable:
            known = [name for holder, name in readable if holder == ref.table]
            raise UnknownFeature(ref.feature, f"{table}:{feature.name}: table {ref.table!r}", known)
        if ref.table == table and isinstance(readable[table, ref.feature].computation, Derived):
            raise ReadsArithmetic(f"{table}:{feature.name}", ref.feature)
    reads = tuple(readable[ref.table, ref.feature] for ref in refs)
    same = len(reads) == len(feature.reads) and all(a is b for a, b in zip(reads, feature.reads, strict=True))
    return feature if same else replace(feature, reads=reads)


@dataclass(frozen=True)
class FeatureService:
    """The ordered features one model reads: all of `tables`, one after the other."""

    name: str
    tables: tuple[FeatureTable, ...]
    description: str

    @property
    def features(self) -> tuple[tuple[str, Feature], ...]:
        """(reference, feature) in model order; a reference is `table:feature`, as Feast writes it."""
        return tuple((f"{table.name}:{f.name}", f) for table in self.tables for f in table.features)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Feature reference → digest, in model order."""
        return {reference: feature.digest for reference, feature in self.features}


@dataclass(frozen=True)
class Declarations:
    """Everything declared for one source of events, and what that source makes impossible."""

    source: str
    tables: tuple[FeatureTable, ...]
    services: tuple[FeatureService, ...]
    unavailable: tuple[tuple[str, Feature, tuple[str, ...]], ...]  # table, feature, what is lacking

    def __post_init__(self) -> None:
        """Let request-time features know what they read, here where all tables meet."""
        stored = {(t.name, f.name): f for t in self.tables if t.stored for f in t.features}
        tables = {t.name: t if t.stored else t.linked(stored) for t in self.tables}
        services = (replace(s, tables=tuple(tables.get(t.name, t) for t in s.tables)) for s in self.services)
        object.__setattr__(self, "tables", tuple(tables.values()))
        object.__setattr__(self, "services", tuple(services))

    def table(self, name: str) -> FeatureTable:
        """The table of that name."""
        for table in self.tables:
            if table.name == name:
                return table
        raise LookupError(f"no feature table {name!r}. There are: {', '.join(t.name for t in self.tables)}.")

    def service(self, name: str) -> FeatureService:
        """The service of that name."""
        for service in self.services:
            if service.name == name:
                return service
        raise LookupError(
            f"no feature service {name!r}. There are: {', '.join(s.name for s in self.services)}."
        )

    @property
    def stored(self) -> tuple[FeatureTable, ...]:
        """The tables that are computed for an `as_of` and kept, as against evaluated at request time."""
        return tuple(table for table in self.tables if table.stored)


KNOWN = NullShare(0)
NON_NEGATIVE = Between(low=0)
SHARE = Between(0, 1)
AGES = DriftLimits(psi=Limits(), ks=Limits())
"""Of what grows with time itself: that it moved says nothing; that it is no longer known does."""
