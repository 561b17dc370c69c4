"""How two artifacts of one kind differ: which parts, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact


@dataclass(frozen=True)
class Difference:
    """One thing that differs. `largest` is the largest absolute difference of two arrays or numbers, where they have one.

    `share` is the share of an array's values that differ at all.
    """

    part: str
    what: str
    largest: float | None = None
    share: float | None = None

    def __str__(self) -> str:
        return f"{self.part}: {self.what}"


def differences(recorded: Artifact, made: Artifact) -> tuple[Difference, ...]:
    """What differs between two artifacts, part by part and name by name; () when nothing does.

    Values are compared bit for bit: equal artifacts have equal files. NaN is equal to NaN.
    """
    if recorded.kind != made.kind:
        return (Difference("kind", f"{recorded.kind} was recorded, {made.kind} was made"),)
    return (
        *_of_parts("safetensors", recorded.arrays, made.arrays),
        *_of_parts("json", recorded.documents, made.documents),
    )


def _of_parts(kind: str, recorded: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[Difference]:
    for part in sorted(recorded.keys() | made.keys()):
        yield from _compared(f"{part}.{kind}", recorded.get(part, _ABSENT), made.get(part, _ABSENT))


_ABSENT = object()


def _compared(place: str, recorded: Any, made: Any) -> Iterator[Difference]:
    """The differences at one place, which may be a mapping of further places."""
    if recorded is _ABSENT or made is _ABSENT:
        yield Difference(place, "was not recorded" if recorded is _ABSENT else "was recorded and is missing")
    elif isinstance(recorded, Mapping) and isinstance(made, Mapping):
        for key in sorted(recorded.keys() | made.keys()):
            yield from _compared(f"{place} {key}", recorded.get(key, _ABSENT), made.get(key, _ABSENT))
    elif isinstance(recorded, np.ndarray) and isinstance(made, np.ndarray):
        yield from _of_arrays(place, recorded, made)
    elif recorded != made:
        both_numbers = all(isinstance(value, int | float) for value in (recorded, made))
        largest = abs(made - recorded) if both_numbers else None
        yield Difference(place, f"{_shown(recorded)} was recorded, {_shown(made)} was made", largest)


def _of_arrays(place: str, recorded: NDArray[Any], made: NDArray[Any]) -> Iterator[Difference]:
    if (recorded.shape, recorded.dtype) != (made.shape, made.dtype):
        kinds = [f"{array.dtype}{list(array.shape)}" for array in (recorded, made)]
        yield Difference(place, f"{kinds[0]} was recorded, {kinds[1]} was made")
        return
    numeric = recorded.dtype.kind == "f"
    unequal = (recorded != made) & ~(np.isnan(recorded) & np.isnan(made)) if numeric else recorded != made
    if not unequal.any():
        return
    apart = np.abs(made[unequal].astype(np.float64) - recorded[unequal].astype(np.float64))
    largest, share = float(apart.max()), float(unequal.mean())
    largest = math.inf if math.isnan(largest) else largest  # a number here, none there
    yield Difference(
        place, f"{share:.1%} of {unequal.size:,} values differ, by {largest:.3g} at most", largest, share
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
