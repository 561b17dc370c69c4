"""Tables of one snapshot generation, mapped into memory as they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.snapshot import UNKNOWN, Generation, microseconds

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class UnknownTitle(LookupError):
    """The catalogue has no such title."""

    def __init__(self, title_id: int, count: int) -> None:
        super().__init__(f"title {title_id} is not among the {count:,} titles of the catalogue.")


@dataclass(frozen=True)
class Rows:
    """Packed vectors by id: row i of `values` (n, F), NaN where null, belongs to `ids[i]` and is as of `moments[i]`."""

    ids: Int64  # (n,) ascending
    moments: Int64  # (n,) µs since 1970 UTC
    values: Float32  # (n, F)

    @classmethod
    def none(cls, width: int) -> Rows:
        """No rows."""
        return cls(_no_ids(), _no_ids(), np.empty((0, width), dtype=np.float32))

    def under(self, newer: Rows) -> Rows:
        """These rows and `newer` ones in place of those of the same ids; of equal ids in `newer` the last counts."""
        ids = np.concatenate([newer.ids[::-1], self.ids])
        unique, first = np.unique(ids, return_index=True)
        moments = np.concatenate([newer.moments[::-1], self.moments])[first]
        return Rows(unique, moments, np.concatenate([newer.values[::-1], self.values])[first])


@dataclass(frozen=True)
class VectorTable:
    """Packed vectors, mapped, and over them the `newer` ones that were pushed since.

    Here and below, rows from before `oldest` (µs) are past their time to live: there are none.
    """

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    oldest: int
    base: Rows
    newer: Rows

    @property
    def ids(self) -> Int64:
        """The entities with a row, ascending."""
        return np.union1d(self.base.ids, self.newer.ids) if len(self.newer.ids) else self.base.ids

    def gather(self, ids: Int64) -> Float32:
        """The rows of `ids` (m, F); an unknown id's row is all NaN."""
        rows, found = rows_of(self.base.ids, ids)
        if not len(self.base.ids):
            taken = np.full((len(ids), len(self.features)), np.nan, dtype=np.float32)
        else:
            taken = self.base.values.take(rows, axis=0)
            if not found.all():
                taken[~found] = np.nan
        if len(self.newer.ids):
            rows, found = rows_of(self.newer.ids, ids)
            taken[found] = self.newer.values[rows[found]]
        return taken

    def moments_of(self, ids: Int64) -> Int64:
        """The event_timestamp of each row (m,), `UNKNOWN` where there is none."""
        moments = np.full(len(ids), UNKNOWN)
        for part in (self.base, self.newer):
            rows, found = rows_of(part.ids, ids)
            moments[found] = part.moments[rows[found]]
        return moments

    def has(self, entity_id: int) -> bool:
        """Whether the entity has a row."""
        wanted = np.array([entity_id], dtype=np.int64)
        return any(bool(rows_of(part.ids, wanted)[1][0]) for part in (self.base, self.newer))

    def under(self, newer: Rows) -> VectorTable:
        """This table with `newer` rows over it."""
        return replace(self, newer=self.newer.under(newer))


def rows_of(ids: Int64, wanted: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """Where in the ascending `ids` each of `wanted` is, and whether it is there at all."""
    rows = np.searchsorted(ids, wanted)
    rows[rows == len(ids)] = 0
    found = ids[rows] == wanted if len(ids) else np.zeros(len(wanted), dtype=np.bool_)
    return rows.astype(np.int64, copy=False), found


@dataclass(frozen=True)
class Listed:
    """One entity's list of ids, and the moment it is as of (µs, `UNKNOWN` without a row)."""

    items: Int64
    moment: int


@dataclass(frozen=True)
class ListTable:
    """One list of ids for each entity, mapped, and the `newer` ones that were pushed since."""

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    oldest: int
    ids: Int64
    moments: Int64
    offsets: NDArray[np.int32]
    items: Int64
    newer: Mapping[int, Listed]

    def of(self, entity_id: int) -> Listed:
        """The list of `entity_id`, oldest first; empty where there is none."""
        if (pushed := self.newer.get(entity_id)) is not None:
            return pushed
        rows, found = rows_of(self.ids, np.array([entity_id], dtype=np.int64))
        if not found[0]:
            return Listed(_no_ids(), UNKNOWN)
        row = int(rows[0])
        return Listed(self.items[self.offsets[row] : self.offsets[row + 1]], int(self.moments[row]))

    def moments_of(self, ids: Int64) -> Int64:
        """The event_timestamp of each row (m,), `UNKNOWN` where there is none."""
        return np.array([self.of(int(i)).moment for i in ids], dtype=np.int64)

    def has(self, entity_id: int) -> bool:
        """Whether the entity has a row."""
        return self.of(entity_id).moment != UNKNOWN

    def under(self, newer: Mapping[int, Listed]) -> ListTable:
        """This table with `newer` lists over it."""
        return replace(self, newer={**self.newer, **newer})


@dataclass(frozen=True)
class Recent:
    """The newest rows kept of one entity, ascending by event_timestamp; integers, `UNKNOWN` where null."""

    moments: Int64  # (k,) event_timestamp, µs since 1970 UTC
    created: Int64  # (k,) created_timestamp, µs
    columns: Mapping[str, Int64]  # (k,) each


@dataclass(frozen=True)
class RecentTable:
    """Kept rows, mapped, all rows of an entity side by side, and the entities whose rows changed since.

    `newer` holds all rows of such an entity.
    """

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    oldest: int
    ids: Int64  # (m,) of each row, ascending
    rows: Recent  # (m,)
    newer: Mapping[int, Recent]

    def of(self, entity_id: int) -> Recent:
        """The rows of `entity_id`; none where there are none."""
        if (pushed := self.newer.get(entity_id)) is not None:
            return pushed
        low, high = (int(np.searchsorted(self.ids, entity_id, side)) for side in ("left", "right"))
        return part_of(self.rows, slice(low, high))

    def moments_of(self, ids: Int64) -> Int64:
        """The event_timestamp of each entity's newest row (m,), `UNKNOWN` where there is none."""
        newest = (self.of(int(i)).moments[-1:] for i in ids)
        return np.array([moments[0] if len(moments) else UNKNOWN for moments in newest], dtype=np.int64)

    def has(self, entity_id: int) -> bool:
        """Whether the entity has a row."""
        return bool(len(self.of(entity_id).moments))

    def under(self, newer: Mapping[int, Recent]) -> RecentTable:
        """This table with all rows of some entities in place of what it had of them."""
        return replace(self, newer={**self.newer, **newer})


def part_of(rows: Recent, which: slice | NDArray[np.bool_]) -> Recent:
    """Some of the rows."""
    columns = {name: column[which] for name, column in rows.columns.items()}
    return Recent(rows.moments[which], rows.created[which], columns)


def _no_ids() -> Int64:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Catalogue:
    """The titles as they were at the snapshot's `as_of`, ascending by id."""

    title_ids: Int64
    table: pa.Table

    def name(self, title_id: int) -> str:
        """The title's name."""
        return str(self._value("name", title_id))

    def year(self, title_id: int) -> int | None:
        """Year of release, where the source knows it."""
        value: int | None = self._value("release_year", title_id)
        return value

    def genres(self, title_id: int) -> tuple[str, ...]:
        """Genres, none where the source knows none."""
        return tuple(self._value("genres", title_id) or ())

    def artworks(self, title_id: int) -> Int64:
        """Ids of the images that may stand for the title."""
        return np.array(self._value("artworks", title_id) or (), dtype=np.int64)

    @cached_property
    def available_from(self) -> NDArray[np.datetime64]:
        """When each of `title_ids` could first be watched (UTC, µs)."""
        moments = self.table["available_from"].combine_chunks().cast(pa.int64())
        return np.asarray(moments.to_numpy(zero_copy_only=False)).astype("datetime64[us]")

    def available(self, at: datetime) -> Int64:
        """The titles that can be watched at `at`."""
        moment = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
        return self.title_ids[self.available_from <= moment]

    def _value(self, column: str, title_id: int) -> Any:
        rows, found = rows_of(self.title_ids, np.array([title_id], dtype=np.int64))
        if not found[0]:
            raise UnknownTitle(title_id, len(self.title_ids))
        return self.table[column][int(rows[0])].as_py()


def map_vectors(generation: Generation, entry: Mapping[str, Any]) -> VectorTable:
    """Map the file of a manifest's entry."""
    batch = _map(generation.folder / entry["file"])
    width = len(entry["features"])
    raw = batch.column("values").values.buffers()[1]
    values: Float32 = np.frombuffer(raw, dtype=np.float32, count=entry["rows"] * width)
    rows = Rows(_ids(batch, "id"), _ids(batch, "moment"), values.reshape(entry["rows"], width))
    return VectorTable(*_about(generation, entry), rows, Rows.none(width))


def map_lists(generation: Generation, entry: Mapping[str, Any]) -> ListTable:
    """Map the file of a manifest's entry."""
    batch = _map(generation.folder / entry["file"])
    items = batch.column("items")
    ids, moments = _ids(batch, "id"), _ids(batch, "moment")
    offsets, flat = items.offsets.to_numpy(), items.values.to_numpy()
    return ListTable(*_about(generation, entry), ids, moments, offsets, flat, {})


def map_recents(generation: Generation, entry: Mapping[str, Any]) -> RecentTable:
    """Map the file of a manifest's entry."""
    batch = _map(generation.folder / entry["file"])
    columns = {name: _ids(batch, f"f:{name}") for name in entry["features"]}
    rows = Recent(_ids(batch, "moment"), _ids(batch, "created"), columns)
    return RecentTable(*_about(generation, entry), _ids(batch, "id"), rows, {})


def _about(
    generation: Generation, entry: Mapping[str, Any]
) -> tuple[str, tuple[str, ...], tuple[str, ...], int]:
    """Entity, features, digests and the oldest moment of a table."""
    oldest = microseconds(generation.as_of - timedelta(days=entry["ttl_days"]))
    return entry["entity"], tuple(entry["features"]), tuple(entry["digests"]), oldest


def map_catalogue(generation: Generation) -> Catalogue:
    """Map the titles of a generation."""
    batch = _map(generation.folder / generation.manifest["catalogue"]["file"])
    return Catalogue(_ids(batch, "title_id"), pa.Table.from_batches([batch]))


def _map(path: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _ids(batch: pa.RecordBatch, column: str) -> Int64:
    ids: Int64 = batch.column(column).to_numpy()
    return ids
