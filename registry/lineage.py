"""The chain as a value: what came from what, from raw events to read-outs, and how to show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from registry.boxes import Box, Kind, arrows, drawable, shortened, united
from registry.canonical import JSON

_FEW_FEATURES = 6  # more of one view are drawn as one box
_LONGEST_LABEL = 120  # in a flow chart, of which Mermaid reads 50,000 characters (its `maxTextSize`)


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

    def boxes(self) -> tuple[Box, ...]:
        """What there is to draw, in the order of the chain: each box once, none of them folded yet."""
        return united(self._boxes())

    def to_mermaid(self) -> str:
        """The lineage as a Mermaid flow chart, from left to right; very many boxes of a kind are folded into one."""
        boxes = drawable(self.boxes())
        numbered = {box.name: f"n{place}" for place, box in enumerate(boxes)}
        labels = {box.name: _escaped(shortened(box.label, _LONGEST_LABEL)) for box in boxes}
        lines = [f'  {numbered[name]}["{label}"]' for name, label in labels.items()]
        lines += [f"  {numbered[a]} --> {numbered[b]}" for a, b in arrows(boxes)]
        return "\n".join(["flowchart LR", *lines])

    def _boxes(self) -> Iterator[Box]:
        """Boxes as they are found: one may come again, with more before it."""
        yield from self._feature_boxes()
        yield from self._training_set_boxes()
        yield from self._version_boxes()
        for bento in self.bentos:
            before, family = tuple(f"version {ref}" for ref in bento.versions), _stem(bento.tag, ":")
            yield Box(f"bento {bento.tag}", Kind.BENTOS, f"Bento {bento.tag}", before, family=family)
        yield from self._arm_boxes()
        yield from self._readout_boxes()

    def _feature_boxes(self) -> Iterator[Box]:
        known = {feature.digest: feature for feature in self.features}
        for service in self.services:
            inputs = [box for held in _by_view(service, known) for box in _view_boxes(service, held)]
            yield from inputs
            label = f"feature service {service.name} {service.digest[:8]}"
            before = tuple(box.name for box in inputs)
            yield Box(f"service {service.digest}", Kind.SERVICES, label, before, family=service.name)
        held = {digest for service in self.services for digest in service.features}
        yield from (_feature_box(feature) for feature in self.features if feature.digest not in held)

    def _training_set_boxes(self) -> Iterator[Box]:
        for made in self.training_sets:
            events = f"events {made.source} [{made.interval_start:%Y-%m-%d %H:%M}, {made.interval_end:%Y-%m-%d %H:%M})"
            yield Box(events, Kind.EVENTS, events, family=made.source)
            label = f"training set {made.digest[:8]}: {made.rows:,} rows"
            before = (events, *(f"service {digest}" for digest in made.services))
            yield Box(f"training set {made.digest}", Kind.TRAINING_SETS, label, before, family=made.source)

    def _version_boxes(self) -> Iterator[Box]:
        served = {arm.version for arm in self.arms if arm.state == "running"}
        for version in self.versions:
            before = (
                *(f"service {digest}" for digest in version.services),
                f"training set {version.training_set}",
                *(f"version {ref}" for ref in version.upstream),
            )
            label = " ".join([version.ref, *(f"@{alias}" for alias in version.aliases)])
            live, family = bool(version.aliases) or version.ref in served, _stem(version.ref, "/")
            yield Box(f"version {version.ref}", Kind.VERSIONS, label, before, live, family=family)

    def _arm_boxes(self) -> Iterator[Box]:
        for arm in self.arms:
            label, before = f"arm {arm.ref} ({arm.state})", (f"version {arm.version}",)
            asked = self.target in {arm.ref, f"arm {arm.ref}", f"experiment {arm.experiment}"}
            yield Box(_arm(arm), Kind.ARMS, label, before, arm.state == "running", asked, arm.experiment)

    def _readout_boxes(self) -> Iterator[Box]:
        runs: dict[int, list[str]] = {}
        for arm in self.arms:
            runs.setdefault(arm.run, []).append(_arm(arm))
        for readout in self.readouts:
            name, label = f"readout {readout.id}", f"read-out {readout.id} of {readout.experiment}"
            before, asked = tuple(runs.get(readout.run, ())), self.target in {name, str(readout.id)}
            yield Box(name, Kind.READOUTS, label, before, asked=asked, family=readout.experiment)


def _arm(arm: ArmNode) -> str:
    """The name of an arm's box."""
    return f"arm {arm.run} {arm.arm}"


def _by_view(service: ServiceNode, known: Mapping[str, FeatureNode]) -> list[list[FeatureNode]]:
    """The features of a service, those of one view together."""
    views: dict[str, list[FeatureNode]] = {}
    for digest in service.features:
        views.setdefault(known[digest].view, []).append(known[digest])
    return list(views.values())


def _view_boxes(service: ServiceNode, features: Sequence[FeatureNode]) -> list[Box]:
    """A box for each of a service's features of one view; one for all where there are many."""
    if len(features) <= _FEW_FEATURES:
        return [_feature_box(feature) for feature in features]
    view, count = features[0].view, len(features)
    label = f"{view}: {count} features"
    return [Box(f"view {service.digest} {view}", Kind.FEATURES, label, family=view, count=count)]


def _feature_box(feature: FeatureNode) -> Box:
    label = f"{feature.view}: {feature.name}"
    return Box(f"feature {feature.digest}", Kind.FEATURES, label, family=feature.view)


def _stem(name: str, mark: str) -> str:
    """What stands before the last `mark`: the model of a reference, the name of a Bento's tag."""
    return name.rpartition(mark)[0]


def _json(value: Any) -> JSON:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "_asdict"):
        return _json(value._asdict())
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(label: str) -> str:
    """As Mermaid writes characters that would end or dress up a label, or begin a directive (`%%{`)."""
    codes = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "&": "#amp;", "%": "#37;"}
    return "".join(codes.get(letter, letter if letter.isprintable() else " ") for letter in label)
