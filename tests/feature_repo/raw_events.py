"""A few raw events written by hand, and a slow, obvious way to count them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa

from events.schema import TABLES
from events.sources import WORLD

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
GENRES = {10: ["Drama", "Crime"], 11: ["Comedy"], 12: ["Drama"]}


def days(n: float) -> timedelta:
    return timedelta(days=n)


@dataclass(frozen=True)
class Play:
    at: datetime
    learned: datetime
    user_id: int = 1
    title_id: int = 10
    watch_minutes: float | None = 30.0
    watch_share: float | None = 0.5
    completed: bool | None = False
    device: str | None = "tv"
    play_id: int = field(default=0, compare=False)


def play(at: datetime, learned: datetime | None = None, **more: object) -> Play:
    return Play(at=at, learned=learned or at, **more)  # type: ignore[arg-type]


ARROW = {
    "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "VARCHAR": pa.string(), "BOOLEAN": pa.bool_(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"), "VARCHAR[]": pa.list_(pa.string()),
}  # fmt: skip


def rows(table: str, *records: dict[str, object]) -> pa.Table:
    """Records as one of the event tables, null where nothing is said."""
    schema = pa.schema([(c.name, ARROW[c.dtype.value]) for c in TABLES[table].columns])
    return pa.Table.from_pylist(
        [{name: record.get(name) for name in schema.names} for record in records], schema=schema
    )


def register(connection: duckdb.DuckDBPyConnection, plays: Sequence[Play], **others: pa.Table) -> None:
    """Views of all seven event tables on `connection`; three titles, two users, and these plays."""
    long_ago = NOON - days(300)
    when = {"event_timestamp": long_ago, "created_timestamp": long_ago}
    titles = [
        {"title_id": t, "name": f"Title {t}", "genres": g, "languages": ["English"], "release_year": 1990.0 + t,
         "cast_members": ["A", f"B{t}"], "runtime_minutes": 60.0, "origin": "real", "available_from": long_ago, **when}
        for t, g in GENRES.items()
    ]  # fmt: skip
    users = [{"user_id": u, "preferred_language": "English", "device": "tv", **when} for u in (1, 2)]
    played = [
        {"play_id": i, "user_id": p.user_id, "title_id": p.title_id, "watch_minutes": p.watch_minutes,
         "watch_share": p.watch_share, "completed": p.completed, "device": p.device,
         "event_timestamp": p.at, "created_timestamp": p.learned}
        for i, p in enumerate(plays)
    ]  # fmt: skip
    known = {
        "titles": rows("titles", *titles),
        "users": rows("users", *users),
        "plays": rows("plays", *played),
    }
    for name in TABLES:
        table = others.get(name, known.get(name, rows(name)))
        connection.register(f"{name}_rows", table)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {name}_rows")


def in_window(p: Play, as_of: datetime, n: int) -> bool:
    """Happened in [as_of − n days, as_of) and had been heard of before as_of."""
    return as_of - days(n) <= p.at < as_of and p.learned < as_of


def by_hand(plays: Sequence[Play], as_of: datetime, n: int) -> dict[int, dict[str, float | None]]:
    """A few user features of the last n days, counted one play at a time."""
    found: dict[int, dict[str, float | None]] = {}
    for user in (1, 2):
        mine = [p for p in plays if p.user_id == user and in_window(p, as_of, n)]
        drama = [p for p in mine if "Drama" in GENRES[p.title_id]]
        shares = [p.watch_share for p in mine if p.watch_share is not None]
        done = [p.completed for p in mine if p.completed is not None]
        mean = math.fsum(shares) / len(shares) if shares else None
        found[user] = {
            f"play_count_{n}d": float(len(mine)),
            f"watch_minutes_sum_{n}d": math.fsum(
                p.watch_minutes for p in mine if p.watch_minutes is not None
            ),
            f"watch_share_mean_{n}d": mean,
            f"watch_share_std_{n}d": math.sqrt(math.fsum((s - mean) ** 2 for s in shares) / len(shares))
            if shares
            else None,
            f"completed_share_{n}d": sum(done) / len(done) if done else None,
            f"title_nunique_{n}d": float(len({p.title_id for p in mine})),
        }
        if n == WORLD.windows[-1]:  # slices are declared for the longest window
            minutes = math.fsum(p.watch_minutes for p in drama if p.watch_minutes is not None)
            found[user][f"watch_minutes_sum_{n}d_in_drama"] = minutes
    return found
