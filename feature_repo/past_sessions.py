"""Sessions as they were: the session features of labels, each at the label's own moment, from raw plays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.arithmetic import Ref
from feature_repo.content import add_content
from feature_repo.declarations import InSession
from feature_repo.session import OfLastTitle, reading_sql, sessions_sql

Float32 = NDArray[np.float32]

Register = Callable[[duckdb.DuckDBPyConnection], None]
"""Makes views of the raw event tables on a connection, as `Lake.register` does."""

OfTitles = Callable[[pa.Table, Sequence[Ref]], Float32]
"""Stored features of titles, NaN where null: title_id and event_timestamp (n rows), features → (n, F)."""


def past_sessions(
    spine: pa.Table, computed: Sequence[InSession], events: Register, of_titles: OfTitles, threads: int
) -> tuple[Float32, str]:
    """(N, F) session features of each row of the spine at its `event_timestamp`, and a digest of what they are made of.

    A play at exactly that moment, or one heard of only then, was not known and does not count.
    """
    with duckdb.connect(config={"threads": threads}) as connection:
        events(connection)
        connection.execute("SET TimeZone = 'UTC'")
        sessions = _sessions(connection, spine, computed)
        refs = tuple(dict.fromkeys(c.reading.feature for c in computed if isinstance(c.reading, OfLastTitle)))
        asked = pa.table({"title_id": sessions["title_id"], "event_timestamp": sessions["moment"]})
        found = _with_titles(sessions, refs, of_titles(asked, refs) if refs else np.empty((len(asked), 0)))
        connection.register("found", found)
        columns = ", ".join(f"CAST({reading_sql(c.reading, 'f', _quoted)} AS FLOAT)" for c in computed)
        rows = connection.sql(f"""
            SELECT row_id, {columns} FROM labels l LEFT JOIN found f USING (user_id, moment) ORDER BY row_id""")
        values = [column.to_numpy() for column in rows.to_arrow_table().columns[1:]]
    return np.stack(values, axis=1).astype(np.float32, copy=False), _digest(found)


def _sessions(
    connection: duckdb.DuckDBPyConnection, spine: pa.Table, computed: Sequence[InSession]
) -> pa.Table:
    """One row for each user and moment of the spine at which any play counts."""
    numbered = spine.select(["user_id", "event_timestamp"])
    numbered = numbered.append_column("row_id", pa.array(np.arange(len(spine))))
    connection.register("spine_rows", numbered)
    connection.execute(
        "CREATE TEMP TABLE labels AS SELECT row_id, user_id, CAST(event_timestamp AS TIMESTAMPTZ) AS moment FROM spine_rows"
    )
    connection.execute("CREATE TEMP TABLE moments AS SELECT DISTINCT user_id, moment FROM labels")
    query = sessions_sql([c.reading for c in computed], max(c.newest for c in computed))
    return connection.sql(f"SELECT * FROM ({query}) ORDER BY user_id, moment").to_arrow_table()


def _with_titles(sessions: pa.Table, refs: Sequence[Ref], values: NDArray[np.floating]) -> pa.Table:
    for place, ref in enumerate(refs):
        column = pa.array(values[:, place], pa.float32(), from_pandas=True)  # NaN stands for null
        sessions = sessions.append_column(str(ref), column)
    return sessions


def _quoted(ref: Ref) -> str:
    return f'f."{ref}"'


def _digest(sessions: pa.Table) -> str:
    found = hashlib.sha256()
    add_content(found, sessions)
    return found.hexdigest()[:16]
