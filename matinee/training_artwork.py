"""Train and register what chooses images: the creative-quality model, and Thompson sampling with priors from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.training_set import training_set
from matinee import recipes
from matinee.datasets import Float32, entity_matrix
from matinee.desk import Desk, literal
from matinee.lineage import as_metrics, held, inputs_digest, trained_already
from matinee.periods import Period
from matinee.progress import Stage
from matinee.recipes import features_digest
from matinee.training import Bench, Trained, register, signature
from models import artifact
from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_evaluate import evaluate_artwork
from models.artwork_settings import ArtworkConfig, CreativeQualityConfig
from models.artwork_train import train_artwork
from models.creative_quality import CreativeQuality, train_creative_quality
from registry import ModelVersion

WINDOW = timedelta(hours=1)
"""A play counts for the image it was reached through; impressions younger than this are still open."""


def artwork_images(desk: Desk, as_of: datetime) -> ArtworkImages:
    """Every image known at `as_of` with what it shows."""
    ids, features = entity_matrix(desk, desk.declarations.service("artwork_image"), as_of)
    with desk.events() as connection:
        rows = connection.sql(f"""
            SELECT artwork_id, any_value(title_id) AS title_id FROM artworks
            WHERE event_timestamp < {literal(as_of)} AND created_timestamp < {literal(as_of)}
            GROUP BY artwork_id ORDER BY artwork_id""").to_arrow_table()
    known, titles = rows["artwork_id"].to_numpy(), rows["title_id"].to_numpy()
    return ArtworkImages.of(ids, titles[np.searchsorted(known, ids)], features)


def artwork_log(bench: Bench, periods: Sequence[Period]) -> ArtworkLog:
    """Images shown in `periods` with a known propensity, and whether they were played; context as of each period."""
    spine = _shown(bench.desk, periods[0].start, periods[-1].end)
    moments = [period.start for period in periods]
    made = training_set(
        spine, bench.service("artwork_context"), bench.desk.declarations, bench.desk.offline, moments,
        threads=bench.desk.threads,
    )  # fmt: skip
    return _log(spine, made.features)


def context_free_log(bench: Bench) -> ArtworkLog:
    """Every image shown before the test period: what an image adds on average needs no context."""
    spine = _shown(bench.desk, datetime.min.replace(tzinfo=UTC), bench.split.test.start)
    return _log(spine, np.empty((len(spine), 0), dtype=np.float32))


def _log(spine: pa.Table, context: Float32) -> ArtworkLog:
    return ArtworkLog(
        impression_id=spine["impression_id"].to_numpy(),
        user_id=spine["user_id"].to_numpy(),
        title_id=spine["title_id"].to_numpy(),
        artwork_id=spine["artwork_id"].to_numpy(),
        context=context,
        play=spine["play"].cast(pa.float32()).to_numpy(),
        propensity=spine["artwork_propensity"].to_numpy(),
    )


def _shown(desk: Desk, start: datetime, end: datetime) -> pa.Table:
    """Impressions in [start, end) whose reward window closed by `end`."""
    with desk.events() as connection:
        return connection.sql(f"""
            SELECT i.impression_id, i.user_id, i.title_id, i.artwork_id, i.artwork_propensity, i.event_timestamp,
                   p.impression_id IS NOT NULL AS play
            FROM impressions i LEFT JOIN (
                SELECT DISTINCT impression_id FROM plays WHERE created_timestamp < {literal(end)}) p USING (impression_id)
            WHERE i.event_timestamp >= {literal(start)} AND i.event_timestamp < {literal(end - WINDOW)}
              AND i.created_timestamp < {literal(end)}
              AND i.artwork_id IS NOT NULL AND i.artwork_propensity > 0
            ORDER BY i.impression_id""").to_arrow_table()


def train_quality_version(bench: Bench, seed: int, stage: Stage) -> ModelVersion:
    """Train, cross-validate over titles and register the creative-quality model."""
    service, config = bench.service("artwork_image"), CreativeQualityConfig()
    inputs = inputs_digest(bench.desk, bench.split, recipes.creative_quality(config, seed))
    if kept := trained_already(bench.registry, "creative_quality", inputs):
        stage.skip(f"{kept.ref} was trained from these inputs")
        return kept
    log = context_free_log(bench)
    quality = train_creative_quality(
        artwork_images(bench.desk, bench.split.as_of), log, signature(service), config
    )
    digest = features_digest((service,), bench.split.as_ofs, held(bench.desk))
    metrics = as_metrics(dict(quality.metrics), bench.desk.source.name, "cross-validated")
    version = register(
        bench, "creative_quality", quality, Trained(service, digest, len(log), config, inputs), metrics
    )
    stage.note = f"{version.ref}: validity {quality.metrics['validity']:.2f}"
    return version


def train_artwork_version(bench: Bench, quality: Path, seed: int, stage: Stage) -> ModelVersion:
    """Fit priors and posteriors on the train periods, evaluate off-policy on the test period, register."""
    service, config = bench.service("artwork_context"), ArtworkConfig(seed=seed)
    recipe = recipes.artwork(config).after(artifact.digest(quality))
    inputs = inputs_digest(bench.desk, bench.split, recipe)
    if kept := trained_already(bench.registry, "artwork", inputs):
        stage.skip(f"{kept.ref} was trained from these inputs")
        return kept
    log = artwork_log(bench, (*bench.split.train, bench.split.valid))
    images = artwork_images(bench.desk, bench.split.as_of)
    policy = train_artwork(
        images, log, signature(service), signature(bench.service("artwork_image")), CreativeQuality.load(quality), config
    )  # fmt: skip
    measured = evaluate_artwork(policy, images, artwork_log(bench, [bench.split.test])).metrics
    metrics = as_metrics(measured, bench.desk.source.name, "test")
    version = register(
        bench, "artwork", policy, Trained(service, log.digest, len(log), config, inputs), metrics
    )
    stage.note = f"{version.ref}: " + ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
    return version
