"""Tables of one snapshot generation, mapped into memory as they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.snapshot import Generation

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class UnknownTitle(LookupError):
    """The catalogue has no such title."""

    def __init__(self, title_id: int, count: int) -> None:
        super().__init__(f"title {title_id} is not among the {count:,} titles of the catalogue.")


@dataclass(frozen=True)
class VectorTable:
    """Packed vectors, mapped: `values` is (n, F), NaN where null, row i belonging to `ids[i]`."""

    entity: str
    features: tuple[str, ...]
    digests: tuple[str, ...]
    ids: Int64
    values: Float32

    def gather(self, ids: Int64) -> Float32:
        """The rows of `ids` (m, F); an unknown id's row is all NaN."""
        rows, found = rows_of(self.ids, ids)
        if not len(self.ids):
            return np.full((len(ids), len(self.features)), np.nan, dtype=np.float32)
        taken = self.values.take(rows, axis=0)
        if not found.all():
            taken[~found] = np.nan
        return taken


def rows_of(ids: Int64, wanted: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """Where in the ascending `ids` each of `wanted` is, and whether it is there at all."""
    rows = np.searchsorted(ids, wanted)
    rows[rows == len(ids)] = 0
    found = ids[rows] == wanted if len(ids) else np.zeros(len(wanted), dtype=np.bool_)
    return rows.astype(np.int64, copy=False), found


@dataclass(frozen=True)
class ListTable:
    """One list of ids for each entity, mapped."""

    ids: Int64
    offsets: NDArray[np.int32]
    items: Int64

    def of(self, entity_id: int) -> Int64:
        """The list of `entity_id`, oldest first; empty where there is none."""
        rows, found = rows_of(self.ids, np.array([entity_id], dtype=np.int64))
        if not found[0]:
            return np.empty(0, dtype=np.int64)
        row = int(rows[0])
        return self.items[self.offsets[row] : self.offsets[row + 1]]


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


def map_vectors(folder: Path, entry: Mapping[str, Any]) -> VectorTable:
    """Map the file of a manifest's entry."""
    batch = _map(folder / entry["file"])
    features = tuple(entry["features"])
    raw = batch.column("values").values.buffers()[1]
    values: Float32 = np.frombuffer(raw, dtype=np.float32, count=entry["rows"] * len(features))
    values = values.reshape(entry["rows"], len(features))
    return VectorTable(entry["entity"], features, tuple(entry["digests"]), _ids(batch, "id"), values)


def map_lists(folder: Path, entry: Mapping[str, Any]) -> ListTable:
    """Map the file of a manifest's entry."""
    batch = _map(folder / entry["file"])
    items = batch.column("items")
    return ListTable(_ids(batch, "id"), items.offsets.to_numpy(), items.values.to_numpy())


def map_catalogue(generation: Generation) -> Catalogue:
    """Map the titles of a generation."""
    batch = _map(generation.folder / generation.manifest["catalogue"]["file"])
    return Catalogue(_ids(batch, "title_id"), pa.Table.from_batches([batch]))


def _map(path: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _ids(batch: pa.RecordBatch, column: str) -> Int64:
    ids: Int64 = batch.column(column).to_numpy()
    return ids
