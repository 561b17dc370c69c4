"""Shelves without trained models: what a member likes, known up to noise. For designing tests, and for testing scenarios.

No product has this. It stands in for retriever and ranker where training them would be the most of the time, and it can
be of any size. How noisy it is decides how good the pages are.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from scipy.special import expit

from events.behaviour import affinity
from events.world import World
from events.world_config import micros, stream
from matinee.simulation.sandbox import Shelf, Shelves
from models.objective import HeadScores

CANDIDATES = 200


def oracle_shelves(
    world: World, at: datetime, *, noise: float = 1.0, candidates: int = CANDIDATES
) -> Shelves:
    """Every member's `candidates` titles of the highest interest, seen through normal noise of sd `noise` in logits.

    `play` is the chance that a title calls, `completion` how much of it would be watched, `choice` what stands out;
    `retention` tells nothing apart. Vectors are the genres: what the diversity of a page is measured by.
    """
    rng, catalogue = stream(world.config, "oracle"), world.catalogue
    offered = np.flatnonzero(catalogue.available_from <= micros(at)) + 1
    vectors = _unit(catalogue.genres)
    genres = [tuple(str(genre) for genre in np.flatnonzero(row)) for row in catalogue.genres]
    shelves = []
    for user in range(1, len(world.members) + 1):
        call = world.true_interest(np.array([user]), offered, at)[0] + noise * rng.normal(size=len(offered))
        best = np.argsort(-call, kind="stable")[:candidates]
        title_ids = offered[best]
        liking = affinity(world.members, np.array([user - 1]), title_ids[None, :] - 1)[0]
        enjoyed = 0.7 * liking + 0.6 * catalogue.quality[title_ids - 1] + noise * rng.normal(size=len(best))
        heads = HeadScores(
            play=expit(call[best] - 2).astype(np.float32),
            completion=np.clip(0.55 + 0.3 * enjoyed, 0.02, 1).astype(np.float32),
            retention=np.full(len(best), 0.9, np.float32),
            choice=expit(call[best] - np.median(call[best])).astype(np.float32),
        )
        theirs = tuple(genres[title - 1] for title in title_ids.tolist())
        shelves.append(Shelf(user, title_ids, heads, vectors[title_ids - 1], theirs))
    return Shelves(at, tuple(shelves))


def _unit(genres: np.ndarray) -> np.ndarray:
    """Unit rows; a title without a genre is unlike any other."""
    plain = genres.any(axis=1)
    spare = np.zeros((len(genres), 1), np.float32)
    spare[~plain] = 1
    return np.hstack([genres, spare]).astype(np.float32)
