"""Logged exposures as one Arrow table, a row for each title shown, and their compaction to Parquet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from feature_repo.durable import sync_folder
from serving.exposures import SEGMENT_SUFFIX, ExposureRecord, records
from serving.segments import is_closed

_SCORES = ("retrieval", "play", "completion", "retention", "choice", "objective", "diversity_penalty")
_DRAW = {
    "policy": pa.string(),
    "belief": pa.string(),
    "temper": pa.float64(),
    "floor": pa.float64(),
    "context": pa.string(),
}
_ARM = pa.struct([("experiment", pa.string()), ("arm", pa.string())])
EXPOSURES = pa.schema(
    [
        ("impression_id", pa.int64()),  # 63 bits of a hash of request_id and position: the same on every read
        ("request_id", pa.string()),
        ("user_id", pa.int64()),
        ("title_id", pa.int64()),
        ("artwork_id", pa.int64()),
        ("position", pa.int64()),
        ("surface", pa.string()),
        ("artwork_propensity", pa.float64()),
        ("arm", pa.string()),  # every experiment=arm of the page, comma between
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
        ("arms", pa.list_(_ARM)),
        ("retriever", pa.string()),
        ("ranker", pa.string()),
        ("artwork", pa.string()),
        ("generation", pa.string()),
        ("as_of", pa.timestamp("us", tz="UTC")),
        ("weights", pa.string()),  # JSON: name → weight
        *((f"{name}_score", pa.float64()) for name in _SCORES),
        *((f"artwork_{name}", kind) for name, kind in _DRAW.items()),
        ("artwork_arm_set", pa.string()),
        ("live_set", pa.string()),  # what was declared live: experiments, champions, roll-outs
        ("canary", pa.string()),  # kinds of model of which a canary was served, comma between
    ]
)
"""An exposure: the columns of an `impressions` event, then what explains it."""
_SEGMENTS_KEY = b"matinee.segments"


def read(folder: Path) -> pa.Table:
    """Every exposure in `folder`, compacted or not, each once, oldest first. A missing folder has none.

    Raises:
        CorruptSegment: a segment is damaged other than by a crash.
    """
    while True:
        try:
            table = _read_once(folder)
        except FileNotFoundError:
            continue  # a segment was compacted between listing and opening: list again
        return table.sort_by(
            [("event_timestamp", "ascending"), ("request_id", "ascending"), ("position", "ascending")]
        )


def compact(folder: Path) -> Path | None:
    """Turn the segments that no writer holds into one Parquet part; None when there is nothing to do.

    The part names the segments it replaces, so a crash between writing it and deleting them repeats nothing.
    """
    for name in _compacted_segments(_parts(folder)):
        (folder / name).unlink(missing_ok=True)
    closed = [segment for segment in _segments(folder) if is_closed(segment)]
    if not closed:
        return None
    names = [segment.name for segment in closed]
    table = _table(record for segment in closed for record in records(segment))
    part = _publish(table.replace_schema_metadata({_SEGMENTS_KEY: json.dumps(names).encode()}), folder, names)
    for segment in closed:
        segment.unlink()
    return part


def _read_once(folder: Path) -> pa.Table:
    segments = _segments(folder)  # first: what vanishes from here on is in a part listed below
    parts = _parts(folder)
    done = _compacted_segments(parts)
    tables = [pq.read_table(part).replace_schema_metadata() for part in parts]
    loose = (segment for segment in segments if segment.name not in done)
    tables.append(_table(record for segment in loose for record in records(segment)))
    return pa.concat_tables(tables, promote_options="default").select(
        EXPOSURES.names
    )  # older parts lack columns


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SEGMENT_SUFFIX}"))


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _compacted_segments(parts: list[Path]) -> set[str]:
    return {name for part in parts for name in json.loads(pq.read_schema(part).metadata[_SEGMENTS_KEY])}


def _publish(table: pa.Table, folder: Path, names: list[str]) -> Path:
    part = folder / f"part-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}.parquet"
    draft = part.with_suffix(".new")
    pq.write_table(table, draft)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(part)
    sync_folder(folder)
    return part


def _table(shown: Iterable[ExposureRecord]) -> pa.Table:
    return pa.Table.from_pylist([row for record in shown for row in _rows(record)], schema=EXPOSURES)


def _rows(record: ExposureRecord) -> Iterator[dict[str, Any]]:
    page = record.page
    of_page = {
        "request_id": page.request_id,
        "user_id": page.user_id,
        "surface": record.surface,
        "arm": ",".join(f"{shown.experiment}={shown.arm}" for shown in page.arms) or None,
        "event_timestamp": record.event_timestamp,
        "source": page.source,
        "live_set": page.live_set,
        "canary": ",".join(page.canary) or None,
        "arms": [shown.model_dump() for shown in page.arms],
        "generation": page.generation,
        "as_of": page.as_of,
        "weights": json.dumps(page.weights, sort_keys=True),
        **page.versions.model_dump(),
        **(
            {f"artwork_{name}": value for name, value in page.artwork_draw.model_dump().items()}
            if page.artwork_draw
            else {}
        ),
    }
    for title in page.titles:
        scores = {f"{name}_score": getattr(title.scores, name) for name in _SCORES}
        yield (
            of_page
            | scores
            | {
                "impression_id": impression_id(page.request_id, title.position),
                "title_id": title.title_id,
                "artwork_id": title.artwork_id,
                "position": title.position,
                "artwork_propensity": title.propensity,
                "artwork_arm_set": title.arm_set,
            }
        )


def impression_id(request_id: str, position: int) -> int:
    """The id of one exposure, a BIGINT that is not negative."""
    return xxhash.xxh3_64_intdigest(f"{request_id}:{position}".encode()) >> 1
