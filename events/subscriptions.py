"""Memberships over time: who is a member, whose period ends today, and whether they stay."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.behaviour import USUAL_SATISFACTION, renewal_probability
from events.members import Members
from events.world_config import DAY, SECOND, WorldConfig, micros

RETURN_SHARE = 0.02  # of those who left, who come back on any one day
_MOOD_MEMORY = 0.7  # weight of the past in a member's running satisfaction
_WHEN = pa.timestamp("us", "UTC")


@dataclass
class Subscriptions:
    """The running state of all memberships; the history advances it a day at a time."""

    running: NDArray[np.bool_]  # (M,)
    period_end: NDArray[np.int64]  # (M,) microseconds
    satisfaction: NDArray[np.float64]  # (M,) sums over the sessions of the period
    diversity: NDArray[np.float64]
    visits: NDArray[np.int64]
    mood: NDArray[np.float64]  # (M,) satisfaction with recent sessions: a satisfied member comes more often

    @classmethod
    def at_start(cls, config: WorldConfig, members: Members) -> Subscriptions:
        """Members already there are inside a period, at staggered phases; the others have yet to join."""
        n, length = len(members), config.membership_days * DAY
        there = members.joined_at < micros(config.start)
        end = micros(config.start) + (members.billing_day * length).astype(np.int64) + 1
        zeros = np.zeros(n)
        mood = np.full(n, USUAL_SATISFACTION)
        return cls(there, np.where(there, end, 0), zeros.copy(), zeros.copy(), np.zeros(n, np.int64), mood)

    def copied(self) -> Subscriptions:
        """An equal state that shares nothing with this one."""
        return Subscriptions(*(getattr(self, part.name).copy() for part in fields(self)))

    def record(
        self, member: NDArray[np.int64], satisfaction: NDArray[np.float64], diversity: NDArray[np.float64]
    ) -> None:
        """Add the day's sessions to the running sums."""
        n = len(self.running)
        self.satisfaction += np.bincount(member, satisfaction, n)
        self.diversity += np.bincount(member, diversity, n)
        visits = np.bincount(member, minlength=n)
        self.visits += visits
        today = np.bincount(member, satisfaction, n) / np.maximum(visits, 1)
        self.mood = np.where(visits > 0, _MOOD_MEMORY * self.mood + (1 - _MOOD_MEMORY) * today, self.mood)


def running_periods(config: WorldConfig, state: Subscriptions) -> pa.Table:
    """The periods in which the history finds its members: the last event before it, one row each."""
    member = np.flatnonzero(state.running)
    begun = state.period_end[member] - config.membership_days * DAY
    return _rows(config, member, np.array(["renewed"] * len(member)), begun, state.period_end[member])


def advance(
    config: WorldConfig, members: Members, state: Subscriptions, day: int, rng: np.random.Generator
) -> pa.Table:
    """Join, renew, cancel and return on the day that begins at `day` microseconds; returns the events."""
    length = config.membership_days * DAY
    due = np.flatnonzero(state.running & (state.period_end >= day) & (state.period_end < day + DAY))
    seen = np.maximum(state.visits[due], 1)
    chance = renewal_probability(
        members, due, state.satisfaction[due] / seen, state.diversity[due] / seen, state.visits[due]
    )
    stays = rng.random(len(due)) < chance
    ends = state.period_end[due]
    left = (~state.running) & (state.period_end > 0)
    returning = np.flatnonzero(left & (rng.random(len(members)) < RETURN_SHARE))
    joining = np.flatnonzero((members.joined_at >= day) & (members.joined_at < day + DAY))
    starts = np.concatenate([members.joined_at[joining], day + rng.integers(DAY, size=len(returning))])
    member = np.concatenate([due, joining, returning])
    status = np.concatenate([np.where(stays, "renewed", "cancelled"), np.full(len(starts), "started")])
    begins = np.concatenate([ends, starts])
    state.running[member] = status != "cancelled"
    state.period_end[member] = np.where(status == "cancelled", begins, begins + length)
    for sums in (state.satisfaction, state.diversity, state.visits):
        sums[member] = 0
    return _rows(config, member, status, begins, state.period_end[member])


def _rows(
    config: WorldConfig,
    member: NDArray[np.int64],
    status: NDArray[np.str_],
    at: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> pa.Table:
    """Membership events; a cancelled one says which period was the last."""
    length = config.membership_days * DAY
    begun = np.where(status == "cancelled", at - length, at)
    number = (
        (at - micros(config.start)) // DAY + config.membership_days + 1
    )  # distinct: one event a day at most
    return pa.table({
        "membership_id": (member + 1) * 100_000 + number,
        "user_id": member + 1,
        "status": status,
        "period_start": pa.array(begun, _WHEN),
        "period_end": pa.array(ends, _WHEN),
        "event_timestamp": pa.array(at, _WHEN),
        "created_timestamp": pa.array(at + 20 * SECOND, _WHEN),
    })  # fmt: skip
