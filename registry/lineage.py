"""The chain as a value: what came from what, from raw events to read-outs, and how to show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from registry.canonical import JSON

_FEW_FEATURES = 6  # more of one view are drawn as one box


class FeatureNode(NamedTuple):
    """A feature with one meaning."""

    digest: str
    name: str
    view: str
    dtype: str


class ServiceNode(NamedTuple):
    """A feature service; `features` are those of its features that this lineage is about, in order."""

    digest: str
    name: str
    features: tuple[str, ...]


class TrainingSetNode(NamedTuple):
    """A training set and the interval of raw events it learned from."""

    digest: str
    source: str
    interval_start: datetime
    interval_end: datetime
    rows: int
    event_digests: Mapping[str, str]
    services: tuple[str, ...]


class VersionNode(NamedTuple):
    """A model version, what it was made from (digests, and references of what it stands behind), and what points at it."""

    ref: str
    digest: str
    training_set: str | None
    services: tuple[str, ...]
    upstream: tuple[str, ...]
    aliases: tuple[str, ...]


class BentoNode(NamedTuple):
    """A Bento and those of its versions that this lineage is about."""

    tag: str
    digest: str
    created_at: datetime
    versions: tuple[str, ...]


class ArmNode(NamedTuple):
    """An arm that serves a version for a parameter; `run` tells runs of one experiment apart."""

    run: int
    experiment: str
    arm: str
    state: str
    parameter: str
    version: str

    @property
    def ref(self) -> str:
        """How people name it."""
        return f"{self.experiment}/{self.arm}"


class ReadoutNode(NamedTuple):
    """What came out of a run of an experiment."""

    id: int
    run: int
    experiment: str
    created_at: datetime
    verdict: Mapping[str, JSON]


@dataclass(frozen=True)
class Lineage:
    """Everything before and behind `target`, each kind in the order of the chain; links are digests and references."""

    target: str
    features: tuple[FeatureNode, ...]
    services: tuple[ServiceNode, ...]
    training_sets: tuple[TrainingSetNode, ...]
    versions: tuple[VersionNode, ...]
    bentos: tuple[BentoNode, ...]
    arms: tuple[ArmNode, ...]
    readouts: tuple[ReadoutNode, ...]

    def to_dict(self) -> dict[str, JSON]:
        """The lineage as JSON: times in ISO 8601, tuples as lists."""
        return {part.name: _json(getattr(self, part.name)) for part in fields(self)}

    def to_mermaid(self) -> str:
        """The lineage as a Mermaid flow chart, from left to right; many features of one view are one box."""
        boxes = {name: label for name, label, _ in self._boxes()}
        numbered = {name: f"n{place}" for place, name in enumerate(boxes)}
        lines = [f'  {numbered[name]}["{_escaped(label)}"]' for name, label in boxes.items()]
        arrows = dict.fromkeys((parent, name) for name, _, parents in self._boxes() for parent in parents)
        lines += [f"  {numbered[a]} --> {numbered[b]}" for a, b in arrows if a in numbered]
        return "\n".join(["flowchart LR", *lines])

    def _boxes(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """(name, label, names of the boxes before it)."""
        yield from self._feature_boxes()
        yield from self._training_set_boxes()
        for version in self.versions:
            before = [f"service {service}" for service in version.services]
            before += [
                f"training set {version.training_set}",
                *(f"version {ref}" for ref in version.upstream),
            ]
            aliases = "".join(f" @{alias}" for alias in version.aliases)
            yield f"version {version.ref}", f"{version.ref}{aliases}", before
        for bento in self.bentos:
            yield f"bento {bento.tag}", f"Bento {bento.tag}", [f"version {ref}" for ref in bento.versions]
        for arm in self.arms:
            yield f"arm {arm.run} {arm.arm}", f"arm {arm.ref} ({arm.state})", (f"version {arm.version}",)
        for readout in self.readouts:
            arms = [f"arm {arm.run} {arm.arm}" for arm in self.arms if arm.run == readout.run]
            yield f"readout {readout.id}", f"read-out {readout.id} of {readout.experiment}", arms

    def _feature_boxes(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        known = {feature.digest: feature for feature in self.features}
        for service in self.services:
            views: dict[str, list[FeatureNode]] = {}
            for digest in service.features:
                views.setdefault(known[digest].view, []).append(known[digest])
            before = []
            for view, features in views.items():
                if len(features) > _FEW_FEATURES:
                    before.append(f"view {service.digest} {view}")
                    yield before[-1], f"{view}: {len(features)} features", ()
                    continue
                for feature in features:
                    before.append(f"feature {feature.digest}")
                    yield before[-1], f"{view}: {feature.name}", ()
            yield f"service {service.digest}", f"feature service {service.name} {service.digest[:8]}", before

    def _training_set_boxes(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        for made in self.training_sets:
            events = f"events {made.source} [{made.interval_start:%Y-%m-%d %H:%M}, {made.interval_end:%Y-%m-%d %H:%M})"
            yield events, events, ()
            label = f"training set {made.digest[:8]}: {made.rows:,} rows"
            yield (
                f"training set {made.digest}",
                label,
                (events, *(f"service {digest}" for digest in made.services)),
            )


def _json(value: Any) -> JSON:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "_asdict"):
        return _json(value._asdict())
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(label: str) -> str:
    """As Mermaid writes characters that would end or dress up a label."""
    codes = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}
    return "".join(codes.get(letter, letter) for letter in label)
