"""What callers hand to the ledger: frozen values, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from registry.canonical import JSON, canonical, check_text, digest_of
from registry.errors import InvalidRecord
from registry.refs import check_name, parse_ref
from registry.signature import Signature

_LONGEST_TEXT = 100_000


@dataclass(frozen=True)
class FeatureRecord:
    """One feature as declared: `digest` stands for its computation, type, entity and window."""

    digest: str
    name: str
    view: str
    dtype: str
    definition: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("digest", "name", "view", "dtype"):
            _check_short(f"a feature's {part}", getattr(self, part))
        canonical(self.definition)


@dataclass(frozen=True)
class ServiceRecord:
    """A feature service: the digests of its features, in the order a model takes them."""

    name: str
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name("feature service", self.name)
        object.__setattr__(self, "features", tuple(self.features))
        if not self.features:
            raise InvalidRecord(f"feature service {self.name!r} has no features.")
        if len(set(self.features)) != len(self.features):
            twice = sorted({digest for digest in self.features if self.features.count(digest) > 1})
            raise InvalidRecord(f"feature service {self.name!r} names {', '.join(twice)} twice.")

    @property
    def digest(self) -> str:
        """SHA-256 over the name and the feature digests in order."""
        return digest_of({"name": self.name, "features": list(self.features)})


@dataclass(frozen=True)
class TrainingSetRecord:
    """A training set: labels from events in [interval_start, interval_end).

    `event_digests` says which event data it read (table or partition → digest); `as_of` and `generation`
    which feature tables, so that the gate's verdicts on them can be found; `services` are the digests of the services
    whose features were joined to the labels.
    """

    digest: str
    source: str
    interval_start: datetime
    interval_end: datetime
    rows: int
    as_of: datetime | None = None
    generation: str | None = None
    event_digests: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_short("a training set's digest", self.digest)
        object.__setattr__(self, "services", tuple(self.services))
        if len(set(self.services)) != len(self.services):
            raise InvalidRecord(
                f"training set {self.digest} names a service twice: {', '.join(self.services)}."
            )
        check_text("a training set's source", self.source)
        for when in (self.interval_start, self.interval_end, self.as_of):
            _check_aware(f"training set {self.digest}", when)
        if self.interval_start >= self.interval_end:
            raise InvalidRecord(
                f"training set {self.digest}: [{self.interval_start}, {self.interval_end}) holds no time."
            )
        if self.rows < 1:
            raise InvalidRecord(
                f"training set {self.digest} has {self.rows} rows; nothing can be learned from it."
            )
        canonical(self.event_digests)


@dataclass(frozen=True)
class GateRecord:
    """The gate's verdict on one table for one `as_of`; `findings` as the gate wrote them."""

    table: str
    as_of: datetime
    passed: bool
    findings: Sequence[Mapping[str, JSON]] = ()
    generation: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        _check_short("a gate report's table", self.table)
        _check_aware(f"gate report on {self.table!r}", self.as_of)
        canonical(self.findings)

    @property
    def digest(self) -> str:
        """SHA-256 over the verdict and its findings."""
        return digest_of({"passed": self.passed, "findings": self.findings})


@dataclass(frozen=True)
class ConsistencyRecord:
    """Whether what models were given in `requests` logged requests is what is computed offline.

    `service` is a service's digest; `compared` counts values; each finding says at least which `feature`, of which
    `digest`, was served otherwise. It passed when there is none.
    """

    source: str
    service: str
    requests: int
    compared: int
    newest_request: datetime
    findings: Sequence[Mapping[str, JSON]] = ()

    def __post_init__(self) -> None:
        _check_short("a consistency verdict's source", self.source)
        _check_short("a consistency verdict's service", self.service)
        _check_aware(f"consistency verdict on {self.source}", self.newest_request)
        if self.requests < 1 or self.compared < 1:
            raise InvalidRecord(
                f"a consistency verdict on {self.source} over {self.requests} requests and {self.compared} values: "
                "where nothing was compared, nothing is known."
            )
        for finding in self.findings:
            if not {"feature", "digest"} <= set(finding):
                raise InvalidRecord(f"a consistency finding needs a feature and its digest: {finding!r}.")
        canonical(self.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def digest(self) -> str:
        """SHA-256 over the verdict and what it rests on."""
        return digest_of(
            {
                "findings": self.findings,
                "requests": self.requests,
                "compared": self.compared,
                "newest_request": self.newest_request.astimezone(UTC).isoformat(),
            }
        )


@dataclass(frozen=True)
class Metric:
    """A measured number; always say on which data set and split, and a cut-off where there is one.

    >>> Metric("recall", 0.41, dataset="kuairand", split="test", k=200).name
    'recall_at_200'
    """

    key: str
    value: float
    dataset: str = ""
    split: str = ""
    k: int | None = None

    def __post_init__(self) -> None:
        _check_short("a metric's key", self.key)
        check_text("a metric's data set", self.dataset)
        check_text("a metric's split", self.split)
        object.__setattr__(self, "value", float(self.value))
        if not math.isfinite(self.value):
            raise InvalidRecord(
                f"metric {self.name!r} is {self.value}: record a finite number or none at all."
            )
        if self.k is not None and self.k < 1:
            raise InvalidRecord(f"metric {self.key!r} at {self.k}: a cut-off is at least 1.")

    @property
    def name(self) -> str:
        """The key with its cut-off: what a search calls it."""
        return self.key if self.k is None else f"{self.key}_at_{self.k}"


@dataclass(frozen=True)
class VersionDraft:
    """A model version to be registered.

    `files` maps a path within the version to a local file or to bytes. `training_set` is the digest of a record made
    before, as are the services that the inputs of `signature` name. `upstream` are other models' versions that this one
    was trained behind (role → reference). `config` with `seed` rebuilds it. `documents` (plain file name → bytes) stand
    beside it and do not make it another version.
    """

    name: str
    files: Mapping[str, Path | bytes]
    metrics: Sequence[Metric] = ()
    params: Mapping[str, str | float | bool] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, JSON] = field(default_factory=dict)
    seed: int | None = None
    signature: Signature = field(default_factory=Signature)
    training_set: str | None = None
    upstream: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    created_by: str = ""
    description: str = ""
    documents: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("model", self.name)
        canonical(self.config)
        check_metrics(self.metrics)
        for role, ref in self.upstream.items():
            _check_short("the role of an upstream version", role)
            parse_ref(ref)
        for key, value in [*self.params.items(), *self.tags.items()]:
            check_pair(key, parameter_text(value))
        for part in ("source", "created_by", "description"):
            check_text(f"a version's {part}", getattr(self, part))


@dataclass(frozen=True)
class BentoRecord:
    """A built Bento and the model versions inside it, as references."""

    tag: str
    digest: str
    versions: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_short("a Bento's tag", self.tag)
        _check_short("a Bento's digest", self.digest)
        for ref in self.versions:
            parse_ref(ref)


@dataclass(frozen=True)
class ArmRecord:
    """One arm: `models` binds a parameter to a model version by reference, `values` to plain JSON.

    References are pinned to version numbers when the experiment starts.
    """

    name: str
    models: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("arm", self.name)
        for ref in self.models.values():
            parse_ref(ref)
        if both := sorted(set(self.models) & set(self.values)):
            raise InvalidRecord(f"arm {self.name!r} binds {', '.join(both)} to a model and to a value.")
        if empty := sorted(key for key, value in self.values.items() if value is None):
            raise InvalidRecord(f"arm {self.name!r} binds {', '.join(empty)} to null; leave it out instead.")
        canonical(self.values)


@dataclass(frozen=True)
class ExperimentRecord:
    """An experiment as declared: its arms in order, and the whole configuration beside them."""

    name: str
    layer: str
    arms: tuple[ArmRecord, ...]
    config: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("experiment", self.name)
        _check_short("an experiment's layer", self.layer)
        names = [arm.name for arm in self.arms]
        if not names:
            raise InvalidRecord(f"experiment {self.name!r} has no arms.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidRecord(f"experiment {self.name!r} names arm {', '.join(twice)} twice.")
        canonical(self.config)

    @property
    def digest(self) -> str:
        """SHA-256 over the declaration."""
        arms = [{"name": arm.name, "models": arm.models, "values": arm.values} for arm in self.arms]
        return digest_of({"name": self.name, "layer": self.layer, "arms": arms, "config": self.config})


def parameter_text(value: str | float | bool) -> str:
    """A parameter as text: what a search compares and a person reads.

    >>> parameter_text(True), parameter_text(3), parameter_text(1e-3)
    ('true', '3', '0.001')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def parameter_number(text: str) -> float | None:
    """The finite number a parameter's text spells, if it does."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_pair(key: str, value: str) -> None:
    """Refuse a tag or parameter the ledger cannot hold.

    Raises:
        InvalidRecord: an empty or over-long key, or a value over 100,000 characters.
    """
    _check_short("a key", key)
    if len(check_text(f"the value of {key!r}", value)) > _LONGEST_TEXT:
        raise InvalidRecord(
            f"the value of {key!r} has {len(value)} characters; the limit is {_LONGEST_TEXT}."
        )


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Refuse two values for one metric on one data set and split."""
    seen = [(metric.name, metric.dataset, metric.split) for metric in metrics]
    if twice := sorted({repr(slot) for slot in seen if seen.count(slot) > 1}):
        raise InvalidRecord(f"metric (name, data set, split) given twice: {', '.join(twice)}.")


def _check_short(kind: str, text: str) -> None:
    if not 1 <= len(check_text(kind, text)) <= 250:
        raise InvalidRecord(f"{kind} has {len(text)} characters; it needs 1 to 250.")


def _check_aware(what: str, when: datetime | None) -> None:
    if when is not None and when.tzinfo is None:
        raise InvalidRecord(f"{what}: {when} has no time zone; give UTC.")
