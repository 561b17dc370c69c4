"""What every training and evaluation needs: data, split, ledger, hardware."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from feature_repo.declarations import FeatureService
from matinee.desk import Desk
from matinee.periods import Split
from models.devices import Hardware, hardware
from registry import Registry


@dataclass(frozen=True)
class Bench:
    """What every training needs: data, split, ledger, the device that networks train on (a `Settings.device`).

    In `checkpoints` a network's training keeps how far it has come; None keeps nothing.
    """

    desk: Desk
    split: Split
    registry: Registry
    device: str = "cpu"
    checkpoints: Path | None = None

    @cached_property
    def hardware(self) -> Hardware:
        """Where networks train, and with which other processes."""
        return hardware(self.device)

    @property
    def simulated(self) -> bool:
        """Whether the users are of the built-in world."""
        return self.desk.source.name == "world"

    def service(self, name: str) -> FeatureService:
        """A feature service of this source."""
        return self.desk.declarations.service(name)
