"""What a title draws today, whoever looks: fame, the stir of a new release, and passing trends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from events.catalogue import Catalogue
from events.world_config import DAY, WorldConfig, micros, stream

NEW_RELEASE_BOOST, NEW_RELEASE_DAYS = 2.5, 6.0
_BURSTS_PER_DAY_AND_TITLE = 4 / 20_000
_HORIZON_DAYS = 180  # trends are drawn this far past the history, for the tests that follow it


@dataclass(frozen=True)
class Trends:
    """Bursts of attention; burst b lifts title[b] from begins[b] on and then fades by half lives."""

    start: int  # microseconds; day 0
    title: NDArray[np.int64]  # (B,)
    begins: NDArray[np.float64]  # (B,) days after the start; may be negative
    height: NDArray[np.float64]  # (B,)
    half_life_days: NDArray[np.float64]  # (B,)


def build_trends(config: WorldConfig) -> Trends:
    """Draw when which titles will be talked about: news no model can foresee."""
    rng = stream(config, "trends")
    days = config.days + _HORIZON_DAYS + 14
    n = max(1, round(days * config.n_titles * _BURSTS_PER_DAY_AND_TITLE))
    return Trends(
        start=micros(config.start),
        title=rng.integers(config.n_titles, size=n),
        begins=np.sort(rng.uniform(-14, days - 14, n)),
        height=rng.uniform(1.5, 3.5, n),
        half_life_days=rng.uniform(1.5, 5, n),
    )


def draw_on(trends: Trends, catalogue: Catalogue, at: int) -> NDArray[np.float64]:
    """(T,) draw of every title at a moment in microseconds; it is held constant within a UTC day."""
    today = (at - trends.start) // DAY
    age = today - (catalogue.available_from - trends.start) / DAY
    released = (catalogue.available_from >= trends.start) & (age > -1)
    fresh = NEW_RELEASE_BOOST * np.exp(-np.maximum(age, 0) / NEW_RELEASE_DAYS) * released
    running = trends.begins <= today
    faded = trends.height * 0.5 ** ((today - trends.begins) / trends.half_life_days)
    talked_about = np.zeros(len(catalogue))
    np.add.at(talked_about, trends.title[running], faded[running])
    return np.asarray(catalogue.fame + fresh + talked_about)
