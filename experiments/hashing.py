"""The hash behind every assignment: xxHash64 of a unit's id as eight little-endian bytes, under a seed."""

from __future__ import annotations

import xxhash

from experiments.config import BUCKETS


class InvalidUnit(ValueError):
    """A unit id that is no BIGINT of 0 or more."""

    def __init__(self, unit_id: object) -> None:
        super().__init__(f"unit id {unit_id!r} is no whole number from 0 to 2**63 - 1.")


def seed_of(purpose: str, salt: str) -> int:
    """The 64-bit seed of one purpose ('layer', 'rollout', 'arm') under a salt.

    Two decisions that shared a seed would be the same decision: the first tenth of a roll-out would
    all land in one arm.
    """
    return xxhash.xxh64_intdigest(f"{purpose}:{salt}".encode(), seed=0)


def key_of(unit_id: int) -> bytes:
    """What is hashed of a unit."""
    try:
        key = unit_id.to_bytes(8, "little")
    except (OverflowError, AttributeError):
        raise InvalidUnit(unit_id) from None
    if key[7] > 127:
        raise InvalidUnit(unit_id)
    return key


def bucket(key: bytes, seed: int) -> int:
    """One of 10,000 buckets, 0 first."""
    return xxhash.xxh64_intdigest(key, seed) % BUCKETS
