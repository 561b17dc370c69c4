"""What was known at `as_of`: the one place where a clock meets the raw events.

An event is known at `as_of` when it happened and had been heard of before it. Everything compiled
reads only the temporary tables made here, so no feature can see past `as_of`.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime

import duckdb

from events.sources import Source
from feature_repo.relations import DAYPARTS, ERAS, SKETCH_WIDTH, Relations, Slice, slug

_DAY = 86_400_000_000  # microseconds

FOLD = 6
"""Places of a page seen without scrolling."""


class NaiveTime(ValueError):
    """An `as_of` without a time zone: it would mean another moment on another machine."""

    def __init__(self, as_of: datetime) -> None:
        super().__init__(f"as_of {as_of!r} has no time zone. Write it in UTC: datetime(…, tzinfo=UTC).")


def known_at(connection: duckdb.DuckDBPyConnection, source: Source, as_of: datetime) -> None:
    """Fill the temporary tables `known_*` from the views of raw events on `connection`.

    Raises:
        NaiveTime: `as_of` has no time zone.
    """
    for name, sql in statements(source, as_of):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")


def statements(source: Source, as_of: datetime) -> tuple[tuple[str, str], ...]:
    """(temporary table, its query), in the order in which they must run."""
    if as_of.tzinfo is None:
        raise NaiveTime(as_of)
    r, moment = Relations(source), f"TIMESTAMPTZ '{as_of.astimezone(UTC).isoformat(sep=' ')}'"
    longest = source.windows[-1]
    return (
        ("known_catalogue", _newest("titles", "title_id", moment)),
        ("recent_plays", _recent("plays", moment, longest)),
        ("title_sketch", _sketch()),
        ("user_genre_share", _genre_shares(r)),
        ("known_titles", _titles(r, moment)),
        ("known_users", _users(r, moment)),
        ("known_artworks", _artworks(r, moment)),
        ("known_plays", _plays(r)),
        ("known_impressions", _impressions(r, moment, longest)),
        ("known_hovers", _hovers(r, moment, longest)),
        ("known_memberships", _memberships(moment)),
        ("known_history", _history(moment)),
    )


def _known(moment: str) -> str:
    return f"event_timestamp < {moment} AND created_timestamp < {moment}"


def _newest(table: str, key: str, moment: str) -> str:
    """The newest known row of each entity."""
    return f"""
        SELECT * FROM {table} WHERE {_known(moment)}
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC, created_timestamp DESC) = 1"""


def _recent(table: str, moment: str, longest: int) -> str:
    """Known rows of the longest window, with whole days before `as_of`: 1 is the last day.

    ceil(age / day) is at most n exactly when the row lies in [as_of − n days, as_of).
    """
    age = f"(epoch_us({moment}) - epoch_us(event_timestamp))"
    hour = "hour(event_timestamp AT TIME ZONE 'UTC')"
    parts = "".join(f", {hour} >= {a} AND {hour} < {b} AS at_{name}" for name, (a, b) in DAYPARTS.items())
    return f"""
        SELECT *, ({age} + {_DAY - 1}) // {_DAY} AS days_ago,
               isodow(event_timestamp AT TIME ZONE 'UTC') >= 6 AS on_weekend{parts}
        FROM {table}
        WHERE {_known(moment)} AND event_timestamp >= {moment} - INTERVAL {longest} DAY"""


def _exact(expression: str) -> str:
    """A value in 1/1024ths, so that sums of it do not depend on their order."""
    return f"round(({expression}) * 1024) / 1024"


def _sketch() -> str:
    """±1 a user and column, averaged over a title's plays: which users played it, in few numbers.

    The dot product of two titles' sketches estimates the overlap of their viewers without bias when
    the signs are four-wise independent (Alon, Matias & Szegedy 1996, section 2.2).
    """
    columns = ", ".join(_exact(f"avg({_sign(i)})") + f" AS sketch_{i}" for i in range(SKETCH_WIDTH))
    return f"SELECT title_id, {columns} FROM recent_plays GROUP BY title_id"


_PRIME = 1_000_003


def _sign(column: int) -> str:
    """±1 from a random cubic polynomial over a prime field: four-wise independent for users below it."""
    chosen = random.Random(column)  # noqa: S311  (fixed coefficients of a sketch, not a secret)
    a, b, c, d = (chosen.randrange(1, _PRIME) for _ in range(4))
    u = f"(user_id % {_PRIME})"
    value = f"(((({a} * {u} % {_PRIME} + {b}) * {u} % {_PRIME} + {c}) * {u} + {d}) % {_PRIME})"
    return f"CASE WHEN {value} < {_PRIME // 2} THEN 1.0 ELSE -1.0 END"


def _flag(slice_: Slice, labels: str, label: str) -> str:
    return f"coalesce(list_contains({labels}, '{label}'), false) AS {slice_.column}"


def _title_flags(r: Relations, alias: str) -> str:
    flags = [
        *(_flag(s, f"{alias}.genres", g) for s, g in zip(r.genres, r.source.genres, strict=True)),
        *(_flag(s, f"{alias}.languages", x) for s, x in zip(r.languages, r.source.languages, strict=True)),
    ]
    return "".join(f", {flag}" for flag in flags)


def _genre_shares(r: Relations) -> str:
    """Each user's share of recent plays in each genre, for `audience_*`."""
    shares = "".join(
        f", {_exact(f'avg(CAST(coalesce(list_contains(t.genres, {g!r}), false) AS DOUBLE))')} AS audience_{s.suffix}"
        for s, g in zip(r.genres, r.source.genres, strict=True)
    )
    return f"""
        SELECT p.user_id{shares} FROM recent_plays p JOIN known_catalogue t USING (title_id) GROUP BY p.user_id"""


def _titles(r: Relations, moment: str) -> str:
    sketch = ", ".join(f"s.sketch_{i}" for i in range(SKETCH_WIDTH))
    return f"""
        WITH played AS (SELECT title_id, count(*) AS plays FROM recent_plays GROUP BY title_id),
        member AS (SELECT title_id, unnest(list_distinct(cast_members)) AS person FROM known_catalogue),
        person AS (SELECT person, sum(coalesce(plays, 0)) AS plays, count(*) AS titles
                   FROM member LEFT JOIN played USING (title_id) GROUP BY person),
        fame AS (SELECT title_id, {_exact("avg((p.plays - coalesce(q.plays, 0)) / nullif(p.titles - 1, 0))")} AS cast_play_mean
                 FROM member JOIN person p USING (person) LEFT JOIN played q USING (title_id) GROUP BY title_id),
        author AS (SELECT author_id, sum(plays) AS plays FROM known_catalogue JOIN played USING (title_id)
                   WHERE author_id IS NOT NULL GROUP BY author_id),
        image AS (SELECT title_id, count(*) AS images FROM artworks WHERE {_known(moment)} GROUP BY title_id)
        SELECT t.title_id, t.runtime_minutes, t.release_year,
               {_exact(f"(epoch_us({moment}) - epoch_us(t.available_from)) / {_DAY}.0")} AS days_available,
               len(t.genres) AS genre_count, len(t.cast_members) AS cast_count, len(t.languages) AS language_count,
               coalesce(i.images, 0) AS artwork_count, f.cast_play_mean, t.origin = 'simulated' AS is_simulated,
               CASE WHEN t.author_id IS NOT NULL THEN coalesce(a.plays, 0) - coalesce(p.plays, 0) END AS author_play_count,
               {sketch}{_title_flags(r, "t")}
        FROM known_catalogue t LEFT JOIN title_sketch s USING (title_id) LEFT JOIN fame f USING (title_id)
        LEFT JOIN author a USING (author_id) LEFT JOIN played p USING (title_id) LEFT JOIN image i USING (title_id)
        WHERE t.available_from < {moment}"""


def _users(r: Relations, moment: str) -> str:
    flags = "".join(
        [
            *(f", preferred_language = '{x}' AS prefers_{slug(x)}" for x in r.source.languages),
            *(f", device = '{d}' AS owns_{slug(d)}" for d in r.source.devices),
        ]
    )
    first = f"SELECT user_id, min(event_timestamp) AS first_seen FROM users WHERE {_known(moment)} GROUP BY user_id"
    return f"""
        SELECT user_id, {_exact(f"(epoch_us({moment}) - epoch_us(first_seen)) / {_DAY}.0")} AS days_member,
               registered_days, followed_count, follower_count, friend_count, is_author{flags}
        FROM ({_newest("users", "user_id", moment)}) JOIN ({first}) USING (user_id)"""


def _artworks(r: Relations, moment: str) -> str:
    return f"""
        SELECT a.* EXCLUDE (event_timestamp, created_timestamp){_title_flags(r, "t")}
        FROM ({_newest("artworks", "artwork_id", moment)}) a JOIN known_catalogue t USING (title_id)"""


def _plays(r: Relations) -> str:
    eras = "".join(
        f", coalesce(t.release_year >= {low} AND t.release_year < {high}, false) AS from_{era}"
        for era, (low, high) in ERAS.items()
    )
    devices = "".join(f", coalesce(p.device = '{d}', false) AS on_{slug(d)}" for d in r.source.devices)
    sketch = "".join(f", s.sketch_{i}" for i in range(SKETCH_WIDTH))
    audience = "".join(f", g.audience_{s.suffix}" for s in r.genres)
    return f"""
        SELECT p.* EXCLUDE (watch_minutes, watch_share, rating),
               {_exact("p.watch_minutes")} AS watch_minutes, {_exact("p.watch_share")} AS watch_share,
               {_exact("p.rating")} AS rating, t.release_year, {_exact("t.runtime_minutes")} AS runtime_minutes,
               {_exact(f"(epoch_us(p.event_timestamp) - epoch_us(t.available_from)) / {_DAY}.0")} AS title_age_days
               {sketch}{audience}{_title_flags(r, "t")}{eras}{devices}
        FROM recent_plays p LEFT JOIN known_catalogue t USING (title_id)
        LEFT JOIN title_sketch s USING (title_id) LEFT JOIN user_genre_share g USING (user_id)"""


def _impressions(r: Relations, moment: str, longest: int) -> str:
    devices = "".join(f", coalesce(i.device = '{d}', false) AS on_{slug(d)}" for d in r.source.devices)
    return f"""
        SELECT i.*, i.position < {FOLD} AS above_fold{devices}{_title_flags(r, "t")}
        FROM ({_recent("impressions", moment, longest)}) i LEFT JOIN known_catalogue t USING (title_id)"""


def _hovers(r: Relations, moment: str, longest: int) -> str:
    return f"""
        SELECT h.* EXCLUDE (dwell_seconds), {_exact("h.dwell_seconds")} AS dwell_seconds{_title_flags(r, "t")}
        FROM ({_recent("hovers", moment, longest)}) h LEFT JOIN known_catalogue t USING (title_id)"""


def _memberships(moment: str) -> str:
    age = f"(epoch_us({moment}) - epoch_us(event_timestamp))"
    return f"""
        SELECT user_id, ({age} + {_DAY - 1}) // {_DAY} AS days_ago, status,
               row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC, created_timestamp DESC,
                                  membership_id DESC) AS newest,
               {_exact(f"(epoch_us(period_end) - epoch_us({moment})) / {_DAY}.0")} AS days_to_end
        FROM memberships WHERE {_known(moment)}"""


def _history(moment: str) -> str:
    """Every known play; (event_timestamp, play_id) breaks ties the same way everywhere."""
    columns = "user_id, title_id, event_timestamp, created_timestamp, play_id"
    return f"SELECT {columns} FROM plays WHERE {_known(moment)}"
