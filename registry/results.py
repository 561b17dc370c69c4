"""What the ledger hands back: frozen values that outlive the transaction they were read in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from registry.canonical import JSON
from registry.records import Metric
from registry.signature import Signature
from registry.states import RunState


@dataclass(frozen=True)
class File:
    """A file of a version: its path there, and what it holds."""

    path: str
    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Document:
    """A document beside a version, such as its report: plain file name, kind, size in bytes, digest."""

    name: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model as the ledger has it; `upstream` are the versions it was trained behind, by role."""

    name: str
    number: int
    digest: str
    created_at: datetime
    created_by: str
    source: str
    config: Mapping[str, JSON]
    seed: int | None
    signature: Signature
    training_set: str | None
    upstream: Mapping[str, str]
    metrics: tuple[Metric, ...]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    files: tuple[File, ...]

    @property
    def ref(self) -> str:
        """How to name this version for good: `ranker/3`."""
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class RegisteredModel:
    """A model with its newest version and where its aliases stand."""

    name: str
    description: str
    created_at: datetime
    versions: int
    latest: int | None
    aliases: Mapping[str, int]


@dataclass(frozen=True)
class Page:
    """One page of a search; pass `next_page_token` back for the next, None means this was the last."""

    versions: tuple[ModelVersion, ...]
    next_page_token: str | None


@dataclass(frozen=True)
class Consistency:
    """A consistency verdict as the ledger has it; `service` is the service's name."""

    source: str
    service: str
    service_digest: str
    passed: bool
    requests: int
    compared: int
    newest_request: datetime
    findings: tuple[Mapping[str, JSON], ...]
    digest: str
    at: datetime


@dataclass(frozen=True)
class AliasMove:
    """One entry of an alias's history."""

    name: str
    alias: str
    kind: str
    from_number: int | None
    to_number: int | None
    at: datetime
    by: str
    reason: str
    evidence: Mapping[str, JSON]


@dataclass(frozen=True)
class Live:
    """A model version in use: `where` is an alias, a Bento's tag, or `experiment/arm`."""

    ref: str
    kind: Literal["alias", "bento", "arm"]
    where: str
    since: datetime


@dataclass(frozen=True)
class Bento:
    """A built Bento as recorded."""

    tag: str
    digest: str
    created_at: datetime
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Binding:
    """What an arm serves for one parameter: a pinned version by reference, or a value."""

    parameter: str
    version: str | None
    value: JSON


@dataclass(frozen=True)
class Arm:
    """An arm; its bindings are there once the experiment has started."""

    name: str
    bindings: tuple[Binding, ...]


@dataclass(frozen=True)
class StateChange:
    """One change of an experiment's state."""

    state: RunState
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class Experiment:
    """A run of an experiment as the ledger has it."""

    name: str
    layer: str
    state: RunState
    digest: str
    config: Mapping[str, JSON]
    arms: tuple[Arm, ...]
    history: tuple[StateChange, ...]


@dataclass(frozen=True)
class Readout:
    """A recorded read-out."""

    id: int
    experiment: str
    created_at: datetime
    verdict: Mapping[str, JSON]
