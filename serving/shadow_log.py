"""What shadow versions would have done, beside what was shown: a log of its own next to the exposures.

A line for each page and shadow, as in the exposure log, in segments of a `DurableLog` of which the oldest go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from serving.exposures import checksummed, intact
from serving.manifest import Kind
from serving.segments import DurableLog

SUFFIX = ".shadows"
MAX_SEGMENT_BYTES = 16 * 2**20
KEEP_SEGMENTS = 16
"""With segments of 16 MiB: what the log may take is 256 MiB, about 15,000 pages of 200 candidates."""


class ShadowTitle(BaseModel):
    """One title that both versions judged; positions count from 0 and are null off the page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title_id: int
    shown_position: int | None
    shadow_position: int | None
    shown_score: float | None = None
    shadow_score: float | None = None
    shown_artwork_id: int | None = None
    shadow_artwork_id: int | None = None
    shadow_propensity: float | None = None


class ShadowRecord(BaseModel):
    """What one shadow made of one page. A score is the version's own: a ranker's objective, a retriever's product."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_timestamp: datetime
    request_id: str
    user_id: int
    generation: str
    live_set: str
    kind: Kind
    shadow: str
    shown: str | None
    titles: tuple[ShadowTitle, ...]


class ShadowLog:
    """Appends records from any thread; `append` returns once they are on disk."""

    def __init__(self, folder: Path, *, name: str, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        """Log into `folder`; `name` is unique to this writer, such as its start time and process id."""
        self._log = DurableLog(
            folder, name=name, suffix=SUFFIX, max_segment_bytes=max_segment_bytes, keep=KEEP_SEGMENTS
        )

    def append(self, record: ShadowRecord) -> None:
        """Log one record, durably.

        Raises:
            OSError: the disk refuses.
            LogClosed: the log has been closed.
        """
        self._log.append(checksummed(record))

    def close(self) -> None:
        """End the segment."""
        self._log.close()


def records(folder: Path) -> Iterator[ShadowRecord]:
    """Every record in `folder`, in the order of its segments. A missing folder has none.

    Raises:
        CorruptSegment: a segment is damaged other than by a crash.
    """
    for segment in sorted(folder.glob(f"*{SUFFIX}")):
        for body in intact(segment):
            yield ShadowRecord.model_validate_json(body)


def read(folder: Path) -> pa.Table:
    """Every record in `folder` as a row for each title."""
    of_page = [name for name in ShadowRecord.model_fields if name != "titles"]
    return pa.Table.from_pylist(
        [
            {name: getattr(record, name) for name in of_page} | title.model_dump()
            for record in records(folder)
            for title in record.titles
        ],
        schema=SHADOWS,
    )


SHADOWS = pa.schema(
    [
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
        ("request_id", pa.string()),
        ("user_id", pa.int64()),
        ("generation", pa.string()),
        ("live_set", pa.string()),
        ("kind", pa.string()),
        ("shadow", pa.string()),
        ("shown", pa.string()),
        ("title_id", pa.int64()),
        ("shown_position", pa.int64()),
        ("shadow_position", pa.int64()),
        ("shown_score", pa.float64()),
        ("shadow_score", pa.float64()),
        ("shown_artwork_id", pa.int64()),
        ("shadow_artwork_id", pa.int64()),
        ("shadow_propensity", pa.float64()),
    ]
)
"""A row for each page, shadow and title."""


@dataclass(frozen=True)
class Agreement:
    """How much of the pages of `shown` its `shadow` would have made the same. Shares are means over pages."""

    kind: Kind
    shadow: str
    shown: str | None
    pages: int
    same_first: float  # pages whose first title is the same
    same_titles: float  # of the titles on a page, those that are on the shadow's as well
    same_images: float | None  # of the images on a page; null where none were drawn


def agreements(found: Iterable[ShadowRecord]) -> tuple[Agreement, ...]:
    """The agreement of each pair of versions, by kind and references."""
    pairs: dict[tuple[Kind, str, str | None], list[tuple[float, float, float | None]]] = {}
    for record in found:
        pairs.setdefault((record.kind, record.shadow, record.shown), []).append(_agreed(record))
    return tuple(
        Agreement(
            *pair,
            pages=len(pages),
            same_first=_mean([first for first, _, _ in pages]),
            same_titles=_mean([titles for _, titles, _ in pages]),
            same_images=_mean(images) if (images := [i for _, _, i in pages if i is not None]) else None,
        )
        for pair, pages in sorted(pairs.items(), key=str)
    )


def _agreed(record: ShadowRecord) -> tuple[float, float, float | None]:
    shown = [title for title in record.titles if title.shown_position is not None]
    drawn = [title for title in shown if title.shadow_artwork_id is not None]
    first = {title.shadow_position for title in shown if title.shown_position == 0}
    images = [title.shown_artwork_id == title.shadow_artwork_id for title in drawn]
    both = [title.shadow_position is not None for title in shown]
    return float(first == {0}), _mean(both), _mean(images) if images else None


def _mean(values: list[float] | list[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
