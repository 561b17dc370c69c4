"""Where data sets are made: raw events and computed tables of one source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from events.lake import Lake
from events.sources import Source
from feature_repo.declarations import Declarations


@dataclass(frozen=True)
class Desk:
    """Where data sets are made: the lake, the computed tables and what is declared over them.

    Rows to rank lie in files of the folder `scratch`, or in memory where there is none.
    """

    source: Source
    lake: Lake
    offline: Path
    declarations: Declarations
    threads: int = 2
    scratch: Path | None = None

    @contextmanager
    def events(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection on which the raw event tables are views."""
        with duckdb.connect(config={"threads": self.threads}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            self.lake.register(connection)
            yield connection


def literal(moment: datetime) -> str:
    """A moment as SQL."""
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat(sep=' ')}'"
