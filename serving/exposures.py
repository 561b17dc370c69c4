"""The exposure log: what was shown to whom, written once and on disk before the page is acknowledged.

One line per page, `<crc32 in hex> <page as JSON>`, in the segments of a `DurableLog`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from serving.answers import Page
from serving.segments import DurableLog, LogClosed

__all__ = ["CorruptSegment", "ExposureLog", "ExposureRecord", "LogClosed", "encode", "records"]

SEGMENT_SUFFIX = ".exposures"
MAX_SEGMENT_BYTES = 64 * 2**20


class ExposureRecord(BaseModel):
    """One page as logged: the page itself, when and where it was shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_timestamp: datetime
    surface: str = "homepage"
    page: Page


class CorruptSegment(ValueError):
    """A segment is damaged in a place where no crash can have left a half-written line."""

    def __init__(self, segment: Path, line: int) -> None:
        super().__init__(
            f"{segment}: line {line} fails its checksum and is not the last one. Restore the file, or move it "
            "away to go on without the exposures in it."
        )


def checksummed(record: BaseModel) -> bytes:
    """One line: `<crc32 in hex> <record as JSON>`."""
    body = record.model_dump_json().encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def encode(record: ExposureRecord) -> bytes:
    """One checksummed line."""
    return checksummed(record)


def intact(segment: Path) -> Iterator[bytes]:
    """What `checksummed` lines of a segment hold; a torn last line was never acknowledged and is left out.

    Raises:
        CorruptSegment: another line than the last fails its checksum.
    """
    lines = segment.read_bytes().split(b"\n")  # a whole file ends in b""; a torn one in its rest
    for number, line in enumerate(lines[:-1], start=1):
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            if number < len(lines) - 1 or lines[-1]:
                raise CorruptSegment(segment, number)
            return
        yield body


def records(segment: Path) -> Iterator[ExposureRecord]:
    """The records of a segment; raises as `intact` does."""
    for body in intact(segment):
        yield ExposureRecord.model_validate_json(body)


class ExposureLog:
    """Appends exposures from any thread; `append` returns once they are on disk."""

    def __init__(self, folder: Path, *, name: str, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        """Log into `folder`; `name` is unique to this writer, such as its start time and process id."""
        self._log = DurableLog(folder, name=name, suffix=SEGMENT_SUFFIX, max_segment_bytes=max_segment_bytes)

    def append(self, *records: ExposureRecord) -> None:
        """Log pages, one or several at once, durably.

        Raises:
            OSError: the disk refuses; the pages are then not logged, or not acknowledged.
            LogClosed: the log has been closed.
        """
        self._log.append(b"".join(encode(record) for record in records))

    def close(self) -> None:
        """End the segment; what was acknowledged is on disk already."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
