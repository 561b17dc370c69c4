"""What is declared live, as one value: experiments, champions, shadows and canaries; and where a process finds it all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from experiments.live import LiveExperiments
from serving.champions import Champions
from serving.manifest import NEEDS, Manifest
from serving.rollout import Rollout


@dataclass(frozen=True)
class Folders:
    """Where a serving process finds things: `bento` what it was built from, the others in the workspace, `home`."""

    bento: Path
    home: Path
    online: Path
    experiments: Path  # files in live/: each is replaced whole
    champions: Path
    rollout: Path
    exposures: Path
    samples: Path
    shadows: Path

    @classmethod
    def of(cls, bento: Path, home: Path) -> Self:
        """The workspace's layout under `home`."""
        live = home / "live"
        return cls(
            bento=bento,
            home=home,
            online=home / "online",
            experiments=live / "experiments.json",
            champions=live / "champions.json",
            rollout=live / "rollout.json",
            exposures=home / "exposures",
            samples=home / "samples",
            shadows=home / "shadows",
        )


@dataclass(frozen=True)
class LiveSet:
    """What people have declared live. `manifest` is the Bento's with the champions for defaults."""

    experiments: LiveExperiments
    champions: Champions
    rollout: Rollout
    manifest: Manifest

    @classmethod
    def of(
        cls,
        folders: Folders,
        manifest: Manifest,
        experiments: LiveExperiments,
        champions: Champions = Champions(),  # noqa: B008  (a frozen value)
        rollout: Rollout = Rollout(),  # noqa: B008
    ) -> Self:
        """These values over the manifest of a Bento.

        Raises:
            ChampionNotHere, AnotherLedger: a champion cannot be a default here.
        """
        over = champions.over(manifest, NEEDS[manifest.service], folders.home)
        return cls(experiments, champions, rollout, over)

    @cached_property
    def id(self) -> str:
        """Of all of it (12 hex digits): two answers with the same id were made under the same declarations."""
        parts = (self.experiments, self.rollout, self.manifest)
        return hashlib.sha256("\n".join(part.model_dump_json() for part in parts).encode()).hexdigest()[:12]
