"""Train and register what chooses images: the creative-quality model, and Thompson sampling with priors from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.training_set import training_set
from matinee import recipes
from matinee.bench import Bench
from matinee.datasets import Float32, entity_matrix
from matinee.desk import Desk, literal
from matinee.figures import posterior_over_time
from matinee.lineage import as_metrics, held
from matinee.periods import Period
from matinee.progress import Stage
from matinee.recipes import features_digest
from matinee.training import Fitted, kept_version, register, signature
from models import artifact
from models.artwork import ArtworkPolicy
from models.artwork_cold_start import Appeal, NothingToExplore, exploration_saved
from models.artwork_data import ArtworkImages, ArtworkLog
from models.artwork_evaluate import evaluate_artwork
from models.artwork_history import belief_history
from models.artwork_settings import ArtworkConfig, CreativeQualityConfig
from models.artwork_train import train_artwork
from models.creative_quality import CreativeQuality, train_creative_quality
from registry import ModelVersion, Output

WINDOW = timedelta(hours=6)
"""A play counts for the image it was reached through if it is known this long after the impression is.

A play is known when it ends: of the built-in world's, 99 in 100 within the window.
"""
WEEK = timedelta(weeks=1)
ARTWORK_OUTPUTS = (
    Output("artwork_ids", "int64", meaning="one image for each title"),
    Output("propensities", "float64", meaning="probability with which that image was drawn"),
)
"""What every version of an artwork policy answers."""


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


def closed_log(bench: Bench, periods: Sequence[Period], since: datetime) -> ArtworkLog:
    """Of the images shown in `periods`, those whose reward window closed after `since` and by the last period's end.

    A day's last hours close with the next day: asked day after day, every impression comes up once.
    """
    spine = _shown(bench.desk, periods[0].start, periods[-1].end, closed_after=since)
    made = training_set(
        spine, bench.service("artwork_context"), bench.desk.declarations, bench.desk.offline,
        [period.start for period in periods], threads=bench.desk.threads,
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


def _shown(desk: Desk, start: datetime, end: datetime, closed_after: datetime | None = None) -> pa.Table:
    """Impressions in [start, end) whose reward window closed by `end`, and after `closed_after` where that is given.

    What followed is settled by the window alone, so that the same impression has the same reward whenever it is read.
    """
    window = f"INTERVAL {int(WINDOW.total_seconds())} SECOND"
    later = "" if closed_after is None else f"AND i.created_timestamp + {window} > {literal(closed_after)}"
    with desk.events() as connection:
        return connection.sql(f"""
            SELECT i.impression_id, i.user_id, i.title_id, i.artwork_id, i.artwork_propensity, i.event_timestamp,
                   coalesce(p.known < i.created_timestamp + {window}, false) AS play
            FROM impressions i LEFT JOIN (
                SELECT impression_id, min(created_timestamp) AS known FROM plays GROUP BY impression_id
            ) p USING (impression_id)
            WHERE i.event_timestamp >= {literal(start)} AND i.event_timestamp < {literal(end)}
              AND i.created_timestamp + {window} <= {literal(end)} {later}
              AND i.artwork_id IS NOT NULL AND i.artwork_propensity > 0
            ORDER BY i.impression_id""").to_arrow_table()


def exploration_metrics(policy: ArtworkPolicy, log: ArtworkLog, span: timedelta) -> dict[str, float]:
    """What the quality score saves on new titles at the traffic of `log`, which covers `span`: simulated.

    Nothing where titles have one image, or where so little traffic teaches nothing: no figure stands for that.
    """
    titles = len(np.unique(log.title_id))
    a_week = len(log) / titles / (span / WEEK)
    images = round(float(np.median(np.unique(policy.title_ids, return_counts=True)[1])))
    prior = policy.prior
    appeal = Appeal(prior.gain, prior.quality_sd, policy.titles.overall, images)
    try:
        found = exploration_saved(appeal, a_week, policy.config)
    except NothingToExplore:
        return {}
    return {
        "weeks_saved": found.weeks,
        "impressions_saved": found.impressions,
        "weeks_to_learn": found.uninformed_weeks,
        "weeks_to_learn_with_score": found.informed_weeks,
        "impressions_a_week": a_week,
    }


def train_quality_version(bench: Bench, seed: int, stage: Stage) -> ModelVersion:
    """Train, cross-validate over titles and register the creative-quality model."""
    config = CreativeQualityConfig()
    if kept := kept_version(bench, recipes.creative_quality(config, seed), stage):
        return kept
    fitted = fit_quality(bench, config, seed)
    version = register(bench, fitted)
    stage.note = f"{version.ref}: validity {_value(fitted, 'validity'):.2f}"
    return version


def fit_quality(bench: Bench, config: CreativeQualityConfig, seed: int) -> Fitted:
    """The creative-quality model of a bench's split, not registered. `seed` is part of what it is known by only."""
    service, log = bench.service("artwork_image"), context_free_log(bench)
    images = artwork_images(bench.desk, bench.split.as_of)
    quality = train_creative_quality(images, log, signature(service), config)
    return Fitted(
        recipe=recipes.creative_quality(config, seed),
        model=quality,
        config=config,
        inputs={"image": service},
        outputs=(Output("appeal", "float64", meaning="standard deviations above the average image"),),
        training_set=features_digest((service,), bench.split.as_ofs, held(bench.desk)),
        rows=len(log),
        metrics=as_metrics(dict(quality.metrics), bench.desk.source.name, "cross-validated"),
    )


def train_artwork_version(
    bench: Bench, behind: ModelVersion, folder: Path, seed: int, stage: Stage
) -> ModelVersion:
    """Fit priors and posteriors on the train periods, evaluate off-policy on the test period, register.

    `folder` holds the files of `behind`, the creative-quality model.
    """
    config = ArtworkConfig(seed=seed)
    if kept := kept_version(bench, recipes.artwork(config).after(artifact.digest(folder)), stage):
        return kept
    fitted = fit_artwork(bench, behind, folder, config)
    version = register(bench, fitted)
    stage.note = f"{version.ref}: " + ", ".join(f"{m.name} {m.value:.3f}" for m in fitted.metrics)
    return version


def fit_artwork(bench: Bench, behind: ModelVersion, folder: Path, config: ArtworkConfig) -> Fitted:
    """The artwork policy of a bench's split with priors from a creative-quality model, not registered."""
    context, image = bench.service("artwork_context"), bench.service("artwork_image")
    log = artwork_log(bench, (*bench.split.train, bench.split.valid))
    images = artwork_images(bench.desk, bench.split.as_of)
    quality = CreativeQuality.load(folder)
    policy = train_artwork(images, log, signature(context), signature(image), quality, config)
    measured = evaluate_artwork(policy, images, artwork_log(bench, [bench.split.test])).metrics
    explored = exploration_metrics(policy, log, bench.split.valid.end - bench.split.train[0].start)
    behind_it = {"quality_validity": quality.validity.rho, "quality_validity_low": quality.validity.low}
    source = bench.desk.source.name
    return Fitted(
        recipe=recipes.artwork(config).after(artifact.digest(folder)),
        model=policy,
        config=config,
        inputs={"context": context, "image": image},
        outputs=ARTWORK_OUTPUTS,
        training_set=log.digest,
        rows=len(log),
        metrics=(
            *as_metrics(measured, source, "test"),
            *as_metrics(explored, source, "simulated"),
            *as_metrics(behind_it, source, "cross-validated"),
        ),
        upstream={"quality": behind.ref},
        documents=_belief_figure(bench, policy),
    )


def _belief_figure(bench: Bench, policy: ArtworkPolicy) -> dict[str, bytes]:
    """What came to be believed of the images of the title that was shown most, period by period."""
    periods = (*bench.split.train, bench.split.valid)
    days = [(period.start.date(), artwork_log(bench, [period])) for period in periods]
    titles, shown = np.unique(np.concatenate([log.title_id for _, log in days]), return_counts=True)
    title = int(titles[shown.argmax()])
    history = belief_history(policy.untaught(), days, title)
    return {"beliefs.svg": posterior_over_time(history, f"title {title}", simulated=bench.simulated)}


def _value(fitted: Fitted, name: str) -> float:
    return next(metric.value for metric in fitted.metrics if metric.name == name)
