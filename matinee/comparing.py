"""What was served beside what is computed: feature by feature, bit for bit, and in words a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.declarations import Derived, FeatureService, FeatureTable
from serving.samples import Sample, Vectors

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

EXAMPLES = 3
"""Rows shown of each feature that is served otherwise than computed."""


@dataclass(frozen=True)
class Example:
    """One value that was served otherwise than computed; None is null."""

    request_id: str
    user_id: int
    title_id: int | None
    at: datetime
    online: float | None
    offline: float | None

    def __str__(self) -> str:
        whom = f"user {self.user_id}" + ("" if self.title_id is None else f", title {self.title_id}")
        return f"{whom} at {self.at:%Y-%m-%d %H:%M:%S}: online {_shown(self.online)}, offline {_shown(self.offline)}"


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{np.float32(value)!s}"


@dataclass(frozen=True)
class Finding:
    """One feature that was served otherwise than it is computed.

    `missing` counts values that are null online only, `extra` those that are null offline only, `mismatch` those that
    differ. `layout` says what is wrong with its column; `holds` which other feature the values are.
    """

    feature: str
    digest: str
    compared: int
    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    layout: str = ""
    holds: str = ""
    examples: tuple[Example, ...] = ()

    @property
    def wrong(self) -> int:
        """Values that are not as computed."""
        return self.mismatch + self.missing + self.extra

    def __str__(self) -> str:
        counts = {"differ": self.mismatch, "missing online": self.missing, "extra online": self.extra}
        said = [f"{count:,} {kind}" for kind, count in counts.items() if count]
        said = [f"{', '.join(said)} of {self.compared:,}"] if said else []
        return f"{self.feature}: " + "; ".join(
            [*said, *filter(None, (self.layout, self.holds and f"holds the values of {self.holds}"))]
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        examples = [{**vars(e), "at": e.at.isoformat()} for e in self.examples]
        return {**vars(self), "examples": examples}


@dataclass(frozen=True)
class Served:
    """All that was given for one service as of one moment, row by row, beside what is computed for it."""

    as_of: datetime
    samples: tuple[Sample, ...]
    parts: tuple[Vectors, ...]  # one a sample

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The row's request (its place in `samples`), user, title (-1 without) and time in µs."""
        counts = [len(part.values) for part in self.parts]
        titles = [p.title_ids if len(p.title_ids) else np.full(len(p.values), -1) for p in self.parts]
        return {
            "place": np.repeat(np.arange(len(counts)), counts),
            "user_id": np.repeat(np.array([s.user_id for s in self.samples], dtype=np.int64), counts),
            "title_id": np.concatenate(titles).astype(np.int64),
        }

    def spine(self, moments: Sequence[datetime]) -> pa.Table:
        """What to compute: each row's user and title, at its sample's moment."""
        columns = self.columns
        when = pa.array(list(moments), pa.timestamp("us", tz="UTC")).take(pa.array(columns["place"]))
        keys = {"user_id": columns["user_id"], "title_id": columns["title_id"]}
        if bool((columns["title_id"] < 0).all()):
            del keys["title_id"]
        return pa.table({**keys, "event_timestamp": when})

    def rows_unlike(self, table: FeatureTable, offline: Float32) -> NDArray[np.int64]:
        """Rows whose values of `table` are not those of `offline` (N, its F)."""
        return rows_unlike_of(self.parts, table, offline)


def rows_unlike_of(parts: Sequence[Vectors], table: FeatureTable, offline: Float32) -> NDArray[np.int64]:
    """Rows whose values of `table`, as far as they were given, are not those of `offline` (N, its F)."""
    names = [f"{table.name}:{feature.name}" for feature in table.features]
    start, found = 0, []
    for part in parts:
        rows = slice(start, start + len(part.values))
        here = [(part.layout.features.index(n), i) for i, n in enumerate(names) if n in part.layout.features]
        online = np.ascontiguousarray(part.values[:, [place for place, _ in here]])
        computed = np.ascontiguousarray(offline[rows][:, [i for _, i in here]])
        alike = _same(online, computed, 0.0) | (np.isnan(online) & np.isnan(computed))
        found.append(start + np.flatnonzero(~alike.all(axis=1)))
        start = rows.stop
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


@dataclass
class _Column:
    """What has been seen of one feature so far."""

    digest: str
    tolerance: float
    compared: int = 0
    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    layout: str = ""
    examples: list[Example] = field(default_factory=list)
    like: set[str] | None = None  # features whose values it held wherever we looked

    def add(self, online: Float32, offline: Float32) -> Bool:
        """Compare a stretch (n,); where it is wrong."""
        null, absent = np.isnan(online), np.isnan(offline)
        differs = ~null & ~absent & ~_same(online, offline, self.tolerance)
        self.compared += len(online)
        self.mismatch += int(differs.sum())
        self.missing += int((null & ~absent).sum())
        self.extra += int((~null & absent).sum())
        wrong: Bool = differs | (null != absent)
        return wrong


def _same(online: Float32, offline: Float32, tolerance: float) -> Bool:
    equal: Bool = online.view(np.uint32) == offline.view(np.uint32)
    if tolerance:
        equal |= np.abs(online - offline) <= tolerance * np.maximum(1, np.abs(offline))
    return equal


@dataclass
class Tally:
    """The columns of one service while samples are compared."""

    declared: Mapping[str, str]  # feature → digest, in order
    tolerances: Mapping[str, float]
    columns: dict[tuple[str, str], _Column] = field(default_factory=dict)

    @classmethod
    def of(cls, service: FeatureService, tolerance: float) -> Tally:
        """Nothing seen yet; `tolerance` is for user × title features."""
        pairs = {f"{t.name}:{f.name}" for t in service.tables if _is_pairs(t) for f in t.features}
        return cls(service.digests, {name: tolerance if name in pairs else 0.0 for name in service.digests})

    def add(self, served: Served, offline: Float32) -> None:
        """Compare what was given with what is computed for the same rows, (N, F) in declared order."""
        places = {name: place for place, name in enumerate(self.declared)}
        rows = served.columns
        for layout in dict.fromkeys(part.layout for part in served.parts):
            mine = np.array([part.layout == layout for part in served.parts])[rows["place"]]
            online = np.concatenate([part.values for part in served.parts if part.layout == layout])
            order = {name: place for place, name in enumerate(self._in_declared_order(layout.features))}
            here = [name for name in layout.features if name in self.declared]
            for number, name in enumerate(layout.features):
                column = self._column(name, layout.digests[number])
                if self.declared.get(name) != layout.digests[number]:
                    column.layout = _otherwise(self.declared.get(name), layout.digests[number])
                    column.compared += len(online)
                    continue
                if here.index(name) != order[name]:
                    column.layout = (
                        f"stands where {_declared_at(order, here.index(name))} is declared to stand"
                    )
                values = np.ascontiguousarray(online[:, number])
                wrong = column.add(values, np.ascontiguousarray(offline[mine, places[name]]))
                if wrong.any():
                    self._explain(column, name, values, offline[mine])
                    at = np.flatnonzero(mine)[wrong][: EXAMPLES - len(column.examples)]
                    column.examples += _examples(served, rows, at, values[wrong], offline[at, places[name]])

    @property
    def compared(self) -> int:
        """Values that were compared."""
        return sum(column.compared for column in self.columns.values())

    def findings(self) -> tuple[Finding, ...]:
        """Worst first: by the share of values that are wrong."""
        found = [
            Finding(
                name, digest, c.compared, c.mismatch, c.missing, c.extra, c.layout,
                ", ".join(sorted(c.like or ())[:3]), tuple(c.examples),
            )
            for (name, digest), c in self.columns.items()
            if c.mismatch or c.missing or c.extra or c.layout
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda f: (-f.wrong / max(f.compared, 1), f.feature)))

    def _column(self, name: str, digest: str) -> _Column:
        return self.columns.setdefault((name, digest), _Column(digest, self.tolerances.get(name, 0.0)))

    def _in_declared_order(self, features: Sequence[str]) -> list[str]:
        return [name for name in self.declared if name in set(features)]

    def _explain(self, column: _Column, name: str, online: Float32, offline: Float32) -> None:
        """Which other features hold exactly these values, wherever this one was looked at; constants say nothing."""
        if len(np.unique(online)) < 2:
            return
        same = ((offline == online[:, None]) | (np.isnan(offline) & np.isnan(online)[:, None])).all(axis=0)
        alike = {other for other, equal in zip(self.declared, same, strict=True) if equal and other != name}
        column.like = alike if column.like is None else column.like & alike


def _is_pairs(table: FeatureTable) -> bool:
    return not table.stored and all(isinstance(f.computation, Derived) for f in table.features)


def _otherwise(declared: str | None, digest: str) -> str:
    return f"served under digest {digest}, " + (
        "not declared" if declared is None else f"declared {declared}"
    )


def _declared_at(order: Mapping[str, int], place: int) -> str:
    return next(name for name, number in order.items() if number == place)


def _examples(served: Served, rows: Mapping[str, NDArray[Any]], at: NDArray[np.int64], online: Float32,
              offline: Float32) -> list[Example]:  # fmt: skip
    found = []
    for row, ours, theirs in zip(at.tolist(), online.tolist(), offline.tolist(), strict=False):
        sample, title = served.samples[rows["place"][row]], int(rows["title_id"][row])
        found.append(Example(
            sample.request_id, sample.user_id, None if title < 0 else title, sample.at,
            None if np.isnan(ours) else ours, None if np.isnan(theirs) else theirs,
        ))  # fmt: skip
    return found
