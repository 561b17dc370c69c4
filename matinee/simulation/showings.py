"""The showings of titles that arrived during a run, from the exposure log."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from matinee.context import Day
from matinee.desk import literal
from matinee.simulation.new_titles import Showings
from serving.exposure_table import read


def log_since(day: Day, since: datetime) -> pa.Table:
    """The exposures from `since` on."""
    log = read(day.workspace.exposures)
    return log.filter(pc.greater_equal(log["event_timestamp"], pa.scalar(since, log["event_timestamp"].type)))


def new_title_traffic(
    day: Day, since: datetime, contexts: dict[date, tuple[np.ndarray, np.ndarray]]
) -> list[Showings]:
    """The showings since `since` of titles that became available later than that; `contexts` are (user ids, features) by day."""
    log = log_since(day, since)
    with day.desk.events() as connection:
        connection.register("log", log)
        rows = connection.sql(f"""
            SELECT event_timestamp::DATE AS day, user_id, title_id, position, epoch_us(event_timestamp) AS moment
            FROM log SEMI JOIN (SELECT title_id FROM titles WHERE available_from >= {literal(since)}) USING (title_id)
            WHERE artwork_id IS NOT NULL ORDER BY moment, user_id, position""").to_arrow_table()
    days = np.array(rows["day"].to_pylist(), dtype=object)
    columns = [rows[name].to_numpy() for name in ("user_id", "title_id", "position", "moment")]
    found = []
    for when, (ids, features) in contexts.items():
        mine = days == when
        user, title, position, at = (column[mine] for column in columns)
        place = np.minimum(np.searchsorted(ids, user), len(ids) - 1)
        context = np.where((ids[place] == user)[:, None], features[place], np.nan).astype(np.float32)
        found.append(Showings(user, title, position, at, context))
    return found
