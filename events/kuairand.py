"""KuaiRand-Pure as raw events: a short-video log with watch time (Gao et al., CIKM 2022; CC BY-SA 4.0).

The slice has no randomised exposures and no propensities, so what is measured on it is observational.
Lifetime counters published with it look into the future and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

FOLDER = "kuairand-pure"
COMPLETED_SHARE = 0.9

_LOG = "log_standard_2022-04-25_2022-05-06.parquet"
_HISTORIES = "user_histories_to_2022-04-24.parquet"
_USERS = "user_features_pure.csv"
_VIDEOS = "video_features_basic_pure.csv"
_KNOWN_SINCE = "TIMESTAMPTZ '2022-04-08 00:00:00+00'"  # the day before the first video and the first watch

_TITLES = f"""
SELECT video_id AS title_id, 'Video ' || video_id AS name, 'video' AS kind, 'real' AS origin,
       nullif(video_duration, 0) / 60000.0 AS runtime_minutes,
       list_transform(string_split(tag::VARCHAR, ','), lambda tag: 'tag_' || trim(tag)) AS genres,
       nullif(author_id, 0) AS author_id,
       upload_dt::TIMESTAMP AT TIME ZONE 'UTC' AS available_from,
       upload_dt::TIMESTAMP AT TIME ZONE 'UTC' AS event_timestamp,
       upload_dt::TIMESTAMP AT TIME ZONE 'UTC' AS created_timestamp
FROM read_csv('{{folder}}/{_VIDEOS}') ORDER BY video_id"""

_USER_ROWS = f"""
SELECT user_id, nullif(user_active_degree, 'UNKNOWN') AS activity_level,
       register_days::DOUBLE AS registered_days, follow_user_num::DOUBLE AS followed_count,
       fans_user_num::DOUBLE AS follower_count, friend_user_num::DOUBLE AS friend_count,
       is_video_author = 1 AS is_author,
       {_KNOWN_SINCE} AS event_timestamp, {_KNOWN_SINCE} AS created_timestamp
FROM read_csv('{{folder}}/{_USERS}') ORDER BY user_id"""

_SHOWN = f"""
SELECT row_number() OVER (ORDER BY time_ms, user_id, video_id, tab, play_time_ms, is_click) AS impression_id,
       *, make_timestamptz(time_ms * 1000) AS shown_at,
       make_timestamptz((time_ms + play_time_ms) * 1000) AS ended_at
FROM read_parquet('{{folder}}/{_LOG}')"""

_IMPRESSIONS = """
SELECT impression_id, user_id, video_id AS title_id, 'tab_' || tab AS surface,
       shown_at AS event_timestamp, shown_at AS created_timestamp
FROM shown ORDER BY impression_id"""

_HOVERS = """
SELECT impression_id AS hover_id, impression_id, user_id, video_id AS title_id, true AS clicked,
       shown_at AS event_timestamp, shown_at AS created_timestamp
FROM shown WHERE is_click = 1 ORDER BY impression_id"""

_PLAYS = f"""
SELECT impression_id AS play_id, impression_id, user_id, video_id AS title_id,
       play_time_ms / 60000.0 AS watch_minutes,
       CASE WHEN duration_ms > 0 THEN least(1, play_time_ms / duration_ms) END AS watch_share,
       CASE WHEN duration_ms > 0 THEN play_time_ms / duration_ms >= {COMPLETED_SHARE} END AS completed,
       shown_at AS event_timestamp, ended_at AS created_timestamp
FROM shown WHERE play_time_ms > 0 ORDER BY impression_id"""

_EARLIER = f"""
WITH watched AS (
    SELECT user_id, last_time_ms, unnest(watch_seq) AS title_id,
           unnest(range(len(watch_seq) - 1, -1, -1)) AS back
    FROM read_parquet('{{folder}}/{_HISTORIES}')
)
SELECT 1000000000 + user_id * 1000 + back AS play_id, user_id, title_id,
       make_timestamptz((last_time_ms - back) * 1000) AS event_timestamp,
       make_timestamptz((last_time_ms - back) * 1000) AS created_timestamp
FROM watched ORDER BY event_timestamp, play_id"""


def kuairand(data: Path) -> Iterator[tuple[str, pa.Table]]:
    """The event tables of the data set in `data`/kuairand-pure, entities first.

    One log row is one impression; ids number the log in order of (time, user, video). A clicked row is
    also a hover with a click, and a row with play time is a play: `completed` when at least 0.9 of the
    video's duration was played, unknown where no duration is. A play is reported when it ends.

    Of what users watched before the log only the order and the last moment are known. Those plays are
    set one millisecond apart, counted back from that moment: each happened at the latest then. They
    have no watch columns.
    """
    folder = str(data / FOLDER).replace("'", "''")
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        yield "titles", con.sql(_TITLES.format(folder=folder)).to_arrow_table()
        yield "users", con.sql(_USER_ROWS.format(folder=folder)).to_arrow_table()
        yield "plays", con.sql(_EARLIER.format(folder=folder)).to_arrow_table()
        con.execute(f"CREATE TEMP TABLE shown AS {_SHOWN.format(folder=folder)}")
        for table, query in (("impressions", _IMPRESSIONS), ("hovers", _HOVERS), ("plays", _PLAYS)):
            yield table, con.sql(query).to_arrow_table()
