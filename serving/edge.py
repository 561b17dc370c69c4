"""How a service process meets the world: who may ask, what it writes down, whom it asks itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Traces = Literal["off", "console", "otlp"]


class Edge(BaseSettings):
    """Part of the environment: every field is `MATINEE_<FIELD>`, read once where the process starts."""

    model_config = SettingsConfigDict(env_prefix="MATINEE_", frozen=True, hide_input_in_errors=True)

    api_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="what a client sends as `Authorization: Bearer …`; unset, anybody may ask",
    )
    log_requests: bool = Field(False, description="a log line for every request; else for those that failed")
    traces: Traces = Field("off", description="where spans of each request and stage go")
    retriever_url: HttpUrl | None = Field(
        None, description="homepage: ask the Retriever there, not in process"
    )
    ranker_url: HttpUrl | None = Field(None, description="homepage: ask the Ranker there, not in process")
    artwork_url: HttpUrl | None = Field(None, description="homepage: ask the Artwork there, not in process")
