"""Reading the online store: entity ids in, one float32 matrix out, in the order the model was trained on.

A reader maps one published generation into memory. It never opens the DuckDB record, and imports neither
DuckDB nor Ibis nor Feast: the manifest says all it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.arithmetic import Ref, from_data
from feature_repo.mapped import (
    Catalogue,
    Float32,
    Int64,
    ListTable,
    VectorTable,
    map_catalogue,
    map_lists,
    map_vectors,
    rows_of,
)
from feature_repo.pairing import Pairing, compile_pairing
from feature_repo.snapshot import CorruptSnapshot, Generation, current, generations, verified

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


Table = VectorTable | _PairTable


@dataclass(frozen=True)
class View:
    """One generation, mapped and immutable. Everything a request reads should come from one view."""

    generation: str
    as_of: datetime
    source: str
    tables: Mapping[str, Table]
    lists: Mapping[str, ListTable]
    services: Mapping[str, tuple[str, ...]]
    catalogue: Catalogue

    @classmethod
    def of(cls, generation: Generation) -> View:
        """Map a verified generation."""
        entries = {entry["name"]: entry for entry in generation.manifest["tables"]}
        tables: dict[str, Table] = {
            name: map_vectors(generation.folder, entry)
            for name, entry in entries.items()
            if entry["kind"] == "vectors"
        }
        vectors = {name: table for name, table in tables.items() if isinstance(table, VectorTable)}
        pairs = {n: _compile(e, vectors) for n, e in entries.items() if e["kind"] == "pairs"}
        lists = {n: map_lists(generation.folder, e) for n, e in entries.items() if e["kind"] == "lists"}
        services = {s["name"]: tuple(s["tables"]) for s in generation.manifest["services"]}
        source, catalogue = str(generation.manifest["source"]), map_catalogue(generation)
        return cls(generation.id, generation.as_of, source, tables | pairs, lists, services, catalogue)

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
        return np.concatenate([t.gather(ids) for t in tables if isinstance(t, VectorTable)], axis=1)

    def matrix(self, service: str, user_id: int, title_ids: Int64) -> Float32:
        """(n, F) of one user and n titles, user × title features included, in model order."""
        gathered = _Gathered(self.tables, np.array([user_id], dtype=np.int64), title_ids)
        tables = self.tables_of(service)
        out = np.empty((len(title_ids), sum(len(table.features) for table in tables)), dtype=np.float32)
        start = 0
        for name, table in zip(self.services[service], tables, strict=True):
            part = out[:, start : start + len(table.features)]
            if isinstance(table, _PairTable):
                user, title = gathered.inputs(table.users), gathered.inputs(table.titles)
                table.pairing.run(user[0], title, part)
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
    """Reads of the current generation; a newer one is taken up by `refresh`, in one step.

    Each call works on one immutable view, so no row is ever torn. A request that makes several calls
    should make them on one `pinned()` reader.
    """

    def __init__(self, root: Path, view: View, fault: CorruptSnapshot | None = None) -> None:
        self.root, self.view, self.fault = root, view, fault

    @classmethod
    def open(cls, root: Path) -> OnlineReader:
        """Map the current generation or, where it is corrupt, the last good one, leaving word in `fault`.

        Raises:
            NothingPublished: nothing has been published under `root`.
            CorruptSnapshot: no generation under `root` is whole.
        """
        try:
            return cls(root, View.of(_current(root)))
        except CorruptSnapshot as fault:
            for name in generations(root):
                try:
                    view = View.of(verified(root / "snapshots" / name))
                except CorruptSnapshot:
                    continue
                logger.error("serving the older snapshot %s: %s", name, fault)  # noqa: TRY400 - it goes on, with `fault` kept
                return cls(root, view, fault)
            raise

    def refresh(self) -> bool:
        """Take up the generation that is current now; True if it is another one than before.

        Raises:
            CorruptSnapshot: the current one is not whole. This reader goes on with what it has.
        """
        if current(self.root) == self.view.generation:
            return False
        try:
            view = View.of(_current(self.root))
        except CorruptSnapshot as fault:
            self.fault = fault
            raise
        self.view, self.fault = view, None
        return True

    def pinned(self) -> OnlineReader:
        """A reader of this very generation, which stays while this one is refreshed."""
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

    def matrix(self, service: str, user_id: int, title_ids: Int64) -> Float32:
        """(n, F) of one user and n titles, user × title features included, NaN where null."""
        return self.view.matrix(service, user_id, np.asarray(title_ids, dtype=np.int64))

    def history(self, user_id: int) -> Int64:
        """Ids of the titles the user watched, newest last; empty for a user without a history."""
        table = self.view.lists.get("user_history")
        return table.of(user_id) if table is not None else np.empty(0, dtype=np.int64)

    def _knows(self, entity: str, entity_id: int) -> bool:
        wanted = np.array([entity_id], dtype=np.int64)
        return any(
            isinstance(table, VectorTable)
            and table.entity == entity
            and bool(rows_of(table.ids, wanted)[1][0])
            for table in self.view.tables.values()
        )


def _current(root: Path) -> Generation:
    """The generation CURRENT names; it may be pruned between our two looks, and then CURRENT has moved on."""
    name = current(root)
    for _ in range(_ATTEMPTS):
        try:
            return verified(root / "snapshots" / name)
        except CorruptSnapshot:
            before, name = name, current(root)
            if before == name:
                raise
    return verified(root / "snapshots" / name)


def _compile(entry: Mapping[str, Any], vectors: Mapping[str, VectorTable]) -> _PairTable:
    users = [name for name, table in vectors.items() if table.entity == USER]
    pairing = compile_pairing([from_data(data) for data in entry["expressions"]], users)
    return _PairTable(
        entry["entity"], tuple(entry["features"]), tuple(entry["digests"]), pairing,
        _columns(pairing.users, vectors), _columns(pairing.titles, vectors),
    )  # fmt: skip


def _columns(refs: Sequence[Ref], vectors: Mapping[str, VectorTable]) -> tuple[_Columns, ...]:
    """References come grouped by table, so that each table fills one stretch."""
    found, start = [], 0
    for table in dict.fromkeys(ref.table for ref in refs):
        place = {feature: column for column, feature in enumerate(vectors[table].features)}
        columns = np.array([place[ref.feature] for ref in refs if ref.table == table], dtype=np.int64)
        found.append(_Columns(table, columns, slice(start, start + len(columns))))
        start += len(columns)
    return tuple(found)
