"""Train, measure on the test period beside popularity, and register; the retriever."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from feature_repo.declarations import FeatureService
from matinee import recipes
from matinee.bench import Bench
from matinee.datasets import (
    Int64,
    entity_matrix,
    histories,
    play_log,
    retrieval_period,
)
from matinee.evaluating import evaluate_retriever, evaluation_metrics
from matinee.evaluation import is_popularity
from matinee.lineage import (
    held,
    inputs_digest,
    recorded_signature,
    trained_already,
    training_set_record,
)
from matinee.progress import Stage
from matinee.recipes import Recipe, features_digest
from matinee.version_documents import documented, noting
from models.coplays import known_coplays
from models.determinism import arithmetic
from models.devices import Hardware
from models.evaluate import (
    popularity,
)
from models.progress import Epoch, Progress
from models.retrieval import Retriever
from models.settings import RetrievalConfig
from models.signature import Signature
from models.train_retrieval import train_retrieval
from registry import Metric, ModelVersion, Output, VersionDraft

RETRIEVAL_KS = (20, 100, 200)


class Saveable(Protocol):
    """A model that writes itself, whole, into a folder."""

    def save(self, folder: Path) -> str:
        """Write it there and return its digest."""


@dataclass(frozen=True)
class Fitted:
    """A trained and tested model with all that the ledger is to know of it.

    `inputs` are the services its inputs are, by the input's name; `training_set` is a digest of `rows` rows;
    `upstream` are the versions it was trained behind, by role; `hardware` is what trained it; `documents` (file name
    → bytes) are set beside the version.
    """

    recipe: Recipe
    model: Saveable
    config: BaseModel
    inputs: Mapping[str, FeatureService]
    outputs: tuple[Output, ...]
    training_set: str
    rows: int
    metrics: tuple[Metric, ...]
    upstream: Mapping[str, str] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)
    documents: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.recipe.model


def kept_version(bench: Bench, recipe: Recipe, stage: Stage) -> ModelVersion | None:
    """The version that was trained by `recipe` from the very features there are now, if one was."""
    kept = trained_already(bench.registry, recipe.model, inputs_digest(bench.desk, bench.split, recipe))
    if kept:
        stage.skip(f"{kept.ref} was trained from these inputs")
    return kept


def register(bench: Bench, fitted: Fitted) -> ModelVersion:
    """Save a model into the ledger with its training set, its lineage and its figures.

    Of several processes that trained it the leading one does; the others wait, and find it there.
    """
    if fitted.hardware.team.leads:
        version = _registered(bench, fitted)
        _forget_checkpoints(bench, fitted.recipe)
    fitted.hardware.team.wait()
    return version if fitted.hardware.team.leads else _found(bench, fitted.recipe)


def _registered(bench: Bench, fitted: Fitted) -> ModelVersion:
    made, source = training_set_record(bench.desk, bench.split, fitted), bench.desk.source.name
    bench.registry.record_training_set(made)
    settings = fitted.config.model_dump(mode="json")
    inputs = inputs_digest(bench.desk, bench.split, fitted.recipe)
    with tempfile.TemporaryDirectory() as folder:
        return bench.registry.register(VersionDraft(
            name=fitted.name, files=saved(fitted.model, Path(folder)), metrics=fitted.metrics,
            config=settings, seed=settings.get("seed"),
            params={key: value for key, value in settings.items() if isinstance(value, str | float | int)},
            tags={"source": source, "as_of": bench.split.as_of.isoformat(), "inputs": inputs, **arithmetic(fitted.hardware)},
            signature=recorded_signature(fitted), training_set=made.digest, upstream=fitted.upstream,
            source=source, created_by="matinee train", documents=fitted.documents,
        ))  # fmt: skip


def _found(bench: Bench, recipe: Recipe) -> ModelVersion:
    inputs = inputs_digest(bench.desk, bench.split, recipe)
    if (version := trained_already(bench.registry, recipe.model, inputs)) is None:
        raise LookupError(
            f"the leading process registered no {recipe.model} of inputs {inputs} in this ledger."
        )
    return version


def checkpoint(bench: Bench, recipe: Recipe) -> Path | None:
    """Where the training of a model keeps how far it has come, one file for each that would come out otherwise."""
    if bench.checkpoints is None:
        return None
    made = {"inputs": inputs_digest(bench.desk, bench.split, recipe), **arithmetic(bench.hardware)}
    name = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
    return bench.checkpoints / recipe.model / f"{name}.safetensors"


def _forget_checkpoints(bench: Bench, recipe: Recipe) -> None:
    """The model is in the ledger: neither its own checkpoint nor those of other days are of any more use."""
    if bench.checkpoints is not None and (bench.checkpoints / recipe.model).exists():
        shutil.rmtree(bench.checkpoints / recipe.model)


def saved(model: Saveable, folder: Path) -> dict[str, Path | bytes]:
    """The files of a model, written into a new folder within `folder`, by name."""
    model.save(folder / "model")
    return {path.name: path for path in sorted((folder / "model").iterdir())}


def signature(service: FeatureService) -> Signature:
    """The ordered features a model of this service reads."""
    return Signature(tuple(service.digests), tuple(service.digests.values()))


def train_retriever_version(bench: Bench, config: RetrievalConfig, stage: Stage) -> ModelVersion:
    """Two towers on the train periods, stopped on validation, tested against popularity, registered."""
    if kept := kept_version(bench, recipes.retriever(config), stage):
        return kept
    fitted = fit_retriever(bench, config, stage)
    version = register(bench, fitted)
    stage.note = f"{version.ref}: {against_popularity(fitted.metrics, 'recall_at_200')}"
    return version


def fit_retriever(bench: Bench, config: RetrievalConfig, stage: Stage) -> Fitted:
    """The retriever of a bench's split, trained and tested, not registered."""
    split, user, title = bench.split, bench.service("retrieval_user"), bench.service("retrieval_title")
    recipe = recipes.retriever(config)
    kept = checkpoint(bench, recipe)
    train = [retrieval_period(bench.desk, period, split.as_of) for period in split.train]
    valid = retrieval_period(bench.desk, split.valid, split.as_of)
    epochs: list[Epoch] = []
    retriever = train_retrieval(
        train, valid, config, signature(user), signature(title), noting(epochs, told_to(stage)),
        hardware=bench.hardware, checkpoint=kept,
    )  # fmt: skip
    test = retrieval_period(bench.desk, split.test, split.as_of)
    evaluation = evaluate_retriever(bench, retriever, test, RETRIEVAL_KS)
    fitted = Fitted(
        recipe=recipe,
        model=_up_to_date(bench, retriever),
        config=config,
        inputs={"user": user, "title": title},
        outputs=(
            Output("title_ids", "int64", meaning="titles of the catalogue, best first"),
            Output("scores", meaning="inner product of user and title vector, plus the title's bias"),
        ),
        training_set=features_digest((user, title), split.as_ofs, held(bench.desk)),
        rows=sum(len(period.play_user) for period in train),
        metrics=evaluation_metrics(evaluation),
        hardware=bench.hardware,
    )
    return documented(bench, fitted, epochs, evaluation=evaluation)


def _up_to_date(bench: Bench, retriever: Retriever) -> Retriever:
    """The towers over the titles, and with the co-plays, of the split's end."""
    desk, as_of = bench.desk, bench.split.as_of
    ids, features = entity_matrix(desk, bench.service("retrieval_title"), as_of)
    users, _ = entity_matrix(desk, bench.service("retrieval_user"), as_of)
    return retriever.with_titles(
        ids, features, known_coplays(histories(desk, users, as_of), retriever.config)
    )


def popularity_list(bench: Bench, as_of: datetime, size: int = 200) -> Int64:
    """The most played titles of the source's middle window, for users of whom nothing is known."""
    ids, _ = entity_matrix(bench.desk, bench.service("retrieval_title"), as_of)
    ranking = popularity(play_log(bench.desk, as_of), as_of, bench.desk.source.windows[2], ids)
    return ranking[:size]


def told_to(stage: Stage) -> Progress:
    """What a training says of each epoch, for the person who waits."""

    def tell(epoch: Epoch) -> None:
        if epoch.resumed:
            stage.say(f"goes on from a checkpoint, after epoch {epoch.number} of {epoch.of}")
        shown = ", ".join(f"{name} {value:.3f}" for name, value in epoch.metrics.items())
        stage.step(epoch.number, epoch.of, f"epoch {epoch.number}, loss {epoch.loss:.3f}, {shown}")

    return tell


def against_popularity(metrics: Sequence[Metric], name: str) -> str:
    """One model's figure beside popularity's, for a person.

    >>> against_popularity([Metric("recall", 0.5, k=200), Metric("popularity_7d_recall", 0.4, k=200)], "recall_at_200")
    'recall_at_200 0.500 (popularity_7d 0.400)'
    """
    found = {metric.name: metric.value for metric in metrics}
    peers = {key.removesuffix(f"_{name}"): value for key, value in found.items() if key.endswith(f"_{name}")}
    others = ", ".join(f"{peer} {value:.3f}" for peer, value in peers.items() if is_popularity(peer))
    return f"{name} {found[name]:.3f}" + (f" ({others})" if others else "")
