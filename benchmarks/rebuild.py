"""What a changed feature costs: computing the tables of a few days whole, beside computing only what changed.

Makes its own simulated world in a temporary folder. Every row is measured in the same run, on the same events; the files that
completion leaves are compared, byte for byte, with those of computing whole.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from events.importing import load
from events.lake import Lake
from events.sources import WORLD
from events.world_config import WorldConfig
from feature_repo.compute import plan, run
from feature_repo.declarations import Declarations
from feature_repo.families import declare
from matinee.lineage import events_digest

CHANGES: Mapping[str, tuple[str, str] | None] = {
    "nothing": None,
    "a feature of hovers": ("user_activity", "hover_count_14d"),
    "a feature of plays": ("user_activity", "play_count_14d"),
    "a feature of titles": ("title_profile", "release_year"),
    "what an image shows": ("artwork_profile", "warmth"),
}


@dataclass(frozen=True)
class Rebuilt:
    """One row of the table."""

    what: str
    files: int
    columns: int
    seconds: float
    cpu: float


def changed(table: str, feature: str) -> Declarations:
    """The world's stored tables with one feature computed over another window."""
    declared = declare(WORLD)
    old = declared.table(table)
    features = tuple(replace(f, over=1000) if f.name == feature else f for f in old.features)
    tables = tuple(replace(old, features=features) if t is old else t for t in declared.stored)
    return replace(declared, tables=tables, services=())


@dataclass(frozen=True)
class Yard:
    """Events, and where tables are computed."""

    lake: Lake
    config: WorldConfig
    days: int
    threads: int

    def rebuild(self, what: str, declared: Declarations, offline: Path) -> Rebuilt:
        """Bring `offline` up to `declared` and say what it took, planning included."""
        moments = [self.config.end - WORLD.period * n for n in range(self.days)]
        began, cpu = time.perf_counter(), time.process_time()
        steps = plan(declared, moments, lambda m: events_digest(self.lake, m), offline)
        done = run(steps, "world", self.lake.register, threads=self.threads)
        columns = sum(len(one.step.compute) for one in done)
        return Rebuilt(what, len(done), columns, time.perf_counter() - began, time.process_time() - cpu)


def contents(folder: Path) -> dict[str, bytes]:
    """Every computed file by its place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def measure(yard: Yard, root: Path) -> tuple[list[Rebuilt], bool]:
    """Whole, then each change from there and back; and whether every completed folder equals a whole one."""
    declared, offline = declare(WORLD), root / "offline"
    found, same = [yard.rebuild("everything", declared, offline)], True
    for what, change in CHANGES.items():
        wanted = changed(*change) if change else declared
        found.append(yard.rebuild(what, wanted, offline))
        yard.rebuild("whole", wanted, root / what)
        same &= contents(root / what) == contents(offline)
        yard.rebuild("back", declared, offline)
    return found, same


def main() -> None:
    """Print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=("standard", "tiny"), default="standard")
    parser.add_argument("--days", type=int, default=3, help="snapshots")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = WorldConfig() if asked.world == "standard" else WorldConfig.tiny()
        lake = Lake(root / "events", root / "quarantine")
        load("world", lake, root, world=config)
        found, same = measure(Yard(lake, config, asked.days, asked.threads), root)
    print(f"{'changed':<22} {'files':>6} {'columns':>8} {'s':>8} {'CPU s':>8} {'× whole':>8}")
    for one in found:
        times = found[0].seconds / one.seconds
        print(
            f"{one.what:<22} {one.files:>6} {one.columns:>8} {one.seconds:>8.2f} {one.cpu:>8.2f} {times:>8.1f}"
        )
    print(f"completed files equal whole ones, byte for byte: {same}")
    seconds = {one.what: round(one.seconds, 3) for one in found}
    print(
        "RESULT "
        + json.dumps(
            {
                "benchmark": "rebuild",
                "world": asked.world,
                "days": asked.days,
                "seconds": seconds,
                "same": same,
            }
        )
    )


if __name__ == "__main__":
    main()
