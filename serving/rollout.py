"""Versions on their way in, as data: shadows, which score and are not shown, and canaries, which a share of users is shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from experiments.config import BUCKETS
from experiments.hashing import seed_of
from feature_repo.durable import replace_file
from serving.manifest import Kind

E = TypeVar("E", "Shadow", "Canary")


class NotRolledOut(LookupError):
    """A version that is neither shadow nor canary cannot be taken out."""

    def __init__(self, what: str, ref: str, there: tuple[str, ...]) -> None:
        super().__init__(f"{ref!r} is no {what}. There is: {', '.join(there) or 'none'}.")


class RolledOut(BaseModel):
    """A version on its way in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    ref: str = Field(description="pinned, such as ranker/4")


class Shadow(RolledOut):
    """A version that scores what another one found or showed, unseen."""


class Canary(RolledOut):
    """A version that stands in for the default one of its kind, for a share of units."""

    share: float = Field(gt=0, le=1, description="of units; the same ones as long as the version is the same")

    @property
    def edge(self) -> int:
        """Units in buckets below this one are served with it; at least one bucket is."""
        return max(1, round(self.share * BUCKETS))

    @property
    def seed(self) -> int:
        """Of a hash of its own, so that being in it says nothing about any arm; a version's share can grow without anyone leaving."""
        return seed_of("canary", self.ref)


class Rollout(BaseModel):
    """Every shadow and canary: a value that serving follows as it does live experiments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    shadows: tuple[Shadow, ...] = ()
    canaries: tuple[Canary, ...] = ()

    @model_validator(mode="after")
    def _one_canary_a_kind(self) -> Self:
        for kind, number in Counter(canary.kind for canary in self.canaries).items():
            if number > 1:
                raise ValueError(f"{number} canaries are {kind}s; a kind has one at a time.")
        if len(set(self.shadows)) < len(self.shadows):
            raise ValueError("a shadow is named twice.")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """Every pinned version named, each once, in order."""
        return tuple(sorted({entry.ref for entry in (*self.shadows, *self.canaries)}))

    def with_shadow(self, shadow: Shadow) -> Self:
        """This one and one more shadow."""
        others = (one for one in self.shadows if one != shadow)
        return self.model_validate(self.model_dump() | {"shadows": (*others, shadow)})

    def with_canary(self, canary: Canary) -> Self:
        """This one with `canary` as its kind's only one."""
        others = (one for one in self.canaries if one.kind != canary.kind)
        return self.model_validate(self.model_dump() | {"canaries": (*others, canary)})

    def without_shadow(self, ref: str) -> Self:
        """This one without a shadow.

        Raises:
            NotRolledOut: it is none.
        """
        return self.model_copy(update={"shadows": _without("shadow", ref, self.shadows)})

    def without_canary(self, ref: str) -> Self:
        """This one without a canary; raises as `without_shadow` does."""
        return self.model_copy(update={"canaries": _without("canary", ref, self.canaries)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The value in a file; no file means that nothing is on its way."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        replace_file(path, self.model_dump_json(indent=1) + "\n")


def _without(what: str, ref: str, entries: tuple[E, ...]) -> tuple[E, ...]:
    there = tuple(entry.ref for entry in entries)
    if ref not in there:
        raise NotRolledOut(what, ref, there)
    return tuple(entry for entry in entries if entry.ref != ref)
