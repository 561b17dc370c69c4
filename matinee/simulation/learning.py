"""What a system does with a day behind it: features, the choice of images, and now and then the big models."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from matinee import recipes
from matinee.bench import Bench
from matinee.context import Day, fetched
from matinee.day import compute_features, promote, publish, train_ranker, train_retriever, validate
from matinee.lineage import as_metrics
from matinee.periods import Period, Split
from matinee.progress import Stage, Stages
from matinee.publishing import publish_champions
from matinee.training import Fitted, register
from matinee.training_artwork import ARTWORK_OUTPUTS, artwork_images, closed_log
from models.artwork import ArtworkPolicy
from models.artwork_data import ArtworkLog, Float64
from models.creative_quality import CreativeQuality
from registry import ModelVersion

DAY = timedelta(days=1)
LATEST = timedelta(days=3)
"""How far back impressions may still have a reward window that closes today: reports come up to two days late."""
WHO = "matinee simulate"


def refresh(day: Day, stages: Stages) -> None:
    """Features as of the day, through the gate, into a published snapshot.

    The gate holds them against their contracts. Drift from what the champions learned from is not held against
    them: a page that is served differently shows different titles, which is what it is for.

    Raises:
        GateFailed: a table broke its contract; the last good snapshot stays live.
    """
    with stages.stage("compute features") as stage:
        compute_features(day, stage, [day.as_of])
    with stages.stage("gate") as stage:
        validate(day, stage, [day.as_of], drift=False)
    with stages.stage("publish") as stage:
        publish(day, stage)


def learn_artwork(day: Day, since: datetime, stage: Stage) -> ModelVersion | None:
    """The champion's choice of images after what became known in (since, as_of], registered and promoted.

    New images come in with the prior that the creative-quality model gives them. None where nothing was shown.
    """
    champion, quality = day.registry.get("artwork"), day.registry.get("creative_quality")
    split = lately(day.as_of, since)
    bench = replace(day.bench, split=split)
    log = closed_log(bench, split.train, since)
    if not len(log):
        stage.skip("no image was shown whose reward window has closed")
        return None
    scored = CreativeQuality.load(fetched(day, quality.ref))
    images = artwork_images(bench.desk, day.as_of)
    before = ArtworkPolicy.load(fetched(day, champion.ref)).knowing(images, scored.score(images.features))
    version = register(bench, _absorbed(bench, before, log, {"before": champion.ref, "quality": quality.ref}))
    day.registry.promote(
        version.ref, by=WHO, reason=f"absorbed {len(log)} impressions known by {day.as_of:%Y-%m-%d}"
    )
    publish_champions(day)
    stage.note = f"{version.ref} from {len(log):,} impressions"
    return version


def lately(as_of: datetime, since: datetime) -> Split:
    """Periods as long as from `since` to `as_of`, as many as it takes; nothing is measured on a later one."""
    every = as_of - since
    count = max(2, -(-LATEST // every))
    starts = [as_of - every * back for back in range(count, 0, -1)]
    periods = tuple(Period(start, start + every) for start in starts)
    return Split(periods, periods[-1], periods[-1], as_of)


def _absorbed(bench: Bench, before: ArtworkPolicy, log: ArtworkLog, upstream: dict[str, str]) -> Fitted:
    context, image = bench.service("artwork_context"), bench.service("artwork_image")
    recipe = recipes.artwork(before.config)
    settings = {**recipe.settings, "before": before.belief_digest, "absorbs": log.digest}
    return Fitted(
        recipe=replace(recipe, settings=settings),
        model=before.absorb(log),
        config=before.config,
        inputs={"context": context, "image": image},
        outputs=ARTWORK_OUTPUTS,
        training_set=log.digest,
        rows=len(log),
        metrics=as_metrics(foretold(before, log), bench.desk.source.name, "next day"),
        upstream=upstream,
    )


def foretold(policy: ArtworkPolicy, log: ArtworkLog) -> dict[str, float]:
    """How well a policy foretold a log it has not seen: log loss in nats an impression, beside the plain play rate's."""
    played = log.play.astype(np.float64)
    logit: Float64 = policy.play_logits(log.context, log.title_id, log.artwork_id[:, None])[:, 0]
    rate = float(np.clip(played.mean(), 1e-6, 1 - 1e-6))
    return {
        "log_loss": float((np.logaddexp(0, logit) - played * logit).mean()),
        "rate_log_loss": -(rate * float(np.log(rate)) + (1 - rate) * float(np.log1p(-rate))),
        "play_rate": float(played.mean()),
        "impressions": float(len(log)),
    }


def retrain(day: Day, stages: Stages) -> tuple[ModelVersion, ...]:
    """Retriever and ranker from the last days' events, promoted on what was measured of them."""
    with stages.stage("compute features") as stage:
        compute_features(day, stage)
    with stages.stage("gate") as stage:
        validate(day, stage, drift=False)
    with stages.stage("train retriever") as stage:
        retriever = train_retriever(day, stage)
    with stages.stage("train ranker") as stage:
        ranker = train_ranker(day, stage, retriever.ref)
    with stages.stage("promote") as stage:
        promote(day, (retriever, ranker), stage)
    return retriever, ranker
