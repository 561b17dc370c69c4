"""One source's folder: where each part of the system keeps its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from events.lake import Lake
from events.sources import SOURCES, Source
from feature_repo.declarations import Declarations
from feature_repo.families import declare
from matinee.settings import Settings
from registry import Registry, open_registry


class UnknownSource(LookupError):
    """A source of events that does not exist."""

    def __init__(self, name: str) -> None:
        near = get_close_matches(name, SOURCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no source of events {name!r}.{hint} There are: {', '.join(SOURCES)}.")


@dataclass(frozen=True)
class Workspace:
    """Paths of one workspace, and the few things opened from them."""

    root: Path
    source: Source
    registry_url: str

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        """The workspace that `settings` names, its folder made and marked with its source.

        Raises:
            UnknownSource: there is no such source.
        """
        if settings.source not in SOURCES:
            raise UnknownSource(settings.source)
        root = (settings.workspaces / settings.source).resolve()
        root.mkdir(parents=True, exist_ok=True)
        (root / "workspace.json").write_text(json.dumps({"source": settings.source}) + "\n")
        return cls(
            root, SOURCES[settings.source], settings.registry_url or f"sqlite:///{root / 'registry.db'}"
        )

    @property
    def offline(self) -> Path:
        """Computed feature tables, Parquet."""
        return self.root / "offline"

    @property
    def online(self) -> Path:
        """The online store: the DuckDB record and its published snapshots."""
        return self.root / "online"

    @property
    def gate(self) -> Path:
        """Gate reports and Data Docs."""
        return self.root / "gate"

    @property
    def artifacts(self) -> Path:
        """Content-addressed model files."""
        return self.root / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """How far trainings have come that are not finished."""
        return self.root / "checkpoints"

    @property
    def scratch(self) -> Path:
        """Rows that are trained on, while they are: files without a name, gone with the process."""
        return self.root / "scratch"

    @property
    def reports(self) -> Path:
        """Documents of versions, written out for people to look at."""
        return self.root / "reports"

    @property
    def bentos(self) -> Path:
        """BentoML's store."""
        return self.root / "bentos"

    @property
    def exposures(self) -> Path:
        """The exposure log."""
        return self.root / "exposures"

    @property
    def live(self) -> Path:
        """The compiled live experiments that serving reads."""
        return self.root / "live" / "experiments.json"

    @property
    def champions(self) -> Path:
        """The champions that running services follow."""
        return self.root / "live" / "champions.json"

    @property
    def rollout(self) -> Path:
        """The shadows and canaries that running services follow."""
        return self.root / "live" / "rollout.json"

    @property
    def shadows(self) -> Path:
        """The log of what shadow versions would have done."""
        return self.root / "shadows"

    @property
    def histories(self) -> Path:
        """Daily statistics of the past, by what they were gathered from."""
        return self.root / "histories"

    @property
    def simulation(self) -> Path:
        """What a simulation keeps from day to day, and its reports."""
        return self.root / "simulation"

    @property
    def simulated(self) -> Path:
        """How far this workspace was simulated beyond its history; there is no such file where it was not."""
        return self.simulation / "state.json"

    @property
    def lake(self) -> Lake:
        """The raw events."""
        return Lake(self.root / "events", self.root / "quarantine")

    @property
    def declarations(self) -> Declarations:
        """The features declared for this source."""
        return declare(self.source)

    def registry(self) -> Registry:
        """The ledger, migrated to the newest schema."""
        return open_registry(self.registry_url, str(self.artifacts))
