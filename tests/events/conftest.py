from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from events.lake import Lake
from events.world import World, WorldConfig


@pytest.fixture(scope="session")
def world() -> World:
    return World(WorldConfig.tiny())


@pytest.fixture(scope="session")
def history(world) -> dict[str, pa.Table]:
    """The tiny world's whole history, one table each."""
    days = list(world.simulate())
    return {name: pa.concat_tables([day.tables[name] for day in days]) for name in days[0].tables}


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "events", tmp_path / "quarantine")


@pytest.fixture(scope="session")
def data() -> Path:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("MATINEE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set MATINEE_DATA")
    return folder
