"""The relations that feature computations are written against, for one source's vocabulary.

Each holds only rows known at some `as_of` (`feature_repo.known` fills them), with time turned into
`days_ago`: 1 is the day before `as_of`, so a window of n days is `days_ago <= n`. A computation
therefore cannot mention a clock, and its text is the same for every `as_of`. Fractional values come
in 1/1024ths, whose float64 sums are exact: the order in which rows are added cannot change a feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import ibis
from ibis.expr import types as ir

from events.schema import THEME_COLUMNS
from events.sources import Source

DAYPARTS = {"night": (0, 6), "morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24)}
"""UTC hours, start included and end not."""
ERAS = {"before_1970": (0, 1970), "1970s": (1970, 1980), "1980s": (1980, 1990), "1990s": (1990, 2000), "2000s": (2000, 2010), "2010s": (2010, 10_000)}  # fmt: skip
SKETCH_WIDTH = 8
"""Columns of the co-watch sketch; its dot product estimates co-watching with error about 1/√8."""


def slug(label: str) -> str:
    """A label as part of a feature's name.

    >>> slug("Sci-Fi")
    'sci_fi'
    """
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


@dataclass(frozen=True)
class Slice:
    """A condition on rows with a name: `play_count_28d` within it is `play_count_28d_{suffix}`."""

    suffix: str
    column: str  # a boolean column of the relation
    reads: str
    needs: frozenset[str]


@dataclass(frozen=True)
class Relations:
    """Unbound Ibis tables and slices for one source."""

    source: Source

    @cached_property
    def genres(self) -> tuple[Slice, ...]:
        """One slice a genre of the source's vocabulary."""
        needs = frozenset({"titles.genres"})
        return tuple(Slice(f"in_{slug(g)}", f"in_{slug(g)}", f"in {g}", needs) for g in self.source.genres)

    @cached_property
    def languages(self) -> tuple[Slice, ...]:
        """One slice a language spoken in the title."""
        needs = frozenset({"titles.languages"})
        return tuple(
            Slice(f"spoken_{slug(x)}", f"spoken_{slug(x)}", f"in {x}", needs) for x in self.source.languages
        )

    @cached_property
    def devices(self) -> tuple[Slice, ...]:
        """One slice a kind of device used."""
        needs = frozenset({"plays.device"})
        return tuple(Slice(f"on_{slug(d)}", f"on_{slug(d)}", f"on {d}", needs) for d in self.source.devices)

    @cached_property
    def eras(self) -> tuple[Slice, ...]:
        """One slice a decade of release."""
        needs = frozenset({"titles.release_year"})
        return tuple(Slice(f"from_{e}", f"from_{e}", f"released {e.replace('_', ' ')}", needs) for e in ERAS)

    @cached_property
    def dayparts(self) -> tuple[Slice, ...]:
        """Four slices of the day."""
        return tuple(Slice(f"at_{d}", f"at_{d}", f"in the {d} (UTC)", frozenset()) for d in DAYPARTS)

    @cached_property
    def weekend(self) -> tuple[Slice, ...]:
        """Saturday and Sunday."""
        return (Slice("on_weekend", "on_weekend", "at a weekend", frozenset()),)

    @cached_property
    def titles(self) -> ir.Table:
        """One row a title known and available at `as_of`."""
        columns = {
            "title_id": "int64", "runtime_minutes": "float64", "release_year": "float64", "days_available": "float64",
            "genre_count": "int64", "cast_count": "int64", "language_count": "int64", "artwork_count": "int64",
            "cast_play_mean": "float64", "author_play_count": "int64", "is_simulated": "boolean",
            **{f"sketch_{i}": "float64" for i in range(SKETCH_WIDTH)},
            **self._flags(*self.genres, *self.languages),
        }  # fmt: skip
        return ibis.table(columns, name="known_titles")

    @cached_property
    def users(self) -> ir.Table:
        """One row a user known at `as_of`."""
        columns = {
            "user_id": "int64", "days_member": "float64", "registered_days": "float64", "followed_count": "float64",
            "follower_count": "float64", "friend_count": "float64", "is_author": "boolean",
            **{f"prefers_{slug(x)}": "boolean" for x in self.source.languages},
            **{f"owns_{slug(d)}": "boolean" for d in self.source.devices},
        }  # fmt: skip
        return ibis.table(columns, name="known_users")

    @cached_property
    def artworks(self) -> ir.Table:
        """One row an image known at `as_of`."""
        columns = {"artwork_id": "int64", "title_id": "int64", **dict.fromkeys(THEME_COLUMNS, "float64")}
        return ibis.table({**columns, **self._flags(*self.genres)}, name="known_artworks")

    @cached_property
    def plays(self) -> ir.Table:
        """One row a play, with what its title and its user are like."""
        columns = {
            **self._happened, "watch_minutes": "float64", "watch_share": "float64", "completed": "boolean",
            "rating": "float64", "release_year": "float64", "runtime_minutes": "float64", "artwork_id": "int64",
            "title_age_days": "float64",
            **{f"sketch_{i}": "float64" for i in range(SKETCH_WIDTH)},
            **{f"audience_{s.suffix}": "float64" for s in self.genres},
            **self._flags(*self.genres, *self.languages, *self.eras, *self.devices),
        }  # fmt: skip
        return ibis.table(columns, name="known_plays")

    @cached_property
    def impressions(self) -> ir.Table:
        """One row a title shown."""
        columns = {**self._happened, "artwork_id": "int64", "position": "float64", "above_fold": "boolean"}
        return ibis.table({**columns, **self._flags(*self.devices, *self.genres)}, name="known_impressions")

    @cached_property
    def hovers(self) -> ir.Table:
        """One row a hover or click."""
        columns = {**self._happened, "artwork_id": "int64", "dwell_seconds": "float64", "clicked": "boolean"}
        return ibis.table({**columns, **self._flags(*self.genres)}, name="known_hovers")

    @cached_property
    def memberships(self) -> ir.Table:
        """One row a start, renewal or cancellation, a user's `newest` 1."""
        columns = {"user_id": "int64", "days_ago": "int64", "newest": "int64", "status": "string", "days_to_end": "float64"}  # fmt: skip
        return ibis.table(columns, name="known_memberships")

    def named(self, relation: str) -> ir.Table:
        """The relation of that short name, such as "plays"."""
        table: ir.Table = getattr(self, relation)
        return table

    @property
    def _happened(self) -> dict[str, str]:
        ids = {"user_id": "int64", "title_id": "int64", "days_ago": "int64"}
        return {**ids, **self._flags(*self.dayparts, *self.weekend)}

    @staticmethod
    def _flags(*slices: Slice) -> dict[str, str]:
        return {s.column: "boolean" for s in slices}
