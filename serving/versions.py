"""The model versions inside a Bento: which are needed, loading them, and whether they fit the features online.

PyTorch is imported when a model is loaded, and no earlier: what only checks should not wait for it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from experiments.live import LiveExperiments
from feature_repo.reader import OnlineReader
from models import artifact
from models.signature import Signature, SignatureMismatch
from serving.manifest import NEEDS, Kind, Manifest, PackedVersion
from serving.plan import setting_of
from serving.rollout import RolledOut, Rollout

if TYPE_CHECKING:
    from models.artwork import ArtworkPolicy
    from models.ranker import Ranker
    from models.retrieval import Retriever

M = TypeVar("M")


class FeaturesDiffer(SignatureMismatch):
    """A model version reads other features than the online store holds: it must not be served."""

    def __init__(self, ref: str, service: str, generation: str, differences: tuple[str, ...]) -> None:
        super().__init__(differences)
        self.args = (
            f"{ref} does not fit feature service {service!r} of snapshot {generation}: {self.args[0]}",
        )


@dataclass(frozen=True)
class Models:
    """Loaded models by pinned ref."""

    retrievers: Mapping[str, Retriever] = field(default_factory=dict)
    rankers: Mapping[str, Ranker] = field(default_factory=dict)
    artworks: Mapping[str, ArtworkPolicy] = field(default_factory=dict)


def needed(manifest: Manifest, experiments: LiveExperiments, rollout: Rollout) -> tuple[PackedVersion, ...]:
    """Every version that a request may meet: the defaults, what live arms ask for, shadows and canaries.

    Raises:
        UnreadableParameter: an arm sets what no page can follow.
        VersionNotPacked: the Bento does not hold one of them, or holds it as another kind of model.
    """
    kinds, defaults = NEEDS[manifest.service], manifest.defaults
    asked: dict[tuple[Kind, str], str] = {
        (kind, ref): "the defaults" for kind, ref in defaults.refs().items() if kind in kinds
    }
    arms = [
        (f"arm {arm.name!r} of live experiment {experiment.name!r}", arm.parameters)
        for experiment in experiments.experiments
        for arm in experiment.arms
    ]
    before = {} if experiments.holdout is None else experiments.holdout.baseline
    for asks, parameters in [("what was launched", experiments.launched), ("the hold-out", before), *arms]:
        refs = setting_of(parameters, defaults).versions.model_dump()
        asked = {(kind, refs[kind]): asks for kind in kinds if refs[kind]} | asked
    entries: tuple[RolledOut, ...] = (*rollout.canaries, *rollout.shadows)
    for entry in entries:
        if entry.kind in kinds:
            asked = {(entry.kind, entry.ref): f"the {type(entry).__name__.lower()} {entry.ref}"} | asked
    return tuple(manifest.find(kind, ref, asked_by) for (kind, ref), asked_by in asked.items())


def check(versions: Iterable[PackedVersion], reader: OnlineReader) -> None:
    """Raise `FeaturesDiffer` unless the snapshot holds the features that every version was trained on."""
    for version in versions:
        for service, digests in version.reads.items():
            signature = Signature(tuple(digests), tuple(digests.values()))
            if differences := signature.difference(reader.digests(service)):
                raise FeaturesDiffer(version.ref, service, reader.generation, differences)


def made_otherwise(ref: str, framework: Mapping[str, str]) -> tuple[str, ...]:
    """How the libraries that made a version differ from those installed here, a sentence each.

    Python's and a library's last digit do not count: they mend faults. What differs is worth a look and no reason to
    refuse, as the arrays of an artifact are read alike by all of them.
    """
    found = []
    for library, then in framework.items():
        now = platform.python_version() if library == "python" else _installed(library)
        if now is None or then.split(".")[:2] != now.split(".")[:2]:
            found.append(f"{ref} was made with {library} {then}; here is {now or 'none'}")
    return tuple(found)


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def load(versions: Iterable[PackedVersion], folder: Path, loaded: Models) -> Models:
    """`versions`, those in `loaded` taken as they are; the others in `loaded` are let go.

    Raises:
        ArtifactError: a folder does not hold the version that the manifest says.
    """
    from models.artwork import ArtworkPolicy  # noqa: PLC0415  (see above)
    from models.ranker import Ranker  # noqa: PLC0415
    from models.retrieval import Retriever  # noqa: PLC0415

    wanted: dict[Kind, dict[str, PackedVersion]] = {"retriever": {}, "ranker": {}, "artwork": {}}
    for version in versions:
        wanted[version.kind][version.ref] = version

    def taken(kind: Kind, there: Mapping[str, M], read: Callable[[Path], M]) -> dict[str, M]:
        return {
            ref: there[ref] if ref in there else read(_intact(version, folder))
            for ref, version in wanted[kind].items()
        }

    return Models(
        taken("retriever", loaded.retrievers, Retriever.load),
        taken("ranker", loaded.rankers, Ranker.load),
        taken("artwork", loaded.artworks, ArtworkPolicy.load),
    )


def _intact(version: PackedVersion, folder: Path) -> Path:
    path = folder / version.folder
    if (found := artifact.digest(path)) != version.digest:
        problem = f"is not {version.ref} as it was packed ({found[:12]}…, not {version.digest[:12]}…)."
        raise artifact.ArtifactError(path, problem)
    return path


def described(ref: str, folder: Path, framework: Mapping[str, str]) -> PackedVersion:
    """A version as its own folder describes it, every byte checked, without making a model of it.

    Raises:
        ArtifactError: the folder is not one whole artifact of a kind that is served.
    """
    kind = kind_of(folder)
    return PackedVersion(
        ref=ref,
        kind=kind,
        digest=artifact.digest(folder),
        folder=str(folder),
        reads=_reads(kind, artifact.load(folder, kind).documents["signature"]),
        framework=dict(framework),
    )


def kind_of(folder: Path) -> Kind:
    """Which kind of model a folder holds.

    Raises:
        ArtifactError: none, or one that is not served.
    """
    kind = artifact.kind(folder)
    if kind not in get_args(Kind):
        raise artifact.ArtifactError(folder, f"is a {kind!r}; a Bento holds {', '.join(get_args(Kind))}.")
    return cast("Kind", kind)


def _reads(kind: Kind, signature: Any) -> Mapping[str, Mapping[str, str]]:
    """Feature service → feature → digest: what a model was trained on, from the signature in its artifact."""
    services = {
        "retriever": lambda: {"retrieval_user": signature["user"], "retrieval_title": signature["title"]},
        "ranker": lambda: {"ranking": signature},
        "artwork": lambda: {"artwork_context": signature},
    }[kind]()
    signed = {name: Signature.from_json(value) for name, value in services.items()}
    return {name: dict(zip(s.features, s.digests, strict=True)) for name, s in signed.items()}
