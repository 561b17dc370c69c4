"""Training of the artwork bandit."""

from __future__ import annotations

import numpy as np

from models.artwork import ArtworkPolicy
from models.artwork_data import ArtworkImages, ArtworkLog, Scale, lookup
from models.artwork_posterior import Belief
from models.artwork_prior import fit_prior
from models.artwork_residuals import baseline
from models.artwork_settings import ArtworkConfig
from models.creative_quality import CreativeQuality
from models.data import MalformedData
from models.signature import Signature


def train_artwork(
    images: ArtworkImages,
    log: ArtworkLog,
    signature: Signature,
    image_signature: Signature,
    quality: CreativeQuality | None = None,
    config: ArtworkConfig = ArtworkConfig(),  # noqa: B008  (a frozen value)
) -> ArtworkPolicy:
    """A policy that believes what the whole log says; `images` are all there are, shown or not.

    1. b_t, the logit of each title's play rate, shrunk
    2. one prior for all images: quality score, taste weights, variances (`fit_prior`)
    3. each image's Laplace posterior from its own impressions

    Equal images, log (in any order, rows repeated or not) and config give an equal policy.

    Raises:
        MalformedData: columns do not match the signatures, or nothing (or everything) was played.
        UnknownArtwork: the log shows an image that is not in `images`.
    """
    _check_width(signature, log.context.shape[1], "context")
    _check_width(image_signature, images.features.shape[1], "image")
    log = log.canonical()
    contexts = Scale.of(log.context)
    titles = baseline(images, log, config.title_prior_impressions)
    offset = titles.of(lookup(log.title_id, titles.titles))
    prior = fit_prior(images, log, contexts.transform(log.context), offset, quality, config)
    scores = np.zeros(len(images)) if quality is None else quality.score(images.features)
    mean = prior.mean(images, scores)
    untaught = ArtworkPolicy(
        artwork_ids=images.artwork_id,
        title_ids=images.title_id,
        belief=Belief(mean, np.tile(prior.precision.astype(np.float32), (len(images), 1))),
        prior_mean=mean,
        prior=prior,
        contexts=contexts,
        titles=titles,
        signature=signature,
        image_signature=image_signature,
        config=config,
        metrics={"quality_sd": prior.quality_sd, "taste_sd": prior.taste_sd, "quality_gain": prior.gain},
    )
    return untaught.absorb(log)


def _check_width(signature: Signature, columns: int, what: str) -> None:
    if signature.width != columns:
        raise MalformedData(f"{what} has {columns} columns, its signature names {signature.width}.")
