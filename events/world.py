"""The built-in world: real films, everything else simulated, repeatable from a seed (`docs/world.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.behaviour import Outcome, Visits, affinity, interest, renewal_probability, visit
from events.catalogue import Catalogue, artworks_table, build_catalogue, titles_table
from events.members import Members, build_members, users_table
from events.traces import Pages, hovers_table, impressions_table, plays_table
from events.trends import Trends, build_trends, draw_on
from events.world_config import DAY, WorldConfig, micros

__all__ = ["Day", "Pages", "Renewals", "Responses", "UnknownIds", "World", "WorldConfig"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Day:
    """What happened on one UTC day, by event table; on the first day also what was there before it."""

    start: datetime
    tables: dict[str, pa.Table]


@dataclass(frozen=True)
class Responses:
    """What members did with S pages, as event tables and as one number a session.

    `plays_per_page` counts plays; `satisfaction` and `diversity` are the 0..1 that renewals depend on.
    """

    impressions: pa.Table
    hovers: pa.Table
    plays: pa.Table
    user_ids: Ids  # (S,)
    plays_per_page: NDArray[np.int64]  # (S,)
    satisfaction: Floats  # (S,)
    diversity: Floats  # (S,)


@dataclass(frozen=True)
class Renewals:
    """One row per member who had a session, in ascending order of `user_id`."""

    user_ids: Ids
    probability: Floats
    renewed: NDArray[np.bool_]


class UnknownIds(LookupError):
    """Ids that this world has not."""

    def __init__(self, column: str, ids: Ids, highest: int) -> None:
        some = ", ".join(str(value) for value in np.unique(ids)[:5])
        super().__init__(f"{column} {some}: this world has 1 to {highest}.")


class World:
    """One world. Everything about it follows from `config`; nothing in it changes after it is built."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config

    @cached_property
    def catalogue(self) -> Catalogue:
        """The titles and images, with their latent traits."""
        return build_catalogue(self.config)

    @cached_property
    def members(self) -> Members:
        """The members, with their latent tastes."""
        return build_members(self.config, self.catalogue)

    @cached_property
    def trends(self) -> Trends:
        """What will be talked about when."""
        return build_trends(self.config)

    def titles(self) -> pa.Table:
        """Every title that will ever be known, as rows of the `titles` event table."""
        return titles_table(self.catalogue)

    def users(self) -> pa.Table:
        """Every member who will ever join, as rows of the `users` event table."""
        return users_table(self.members)

    def artworks(self) -> pa.Table:
        """Every image, as rows of the `artworks` event table."""
        return artworks_table(self.catalogue)

    def simulate(self) -> Iterator[Day]:
        """The history, day by day."""
        from events.history import simulate  # noqa: PLC0415  # the history is told by the world's own parts

        return simulate(self)

    def respond(
        self,
        user_ids: Sequence[int] | Ids,
        pages: Pages,
        at: datetime | Sequence[datetime],
        rng: np.random.Generator,
    ) -> Responses:
        """How members react to any pages: the behaviour that also made the history.

        Args:
            user_ids: (S,) one member per page.
            pages: (S, L) titles and images by id, -1 where a page is shorter than the others.
            at: When the pages are seen: one moment for all, or one each.
            rng: The only source of chance; the same generator state gives the same responses.

        Raises:
            UnknownIds: A member, title or image that is not of this world.
            ValueError: An image shown for a title it does not belong to, or shapes that do not match.
        """
        member = self._rows("user_id", np.asarray(user_ids, np.int64), len(self.members), empty=False)
        moments = (
            np.full(len(member), micros(at))
            if isinstance(at, datetime)
            else np.array([micros(m) for m in at])
        )
        visits = self.visits(member, pages, moments)
        return self.traces(visits, pages, visit(self.catalogue, self.members, visits, rng), rng)

    def visits(self, member: Ids, pages: Pages, at: Ids, seen: NDArray[np.bool_] | None = None) -> Visits:
        """Rows in place of ids, checked; `at` in microseconds, one each. Nothing counts as seen by default."""
        if not len(member) == len(pages.titles) == len(at):
            raise ValueError(
                f"{len(member)} members, {len(pages.titles)} pages and {len(at)} times do not match."
            )
        title = self._rows("title_id", pages.titles, len(self.catalogue), empty=True)
        artwork = self._rows("artwork_id", pages.artworks, len(self.catalogue.artwork.title), empty=True)
        wrong = (title >= 0) & (artwork >= 0) & (self.catalogue.artwork.title[artwork] != title)
        if wrong.any():
            raise ValueError(
                f"artwork_id {pages.artworks[wrong][0]} is no image of title_id {pages.titles[wrong][0]}."
            )
        watched = np.zeros(title.shape, np.bool_) if seen is None else seen
        return Visits(member, title, artwork, at, self._draw(title, at), watched)

    def traces(self, visits: Visits, pages: Pages, outcome: Outcome, rng: np.random.Generator) -> Responses:
        """The event tables that an outcome leaves behind; lateness of a session's report is drawn from `rng`."""
        lag = report_lag(len(visits.member), self.config.late_share, rng)
        return Responses(
            impressions=impressions_table(self.members, visits, pages, lag),
            hovers=hovers_table(visits, pages, outcome, lag),
            plays=plays_table(self.members, visits, pages, outcome, lag),
            user_ids=visits.member + 1,
            plays_per_page=outcome.played.sum(1),
            satisfaction=outcome.satisfaction,
            diversity=outcome.diversity,
        )

    def renewals(
        self, user_ids: Ids, satisfaction: Floats, diversity: Floats, rng: np.random.Generator
    ) -> Renewals:
        """Whether members renew after the sessions given, one row a session (see `Responses`)."""
        row = self._rows("user_id", user_ids, len(self.members), empty=False)
        member, session, visits = np.unique(row, return_inverse=True, return_counts=True)
        means = [np.bincount(session, values) / visits for values in (satisfaction, diversity)]
        probability = renewal_probability(self.members, member, means[0], means[1], visits)
        return Renewals(member + 1, probability, rng.random(len(member)) < probability)

    def true_interest(self, user_ids: Ids, title_ids: Ids, at: datetime) -> Floats:
        """(S, C) latent interest of each member in each candidate: the oracle. No model may see it."""
        member = self._rows("user_id", user_ids, len(self.members), empty=False)
        title = np.broadcast_to(
            self._rows("title_id", np.asarray(title_ids), len(self.catalogue), empty=False),
            (len(member), np.shape(title_ids)[-1]),
        )
        moments = np.full(len(member), micros(at))
        unseen = np.zeros(title.shape, np.bool_)
        visits = Visits(member, title, np.zeros_like(title), moments, self._draw(title, moments), unseen)
        return interest(self.catalogue, self.members, visits, affinity(self.members, member, title))

    def _draw(self, title: Ids, at: Ids) -> Floats:
        draw = np.empty(title.shape)
        for day in np.unique(at // DAY):
            sessions = at // DAY == day
            draw[sessions] = draw_on(self.trends, self.catalogue, int(day) * DAY)[title[sessions]]
        return draw

    @staticmethod
    def _rows(column: str, ids: Ids, number: int, *, empty: bool) -> Ids:
        bad = (ids > number) | ((ids < 1) & ~((ids == -1) & empty))
        if bad.any():
            raise UnknownIds(column, ids[bad], number)
        return np.where(ids > 0, ids - 1, -1)


def report_lag(n: int, late_share: float, rng: np.random.Generator) -> Ids:
    """(n,) microseconds between a session's end and its report: seconds, or hours for the `late_share`."""
    prompt = rng.lognormal(1.5, 0.8, n)
    late = 3600 * rng.lognormal(1.2, 0.6, n).clip(0.5, 48)
    return np.asarray(np.where(rng.random(n) < late_share, late, prompt) * 1e6, np.int64)
