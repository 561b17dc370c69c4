"""Does a version fit what is live? Its signature beside the snapshot that services read, and the libraries here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from feature_repo.reader import OnlineReader, UnknownService
from matinee.context import Day
from models.signature import Signature
from registry import Column, FeatureRecord, Input, ModelVersion
from serving.versions import made_otherwise


class NothingToCheck(LookupError):
    """A version does not say what it reads, so whether that is live cannot be told."""

    def __init__(self, ref: str) -> None:
        super().__init__(
            f"{ref} names no inputs: what it reads was not recorded, and cannot be compared with what is live. "
            "Register it with a signature whose inputs are feature services."
        )


@dataclass(frozen=True)
class InputFit:
    """One input beside the feature service of its name online: `columns` it reads, and what differs, a sentence each."""

    name: str
    service: str
    columns: int
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """How a version fits snapshot `generation`: `inputs` must, `libraries` should be as they were."""

    ref: str
    generation: str
    inputs: tuple[InputFit, ...]
    libraries: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether a service may serve the version on this snapshot."""
        return not any(given.differences for given in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "fits": self.fits}


def check(day: Day, ref: str) -> Fit:
    """Compare what a version was trained on with what is published.

    Raises:
        NotRecorded: there is no such version.
        NothingToCheck: it does not say what it reads.
        NothingPublished: nothing is live yet.
    """
    version = day.registry.get(ref)
    if not version.signature.inputs:
        raise NothingToCheck(version.ref)
    reader = OnlineReader.open(day.workspace.online)
    columns = day.registry.columns(version.ref)
    inputs = tuple(_fit(day, given, columns[given.name], reader) for given in version.signature.inputs)
    return Fit(version.ref, reader.generation, inputs, libraries(version))


def libraries(version: ModelVersion) -> tuple[str, ...]:
    """How the libraries here differ from those that made a version, a sentence each."""
    return made_otherwise(version.ref, version.signature.framework)


def _fit(day: Day, given: Input, columns: tuple[Column, ...], reader: OnlineReader) -> InputFit:
    service = day.registry.service(given.service).name
    live = _live(reader, service)
    trained = signature_of(columns)
    known = day.registry.features([*trained.digests, *live.values()])
    found = [_explained(line, trained, live, known) for line in trained.difference(live)]
    if given.dtype != DTYPE:
        found.append(f"dtype: the model takes {given.dtype}, the store gives {DTYPE}")
    return InputFit(given.name, service, len(columns), tuple(found))


DTYPE = "float32"
"""Of every matrix that the online reader hands out."""


def signature_of(columns: tuple[Column, ...]) -> Signature:
    """What an input was trained on, as it is compared with what is live."""
    return Signature(tuple(c.reference for c in columns), tuple(c.digest for c in columns))


def _live(reader: OnlineReader, service: str) -> Mapping[str, str]:
    """What the snapshot holds of a service; nothing of one that it does not know."""
    try:
        return reader.digests(service)
    except UnknownService:
        return {}


def _explained(
    line: str, trained: Signature, live: Mapping[str, str], known: Mapping[str, FeatureRecord]
) -> str:
    """A difference with what is known of the two meanings, where a feature was declared anew."""
    name = line.partition(": trained on")[0]
    if name == line:
        return line
    then, now = (
        known.get(digest)
        for digest in (dict(zip(trained.features, trained.digests, strict=True))[name], live[name])
    )
    if then is None or now is None:
        return line
    was, became = {"dtype": then.dtype, **then.definition}, {"dtype": now.dtype, **now.definition}
    changed = [
        f"{key} {was.get(key)!r} → {became.get(key)!r}" for key in became if was.get(key) != became.get(key)
    ]
    return f"{line} ({'; '.join(changed) or 'computed otherwise'})"
