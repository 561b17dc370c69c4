"""Traces: the event rows that visits leave behind, in the columns of the event tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.behaviour import COMPLETED_SHARE, Outcome, Visits
from events.members import Members
from events.world_config import MINUTE, SECOND

Ids = NDArray[np.int64]
_WHEN = pa.timestamp("us", "UTC")
_SECONDS_PER_CELL = 3


@dataclass(frozen=True)
class Pages:
    """S pages of up to L cells, by id; -1 marks an empty cell.

    `impression_ids` tie plays to what was shown, so whoever logs the impressions gives them. `surface`
    and `arm` may be one word for all pages.
    """

    titles: Ids  # (S, L)
    artworks: Ids  # (S, L)
    impression_ids: Ids  # (S, L)
    request_ids: tuple[str, ...]  # (S,)
    propensities: NDArray[np.float64] | None = None  # (S, L) of the images
    surface: str = "home"
    arm: str | None = None

    def __post_init__(self) -> None:
        shapes = {np.shape(part) for part in (self.titles, self.artworks, self.impression_ids)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(
                f"titles, artworks and impression_ids need one shape (S, L); they have {sorted(shapes)}."
            )
        if len(self.request_ids) != len(self.titles):
            raise ValueError(f"{len(self.titles)} pages came with {len(self.request_ids)} request ids.")

    @classmethod
    def numbered(
        cls, titles: Ids, artworks: Ids, *, first_impression_id: int = 1, arm: str | None = None
    ) -> Pages:
        """Pages whose impressions are numbered in reading order and whose requests are named after them."""
        ids = first_impression_id + np.arange(titles.size).reshape(titles.shape)
        names = tuple(f"page-{first}" for first in ids[:, :1].ravel())
        return cls(titles, artworks, ids, names, arm=arm)


def impressions_table(members: Members, visits: Visits, pages: Pages, lag: Ids) -> pa.Table:
    """One row per filled cell, when its page was shown."""
    row, cell = np.nonzero(visits.title >= 0)
    at, propensity = visits.at[row], pages.propensities
    return pa.table({
        "impression_id": pages.impression_ids[row, cell],
        "request_id": np.array(pages.request_ids)[row],
        "user_id": visits.member[row] + 1,
        "title_id": visits.title[row, cell] + 1,
        "artwork_id": _ids_or_null(visits.artwork[row, cell] + 1),
        "position": cell.astype(np.float64),
        "surface": pa.array([pages.surface] * len(row), pa.string()),
        "device": members.device[visits.member[row]],
        "artwork_propensity": _or_null(np.full(len(row), np.nan) if propensity is None else propensity[row, cell]),
        "arm": pa.array([pages.arm] * len(row), pa.string()),
        "event_timestamp": pa.array(at, _WHEN),
        "created_timestamp": pa.array(at + lag[row], _WHEN),
    })  # fmt: skip


def hovers_table(visits: Visits, pages: Pages, outcome: Outcome, lag: Ids) -> pa.Table:
    """One row per cell hovered over; a click is a hover that led to a play. Its id is its impression's."""
    row, cell = np.nonzero(outcome.hovered)
    at = visits.at[row] + (cell + 1) * _SECONDS_PER_CELL * SECOND
    dwell = outcome.dwell_seconds[row, cell]
    return pa.table({
        **_what(visits, pages, row, cell, "hover_id"),
        "dwell_seconds": dwell,
        "clicked": outcome.played[row, cell],
        "event_timestamp": pa.array(at, _WHEN),
        "created_timestamp": pa.array(at + (dwell * SECOND).astype(np.int64) + lag[row], _WHEN),
    })  # fmt: skip


def plays_table(members: Members, visits: Visits, pages: Pages, outcome: Outcome, lag: Ids) -> pa.Table:
    """One row per play, when it began; it is reported after it ended. Its id is its impression's."""
    row, cell = np.nonzero(outcome.played)
    minutes, share = outcome.watch_minutes[row, cell], outcome.watch_share[row, cell]
    browsing = (cell + 2) * _SECONDS_PER_CELL * SECOND
    at = visits.at[row] + browsing + (outcome.started_after_minutes[row, cell] * MINUTE).astype(np.int64)
    return pa.table({
        **_what(visits, pages, row, cell, "play_id"),
        "watch_minutes": minutes,
        "watch_share": share,
        "completed": share >= COMPLETED_SHARE,
        "device": members.device[visits.member[row]],
        "event_timestamp": pa.array(at, _WHEN),
        "created_timestamp": pa.array(at + (minutes * MINUTE).astype(np.int64) + lag[row], _WHEN),
    })  # fmt: skip


def _what(visits: Visits, pages: Pages, row: Ids, cell: Ids, key: str) -> dict[str, Ids | pa.Array]:
    impression = pages.impression_ids[row, cell]
    return {
        key: impression,
        "impression_id": impression,
        "user_id": visits.member[row] + 1,
        "title_id": visits.title[row, cell] + 1,
        "artwork_id": _ids_or_null(visits.artwork[row, cell] + 1),
    }


def _ids_or_null(ids: Ids) -> pa.Array:
    return pa.array(ids, mask=ids < 1)


def _or_null(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
