"""Which computed file of a view the record took in last: the same file again has nothing to add."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from feature_repo.planning import recorded_digest
from feature_repo.record import Layout, View, layout_of


def has_taken(connection: duckdb.DuckDBPyConnection, view: View, layout: Layout, path: Path) -> bool:
    """Whether the view holds the rows of this very file, or newer ones of their entities."""
    digest = recorded_digest(path)
    if digest is None or layout_of(connection, view) != layout:
        return False
    if (
        not _exists(connection)
        or (digest,) not in connection.execute("SELECT file FROM taken WHERE view = ?", [view.key]).fetchall()
    ):
        return False
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {view.table}").fetchall()
    return bool(rows >= pq.read_metadata(path).num_rows)  # fewer: it was emptied since


def remember(connection: duckdb.DuckDBPyConnection, view: View, path: Path) -> None:
    """Note that the view took in this file, in the transaction that does it."""
    connection.execute("CREATE TABLE IF NOT EXISTS taken (view VARCHAR PRIMARY KEY, file VARCHAR NOT NULL)")
    if digest := recorded_digest(path):
        connection.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", [view.key, digest])


def _exists(connection: duckdb.DuckDBPyConnection) -> bool:
    return bool(connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'taken'").fetchall())
