"""Training a version again from what the ledger recorded of it, and how what comes out compares.

Features and events are held against the recorded digests before anything is trained. Where a feature has been
declared anew there is no way back to what it meant, so nothing is trained. Where something else is not as it was (late
events, another library, another number of threads), training goes ahead and the report says what may be the cause.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from matinee import day as steps
from matinee.bench import Bench
from matinee.checking import signature_of
from matinee.context import Day, fetched
from matinee.lineage import event_digests, framework, service_record
from matinee.progress import Stage
from matinee.training import Fitted, fit_retriever, saved
from matinee.training_artwork import fit_artwork, fit_quality
from matinee.training_ranker import fit_ranker
from models import artifact
from models.artwork_settings import ArtworkConfig, CreativeQualityConfig
from models.determinism import arithmetic
from models.difference import Difference, differences
from models.settings import RankerConfig, RetrievalConfig
from models.threads import use_threads
from registry import Metric, ModelVersion, TrainingSetRecord


class NotReproducible(RuntimeError):
    """A version cannot be trained again from what there is; `reasons` says why."""

    def __init__(self, ref: str, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        shown = "\n  ".join(reasons[:20])
        more = f"\n  … and {len(reasons) - 20} more" if len(reasons) > 20 else ""
        super().__init__(f"{ref} cannot be trained again:\n  {shown}{more}")


ALWAYS = {"device": "cpu", "processes": "1"}
"""What trained the versions of releases that did not record it."""


@dataclass(frozen=True)
class Reproduction:
    """What came of training a version again.

    `circumstances` are what is not as it was then and may change the outcome; `files` the recorded files that came
    out otherwise; `inside` how their contents differ; `measured` metrics that came out otherwise (name → recorded, now).
    """

    ref: str
    circumstances: tuple[str, ...]
    files: tuple[str, ...]
    inside: tuple[Difference, ...]
    measured: Mapping[str, tuple[float | None, float | None]]

    @property
    def equal(self) -> bool:
        """Whether every file came out byte for byte, and every metric to the last digit."""
        return not self.files and not self.measured

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        inside = [vars(difference) for difference in self.inside]
        measured = {name: {"recorded": was, "now": now} for name, (was, now) in self.measured.items()}
        return {**vars(self), "inside": inside, "measured": measured, "equal": self.equal}


def reproduce(day: Day, ref: str, stage: Stage) -> Reproduction:
    """Train `ref` again on the day it was trained for, and compare.

    Raises:
        NotReproducible: it is of another source or not of our pipeline, or what it read has been declared anew.
    """
    version = day.registry.get(ref)
    day = replace(
        day,
        as_of=_trained_for(version, day.workspace.source.name),
        settings=day.settings.model_copy(update=_device(version, day.settings.device)),
    )
    if changed := changed_features(day, version):
        raise NotReproducible(version.ref, changed)
    learned = day.registry.training_set(str(version.training_set))
    use_threads(int(version.tags.get("threads", day.settings.threads)))
    before = circumstances(day, version, learned)
    steps.compute_features(day, stage)
    steps.validate(day, stage)
    fitted = FITS[version.name](day, version, stage)
    with tempfile.TemporaryDirectory() as folder:
        saved(fitted.model, Path(folder))
        return _compared(day, version, learned, fitted, Path(folder) / "model", before)


def changed_features(day: Day, version: ModelVersion) -> tuple[str, ...]:
    """What a version reads and is declared otherwise now, a sentence each."""
    declared = {service.name: service for service in day.workspace.declarations.services}
    columns, found = day.registry.columns(version.ref), []
    for given in version.signature.inputs:
        name = day.registry.service(given.service).name
        if name not in declared:
            found.append(f"input {given.name!r}: no feature service {name!r} is declared any more")
        elif service_record(declared[name]).digest != given.service:
            trained, live = signature_of(columns[given.name]), declared[name].digests
            added = [f"{feature}: added since" for feature in live if feature not in trained.features]
            found += [f"input {given.name!r}: {one}" for one in (*trained.difference(live), *added)]
    return tuple(found)


def circumstances(day: Day, version: ModelVersion, learned: TrainingSetRecord) -> tuple[str, ...]:
    """What is not as it was when a version was trained, a sentence each."""
    events, recorded = event_digests(day.workspace.lake, day.as_of), learned.event_digests
    found = [
        f"events: {table!r} before {day.as_of:%Y-%m-%d %H:%M} UTC is not what it was (rows that came late, or other data)"
        for table in sorted(events.keys() | recorded.keys())
        if events.get(table) != recorded.get(table)
    ]
    here = arithmetic(day.bench.hardware)
    now = {**framework(), **here}
    known = {**ALWAYS, **{key: version.tags[key] for key in here if key in version.tags}}
    then = {**version.signature.framework, **known}
    found += [
        f"{library}: {then.get(library, 'not recorded')} then, {now.get(library, 'not installed')} now"
        for library in sorted(now.keys() | then.keys())
        if now.get(library) != then.get(library)
    ]
    return tuple(found)


def _device(version: ModelVersion, asked: str) -> dict[str, str]:
    """The device to train a version again on: a processor if one trained it, whatever else there is here."""
    return {"device": "cpu" if version.tags.get("device", "cpu").startswith("cpu") else asked}


def _trained_for(version: ModelVersion, source: str) -> datetime:
    if version.name not in FITS:
        raise NotReproducible(version.ref, (f"only {', '.join(FITS)} are trained by this pipeline",))
    if version.training_set is None or "as_of" not in version.tags:
        raise NotReproducible(
            version.ref, ("it was not trained by this pipeline: no training set or `as_of` is recorded",)
        )
    if version.source != source:
        raise NotReproducible(
            version.ref, (f"it learned from {version.source}; say --source {version.source}",)
        )
    return datetime.fromisoformat(version.tags["as_of"])


def _compared(
    day: Day,
    version: ModelVersion,
    learned: TrainingSetRecord,
    fitted: Fitted,
    made: Path,
    before: tuple[str, ...],
) -> Reproduction:
    if (fitted.training_set, fitted.rows) != (learned.digest, learned.rows):
        was, now = (
            f"{learned.digest} ({learned.rows:,} rows)",
            f"{fitted.training_set} ({fitted.rows:,} rows)",
        )
        before = (*before, f"training set: {was} then, {now} now")
    digests = artifact.file_digests(made)
    recorded = {file.path: file.sha256 for file in version.files}
    files = tuple(
        name for name in sorted(digests.keys() | recorded.keys()) if digests.get(name) != recorded.get(name)
    )
    inside: tuple[Difference, ...] = ()
    if files:
        theirs = fetched(day, version.ref)
        kind = artifact.kind(theirs)
        inside = differences(artifact.load(theirs, kind), artifact.load(made, kind))
    return Reproduction(
        version.ref, before, files, inside, measured_otherwise(version.metrics, fitted.metrics)
    )


def measured_otherwise(
    recorded: tuple[Metric, ...], now: tuple[Metric, ...]
) -> dict[str, tuple[float | None, float | None]]:
    """Metrics that are not equal to the last digit: name and split → what was recorded, what came out now.

    >>> measured_otherwise((Metric("auc", 0.7, split="test"),), (Metric("auc", 0.8, split="test"),))
    {'auc (test)': (0.7, 0.8)}
    """
    was, came = ({f"{m.name} ({m.split})": m.value for m in metrics} for metrics in (recorded, now))
    return {
        name: (was.get(name), came.get(name))
        for name in sorted(was.keys() | came.keys())
        if was.get(name) != came.get(name)
    }


def _bench(day: Day) -> Bench:
    """Training again begins at the beginning."""
    return replace(day.bench, checkpoints=None)


def _retriever(day: Day, version: ModelVersion, stage: Stage) -> Fitted:
    return fit_retriever(_bench(day), RetrievalConfig.model_validate(version.config), stage)


def _ranker(day: Day, version: ModelVersion, stage: Stage) -> Fitted:
    behind, folder = _upstream(day, version, "retriever")
    return fit_ranker(_bench(day), behind, folder, RankerConfig.recorded(version.config), stage)


def _quality(day: Day, version: ModelVersion, _: Stage) -> Fitted:
    return fit_quality(day.bench, CreativeQualityConfig.model_validate(version.config), day.settings.seed)


def _artwork(day: Day, version: ModelVersion, _: Stage) -> Fitted:
    behind, folder = _upstream(day, version, "quality")
    return fit_artwork(day.bench, behind, folder, ArtworkConfig.model_validate(version.config))


FITS: Mapping[str, Callable[[Day, ModelVersion, Stage], Fitted]] = {
    "retriever": _retriever,
    "ranker": _ranker,
    "creative_quality": _quality,
    "artwork": _artwork,
}
"""How each model of the pipeline is trained again."""


def _upstream(day: Day, version: ModelVersion, role: str) -> tuple[ModelVersion, Path]:
    if role not in version.upstream:
        raise NotReproducible(version.ref, (f"which {role} it was trained behind is not recorded",))
    ref = version.upstream[role]
    return day.registry.get(ref), fetched(day, ref)
