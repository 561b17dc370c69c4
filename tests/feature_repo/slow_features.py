"""Random raw events of any source, and every stored feature of them worked out one event at a time from its name.

Slow, and obvious: Python lists and loops, no SQL, nothing of the compiler. A feature's own name says what it is.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import duckdb
from raw_events import NOON, SECOND, days, rows

from events.schema import TABLES, THEME_COLUMNS
from events.sources import Source

Row = dict[str, Any]
MICROSECOND = SECOND / 1_000_000
USERS, PEOPLE, AUTHORS = (1, 2, 1_000_009), "ABCD", (5, 6)
TITLES, ARTWORKS = (10, 11, 12, 13, 14), range(20, 27)
HOURS = {"night": range(6), "morning": range(6, 12), "afternoon": range(12, 18), "evening": range(18, 24)}
DECADES = {"before_1970": range(1970), "1970s": range(1970, 1980), "1980s": range(1980, 1990),
           "1990s": range(1990, 2000), "2000s": range(2000, 2010), "2010s": range(2010, 9999)}  # fmt: skip


def slug(label: str) -> str:
    return re.sub("[^a-z0-9]+", "_", label.lower())


@dataclass(frozen=True)
class RandomEvents:
    """Events of all seven tables around NOON: edges of windows, late arrivals, ties, nulls and unknown titles."""

    source: Source
    seed: int

    @cached_property
    def tables(self) -> dict[str, list[Row]]:
        chance = random.Random(self.seed)
        made = {
            "titles": self._titles(chance),
            "users": self._users(chance),
            "artworks": self._artworks(chance),
        }
        happen = {"impressions": 50, "plays": 45, "hovers": 30, "memberships": 12}
        for table, count in happen.items():
            key = TABLES[table].key[0]
            made[table] = [{key: i, **self._event(chance, table)} for i in range(count)]
        made["memberships"] += self._two_within_a_day()
        return {table: [self._had(table, row) for row in made[table]] for table in TABLES}

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        for name in TABLES:
            connection.register(f"{name}_rows", rows(name, *self.tables[name]))
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {name}_rows")

    @staticmethod
    def _two_within_a_day() -> list[Row]:
        def decided(number: int, status: str, hours: int) -> Row:
            when = NOON - hours * 3600 * SECOND
            return {"membership_id": number, "user_id": USERS[0], "status": status, "period_end": NOON + days(hours),
                    "event_timestamp": when, "created_timestamp": when}  # fmt: skip

        return [decided(100, "cancelled", 2), decided(101, "renewed", 1)]

    def _had(self, table: str, row: Row) -> Row:
        """What the source lacks is null."""
        return {
            column: None if f"{table}.{column}" in self.source.lacks else value
            for column, value in row.items()
        }

    def _when(self, chance: random.Random, newest: float = -0.01) -> Row:
        longest = self.source.windows[-1]
        edge = chance.choice((0, *self.source.windows)) * days(1) + chance.choice((-1, 0, 1)) * MICROSECOND
        within = days(chance.uniform(newest, longest * chance.choice((0.05, 0.3, 1.1))))
        at = NOON - (edge if chance.random() < 0.25 else within)
        late = chance.choice((0, 0, 0, 60, 86_400, 40 * 86_400)) * SECOND
        return {"event_timestamp": at, "created_timestamp": at + late}

    def _titles(self, chance: random.Random) -> list[Row]:
        def version(title: int, when: Row) -> Row:
            return {
                "title_id": title, "name": f"Title {title}", "origin": chance.choice(("real", "simulated")),
                "genres": chance.choice((None, [], chance.sample(self.source.genres, 2))),
                "languages": chance.sample(self.source.languages, 2) if self.source.languages else None,
                "cast_members": chance.choice((None, ["A"], ["A", "B", "A"], [chance.choice(PEOPLE), "C"])),
                "release_year": chance.choice((None, 1969.0, 1970.0, 1999.0, 2010.0)),
                "runtime_minutes": chance.choice((None, chance.uniform(1, 200))), "author_id": chance.choice((None, *AUTHORS)),
                "available_from": NOON - days(chance.choice((400, 5, 1e-9))) if title != 13 else NOON, **when,
            }  # fmt: skip

        first = {"event_timestamp": NOON - days(400), "created_timestamp": NOON - days(399)}
        later = [version(t, self._when(chance)) for t in TITLES for _ in range(2)]
        return [*(version(t, first) for t in TITLES), *later]

    def _users(self, chance: random.Random) -> list[Row]:
        def version(user: int, when: Row) -> Row:
            counts = ("registered_days", "followed_count", "follower_count", "friend_count")
            return {
                "user_id": user, "preferred_language": chance.choice((None, *self.source.languages)),
                "device": chance.choice((None, *self.source.devices)), "is_author": chance.choice((None, True, False)),
                **{name: chance.choice((None, chance.randrange(100))) for name in counts}, **when,
            }  # fmt: skip

        return [version(u, self._when(chance)) for u in USERS for _ in range(3)]

    def _artworks(self, chance: random.Random) -> list[Row]:
        long_ago = {"event_timestamp": NOON - days(300), "created_timestamp": NOON - days(300)}
        return [
            {"artwork_id": a, "title_id": chance.choice((*TITLES, 99)), **{c: chance.random() for c in THEME_COLUMNS},
             **(long_ago if chance.random() < 0.7 else self._when(chance))}
            for a in ARTWORKS
        ]  # fmt: skip

    def _event(self, chance: random.Random, table: str) -> Row:
        maybe: Callable[[Any], Any] = lambda value: chance.choice((None, value, value, value))  # noqa: E731
        what = {
            "impressions": {"position": maybe(float(chance.randrange(12)))},
            "plays": {"watch_minutes": maybe(chance.uniform(0, 200)), "watch_share": maybe(chance.random()),
                      "completed": maybe(chance.random() < 0.5), "rating": maybe(chance.randrange(1, 11) / 2)},
            "hovers": {"dwell_seconds": maybe(chance.uniform(0, 60)), "clicked": maybe(chance.random() < 0.5)},
            "memberships": {"status": chance.choice(("started", "renewed", "cancelled")),
                            "period_end": maybe(NOON + days(chance.uniform(-20, 40)))},
        }[table]  # fmt: skip
        device = {"device": chance.choice((None, "radio", *self.source.devices))}
        who = {"user_id": chance.choice(USERS)}
        who |= (
            {} if table == "memberships" else {"title_id": chance.choice((*TITLES[:-1], 99))}
        )  # one is never seen
        return {**who, **what, **(device if table in {"impressions", "plays"} else {}), **self._when(chance)}


def exact(value: float | None) -> float | None:
    """To the nearest 1/1024, halves away from zero, as the events come to the compiled SQL."""
    return None if value is None else math.copysign(math.floor(abs(value) * 1024 + 0.5), value) / 1024


def mean(values: Iterable[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None


def ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


@dataclass(frozen=True)
class SlowFeatures:
    """The features of one entity at NOON."""

    events: RandomEvents
    entity: str
    id: int

    def value(self, name: str) -> Any:
        """The feature of that name."""
        own = {"user": self._of_user, "title": self._of_title, "artwork": self._of_artwork}[self.entity]()
        if name in own:
            return own[name]
        if found := re.fullmatch(r"(play|click)_per_impression_(\d+)d", name):
            of = {"play": "play_count", "click": "clicked_sum"}[found[1]]
            return ratio(self.value(f"{of}_{found[2]}d"), self.value(f"impression_count_{found[2]}d"))
        if found := re.fullmatch(r"play_momentum_(\d+)d_of_(\d+)d", name):
            return ratio(self.value(f"play_count_{found[1]}d"), self.value(f"play_count_{found[2]}d"))
        if found := re.fullmatch(r"play_share_(\d+)d_(\w+)", name):
            return ratio(
                self.value(f"play_count_{found[1]}d_{found[2]}"), self.value(f"play_count_{found[1]}d")
            )
        found = re.fullmatch(r"(?P<column>\w+?)_(?P<function>count|sum|mean|std|share|nunique)_(?P<days>\d+)d(_(?P<slice>\w+))?", name)  # fmt: skip
        assert found, name
        return self._aggregate(found["column"], found["function"], int(found["days"]), found["slice"])

    # aggregates

    def _aggregate(self, column: str, function: str, over: int, slice_: str | None) -> float | None:
        relation = {"impression": "impressions", "position": "impressions", "above_fold": "impressions", "hover": "hovers",
                    "clicked": "hovers", "dwell_seconds": "hovers"}.get(column, "plays")  # fmt: skip
        mine = [e for e in self._recent(relation, over) if e[f"{self.entity}_id"] == self.id]
        mine = [e for e in mine if slice_ is None or self._within(e, slice_)]
        if function == "count":
            return len(mine)
        values = [self._column(event, column) for event in mine]
        known = [value for value in values if value is not None]
        if function == "nunique":
            return len(set(known))
        if function == "sum":
            return math.fsum(known)
        if function == "std":
            centre = mean(known)
            return (
                None
                if centre is None
                else math.sqrt(math.fsum((v - centre) ** 2 for v in known) / len(known))
            )
        return mean(known)  # of booleans, their share

    def _column(self, event: Row, column: str) -> Any:
        title = self._catalogue.get(event.get("title_id", -1), {})
        special: dict[str, Callable[[], Any]] = {
            "title": lambda: event["title_id"],
            "user": lambda: event["user_id"],
            "active_day": lambda: self._days_ago(event),
            "above_fold": lambda: None if event["position"] is None else event["position"] < 6,
            "release_year": lambda: title.get("release_year"),
            "runtime_minutes": lambda: exact(title.get("runtime_minutes")),
            "title_age_days": lambda: exact((event["event_timestamp"] - title["available_from"]) / days(1)) if title else None,
        }  # fmt: skip
        if column in special:
            return special[column]()
        if column.startswith("sketch_"):
            return self._sketch(event["title_id"], int(column.removeprefix("sketch_")))
        if column.startswith("audience_"):
            return self._leaning(event["user_id"], column.removeprefix("audience_"))
        if column.startswith("in_"):
            return self._within(event, column)
        return (
            exact(event[column])
            if column in {"watch_minutes", "watch_share", "rating", "dwell_seconds"}
            else event[column]
        )

    def _within(self, event: Row, slice_: str) -> bool:
        kind, label = slice_.split("_", 1)
        title, moment = self._catalogue.get(event["title_id"], {}), event["event_timestamp"]
        if kind == "in":
            return label in map(slug, title.get("genres") or ())
        if kind == "spoken":
            return label in map(slug, title.get("languages") or ())
        if kind == "from":
            return title.get("release_year") is not None and int(title["release_year"]) in DECADES[label]
        if kind == "at":
            return moment.hour in HOURS[label]
        return moment.weekday() >= 5 if label == "weekend" else event["device"] == label

    # what is known at NOON

    def _known(self, table: str) -> list[Row]:
        return [
            e
            for e in self.events.tables[table]
            if e["event_timestamp"] < NOON and e["created_timestamp"] < NOON
        ]

    def _recent(self, table: str, over: int | None = None) -> list[Row]:
        start = NOON - days(over or self.events.source.windows[-1])
        return [event for event in self._known(table) if event["event_timestamp"] >= start]

    @staticmethod
    def _days_ago(event: Row) -> int:
        return -((event["event_timestamp"] - NOON) // timedelta(days=1))

    def _newest(self, table: str, key: str) -> dict[int, Row]:
        ordered = sorted(self._known(table), key=lambda e: (e["event_timestamp"], e["created_timestamp"]))
        return {event[key]: event for event in ordered}

    @cached_property
    def _catalogue(self) -> dict[int, Row]:
        return self._newest("titles", "title_id")

    def _plays_of(self, title: int) -> int:
        return sum(play["title_id"] == title for play in self._recent("plays"))

    def _sketch(self, title: int, column: int) -> float | None:
        viewers = [play["user_id"] for play in self._recent("plays") if play["title_id"] == title]
        return exact(mean(sign(user, column) for user in viewers))

    def _leaning(self, user: int, slice_: str) -> float | None:
        mine = [e for e in self._recent("plays") if e["user_id"] == user and e["title_id"] in self._catalogue]
        return exact(mean(self._within(event, slice_) for event in mine))

    # the entities' own rows

    def _since_last(self, relation: str) -> int | None:
        mine = [e for e in self._recent(relation) if e[f"{self.entity}_id"] == self.id]
        return min(map(self._days_ago, mine), default=None)

    def _of_user(self) -> Row:
        user = self._newest("users", "user_id")[self.id]
        first = min(row["event_timestamp"] for row in self._known("users") if row["user_id"] == self.id)
        paid = [m for m in self._known("memberships") if m["user_id"] == self.id]
        last = max(
            paid, key=lambda m: (m["event_timestamp"], m["created_timestamp"], m["membership_id"]), default={}
        )
        left = last.get("period_end") and exact((last["period_end"] - NOON) / days(1))
        return {
            "days_member": exact((NOON - first) / days(1)),
            "days_since_play": self._since_last("plays"),
            "days_since_impression": self._since_last("impressions"),
            "days_since_click": self._since_last("hovers"),
            "renewal_count": sum(m["status"] == "renewed" for m in paid),
            "days_to_period_end": left,
            **{c: user[c] for c in ("registered_days", "followed_count", "follower_count", "friend_count", "is_author")},
            **{f"owns_{d}": None if user["device"] is None else user["device"] == d for d in self.events.source.devices},
            **{f"prefers_{slug(x)}": None if user["preferred_language"] is None else user["preferred_language"] == x
               for x in self.events.source.languages},
        }  # fmt: skip

    def _of_title(self) -> Row:
        title = self._catalogue[self.id]
        by_author = [
            t
            for t in self._catalogue.values()
            if t["author_id"] == title["author_id"] and t["title_id"] != self.id
        ]
        count = lambda values: None if values is None else len(values)  # noqa: E731
        return {
            "runtime_minutes": title["runtime_minutes"], "release_year": title["release_year"],
            "days_available": exact((NOON - title["available_from"]) / days(1)),
            "genre_count": count(title["genres"]), "cast_count": count(title["cast_members"]),
            "language_count": count(title["languages"]),
            "artwork_count": sum(image["title_id"] == self.id for image in self._known("artworks")),
            "cast_play_mean": exact(mean(self._fame(person) for person in set(title["cast_members"] or ()))),
            "author_play_count": None if title["author_id"] is None else sum(self._plays_of(t["title_id"]) for t in by_author),
            "is_simulated": title["origin"] == "simulated",
            "days_since_play": self._since_last("plays"),
            **{f"in_{slug(g)}": g in (title["genres"] or ()) for g in self.events.source.genres},
            **{f"spoken_{slug(x)}": x in (title["languages"] or ()) for x in self.events.source.languages},
            **{f"sketch_{i}": self._sketch(self.id, i) for i in range(8)},
        }  # fmt: skip

    def _fame(self, person: str) -> float | None:
        """Plays of an average title of this cast member other than this one."""
        others = [
            t
            for t in self._catalogue.values()
            if person in (t["cast_members"] or ()) and t["title_id"] != self.id
        ]
        return mean(self._plays_of(title["title_id"]) for title in others)

    def _of_artwork(self) -> Row:
        image = self._newest("artworks", "artwork_id")[self.id]
        genres = self._catalogue[image["title_id"]]["genres"] or ()
        flags = {f"in_{slug(g)}": g in genres for g in self.events.source.genres}
        return {**flags, **{column: image[column] for column in THEME_COLUMNS}}

    def exists(self) -> bool:
        """Whether the entity is known at NOON, and a title available too, an image's title known."""
        newest = self._newest(f"{self.entity}s", f"{self.entity}_id").get(self.id)
        if newest is None or self.entity == "user":
            return newest is not None
        return (
            newest["available_from"] < NOON
            if self.entity == "title"
            else newest["title_id"] in self._catalogue
        )


def sign(user: int, column: int) -> int:
    """±1 by the parity of a random cubic over the integers modulo a prime."""
    prime, chosen = 1_000_003, random.Random(column)
    a, b, c, d = (chosen.randrange(1, prime) for _ in range(4))
    u = user % prime
    return 1 if (a * u**3 + b * u**2 + c * u + d) % prime < prime // 2 else -1
