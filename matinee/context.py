"""What every step of a day needs, and nothing heavy: importing this module loads neither torch nor Feast."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from events.world_config import WorldConfig
from matinee.desk import Desk
from matinee.periods import Split, split
from matinee.settings import Settings
from matinee.workspace import Workspace
from registry import Registry

if TYPE_CHECKING:
    from events.world import World
    from matinee.bench import Bench
    from matinee.gatekeeping import Gatekeeper


@dataclass(frozen=True)
class Day:
    """Everything a step of the day needs; every step may be run alone and again."""

    settings: Settings
    workspace: Workspace
    registry: Registry
    as_of: datetime

    @property
    def split(self) -> Split:
        """The periods that train, validate and test models for this day."""
        return split(self.workspace.source, self.as_of)

    @property
    def desk(self) -> Desk:
        """Where data sets are made."""
        w = self.workspace
        return Desk(w.source, w.lake, w.offline, w.declarations, self.settings.threads, w.scratch)

    @property
    def bench(self) -> Bench:
        """What training needs."""
        from matinee.bench import Bench  # noqa: PLC0415  (loads torch)

        return Bench(self.desk, self.split, self.registry, self.settings.device, self.workspace.checkpoints)

    @property
    def gatekeeper(self) -> Gatekeeper:
        """What decides which computed tables go further."""
        from matinee.gatekeeping import Gatekeeper  # noqa: PLC0415  (loads Great Expectations)

        return Gatekeeper(self.workspace.gate, self.workspace.offline, self.workspace.declarations)


def world_config(settings: Settings) -> WorldConfig:
    """The built-in world at the size and seed asked for, with the settings that were changed."""
    changes = {"seed": settings.seed, **settings.world_settings}
    return WorldConfig.tiny(**changes) if settings.world == "tiny" else WorldConfig.model_validate(changes)


def latest(settings: Settings, workspace: Workspace) -> datetime:
    """The last day that can be run: where the source's events end; of a world that was simulated further, there."""
    if workspace.simulated.exists():
        return datetime.fromisoformat(json.loads(workspace.simulated.read_text())["at"])
    return world_config(settings).end if workspace.source.name == "world" else workspace.source.latest


def present(day: Day) -> datetime:
    """What time it is for a workspace: the first moment not lived of one that is simulated, else the clock's."""
    return latest(day.settings, day.workspace) if day.workspace.simulated.exists() else datetime.now(UTC)


def load_world(day: Day) -> World:
    """The world whose history is in the lake."""
    from events.world import World  # noqa: PLC0415  (only simulations need it)

    return World(world_config(day.settings))


def fetched(day: Day, ref: str) -> Path:
    """A version's files on disk, fetched from the artifact store once."""
    version = day.registry.get(ref)
    folder = day.workspace.root / "versions" / version.name / str(version.number)
    return day.registry.fetch(version.ref, folder)
