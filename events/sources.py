"""What each source of events has and lacks: the facts that feature declarations depend on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches

from events.schema import TABLES


@dataclass(frozen=True)
class Source:
    """One source of raw events.

    `lacks` lists `table` or `table.column`; whatever needs one of them is unavailable for this source.
    `windows` are the look-back windows in days, shortest first. `period` is the length of one label
    period: features are snapshotted at its start, its events are the labels; models train on
    `train_periods` of them. `latest` is the last `as_of` with a whole period of events before it.
    """

    name: str
    lacks: frozenset[str]
    windows: tuple[int, ...]
    genres: tuple[str, ...]
    languages: tuple[str, ...]
    devices: tuple[str, ...]
    period: timedelta
    train_periods: int
    latest: datetime
    description: str

    def __post_init__(self) -> None:
        known = {*TABLES, *(f"{t.table}.{c.name}" for t in TABLES.values() for c in t.columns)}
        for missing in self.lacks - known:
            near = get_close_matches(missing, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LookupError(f"source {self.name!r} lacks {missing!r}, which no event table has.{hint}")
        if list(self.windows) != sorted(set(self.windows)):
            raise ValueError(f"source {self.name!r}: windows {self.windows} are not strictly ascending.")

    def has(self, *needs: str) -> bool:
        """Whether every `table` or `table.column` in `needs` is present."""
        return not self.missing(*needs)

    def missing(self, *needs: str) -> tuple[str, ...]:
        """Those of `needs` that this source lacks, a whole table counting for its columns."""
        return tuple(need for need in needs if need in self.lacks or need.split(".")[0] in self.lacks)


FILM_GENRES = (
    "Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama", "Family",
    "Fantasy", "History", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Sport", "Thriller", "War",
    "Western",
)  # fmt: skip
FILM_LANGUAGES = ("English", "French", "Spanish", "German", "Italian", "Japanese", "Hindi", "Russian")

DEVICES = ("tv", "phone", "tablet", "web")

KUAIRAND_TAGS = tuple(
    f"tag_{tag}" for tag in (39, 12, 9, 3, 6, 20, 7, 17, 62, 11, 15, 68, 43, 2, 4, 8, 25, 1, 19, 28)
)
"""The twenty most viewed of its numeric tags, which have no published names."""

WORLD = Source(
    name="world",
    lacks=frozenset({
        "titles.author_id", "users.activity_level", "users.registered_days", "users.followed_count",
        "users.follower_count", "users.friend_count", "users.is_author", "plays.rating",
    }),
    windows=(1, 3, 7, 14, 28),
    genres=FILM_GENRES,
    languages=FILM_LANGUAGES,
    devices=DEVICES,
    period=timedelta(days=1),
    train_periods=6,
    latest=datetime(2026, 2, 5, tzinfo=UTC),
    description="17,470 real films, everything else simulated (docs/world.md)",
)  # fmt: skip

KUAIRAND = Source(
    name="kuairand",
    lacks=frozenset({
        "titles.release_year", "titles.cast_members", "titles.directors", "titles.languages",
        "titles.countries", "titles.imdb_id", "users.country", "users.preferred_language", "users.device",
        "artworks", "impressions.artwork_id", "impressions.position", "impressions.device",
        "impressions.artwork_propensity", "impressions.request_id", "impressions.arm",
        "hovers.dwell_seconds", "hovers.artwork_id", "plays.artwork_id", "plays.rating", "plays.device",
        "memberships",
    }),
    windows=(1, 2, 4, 7, 28),
    genres=KUAIRAND_TAGS,
    languages=(),
    devices=(),
    period=timedelta(days=1),
    train_periods=6,
    latest=datetime(2022, 5, 6, tzinfo=UTC),
    description="KuaiRand-Pure: a short-video log with watch time (CC BY-SA 4.0)",
)  # fmt: skip

MOVIELENS = Source(
    name="movielens",
    lacks=frozenset({
        "titles.author_id", "users.country", "users.preferred_language", "users.device",
        "users.activity_level", "users.registered_days", "users.followed_count", "users.follower_count",
        "users.friend_count", "users.is_author", "artworks", "impressions", "hovers",
        "plays.impression_id", "plays.artwork_id", "plays.watch_minutes", "plays.watch_share",
        "plays.completed", "plays.device", "memberships",
    }),
    windows=(7, 30, 90, 365, 3650),
    genres=FILM_GENRES,
    languages=FILM_LANGUAGES,
    devices=(),
    period=timedelta(days=180),  # 37 users rate anything in its last 180 days
    train_periods=16,
    latest=datetime(2018, 9, 25, tzinfo=UTC),
    description="MovieLens latest-small: ratings joined to film metadata by IMDb id (research use)",
)  # fmt: skip

SOURCES: dict[str, Source] = {source.name: source for source in (WORLD, KUAIRAND, MOVIELENS)}
