"""Settings of a process: read from the environment once, at the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.settings import RankerConfig


class Settings(BaseSettings):
    """Where things are and how much of the machine to use. Every field is also `MATINEE_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="MATINEE_", frozen=True, extra="forbid")

    workspaces: Path = Field(Path(".matinee"), description="folder that holds one workspace for each source")
    source: str = Field("world", description="the source of events: world, kuairand or movielens")
    data: Path = Field(Path("../shared/data"), description="folder with the real data sets")
    registry_url: str | None = Field(
        None, description="SQLAlchemy URL of the ledger; SQLite in the workspace if unset"
    )
    threads: int = Field(2, ge=1, description="threads for DuckDB and for training; serving always uses one")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where networks are trained; auto is the GPU if there is one. Serving is on a processor",
    )
    seed: int = Field(0, description="of everything random in a pipeline run")
    world: Literal["standard", "tiny"] = Field(
        "standard", description="size of the built-in world; tiny is for tests"
    )
    world_settings: dict[str, Any] = Field(
        {},
        description="settings of the built-in world (`WorldConfig`) that differ from those of its size; JSON",
    )
    ranker_settings: dict[str, Any] = Field(
        {}, description="settings of the ranker (`RankerConfig`) that differ from its defaults; JSON"
    )
    port: int = Field(3000, ge=1, le=65_535, description="where `bento serve` listens")

    @field_validator("ranker_settings")
    @classmethod
    def _settings_of_a_ranker(cls, changes: dict[str, Any]) -> dict[str, Any]:
        RankerConfig.model_validate(changes)
        return changes

    @property
    def ranker(self) -> RankerConfig:
        """What rankers are trained with."""
        return RankerConfig.model_validate({"seed": self.seed, **self.ranker_settings})
