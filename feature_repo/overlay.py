"""Rows of the delta log in the shape of the tables they lie over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from feature_repo.deltas import meaning_of
from feature_repo.mapped import Int64, Listed, ListTable, Recent, RecentTable, Rows, VectorTable, part_of
from feature_repo.packed import unpack
from feature_repo.snapshot import UNKNOWN

StoredTable = VectorTable | ListTable | RecentTable


def fits(table: StoredTable, meaning: str) -> bool:
    """Whether rows of a layout of this meaning are rows of the table."""
    return meaning_of(table.features, table.digests) == meaning


def laid_over(table: StoredTable, parts: Sequence[pa.Table]) -> StoredTable:
    """The table with the rows of some writes over it, in the order of the writes."""
    if isinstance(table, VectorTable):
        return table.under(_vectors(table, parts))
    if isinstance(table, ListTable):
        return table.under({k: v for rows in parts for k, v in _lists(table, rows).items()})
    return table.under({k: v for rows in parts for k, v in _recents(table, rows).items()})


def _vectors(table: VectorTable, parts: Sequence[pa.Table]) -> Rows:
    rows = pa.concat_tables(parts)
    moments = integers(rows["event_timestamp"])
    values, _ = unpack(rows["vector"])
    live = moments >= table.oldest
    return Rows(integers(rows["entity_id"])[live], moments[live], values[live])


def _lists(table: ListTable, rows: pa.Table) -> dict[int, Listed]:
    items = (np.array(cell or (), dtype=np.int64) for cell in rows[f"f:{table.features[0]}"].to_pylist())
    moments, ids = integers(rows["event_timestamp"]).tolist(), integers(rows["entity_id"]).tolist()
    return {
        i: Listed(listed, moment)
        for i, moment, listed in zip(ids, moments, items, strict=True)
        if moment >= table.oldest
    }


def _recents(table: RecentTable, rows: pa.Table) -> dict[int, Recent]:
    """Rows come by ascending id and then time, as the record holds them."""
    ids, whole = integers(rows["entity_id"]), recent_of(rows, table.features)
    edges = np.flatnonzero(np.diff(ids)) + 1
    stretches = [slice(int(a), int(b)) for a, b in zip([0, *edges], [*edges, len(ids)], strict=True)]
    found = {int(ids[stretch.start]): part_of(whole, stretch) for stretch in stretches if len(ids)}
    return {i: part_of(recent, recent.moments >= table.oldest) for i, recent in found.items()}


def recent_of(rows: pa.Table, features: Sequence[str]) -> Recent:
    """Kept rows as the record gives them."""
    columns = {name: integers(rows[f"f:{name}"]) for name in features}
    return Recent(integers(rows["event_timestamp"]), integers(rows["created_timestamp"]), columns)


def integers(column: pa.ChunkedArray) -> Int64:
    """A column of integers or moments (µs) as int64, `UNKNOWN` where null."""
    whole = column.combine_chunks().cast(pa.int64()).fill_null(UNKNOWN)
    return np.asarray(whole.to_numpy(zero_copy_only=False), dtype=np.int64)
