"""The model versions inside a Bento: which are needed, loading them, and whether they fit the features online."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from experiments.assignment import Assignment
from experiments.live import LiveExperiments
from feature_repo.reader import OnlineReader
from models.artwork import ArtworkPolicy
from models.ranker import Ranker
from models.retrieval import Retriever
from models.signature import Signature, SignatureMismatch
from serving.manifest import NEEDS, Kind, Manifest, PackedVersion
from serving.plan import plan_of

Model = Retriever | Ranker | ArtworkPolicy
_LOAD: Mapping[Kind, Callable[[Path], Model]] = {
    "retriever": Retriever.load,
    "ranker": Ranker.load,
    "artwork": ArtworkPolicy.load,
}


class FeaturesDiffer(SignatureMismatch):
    """A model version reads other features than the online store holds: it must not be served."""

    def __init__(self, ref: str, service: str, generation: str, differences: tuple[str, ...]) -> None:
        super().__init__(differences)
        self.args = (
            f"{ref} does not fit feature service {service!r} of snapshot {generation}: {self.args[0]}",
        )


def needed(manifest: Manifest, experiments: LiveExperiments) -> Mapping[tuple[Kind, str], str]:
    """Every (kind, ref) that a request may meet, and who asks for it.

    Raises:
        UnreadableParameter: an arm sets what no page can follow.
    """
    kinds, defaults = NEEDS[manifest.service], manifest.defaults
    wanted = {(kind, ref): "the defaults" for kind, ref in defaults.refs().items() if kind in kinds}
    for experiment in experiments.experiments:
        for arm in experiment.arms:
            refs = plan_of(Assignment((), arm.parameters), defaults).versions.model_dump()
            asks = f"arm {arm.name!r} of live experiment {experiment.name!r}"
            wanted = {(kind, refs[kind]): asks for kind in kinds if refs[kind]} | wanted
    return wanted


def load(
    manifest: Manifest, folder: Path, experiments: LiveExperiments, loaded: Mapping[str, Model]
) -> Mapping[str, Model]:
    """All versions that are needed, those in `loaded` taken as they are; the others of `loaded` are let go.

    Raises:
        VersionNotPacked: the Bento holds no such version, or one of another kind.
        ArtifactError: it is damaged.
    """
    found = dict[str, Model]()
    for (kind, ref), asked_by in needed(manifest, experiments).items():
        packed = manifest.find(kind, ref, asked_by)
        found[ref] = loaded[ref] if ref in loaded else _LOAD[kind](folder / packed.folder)
    return found


def load_all(packed: Iterable[PackedVersion], folder: Path) -> Mapping[str, Model]:
    """Every version of a Bento, by ref; raises as `load` does."""
    return {version.ref: _LOAD[version.kind](folder / version.folder) for version in packed}


def check(models: Mapping[str, Model], reader: OnlineReader) -> None:
    """Raise `FeaturesDiffer` unless the snapshot holds the features that every model was trained on."""
    for ref, model in models.items():
        for service, signature in signatures(model).items():
            if differences := signature.difference(reader.digests(service)):
                raise FeaturesDiffer(ref, service, reader.generation, differences)


def signatures(model: Model) -> Mapping[str, Signature]:
    """What a model reads, by feature service."""
    match model:
        case Retriever():
            return {"retrieval_user": model.user_signature, "retrieval_title": model.title_signature}
        case Ranker():
            return {"ranking": model.signature}
        case ArtworkPolicy():
            return {"artwork_context": model.signature}
