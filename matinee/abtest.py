"""Simulated members use the served page, and what they do becomes events. All of it is simulated, and says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.traces import Pages
from events.world import Responses, World
from matinee.context import Day
from matinee.deployment import newest_tag, serving
from matinee.progress import Stage
from matinee.pushing import push_plays
from matinee.recommending import known_users
from serving.answers import Page
from serving.client import PageClient
from serving.exposure_table import read
from serving.running import free_port, served

Int64 = NDArray[np.int64]
CHUNK = 100
"""Pages fetched between two steps of the progress bar."""


@dataclass(frozen=True)
class Sessions:
    """What came of a round of sessions."""

    pages: int
    plays: int
    renewals: int
    by_source: dict[str, int]


def members(day: Day, count: int) -> Int64:
    """`count` of the members known at the day's `as_of`, ascending."""
    return np.sort(np.array(known_users(day)[:count], dtype=np.int64))


def run_sessions(day: Day, world: World, at: datetime, users: Int64, size: int, stage: Stage) -> Sessions:
    """Every user opens the served page once, at `at`, and reacts; the events go into the lake, plays online as well.

    The page is asked for over HTTP from the newest homepage Bento, whose clock starts at `at`.
    """
    pages = fetch(day, at, users, size, stage)
    rng = np.random.default_rng([day.settings.seed, int(at.timestamp())])
    reaction = world.respond(users, shown(day, pages), at, rng)
    decided = world.renewals(reaction.user_ids, reaction.satisfaction, reaction.diversity, rng)
    _append(day, reaction, _memberships(decided.user_ids, decided.renewed, at), at)
    sources, counts = np.unique([page.source for page in pages], return_counts=True)
    return Sessions(
        len(pages), int(reaction.plays_per_page.sum()), int(decided.renewed.sum()),
        dict(zip(sources.tolist(), counts.tolist(), strict=True)),
    )  # fmt: skip


def fetch(day: Day, at: datetime, users: Int64, size: int, stage: Stage) -> list[Page]:
    """One page for each user over HTTP, in the order of `users`."""
    how = serving(day, newest_tag(day, "homepage"), free_port(), starts_at=at)
    pages: list[Page] = []
    with served(how, log=day.workspace.root / "serve.log") as url, PageClient(url) as client:
        for start in range(0, len(users), CHUNK):
            pages += client.pages(users[start : start + CHUNK].tolist(), size=size, concurrency=2)
            stage.step(len(pages), len(users), f"{len(pages):,} of {len(users):,} pages over HTTP")
    return pages


def shown(day: Day, pages: list[Page]) -> Pages:
    """The pages as members see them, tied to the exposure log by its impression ids."""
    log = read(day.workspace.exposures)
    keys = zip(log["request_id"].to_pylist(), log["position"].to_pylist(), strict=True)
    impression = dict(zip(keys, log["impression_id"].to_pylist(), strict=True))
    cells = (len(pages), max(len(page.titles) for page in pages))
    titles, artworks, ids = (np.full(cells, -1, dtype=np.int64) for _ in range(3))
    propensities = np.full(cells, np.nan)
    for row, page in enumerate(pages):
        for title in page.titles:
            titles[row, title.position] = title.title_id
            ids[row, title.position] = impression[page.request_id, title.position]
            if title.artwork_id is not None:
                artworks[row, title.position] = title.artwork_id
            if title.propensity is not None:
                propensities[row, title.position] = title.propensity
    return Pages(
        titles, artworks, ids, tuple(page.request_id for page in pages), propensities, surface="homepage"
    )


def _memberships(user_ids: Int64, renewed: NDArray[np.bool_], at: datetime) -> pa.Table:
    """A decision to renew or cancel for each member, half a day after their session."""
    when = at + timedelta(hours=12)
    moments = pa.array([when] * len(user_ids), pa.timestamp("us", tz="UTC"))
    first = int(at.timestamp()) * 1_000_000  # one range of ids a round; the history's ids are far smaller
    return pa.table({
        "membership_id": first + user_ids, "user_id": user_ids,
        "status": pa.array(["renewed" if stays else "cancelled" for stays in renewed], pa.string()),
        "period_start": moments,
        "period_end": pa.array([when + timedelta(days=28)] * len(user_ids), pa.timestamp("us", tz="UTC")),
        "event_timestamp": moments, "created_timestamp": moments,
    })  # fmt: skip


def _append(day: Day, reaction: Responses, memberships: pa.Table, at: datetime) -> None:
    lake, received_at = day.workspace.lake, at + timedelta(days=7)
    lake.append("impressions", reaction.impressions, received_at=received_at)
    lake.append("hovers", reaction.hovers, received_at=received_at)
    push_plays(day.workspace, reaction.plays, received_at=received_at, record=True)
    lake.append("memberships", memberships, received_at=received_at)
