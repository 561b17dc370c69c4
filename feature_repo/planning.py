"""What has to be computed, feature by feature: declarations and recorded state in, steps out; nothing runs here.

A computed file says in its footer what it was computed from: `base` (source, `as_of`, events and the relations
made of them) and the digest of every feature. Where only features differ, only those are computed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from events.sources import SOURCES
from feature_repo.compile import compile_table
from feature_repo.declarations import Declarations, FeatureTable
from feature_repo.known import statements

SHOWN = 4
"""Changes that a step's text names one by one."""


@dataclass(frozen=True)
class Recorded:
    """What a computed file says of itself: the digests of its step, of what it was computed from, of its features."""

    digest: str
    base: str
    features: Mapping[str, str]  # column → digest
    set_aside: int = field(default=0, compare=False)  # rows that the gate took out of the file since

    def to_metadata(self) -> dict[str, str]:
        """As it is kept in a Parquet footer."""
        features = json.dumps(dict(self.features), separators=(",", ":"))
        return {_DIGEST: self.digest, _BASE: self.base, _FEATURES: features}


_DIGEST, _BASE, _FEATURES = "matinee_digest", "matinee_base", "matinee_features"
SET_ASIDE = "matinee_set_aside"
"""Footer key of a file that the gate took rows out of: how many. New columns cannot be merged into it."""


@dataclass(frozen=True)
class Change:
    """A feature that means something else than the file holds, is not in it, or is no longer declared."""

    feature: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.feature} is new"
        if self.after is None:
            return f"{self.feature} is gone"
        return f"{self.feature} changed: {self.before[:4]}→{self.after[:4]}"


@dataclass(frozen=True)
class Step:
    """One feature table for one `as_of`; `fresh` when its file already holds exactly this.

    `compute` are the features that are computed; `keep` tells for each other one the column that holds it now.
    """

    table: FeatureTable
    as_of: datetime
    path: Path
    recorded: Recorded  # what the file will say of itself
    fresh: bool
    compute: tuple[str, ...]
    keep: Mapping[str, str]
    changes: tuple[Change, ...]
    reason: str

    @property
    def runs(self) -> bool:
        """Whether the file is written."""
        return not self.fresh

    @property
    def digest(self) -> str:
        """Covers everything the file's content depends on."""
        return self.recorded.digest

    def __str__(self) -> str:
        count = len(self.table.features)
        what = f"{self.table.name} as of {stamp(self.as_of)}"
        if self.fresh:
            return f"keep {what} ({count} features)"
        if not self.compute:
            return f"rewrite {what} (0 of {count} features)"
        some = f"{len(self.compute)} of {count}" if self.keep else f"{count}"
        return f"compute {what} ({some} features)"


def stamp(as_of: datetime) -> str:
    """An `as_of` as it is written in paths.

    >>> stamp(datetime(2026, 2, 5, tzinfo=UTC))
    '2026-02-05T000000Z'
    """
    return as_of.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def offline_path(folder: Path, table: str, as_of: datetime) -> Path:
    """Where the table computed for `as_of` is kept."""
    return folder / table / f"as_of={stamp(as_of)}.parquet"


def recorded(path: Path) -> Recorded | None:
    """What a computed file says of itself, or None where there is no such file or it does not say."""
    if not path.exists():
        return None
    found = {key.decode(): value.decode() for key, value in (pq.read_metadata(path).metadata or {}).items()
             if key.startswith(b"matinee_")}  # fmt: skip
    if not {_DIGEST, _BASE, _FEATURES} <= set(found):
        return None
    return Recorded(found[_DIGEST], found[_BASE], json.loads(found[_FEATURES]), int(found.get(SET_ASIDE, 0)))


def recorded_digest(path: Path) -> str | None:
    """The digest of the step that wrote this file, or None where there is no such file."""
    found = recorded(path)
    return found.digest if found else None


def set_aside(path: Path) -> int:
    """How many rows the gate took out of a computed file."""
    found = recorded(path)
    return found.set_aside if found else 0


def plan(declarations: Declarations, as_ofs: Iterable[datetime], events_digest: Callable[[datetime], str],
         folder: Path, tables: Sequence[str] | None = None) -> tuple[Step, ...]:  # fmt: skip
    """The steps that bring `folder` up to date; nothing is run.

    The same declarations, events and files give the same steps; what has not changed is kept.
    """
    source = SOURCES[declarations.source]
    wanted = [t for t in declarations.stored if tables is None or t.name in tables]
    queries = {table.name: compile_table(table, source) for table in wanted}
    steps = []
    for as_of in as_ofs:
        events = events_digest(as_of)
        relations = statements(source, as_of)
        for table in wanted:
            path = offline_path(folder, table.name, as_of)
            made_of = needed(relations, [queries[table.name]])
            base = _digest(declarations.source, stamp(as_of), events, repr(made_of))
            steps.append(step(table, as_of, path, base, recorded(path)))
    return tuple(steps)


def step(table: FeatureTable, as_of: datetime, path: Path, base: str, held: Recorded | None) -> Step:
    """What makes one file hold `table`, given what it holds now.

    A column is kept when it was computed from the same base and its feature still means the same, under
    whatever name. A table with several rows an entity is computed whole: its rows have no key to merge by.
    """
    features = {feature.name: feature.digest for feature in table.features}
    target = Recorded(_digest(base, table.digest, json.dumps(list(features.items()))), base, features)
    whole = held is None or held.base != base or table.keep > 1 or held.set_aside > 0
    keep = {} if held is None or whole else dict(_kept(features, held.features))
    changes = () if held is None else tuple(_changes(held.features, features))
    fresh = held == target
    if fresh:
        keep = {name: name for name in features}
    return Step(
        table, as_of, path, target, fresh=fresh, compute=tuple(n for n in features if n not in keep), keep=keep,
        changes=changes, reason=_reason(table.name, held, target, changes, fresh=fresh),
    )  # fmt: skip


def needed(relations: Sequence[tuple[str, str]], queries: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Those of the (temporary table, query) pairs that `queries` read, directly or not, in the same order."""
    wanted = {word for query in queries for word in re.findall(r"\w+", query)}
    found = []
    for name, query in reversed(relations):
        if name in wanted:
            found.append((name, query))
            wanted |= set(re.findall(r"\w+", query))
    return tuple(reversed(found))


def _digest(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _kept(wanted: Mapping[str, str], held: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(feature, the column that holds it), its own name first, else another of the same digest."""
    by_digest = {digest: column for column, digest in held.items()}
    for name, digest in wanted.items():
        if held.get(name) == digest:
            yield name, name
        elif digest in by_digest:
            yield name, by_digest[digest]


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in (*after, *(gone for gone in before if gone not in after)):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


def _reason(table: str, held: Recorded | None, target: Recorded, changes: Sequence[Change], *, fresh: bool) -> str:  # fmt: skip
    if fresh:
        return "nothing it is made of has changed"
    if held is None:
        return "there is no file yet that says what it holds"
    if held.base != target.base:
        return (
            f"the events known by then, or what is made of them, changed: {held.base[:4]}→{target.base[:4]}"
        )
    if not changes:
        return "its features stand in another order"
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(f"{table}:{change}" for change in changes[:SHOWN]) + more
