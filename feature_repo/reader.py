"""Reading the online store: entity ids in, one float32 matrix out, in the order the model was trained on.

A reader maps one published generation into memory and lays over it what the delta log says was written since. It
never opens the DuckDB record, and imports neither DuckDB nor Ibis nor Feast: the manifest says all it needs.

In every matrix NaN stands for null and for nothing else: the gate lets no other NaN through.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo import session
from feature_repo.arithmetic import Ref, from_data
from feature_repo.deltas import DamagedDeltas, Entry, Place, follow
from feature_repo.freshness import Promise, promises_of
from feature_repo.mapped import (
    Catalogue,
    Float32,
    Int64,
    ListTable,
    Recent,
    RecentTable,
    VectorTable,
    map_catalogue,
    map_lists,
    map_recents,
    map_vectors,
)
from feature_repo.overlay import StoredTable, fits, laid_over
from feature_repo.pairing import Pairing, compile_pairing
from feature_repo.session import KEPT_IN, NO_PLAYS, OfLastTitle, Plays, Reading, Session, evaluate
from feature_repo.snapshot import (
    CorruptSnapshot,
    Generation,
    Pointer,
    covered,
    generations,
    microseconds,
    pointer,
    verified,
)

logger = logging.getLogger(__name__)

USER, TITLE = "user", "title"
_ATTEMPTS = 5


class UnknownService(LookupError):
    """The snapshot has no feature service of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no feature service {name!r} in this snapshot. There are: {', '.join(known)}.")


class WrongEntity(ValueError):
    """The service's features are not all of what was asked for."""

    def __init__(self, service: str, entities: Sequence[str], use: str) -> None:
        super().__init__(f"service {service!r} holds features of {' and '.join(entities)}: use {use}.")


@dataclass(frozen=True)
class _Columns:
    """Which columns of a table feed a stretch of a pairing's inputs."""

    table: str
    columns: Int64
    target: slice


@dataclass(frozen=True)
class _PairTable:
    """User × title features: computed when asked for."""

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    pairing: Pairing
    users: tuple[_Columns, ...]
    titles: tuple[_Columns, ...]


@dataclass(frozen=True)
class _SessionTable:
    """What the plays kept of a user say at the moment of a request."""

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    readings: tuple[Reading, ...]
    newest: int
    places: Mapping[Ref, int]  # in its table, the column of each title's feature that is read

    def row(self, plays: Recent, at: int, vectors: Mapping[str, Table]) -> Float32:
        """(F,) at `at` (µs), NaN where null."""
        rows: dict[tuple[str, int], Float32] = {}

        def stored(feature: Ref, title_id: int) -> np.float32:
            where = (feature.table, title_id)
            if where not in rows:
                rows[where] = _vectors(vectors, feature.table).gather(np.array([title_id], dtype=np.int64))[0]
            value: np.float32 = rows[where][self.places[feature]]
            return value

        return evaluate(self.readings, Session.at(at, _plays(plays), self.newest), stored)


Table = VectorTable | _PairTable | _SessionTable


@dataclass(frozen=True)
class View:
    """One generation, mapped, with the writes up to `place` over it; immutable.

    Everything a request reads should come from one view. `held_back` counts, by table and write, rows that came in
    bulk and are served from the next generation on.
    """

    generation: str
    pointed: Pointer
    as_of: datetime
    source: str
    project: str
    tables: Mapping[str, Table]
    lists: Mapping[str, ListTable]
    recents: Mapping[str, RecentTable]
    services: Mapping[str, tuple[str, ...]]
    catalogue: Catalogue
    promises: Mapping[str, Promise]
    place: Place
    held_back: Mapping[tuple[str, int], int]

    @classmethod
    def of(cls, generation: Generation, sequence: int) -> View:
        """Map a verified generation, which holds the writes up to `sequence`."""
        manifest = generation.manifest
        entries = {entry["name"]: entry for entry in manifest["tables"]}
        of_kind = {
            kind: {n: e for n, e in entries.items() if e["kind"] == kind}
            for kind in ("vectors", "lists", "recent", "pairs", "session")
        }
        vectors = {name: map_vectors(generation, entry) for name, entry in of_kind["vectors"].items()}
        return cls(
            generation=generation.id,
            pointed=Pointer(generation.id, sequence),
            as_of=generation.as_of,
            source=str(manifest["source"]),
            project=str(manifest["project"]),
            tables={
                **vectors,
                **{name: _compile(entry, vectors) for name, entry in of_kind["pairs"].items()},
                **{name: _session(entry, vectors) for name, entry in of_kind["session"].items()},
            },
            lists={name: map_lists(generation, entry) for name, entry in of_kind["lists"].items()},
            recents={name: map_recents(generation, entry) for name, entry in of_kind["recent"].items()},
            services={s["name"]: tuple(s["tables"]) for s in manifest["services"]},
            catalogue=map_catalogue(generation),
            promises=promises_of(manifest["tables"]),
            place=Place(sequence),
            held_back={},
        )

    @property
    def waiting(self) -> Mapping[str, int]:
        """Table → rows that were written in bulk and are served from the next generation on."""
        found: dict[str, int] = {}
        for (table, _), count in self.held_back.items():
            found[table] = found.get(table, 0) + count
        return found

    @property
    def stored(self) -> Mapping[str, StoredTable]:
        """The tables that have rows."""
        vectors = {name: table for name, table in self.tables.items() if isinstance(table, VectorTable)}
        return {**vectors, **self.lists, **self.recents}

    def under(self, entries: Sequence[Entry], place: Place) -> View:
        """This view with later writes over it. Rows of other tables, or of other features, are not in it."""
        stored = self.stored
        rows: dict[str, list[pa.Table]] = {}
        held_back = dict(self.held_back)
        for part in (part for entry in entries for part in entry.parts):
            project, _, name = part.view.partition("/")
            if project != self.project or name not in stored or not fits(stored[name], part.meaning):
                continue
            if part.rows.num_rows:
                rows.setdefault(name, []).append(part.rows)
            held_back |= {(name, n): count for n, count in part.held_back if n > self.pointed.sequence}
        fresh = {name: laid_over(stored[name], parts) for name, parts in rows.items()}
        return replace(
            self,
            tables={**self.tables, **{n: t for n, t in fresh.items() if isinstance(t, VectorTable)}},
            lists={**self.lists, **{n: t for n, t in fresh.items() if isinstance(t, ListTable)}},
            recents={**self.recents, **{n: t for n, t in fresh.items() if isinstance(t, RecentTable)}},
            place=place,
            held_back=held_back,
        )

    def recent(self, entity_id: int, table: str = KEPT_IN) -> Recent:
        """The rows kept of an entity, oldest first; none where the entity, or the table, has none."""
        kept = self.recents.get(table)
        return kept.of(entity_id) if kept is not None else Recent(NO_PLAYS.moments, NO_PLAYS.created, {})

    def tables_of(self, service: str) -> list[Table]:
        """The tables of a service, in model order."""
        if service not in self.services:
            raise UnknownService(service, list(self.services))
        return [self.tables[name] for name in self.services[service]]

    def vectors(self, service: str, ids: Int64) -> Float32:
        """(n, F) of a service whose features are all of one entity."""
        tables = self.tables_of(service)
        entities = sorted({table.entity for table in tables})
        if len(entities) > 1:
            raise WrongEntity(service, entities, "matrix()")
        if any(isinstance(table, _SessionTable) for table in tables):
            raise WrongEntity(service, [*entities, "moment"], "matrix()")
        return np.concatenate([t.gather(ids) for t in tables if isinstance(t, VectorTable)], axis=1)

    def matrix(self, service: str, user_id: int, title_ids: Int64, at: datetime | None = None) -> Float32:
        """(n, F) of one user and n titles at a moment, user × title features included, in model order."""
        gathered = _Gathered(self.tables, np.array([user_id], dtype=np.int64), title_ids)
        tables = self.tables_of(service)
        out = np.empty((len(title_ids), sum(len(table.features) for table in tables)), dtype=np.float32)
        start = 0
        for name, table in zip(self.services[service], tables, strict=True):
            part = out[:, start : start + len(table.features)]
            if isinstance(table, _PairTable):
                user, title = gathered.inputs(table.users), gathered.inputs(table.titles)
                table.pairing.run(user[0], title, part)
            elif isinstance(table, _SessionTable):
                part[...] = table.row(self.recent(user_id), microseconds(at or self.as_of), self.tables)
            else:
                part[...] = gathered.block(name)
            start += len(table.features)
        return out


class _Gathered:
    """Blocks of one request, each gathered once: (1, F) of the user's tables, (n, F) of the titles'."""

    def __init__(self, tables: Mapping[str, Table], user: Int64, titles: Int64) -> None:
        self._tables, self._ids = tables, {USER: user, TITLE: titles}
        self._blocks: dict[str, Float32] = {}

    def block(self, name: str) -> Float32:
        if name not in self._blocks:
            table = self._tables[name]
            if not isinstance(table, VectorTable) or table.entity not in self._ids:
                raise WrongEntity(name, [table.entity], "vectors()")
            self._blocks[name] = table.gather(self._ids[table.entity])
        return self._blocks[name]

    def inputs(self, wanted: Sequence[_Columns]) -> Float32:
        blocks = [self.block(w.table) for w in wanted]
        out = np.empty((len(blocks[0]), wanted[-1].target.stop), dtype=np.float32)
        for part, block in zip(wanted, blocks, strict=True):
            block.take(part.columns, axis=1, out=out[:, part.target])
        return out


class OnlineReader:
    """Reads of the current generation and what was written since; `refresh` takes up newer ones, in one step.

    Each call works on one immutable view, so no row is ever torn. A request that makes several calls
    should make them on one `pinned()` reader. `fault` is what kept it from the newest state, if anything did.
    """

    def __init__(self, root: Path, view: View, fault: CorruptSnapshot | DamagedDeltas | None = None) -> None:
        self.root, self.view, self.fault = root, view, fault

    @classmethod
    def open(cls, root: Path) -> OnlineReader:
        """Map the current generation or, where it is corrupt, the last good one, leaving word in `fault`.

        Raises:
            NothingPublished: nothing has been published under `root`.
            CorruptSnapshot: no generation under `root` is whole.
        """
        try:
            reader = cls(root, _current(root))
        except CorruptSnapshot as fault:
            reader = cls._older(root, fault)
        try:
            reader.follow()
        except DamagedDeltas:
            logger.exception("serving snapshot %s without later writes", reader.generation)
        return reader

    @classmethod
    def _older(cls, root: Path, fault: CorruptSnapshot) -> OnlineReader:
        for name in generations(root):
            folder = root / "snapshots" / name
            try:
                view = View.of(verified(folder), covered(folder))
            except CorruptSnapshot:
                continue
            logger.error("serving the older snapshot %s: %s", name, fault)
            return cls(root, view, fault)
        raise fault

    def refresh(self) -> bool:
        """Take up the generation that is current now and what was written since; True if anything has changed.

        Raises:
            CorruptSnapshot: the current generation is not whole. This reader goes on with what it has.
            DamagedDeltas: the delta log is not. This reader goes on with what came before the damage.
        """
        try:
            moved = pointer(self.root) != self.view.pointed
            view = _current(self.root) if moved else self.view
        except CorruptSnapshot as fault:
            self.fault = fault
            raise
        if isinstance(self.fault, CorruptSnapshot):
            self.fault = None
        return self._follow_on(view) or moved

    def follow(self) -> bool:
        """Take up what was written since, on top of the generation that is mapped; True if anything was.

        Raises:
            DamagedDeltas: the log is not whole. This reader goes on with what came before the damage.
        """
        return self._follow_on(self.view)

    def _follow_on(self, view: View) -> bool:
        """The view with what was written since takes over in one step."""
        followed = follow(self.root, view.place)
        if followed.entries:
            self.view = view.under(followed.entries, followed.place)
        else:
            self.view = replace(view, place=followed.place)
        if followed.fault is not None:
            self.fault = self.fault or followed.fault
            raise followed.fault
        if isinstance(self.fault, DamagedDeltas):
            self.fault = None
        return bool(followed.entries)

    def pinned(self) -> OnlineReader:
        """A reader of this very state, which stays while this one is refreshed."""
        return OnlineReader(self.root, self.view, self.fault)

    @property
    def generation(self) -> str:
        """Id of the generation."""
        return self.view.generation

    @property
    def as_of(self) -> datetime:
        """Its features were computed from what was known before this moment."""
        return self.view.as_of

    @property
    def source(self) -> str:
        """The source of events."""
        return self.view.source

    @property
    def catalogue(self) -> Catalogue:
        """The titles there are."""
        return self.view.catalogue

    def digests(self, service: str) -> Mapping[str, str]:
        """`table:feature` → digest, in model order."""
        names = self.view.services.get(service, ())
        return {
            f"{name}:{feature}": digest
            for name, table in zip(names, self.view.tables_of(service), strict=True)
            for feature, digest in zip(table.features, table.digests, strict=True)
        }

    @property
    def sequence(self) -> int:
        """The last write to the record that is seen."""
        return self.view.place.sequence

    @property
    def waiting(self) -> Mapping[str, int]:
        """Table → rows that were written in bulk and are served from the next generation on."""
        return self.view.waiting

    def knows_user(self, user_id: int) -> bool:
        """Whether any table of users has a row of this user."""
        return self._knows(USER, user_id)

    def knows_title(self, title_id: int) -> bool:
        """Whether any table of titles has a row of this title."""
        return self._knows(TITLE, title_id)

    def vector(self, service: str, entity_id: int) -> Float32:
        """(F,) of one entity, NaN where null; all NaN for an entity without a row (see `knows_user`)."""
        row: Float32 = self.vectors(service, np.array([entity_id], dtype=np.int64))[0]
        return row

    def vectors(self, service: str, ids: Int64) -> Float32:
        """(n, F) of n entities of the service's one entity, NaN where null or where there is no row."""
        return self.view.vectors(service, np.asarray(ids, dtype=np.int64))

    def matrix(self, service: str, user_id: int, title_ids: Int64, at: datetime | None = None) -> Float32:
        """(n, F) of one user and n titles, user × title features included, NaN where null.

        Session features are of the moment `at`, that of the request: of the plays kept, those count that happened and
        were known before it. Without it they are of the snapshot's `as_of`. At a moment before that, plays which
        newer ones have pushed out of those kept are missing.
        """
        return self.view.matrix(service, user_id, np.asarray(title_ids, dtype=np.int64), at)

    @staticmethod
    def known(matrix: Float32) -> NDArray[np.bool_]:
        """The validity mask (n, F) of what `matrix`, `vectors` or `vector` returned: False where null."""
        return ~np.isnan(matrix)

    def history(self, user_id: int) -> Int64:
        """Titles of the plays kept of the user, pushed ones among them, newest last; empty for who has none."""
        plays = _plays(self.recent(user_id))
        return plays.title_ids[np.lexsort((plays.play_ids, plays.moments))]

    def recent(self, entity_id: int, table: str = KEPT_IN) -> Recent:
        """The rows kept of an entity, oldest first; none where the entity, or the table, has none."""
        return self.view.recent(entity_id, table)

    def moments(self, table: str, ids: Int64) -> Int64:
        """(n,) the event_timestamp of each entity's row, of its newest where several are kept: µs since 1970 UTC.

        `UNKNOWN` (which is NaT as `datetime64[us]`) for an entity without a row.

        Raises:
            LookupError: the snapshot stores no such table.
        """
        stored = self.view.stored
        if table not in stored:
            raise LookupError(f"no stored table {table!r} in this snapshot. There are: {', '.join(stored)}.")
        return stored[table].moments_of(np.asarray(ids, dtype=np.int64))

    def _knows(self, entity: str, entity_id: int) -> bool:
        return any(
            isinstance(table, VectorTable) and table.entity == entity and table.has(entity_id)
            for table in self.view.tables.values()
        )


def _current(root: Path) -> View:
    """The generation CURRENT names; it may be pruned between our two looks, and then CURRENT has moved on."""
    pointed = pointer(root)
    for _ in range(_ATTEMPTS):
        try:
            return View.of(verified(root / "snapshots" / pointed.generation), pointed.sequence)
        except CorruptSnapshot:
            before, pointed = pointed, pointer(root)
            if before == pointed:
                raise
    return View.of(verified(root / "snapshots" / pointed.generation), pointed.sequence)


def _compile(entry: Mapping[str, Any], vectors: Mapping[str, VectorTable]) -> _PairTable:
    users = [name for name, table in vectors.items() if table.entity == USER]
    pairing = compile_pairing([from_data(data) for data in entry["expressions"]], users)
    return _PairTable(
        entry["entity"], tuple(entry["features"]), tuple(entry["digests"]), pairing,
        _columns(pairing.users, vectors), _columns(pairing.titles, vectors),
    )  # fmt: skip


def _session(entry: Mapping[str, Any], vectors: Mapping[str, VectorTable]) -> _SessionTable:
    readings = tuple(session.from_data(data) for data in entry["readings"])
    read = [reading.feature for reading in readings if isinstance(reading, OfLastTitle)]
    places = {feature: vectors[feature.table].features.index(feature.feature) for feature in read}
    features, digests = tuple(entry["features"]), tuple(entry["digests"])
    return _SessionTable(entry["entity"], features, digests, readings, entry["newest"], places)


def _plays(recent: Recent) -> Plays:
    if not len(recent.moments):
        return NO_PLAYS
    return Plays(recent.moments, recent.created, recent.columns["play_id"], recent.columns["title_id"])


def _vectors(tables: Mapping[str, Table], name: str) -> VectorTable:
    table = tables[name]
    if not isinstance(table, VectorTable):
        raise TypeError(f"{name!r} is computed at request time, and sessions read stored features only.")
    return table


def _columns(refs: Sequence[Ref], vectors: Mapping[str, VectorTable]) -> tuple[_Columns, ...]:
    """References come grouped by table, so that each table fills one stretch."""
    found, start = [], 0
    for table in dict.fromkeys(ref.table for ref in refs):
        place = {feature: column for column, feature in enumerate(vectors[table].features)}
        columns = np.array([place[ref.feature] for ref in refs if ref.table == table], dtype=np.int64)
        found.append(_Columns(table, columns, slice(start, start + len(columns))))
        start += len(columns)
    return tuple(found)
