"""User × title features: arithmetic over a user's and a title's stored features, at request time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from feature_repo.arithmetic import Constant, Expression, Ref, dot, references, total, with_references
from feature_repo.declarations import (
    NON_NEGATIVE,
    Derived,
    Entity,
    Feature,
    FeatureTable,
    UnknownFeature,
    Weight,
)
from feature_repo.measures import derived
from feature_repo.relations import SKETCH_WIDTH, Relations, Slice
from validations.expectations import Between, Expectation

PAIR = Entity("user_title", "user_id,title_id", "a member looking at a title")
_ANY: tuple[Expectation, ...] = (Between(-1e9, 1e9),)


def pair_features(r: Relations, tables: Mapping[str, FeatureTable]) -> FeatureTable:
    """The table `user_title`; each feature needs whatever the features it reads need."""
    declared = [
        *_taste_matches(r),
        *_slice_products(r),
        *_comparisons(r),
        *_audience_matches(r),
        *_sketch_products(r),
    ]
    features = tuple(_placed(feature, tables) for feature in declared)
    return FeatureTable(
        "user_title", PAIR, Weight.HEAVY, "How the title fits the user.", features, stored=False
    )


def _user(name: str) -> Ref:
    """The user's feature, in whichever of the user tables holds it."""
    return Ref("user", name)


def _title(name: str) -> Ref:
    """The title's feature, in whichever of the title tables holds it."""
    return Ref("title", name)


def _taste(r: Relations, within: Slice) -> Ref:
    return _user(f"{within.column}_share_{r.source.windows[-1]}d")


def _pair(name: str, expression: Expression, description: str, unit: str = "score", over: int | None = None,
          expect: tuple[Expectation, ...] = _ANY) -> Feature:  # fmt: skip
    return derived(name, expression, description, unit, frozenset(), expect, over)


def _placed(feature: Feature, tables: Mapping[str, FeatureTable]) -> Feature:
    """The feature with its references at the tables that hold them, needing all that those need."""
    holders = {
        (table.entity.name, held.name): (table.name, held)
        for table in tables.values()
        for held in table.features
    }

    def place(ref: Ref) -> Ref:
        if (ref.table, ref.feature) not in holders:
            known = [name for entity, name in holders if entity == ref.table]
            raise UnknownFeature(ref.feature, f"user_title:{feature.name}: the {ref.table}", known)
        return Ref(holders[ref.table, ref.feature][0], ref.feature)

    if not isinstance(feature.computation, Derived):
        raise TypeError(f"user × title feature {feature.name!r} is not arithmetic over stored features.")
    expression = feature.computation.expression
    needs = frozenset().union(*(holders[ref.table, ref.feature][1].needs for ref in references(expression)))
    return replace(feature, computation=Derived(with_references(expression, place)), needs=needs)


def _taste_matches(r: Relations) -> list[Feature]:
    """How much of what the user does falls in the title's genres, summed and as a share."""
    week, long = r.source.windows[2], r.source.windows[-1]
    measures = (
        (_user, f"play_count_{long}d", "plays"),
        (_user, f"play_count_{week}d", "plays"),
        (_user, f"watch_minutes_sum_{long}d", "minutes watched"),
        (_user, f"clicked_sum_{long}d", "clicks"),
        (_user, f"impression_count_{long}d", "impressions"),
        (_user, f"watch_share_mean_{long}d", "runtime watched"),
        (_user, f"completed_share_{long}d", "completion"),
        (_user, f"rating_mean_{long}d", "stars given"),
    )
    found = []
    for of, measure, reads in measures:
        if not r.genres:
            continue
        matched = dot([of(f"{measure}_{s.suffix}") for s in r.genres], _flags(r.genres))
        per_genre = matched / _title("genre_count")
        share = matched / (_user(measure) * _title("genre_count"))
        found.append(
            _pair(f"{measure}_in_its_genres", matched, f"the user's {reads} in the title's genres, summed")
        )
        found.append(
            _pair(f"{measure}_per_genre", per_genre, f"the user's {reads} in an average genre of the title")
        )
        found.append(
            _pair(f"{measure}_genre_lift", share, f"the user's {reads} in the title's genres against all")
        )
    return found


def _flags(slices: Iterable[Slice]) -> list[Expression]:
    return [_title(s.column) for s in slices]


def _slice_products(r: Relations) -> list[Feature]:
    """One product a genre and language: the user's leaning where the title has it, else zero."""
    long = r.source.windows[-1]
    by_genre = ((f"completed_share_{long}d", "completion"), (f"watch_minutes_sum_{long}d", "minutes"))
    return [
        *(
            _pair(f"play_share_{long}d_x_{s.suffix}", _taste(r, s) * _title(s.column), f"share of plays {s.reads}, if the title is")
            for s in r.genres
        ),
        *(
            _pair(f"{measure}_x_{s.suffix}", _user(f"{measure}_{s.suffix}") * _title(s.column), f"{reads} {s.reads}, if the title is")
            for measure, reads in by_genre for s in r.genres
        ),
        *(
            _pair(f"play_count_{long}d_x_{s.suffix}", _user(f"play_count_{long}d_{s.suffix}") * _title(s.column), f"plays {s.reads}, if the title is")
            for s in r.languages
        ),
        *(
            _pair(f"prefers_x_{s.suffix}", _user(s.column.replace("spoken_", "prefers_")) * _title(s.column), f"the user prefers the language, and the title is {s.reads}")
            for s in r.languages
        ),
    ]  # fmt: skip


def _comparisons(r: Relations) -> list[Feature]:
    """The title against the user's habit, for each window: difference, ratio, product."""
    found = []
    for days in r.source.windows:
        habit = (f"watch_share_mean_{days}d", f"completed_share_{days}d", f"watch_minutes_mean_{days}d",
                 f"dwell_seconds_mean_{days}d", f"clicked_share_{days}d", f"rating_mean_{days}d",
                 f"play_per_impression_{days}d", f"click_per_impression_{days}d")  # fmt: skip
        for name in habit:
            title, user = _title(name), _user(name)
            reads = name.replace("_", " ")
            found.append(
                _pair(f"{name}_over_habit", title - user, f"the title's {reads} less the user's", over=days)
            )
            found.append(
                _pair(f"{name}_times_habit", title * user, f"the title's {reads} times the user's", over=days)
            )
        busy = _user(f"play_count_{days}d") * _title(f"play_count_{days}d")
        found.append(
            _pair(f"play_count_{days}d_product", busy, "the user's plays times the title's", over=days)
        )
        for name, own in (("release_year", f"release_year_mean_{days}d"), ("runtime_minutes", f"runtime_minutes_mean_{days}d")):  # fmt: skip
            gap = abs(_title(name) - _user(own))
            found.append(_pair(f"{name}_gap_{days}d", gap, f"how far the title's {name.replace('_', ' ')} is from what the user plays", over=days, expect=(NON_NEGATIVE,)))  # fmt: skip
    return found


def _audience_matches(r: Relations) -> list[Feature]:
    """How much the user is like the title's viewers: similar users' tastes."""
    long = r.source.windows[-1]
    if not r.genres:
        return []
    own = [_taste(r, s) for s in r.genres]
    theirs = [_title(f"audience_{s.suffix}_mean_{long}d") for s in r.genres]
    distance = total([abs(a - b).orelse(0.0) for a, b in zip(own, theirs, strict=True)])
    return [
        _pair(f"audience_match_{long}d", dot(own, theirs), "the user's genre shares · the viewers'", over=long),
        _pair(f"audience_distance_{long}d", distance * Constant(0.5), "how far the user's genre shares are from the viewers'", over=long),
        *(_pair(f"audience_gap_{long}d_{s.suffix}", a - b, f"the user's leaning {s.reads} less the viewers'", over=long) for s, a, b in zip(r.genres, own, theirs, strict=True)),
    ]  # fmt: skip


def _sketch_products(r: Relations) -> list[Feature]:
    """Co-watching: the dot product estimates how often the title's viewers watched the user's titles."""
    long = r.source.windows[-1]
    own = [_user(f"sketch_{i}_mean_{long}d") for i in range(SKETCH_WIDTH)]
    its = [_title(f"sketch_{i}") for i in range(SKETCH_WIDTH)]
    return [
        _pair(f"co_watch_{long}d", dot(own, its), "estimated co-watching of the title with the user's own", over=long),
        *(_pair(f"co_watch_{long}d_{i}", a * b, f"co-watch sketch {i}, user × title", over=long) for i, (a, b) in enumerate(zip(own, its, strict=True))),
    ]  # fmt: skip
