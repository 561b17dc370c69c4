"""The raw events: seven append-only tables, each row with when it happened and when we heard of it.

`event_timestamp` is when a thing happened, `created_timestamp` when it became known to us; both UTC.
A column that a source does not have is null there, and the source says so (`events.sources`).
"""

from __future__ import annotations

from validations.expectations import Between, ColumnContract, DType, NullShare, OneOf, TableContract

_ID = (NullShare(0), Between(low=0))
_WHEN = (
    ColumnContract("event_timestamp", DType.TIMESTAMP, (NullShare(0),)),
    ColumnContract("created_timestamp", DType.TIMESTAMP, (NullShare(0),)),
)
_SHARE = (Between(0, 1),)


def _id(name: str) -> ColumnContract:
    return ColumnContract(name, DType.BIGINT, _ID)


def _maybe_id(name: str) -> ColumnContract:
    return ColumnContract(name, DType.BIGINT, (Between(low=0),))


def _text(name: str, *allowed: str) -> ColumnContract:
    return ColumnContract(name, DType.VARCHAR, (OneOf(allowed),) if allowed else ())


def _number(name: str, low: float | None = None, high: float | None = None) -> ColumnContract:
    bounds = (Between(low, high),) if (low, high) != (None, None) else ()
    return ColumnContract(name, DType.DOUBLE, bounds)


def _flag(name: str) -> ColumnContract:
    return ColumnContract(name, DType.BOOLEAN)


def _table(name: str, key: str, *columns: ColumnContract) -> TableContract:
    return TableContract(name, (key,), (*columns, *_WHEN), not_after=("event_timestamp", "created_timestamp"))


THEME_COLUMNS = (
    "brightness",
    "warmth",
    "face_share",
    "action",
    "romance",
    "humour",
    "darkness",
    "text_share",
)
"""What an image shows, each 0..1: features of artwork, measured or simulated."""

TITLES = _table(
    "titles",
    "title_id",
    _id("title_id"),
    ColumnContract("name", DType.VARCHAR, (NullShare(0),)),
    _text("kind", "film", "video"),
    _text("origin", "real", "simulated"),  # a simulated title is always labelled as one
    _number("release_year", 1870, 2100),
    _number("runtime_minutes", 0, 1000),
    ColumnContract("genres", DType.VARCHARS),
    ColumnContract("cast_members", DType.VARCHARS),
    ColumnContract("directors", DType.VARCHARS),
    ColumnContract("languages", DType.VARCHARS),
    ColumnContract("countries", DType.VARCHARS),
    _maybe_id("author_id"),
    _text("imdb_id"),
    ColumnContract("available_from", DType.TIMESTAMP, (NullShare(0),)),
)
USERS = _table(
    "users",
    "user_id",
    _id("user_id"),
    _text("country"),
    _text("preferred_language"),
    _text("device"),
    _text("activity_level"),
    _number("registered_days", 0),
    _number("followed_count", 0),
    _number("follower_count", 0),
    _number("friend_count", 0),
    _flag("is_author"),
)
ARTWORKS = _table(
    "artworks",
    "artwork_id",
    _id("artwork_id"),
    _id("title_id"),
    _text("theme"),
    *(_number(name, 0, 1) for name in THEME_COLUMNS),
)
IMPRESSIONS = _table(
    "impressions",
    "impression_id",
    _id("impression_id"),
    _text("request_id"),
    _id("user_id"),
    _id("title_id"),
    _maybe_id("artwork_id"),
    _number("position", 0, 10_000),  # 0 is the first place of the page
    _text("surface"),
    _text("device"),
    _number("artwork_propensity", 0, 1),
    _text("arm"),
)
HOVERS = _table(
    "hovers",
    "hover_id",
    _id("hover_id"),
    _maybe_id("impression_id"),
    _id("user_id"),
    _id("title_id"),
    _maybe_id("artwork_id"),
    _number("dwell_seconds", 0, 3600),
    _flag("clicked"),
)
PLAYS = _table(
    "plays",
    "play_id",
    _id("play_id"),
    _maybe_id("impression_id"),
    _id("user_id"),
    _id("title_id"),
    _maybe_id("artwork_id"),
    _number("watch_minutes", 0, 2000),
    _number("watch_share", 0, 1),  # of the runtime, capped at 1
    _flag("completed"),
    _number("rating", 0.5, 5),
    _text("device"),
)
MEMBERSHIPS = _table(
    "memberships",
    "membership_id",
    _id("membership_id"),
    _id("user_id"),
    _text("status", "started", "renewed", "cancelled"),
    ColumnContract("period_start", DType.TIMESTAMP),
    ColumnContract("period_end", DType.TIMESTAMP),
)

TABLES: dict[str, TableContract] = {
    table.table: table for table in (TITLES, USERS, ARTWORKS, IMPRESSIONS, HOVERS, PLAYS, MEMBERSHIPS)
}
