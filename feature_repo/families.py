"""The feature families: metric × window × slice, for whatever source of events is given.

To add a feature, add a line here. Its name, description, expectation, digest, Feast schema, contract,
packed place and documentation follow.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from events.schema import THEME_COLUMNS
from events.sources import Source
from feature_repo.arithmetic import Ref
from feature_repo.declarations import (
    AGES,
    ARTWORK,
    KNOWN,
    NON_NEGATIVE,
    SHARE,
    TITLE,
    USER,
    Aggregated,
    Attribute,
    Declarations,
    Feature,
    FeatureService,
    FeatureTable,
    InSession,
    Kept,
    Weight,
)
from feature_repo.measures import Measure, derived
from feature_repo.pairs import pair_features
from feature_repo.relations import SKETCH_WIDTH, Relations, slug
from feature_repo.session import KEPT_IN, MinutesSincePlay, OfLastTitle, PlaysInSession, Reading
from validations.expectations import Between, DType, Expectation, Quarantine

KEPT_PLAYS = 50
"""The newest plays of a user that the online store keeps: the watch history, and what sessions are read from."""

DAY, SESSION_GAP = 1440, 30
"""Minutes: how long ago the last play may be, and how far apart the plays of one session."""

FOR_EVER = 36_500
"""Days; a play stays what it was."""

FEW_ROWS = Quarantine(at_most=0.001)
"""In the wide tables of activity, one entity in a thousand may be set aside rather than stop the day for all."""


def _needs(*columns: str) -> frozenset[str]:
    return frozenset(columns)


_PLAY = Measure("plays", "play", "count", "plays", "plays", _needs("plays"))
_MINUTES = Measure(
    "plays", "watch_minutes", "sum", "minutes watched", "minutes", _needs("plays.watch_minutes")
)
_USER_MINUTES = Measure(
    "plays", "watch_minutes", "sum", "minutes watched", "minutes", _needs("plays.watch_minutes"), per_day=1440
)
_MINUTES_MEAN = Measure(
    "plays", "watch_minutes", "mean", "minutes a play", "minutes", _needs("plays.watch_minutes")
)
_SHARE_MEAN = Measure(
    "plays", "watch_share", "mean", "share of the runtime watched", "share",
    _needs("plays.watch_share"), bounds=Between(0, 1),
)  # fmt: skip
_SHARE_STD = Measure(
    "plays", "watch_share", "std", "share of the runtime watched", "share",
    _needs("plays.watch_share"), bounds=Between(0, 0.5),
)  # fmt: skip
_COMPLETED = Measure(
    "plays", "completed", "share", "plays watched to the end", "share", _needs("plays.completed")
)
_RATING = Measure(
    "plays", "rating", "mean", "stars given", "stars", _needs("plays.rating"), bounds=Between(0.5, 5)
)
_RATING_STD = Measure(
    "plays", "rating", "std", "stars given", "stars", _needs("plays.rating"), bounds=Between(0, 2.25)
)
_TITLES = Measure(
    "plays", "title", "nunique", "titles played", "titles", _needs("plays"), value_column="title_id"
)
_VIEWERS = Measure(
    "plays", "user", "nunique", "users who played it", "users", _needs("plays"), value_column="user_id"
)
_ACTIVE_DAYS = Measure("plays", "active_day", "nunique", "days with a play", "days", _needs("plays"), value_column="days_ago", per_day=1)  # fmt: skip
_YEAR = Measure("plays", "release_year", "mean", "release year of what was played", "year", _needs("titles.release_year"), bounds=Between(1870, 2100))  # fmt: skip
_RUNTIME = Measure("plays", "runtime_minutes", "mean", "runtime of what was played", "minutes", _needs("titles.runtime_minutes"))  # fmt: skip
_TITLE_AGE = Measure("plays", "title_age_days", "mean", "days since release when played", "days", _needs("plays"), bounds=Between(-1e5, 1e5))  # fmt: skip
_SHOWN = Measure("impressions", "impression", "count", "titles shown", "impressions", _needs("impressions"))
_POSITION = Measure(
    "impressions", "position", "mean", "position shown at", "position", _needs("impressions.position")
)
_ABOVE_FOLD = Measure("impressions", "above_fold", "share", "impressions in the first six places", "share", _needs("impressions.position"))  # fmt: skip
_HOVER = Measure("hovers", "hover", "count", "hovers", "hovers", _needs("hovers.dwell_seconds"))
_CLICK = Measure("hovers", "clicked", "sum", "clicks", "clicks", _needs("hovers.clicked"))
_CLICK_SHARE = Measure("hovers", "clicked", "share", "hovers that led to a click", "share", _needs("hovers.dwell_seconds", "hovers.clicked"))  # fmt: skip
_DWELL = Measure(
    "hovers", "dwell_seconds", "sum", "seconds hovered", "seconds", _needs("hovers.dwell_seconds")
)
_DWELL_MEAN = Measure(
    "hovers", "dwell_seconds", "mean", "seconds a hover", "seconds", _needs("hovers.dwell_seconds")
)

_USER_BASE = (
    _PLAY, _USER_MINUTES, _MINUTES_MEAN, _SHARE_MEAN, _SHARE_STD, _COMPLETED, _RATING, _RATING_STD, _TITLES,
    _ACTIVE_DAYS, _YEAR, _RUNTIME, _TITLE_AGE, _SHOWN, _POSITION, _HOVER, _CLICK, _CLICK_SHARE, _DWELL, _DWELL_MEAN,
)  # fmt: skip
_TITLE_BASE = (
    _PLAY, _VIEWERS, _MINUTES, _MINUTES_MEAN, _SHARE_MEAN, _SHARE_STD, _COMPLETED, _RATING, _RATING_STD, _SHOWN,
    _POSITION, _ABOVE_FOLD, _HOVER, _CLICK, _CLICK_SHARE, _DWELL, _DWELL_MEAN,
)  # fmt: skip


def _rates(table: str, days: int) -> list[Feature]:
    """Plays and clicks for each time shown."""
    shown = Ref(table, f"impression_count_{days}d")
    over = f"over the last {days} days" if days > 1 else "over the last day"
    return [
        derived(
            f"play_per_impression_{days}d", Ref(table, f"play_count_{days}d") / shown, f"plays for each impression {over}",
            "ratio", _needs("plays", "impressions"), (NON_NEGATIVE,), days,
        ),
        derived(
            f"click_per_impression_{days}d", Ref(table, f"clicked_sum_{days}d") / shown,
            f"clicks for each impression {over}", "ratio", _needs("hovers.clicked", "impressions"), (NON_NEGATIVE,), days,
        ),
    ]  # fmt: skip


def _part(table: str, part: Feature, whole: str, name: str, reads: str) -> Feature:
    """The share of `whole` that falls within a slice."""
    expression = Ref(table, part.name) / Ref(table, whole)
    return derived(name, expression, f"share of {reads}", "share", part.needs, (SHARE,), part.over)


def _attribute(r: Relations, relation: str, column: str, reads: str, unit: str, needs: frozenset[str], *expect: Expectation) -> Feature:  # fmt: skip
    value = r.named(relation)[column].cast("float64")
    return Feature(column, Attribute(value), reads, unit, expect, needs)


def _user_profile(r: Relations) -> FeatureTable:
    week, long = r.source.windows[2], r.source.windows[-1]
    table = "user_profile"
    counts = [_PLAY.over(r, long, s) for s in (*r.dayparts, *r.weekend)]
    genres = [_PLAY.over(r, long, s) for s in r.genres]
    features = [
        replace(_attribute(r, "users", "days_member", "days since the user was first known", "days", _needs("users"), KNOWN, NON_NEGATIVE), drift=AGES),
        *(m.over(r, d) for m in (_PLAY, _USER_MINUTES, _SHOWN, _HOVER, _CLICK) for d in (week, long)),
        *(m.over(r, long) for m in (_SHARE_MEAN, _COMPLETED, _RATING, _TITLES, _ACTIVE_DAYS, _YEAR, _RUNTIME, _TITLE_AGE, _CLICK_SHARE, _DWELL_MEAN)),
        *_rates(table, week),
        *_rates(table, long),
        *genres,
        *counts,
        *(_part(table, c, f"play_count_{long}d", f"{c.name.replace('count', 'share')}", c.description.removeprefix("number of ")) for c in counts),
        *(_attribute(r, "users", f"owns_{slug(d)}", f"whether {d} is the user's usual device", "flag", _needs("users.device"), SHARE) for d in r.source.devices),
        *(_attribute(r, "users", f"prefers_{slug(x)}", f"whether the user prefers {x}", "flag", _needs("users.preferred_language"), SHARE) for x in r.source.languages),
        *(_attribute(r, "users", c, reads, "count", _needs(f"users.{c}"), NON_NEGATIVE) for c, reads in (
            ("registered_days", "days since registration, as the source tells"), ("followed_count", "users followed"),
            ("follower_count", "users following"), ("friend_count", "friends"), ("is_author", "whether the user uploads"))),
        *_sketch(r),
    ]  # fmt: skip
    return FeatureTable(table, USER, Weight.LIGHT, "Who the user is and what they lean to.", tuple(features))


def _user_taste(r: Relations) -> FeatureTable:
    """Narrow on purpose: the context of the artwork choice is all of it."""
    features = tuple(
        Measure("plays", s.column, "share", f"plays that were {s.reads}", "share", s.needs | {"plays"}).over(
            r, r.source.windows[-1]
        )
        for s in r.genres
    )
    return FeatureTable(
        "user_taste", USER, Weight.LIGHT, "Which genres the user's plays belong to.", features
    )


def _sketch(r: Relations) -> list[Feature]:
    """Co-watching from similar users: the mean sketch of the titles played (docs: collaborative signals)."""
    bound = Between(-1, 1)
    return [
        Measure("plays", f"sketch_{i}", "mean", f"co-watch sketch {i} of the titles played", "projection",
                _needs("plays"), bounds=bound).over(r, r.source.windows[-1])
        for i in range(SKETCH_WIDTH)
    ]  # fmt: skip


def _title_profile(r: Relations) -> FeatureTable:
    long = r.source.windows[-1]
    table = "title_profile"
    attributes = (
        ("runtime_minutes", "how long it runs", "minutes", "titles.runtime_minutes"),
        ("release_year", "year of release", "year", "titles.release_year"),
        ("days_available", "days since it became available", "days", "titles"),
        ("genre_count", "genres it belongs to", "genres", "titles.genres"),
        ("cast_count", "members of the cast", "people", "titles.cast_members"),
        ("language_count", "languages spoken", "languages", "titles.languages"),
        ("artwork_count", "images to choose from", "images", "artworks"),
        ("cast_play_mean", f"plays in {long} days of an average cast member's other titles", "plays", "titles.cast_members"),
        ("author_play_count", f"plays in {long} days of the author's other titles", "plays", "titles.author_id"),
    )  # fmt: skip
    features = [
        *(_attribute(r, "titles", c, reads, unit, _needs(need), NON_NEGATIVE) for c, reads, unit, need in attributes),
        *(_attribute(r, "titles", s.column, f"whether it is {s.reads}", "flag", s.needs, KNOWN, SHARE) for s in (*r.genres, *r.languages)),
        *(m.over(r, d) for m in (_PLAY, _SHOWN, _CLICK) for d in r.source.windows),
        *(m.over(r, long) for m in (_VIEWERS, _SHARE_MEAN, _COMPLETED, _RATING, _HOVER, _CLICK_SHARE)),
        *(f for d in r.source.windows for f in _rates(table, d)),
        *_momentum(table, r),
        *(_attribute(r, "titles", f"sketch_{i}", f"co-watch sketch {i}: which users played it", "projection", _needs("plays"), Between(-1, 1)) for i in range(SKETCH_WIDTH)),
    ]  # fmt: skip
    return FeatureTable(table, TITLE, Weight.LIGHT, "What the title is and how it does.", tuple(features))


def _user_activity(r: Relations) -> FeatureTable:
    windows, (week, long) = r.source.windows, (r.source.windows[2], r.source.windows[-1])
    table = "user_activity"
    by_genre = (_USER_MINUTES, _SHARE_MEAN, _COMPLETED, _RATING, _CLICK)
    features = [
        *(m.over(r, d) for m in _USER_BASE for d in windows),
        *(f for d in windows for f in _rates(table, d)),
        *(_PLAY.over(r, week, s) for s in r.genres),
        *(m.over(r, long, s) for m in by_genre for s in r.genres),
        *(_SHOWN.over(r, long, s) for s in r.genres),
        *(m.over(r, long, s) for m in (_USER_MINUTES, _COMPLETED) for s in (*r.dayparts, *r.weekend)),
        *(m.over(r, long, s) for m in (_PLAY, _COMPLETED) for s in (*r.devices, *r.languages, *r.eras)),
        *_recency(r), *_membership(r),
    ]  # fmt: skip
    return FeatureTable(
        table,
        USER,
        Weight.HEAVY,
        "What the user did, by window, genre, time and device.",
        _beyond(_user_profile(r), features),
        quarantine=FEW_ROWS,
    )


def _beyond(light: FeatureTable, features: list[Feature]) -> tuple[Feature, ...]:
    """Those that the entity's light table does not hold already: a feature is stored once."""
    return tuple(feature for feature in features if feature.name not in light.names)


def _recency(r: Relations) -> list[Feature]:
    rows = (
        ("plays", "play", "plays"),
        ("impressions", "impression", "impressions"),
        ("hovers", "click", "hovers"),
    )
    return [
        Feature(f"days_since_{noun}", Aggregated(relation, r.named(relation).days_ago.min()),
                f"days since the last {noun}, 1 for the last day", "days", (Between(low=1),), _needs(need))
        for relation, noun, need in rows
    ]  # fmt: skip


def _membership(r: Relations) -> list[Feature]:
    m, needs = r.memberships, _needs("memberships")
    return [
        Feature("renewal_count", Aggregated("memberships", m.count(where=m.status == "renewed"), 0.0),
                "renewals so far", "renewals", (KNOWN, NON_NEGATIVE), needs, drift=AGES),
        Feature("days_to_period_end", Aggregated("memberships", m.days_to_end.max(where=m.newest == 1)),
                "days left of the paid period", "days", (Between(-1e5, 1e5),), needs),
    ]  # fmt: skip


def _title_activity(r: Relations) -> FeatureTable:
    windows, (week, long) = r.source.windows, (r.source.windows[2], r.source.windows[-1])
    table = "title_activity"
    features = [
        *(m.over(r, d) for m in _TITLE_BASE for d in windows),
        *(m.over(r, d, s) for m in (_PLAY, _COMPLETED) for d in (week, long) for s in (*r.dayparts, *r.weekend)),
        *(m.over(r, d, s) for m in (_PLAY, _COMPLETED, _SHARE_MEAN) for d in (week, long) for s in r.devices),
        *(m.over(r, long, s) for m in (_SHOWN,) for s in r.devices),
        *(_attribute(r, "titles", "is_simulated", "whether the title is simulated", "flag", _needs("titles.origin"), KNOWN, SHARE),),
        *(_audience(r, i) for i in range(len(r.genres))),
        *(Feature("days_since_play", Aggregated("plays", r.plays.days_ago.min()), "days since it was last played", "days", (Between(low=1),), _needs("plays")),),
    ]  # fmt: skip
    return FeatureTable(
        table,
        TITLE,
        Weight.HEAVY,
        "How the title does, by window, time, device and audience.",
        _beyond(_title_profile(r), features),
        quarantine=FEW_ROWS,
    )


def _audience(r: Relations, genre: int) -> Feature:
    s, long = r.genres[genre], r.source.windows[-1]
    column = f"audience_{s.suffix}"
    reads = f"share of its viewers' own plays {s.reads}"
    return Measure("plays", column, "mean", reads, "share", s.needs, bounds=Between(0, 1)).over(r, long)


def _momentum(table: str, r: Relations) -> list[Feature]:
    """Plays of a shorter window as a share of the next longer one's: rising or falling."""
    return [
        derived(f"play_momentum_{a}d_of_{b}d", Ref(table, f"play_count_{a}d") / Ref(table, f"play_count_{b}d"),
                f"share of the plays of {b} days that fell in the last {a}", "share", _needs("plays"), (SHARE,), b)
        for a, b in zip(r.source.windows, r.source.windows[1:], strict=False)
    ]  # fmt: skip


def _artwork_profile(r: Relations) -> FeatureTable:
    needs = _needs("artworks")
    themes = [_attribute(r, "artworks", c, f"{c.replace('_', ' ')} of the image", "share", needs, KNOWN, SHARE) for c in THEME_COLUMNS]  # fmt: skip
    genres = [_attribute(r, "artworks", s.column, f"whether its title is {s.reads}", "flag", needs, KNOWN, SHARE) for s in r.genres]  # fmt: skip
    return FeatureTable("artwork_profile", ARTWORK, Weight.LIGHT, "What the image shows.", (*themes, *genres))


def _recent_plays() -> FeatureTable:
    columns = (("play_id", "which play it was", "play id"), ("title_id", "the title played", "title id"))
    features = tuple(
        Feature(c, Kept("history", c, KEPT_PLAYS), reads, unit, (KNOWN, NON_NEGATIVE), _needs("plays"), dtype=DType.BIGINT)
        for c, reads, unit in columns
    )  # fmt: skip
    return FeatureTable(
        KEPT_IN, USER, Weight.LIGHT, f"The last {KEPT_PLAYS} plays of the user, each as it happened.", features,
        ttl_days=FOR_EVER, keep=KEPT_PLAYS, identified_by=("play_id",), push_source="plays",
    )  # fmt: skip


def _user_session(r: Relations, titles: FeatureTable) -> FeatureTable:
    """What the user has just been watching; the genres are those that `titles` holds as flags."""
    genres = [
        _in_session(f"last_genre_{slug(g)}", OfLastTitle(Ref(titles.name, titles[s.column].name), DAY),
                    f"whether the title played last, if within a day, is {s.reads}", "flag", s.needs, SHARE)
        for s, g in zip(r.genres, r.source.genres, strict=True)
    ]  # fmt: skip
    features = (
        _in_session("minutes_since_last_play", MinutesSincePlay(DAY), "minutes since the last play, if within a day", "minutes", _needs(), Between(0, DAY)),
        _in_session("play_count_session", PlaysInSession(SESSION_GAP), f"plays back from now, none more than {SESSION_GAP} minutes before the next",
                    "plays", _needs(), KNOWN, Between(0, KEPT_PLAYS)),
        *genres,
    )  # fmt: skip
    return FeatureTable(
        "user_session", USER, Weight.HEAVY, "What the user has just been watching.", features, stored=False
    )


def _in_session(name: str, reading: Reading, reads: str, unit: str, needs: frozenset[str], *expect: Expectation) -> Feature:  # fmt: skip
    return Feature(name, InSession(reading, KEPT_PLAYS), reads, unit, expect, needs | _needs("plays"))


@cache
def declare(source: Source) -> Declarations:
    """Everything there is for `source`: what it lacks the columns for is listed as unavailable."""
    r = Relations(source)
    stored = [
        _user_profile(r), _user_taste(r), _user_activity(r), _title_profile(r), _title_activity(r), _artwork_profile(r), _recent_plays(),
    ]  # fmt: skip
    by_name = {table.name: table for table in stored}
    whole = [*stored, _user_session(r, by_name["title_profile"]), pair_features(r, by_name)]
    lacking = [
        (table.name, feature, source.missing(*sorted(feature.needs)))
        for table in whole
        for feature in table.features
        if source.missing(*sorted(feature.needs))
    ]
    gone = {(table, feature.name): missing for table, feature, missing in lacking}
    tables = [t.without({f.name: gone[t.name, f.name] for f in t.features if (t.name, f.name) in gone}) for t in whole]  # fmt: skip
    kept = tuple(_lasting(table, source) for table in tables if table.features)
    return Declarations(source.name, kept, _services({t.name: t for t in kept}), tuple(lacking))


def _lasting(table: FeatureTable, source: Source) -> FeatureTable:
    """The table, fresh and alive until the next snapshot of its source comes."""
    hours = source.period.total_seconds() / 3600 * 1.25
    return replace(
        table, ttl_days=max(table.ttl_days, source.period.days), slo_hours=max(table.slo_hours, hours)
    )


def _services(tables: dict[str, FeatureTable]) -> tuple[FeatureService, ...]:
    wanted = (
        ("retrieval_user", ("user_profile", "user_taste"), "what the user tower reads"),
        ("retrieval_title", ("title_profile",), "what the title tower reads"),
        ("ranking", ("user_profile", "user_taste", "user_activity", "user_session", "title_profile", "title_activity", "user_title"), "what the ranker reads"),
        ("artwork_context", ("user_taste",), "what the choice of artwork knows of the user"),
        ("artwork_image", ("artwork_profile",), "what the creative-quality model knows of an image"),
    )  # fmt: skip
    return tuple(
        FeatureService(name, tuple(tables[t] for t in names), description)
        for name, names, description in wanted
        if all(t in tables for t in names)
    )
