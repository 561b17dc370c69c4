"""The artwork bandit ready to serve: one image for each title of a page, and the probability it was drawn with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.special import expit

from models import artifact
from models.artifact import Artifact
from models.artwork_data import ArtworkImages, ArtworkLog, Float64, Scale, lookup
from models.artwork_learning import Learnt, Shown, Start, learnt
from models.artwork_posterior import Belief
from models.artwork_prior import Prior
from models.artwork_propensity import drawn, uniform_draw, win_probabilities, with_floor
from models.artwork_residuals import Baseline
from models.artwork_settings import ArtworkConfig
from models.data import Float32, Int64, MalformedData
from models.signature import Signature

KIND = "artwork"
PolicyName = Literal["thompson", "uniform", "editorial"]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """What a log needs beside the image and its propensity for that propensity to be computed again.

    `belief` is the digest of the posterior, `context` of the user's context, `arm_sets` (T) of each title's images.
    """

    policy: PolicyName
    belief: str
    temper: float
    floor: float
    context: str
    arm_sets: tuple[str, ...]


@dataclass(frozen=True)
class ArtworkChoice:
    """One image for each title (T,), the probability with which the policy drew it, and what that came from."""

    artwork_ids: Int64
    propensities: Float64
    decision: Decision


@dataclass(frozen=True)
class ArtworkPolicy:
    """Contextual Thompson sampling: η = b_t + θ_a·[1, x], play ~ Bernoulli(σ(η)), θ_a normal.

    `belief` has a row for each of `artwork_ids` (A,) ascending, `prior_mean` (A, 1 + d) is its mean before any
    impression. An image that is not among them has mean 0 and the prior's precision.
    """

    artwork_ids: Int64
    title_ids: Int64
    belief: Belief
    prior_mean: Float32
    prior: Prior
    contexts: Scale
    titles: Baseline
    signature: Signature
    image_signature: Signature
    config: ArtworkConfig = ArtworkConfig()  # noqa: RUF009  (a frozen value)
    absorbed: tuple[str, ...] = ()  # digests of the logs that made the belief, in order
    metrics: Mapping[str, float] = field(default_factory=dict)

    def choose(
        self,
        x: Float32,
        title_ids: Int64,
        arms: Sequence[Int64],
        user_id: int,
        epoch: int,
        policy: PolicyName = "thompson",
    ) -> ArtworkChoice:
        """One image for each title, the same whenever user, title, epoch and belief are.

        `x` is the user's context (d,), null is NaN and counts as the average; `arms` are each title's artwork
        ids, of which there must be at least one.
        """
        ids, present = padded(arms)
        probabilities = self.probabilities(x[None, :].repeat(len(ids), axis=0), ids, present, policy)
        draws = np.array([uniform_draw(user_id, title, epoch) for title in title_ids.tolist()])
        place = drawn(probabilities, present, draws)
        rows = np.arange(len(ids))
        return ArtworkChoice(ids[rows, place], probabilities[rows, place], self._decision(x, arms, policy))

    def _decision(self, x: Float32, arms: Sequence[Int64], policy: PolicyName) -> Decision:
        return Decision(
            policy=policy,
            belief=self.belief_digest,
            temper=self.config.temper,
            floor=self.config.floor,
            context=context_digest(x),
            arm_sets=tuple(arm_set_digest(images) for images in arms),
        )

    @cached_property
    def belief_digest(self) -> str:
        """Of everything probabilities come from apart from context and images offered; another after each new log."""
        parts = (
            self.artwork_ids, self.belief.mean, self.belief.precision, self.prior_mean, self.prior.precision,
            self.contexts.mean, self.contexts.sd,
        )  # fmt: skip
        sha = hashlib.sha256()
        for part in parts:
            sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()[:16]

    def probabilities(
        self, x: Float32, ids: Int64, present: Bools, policy: PolicyName = "thompson"
    ) -> Float64:
        """P(image | context) for T pairs of context and title: `x` (T, d), `ids` and `present` (T, K)."""
        if policy == "uniform":
            shares: Float64 = present / present.sum(axis=1, keepdims=True)
            return shares
        rows = lookup(ids.ravel(), self.artwork_ids).reshape(ids.shape)
        if policy == "editorial":
            return _all_on_best(self._prior_appeal(rows), present)
        mean, sd = self._scores(self._design(x), rows)
        weights = win_probabilities(mean, self.config.temper * sd, present)
        return with_floor(weights, present, self.config.floor)

    def play_logits(self, x: Float32, title_ids: Int64, ids: Int64) -> Float64:
        """b_t + θ_a·[1, x] (T, K) at the mean of the belief; a title or image it does not know counts as average."""
        mean, _ = self._scores(self._design(x), lookup(ids.ravel(), self.artwork_ids).reshape(ids.shape))
        level = self.titles.of(lookup(title_ids, self.titles.titles))
        logits: Float64 = level[:, None] + mean
        return logits

    def effect_sd(self, x: Float32, ids: Int64) -> Float64:
        """Standard deviation (T, K) of what is believed of θ_a·[1, x], not tempered."""
        _, sd = self._scores(self._design(x), lookup(ids.ravel(), self.artwork_ids).reshape(ids.shape))
        return sd

    def _scores(self, design: Float32, rows: Int64) -> tuple[Float64, Float64]:
        """Mean and standard deviation (T, K) of θ_a·[1, x]; b_t is the same for all images of a title."""
        known = (rows >= 0)[:, :, None]
        theta = np.where(known, self.belief.mean[rows], np.float32(0))
        variance = np.where(
            known, 1 / self.belief.precision[rows], (1 / self.prior.precision).astype(np.float32)
        )
        mean = np.einsum("tkd,td->tk", theta, design).astype(np.float64)
        spread = np.einsum("tkd,td->tk", variance, design**2).astype(np.float64)
        return mean, np.sqrt(spread)

    def _prior_appeal(self, rows: Int64) -> Float64:
        return np.where(rows >= 0, self.prior_mean[rows, 0], 0.0).astype(np.float64)

    def absorb(self, log: ArtworkLog) -> ArtworkPolicy:
        """The policy after the closed windows of another day. A log it has absorbed before changes nothing.

        The result depends on what `log` holds, not on the order or repetition of its rows.

        Raises:
            UnknownArtwork: an image in the log is not one of this policy's.
            MalformedData: an image in the log stands for another title than this policy's.
        """
        digest = log.digest
        if digest in self.absorbed or len(log) == 0:
            return self
        log = log.canonical()
        rows = self.images.rows(log.artwork_id)
        if (self.title_ids[rows] != log.title_id).any():
            stray = log.artwork_id[self.title_ids[rows] != log.title_id][0]
            raise MalformedData(f"artwork {stray} is logged for another title than the one it belongs to.")
        shown = Shown(rows, self._design(log.context), log.play, np.ones(len(log)))
        found = learnt(Learnt(self.belief, self.titles.logits), self.start, shown, self.config)
        titles = replace(self.titles, logits=found.levels)
        return replace(self, belief=found.belief, titles=titles, absorbed=(*self.absorbed, digest))

    def knowing(self, images: ArtworkImages, scores: Float64, *, informed: bool = True) -> ArtworkPolicy:
        """The policy with the images of titles it had not heard of, believed of as its prior has it.

        `images` may hold those it knows as well: these are left alone, and what was learnt stays. `scores` (A,) are
        the creative-quality model's. Without `informed` nothing is foretold of a new image: its mean is 0 and its
        appeal is as uncertain as that of an image without a score (τ_q in place of τ_q·√(1 - ρ²)).

        Raises:
            MalformedData: there are not as many scores as images.
        """
        if len(scores) != len(images):
            raise MalformedData(f"{len(images)} images came with {len(scores)} scores.")
        new = np.flatnonzero(lookup(images.artwork_id, self.artwork_ids) < 0)
        if not len(new):
            return self
        fresh = ArtworkImages(images.artwork_id[new], images.title_id[new], images.features[new])
        prior = self.prior if informed else self.prior.without_score()
        mean = prior.mean(fresh, scores[new]) * np.float32(informed)
        order = np.argsort(np.concatenate([self.artwork_ids, fresh.artwork_id]), kind="stable")

        def with_new(known: NDArray[Any], added: NDArray[Any]) -> NDArray[Any]:
            joined: NDArray[Any] = np.concatenate([known, added])[order]
            return joined

        precision = np.tile(prior.precision.astype(np.float32), (len(new), 1))
        return replace(
            self,
            artwork_ids=with_new(self.artwork_ids, fresh.artwork_id),
            title_ids=with_new(self.title_ids, fresh.title_id),
            belief=Belief(with_new(self.belief.mean, mean), with_new(self.belief.precision, precision)),
            prior_mean=with_new(self.prior_mean, mean),
            titles=self.titles.knowing(fresh.title_id),
        )

    @property
    def images(self) -> ArtworkImages:
        """Its images, without what they show."""
        nothing = np.empty((len(self.artwork_ids), 0), np.float32)
        return ArtworkImages(self.artwork_ids, self.title_ids, nothing)

    @property
    def start(self) -> Start:
        """What it believed before any impression; a new title's level is worth a few impressions of an average one."""
        rate = float(expit(self.titles.overall))
        return Start(
            mean=self.prior_mean,
            precision=self.prior.precision,
            title_row=lookup(self.title_ids, self.titles.titles),
            titles=len(self.titles.titles),
            level=self.titles.overall,
            level_precision=self.config.title_prior_impressions * rate * (1 - rate),
        )

    def _design(self, x: Float32) -> Float32:
        """[1, x] with x standardised, (N, 1 + d)."""
        scaled = self.contexts.transform(x)
        return np.concatenate([np.ones((len(x), 1), np.float32), scaled], axis=1)

    def untaught(self) -> ArtworkPolicy:
        """The policy as its prior alone has it, before any impression: where its history begins.

        Titles' levels stay as they were learnt.
        """
        precision = np.tile(self.prior.precision.astype(np.float32), (len(self.artwork_ids), 1))
        return replace(self, belief=Belief(self.prior_mean, precision), absorbed=())

    def save(self, folder: Path) -> str:
        """Write the model as a new folder; returns the folder's digest."""
        prior, titles = self.prior, self.titles
        weights: dict[str, NDArray[Any]] = {
            "artwork_ids": self.artwork_ids,
            "title_ids": self.title_ids,
            "mean": self.belief.mean,
            "precision": self.belief.precision,
            "prior_mean": self.prior_mean,
            "taste": prior.taste,
            "context_mean": self.contexts.mean,
            "context_sd": self.contexts.sd,
            "image_mean": prior.images.mean,
            "image_sd": prior.images.sd,
            "titles": titles.titles,
            "title_logits": titles.logits,
        }
        documents: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"),
            "signature": self.signature.to_json(),
            "image_signature": self.image_signature.to_json(),
            "prior": {"gain": prior.gain, "quality_sd": prior.quality_sd, "taste_sd": prior.taste_sd},
            "history": {"absorbed": list(self.absorbed), "overall": titles.overall},
            "metrics": dict(self.metrics),
        }
        return artifact.save(Artifact(KIND, {"weights": weights}, documents), folder)

    @classmethod
    def load(cls, folder: Path) -> ArtworkPolicy:
        """Read a saved model, every byte checked."""
        found = artifact.load(folder, KIND)
        w, documents = found.arrays["weights"], found.documents
        return cls(
            artwork_ids=w["artwork_ids"],
            title_ids=w["title_ids"],
            belief=Belief(w["mean"], w["precision"]),
            prior_mean=w["prior_mean"],
            prior=Prior(Scale(w["image_mean"], w["image_sd"]), w["taste"], **documents["prior"]),
            contexts=Scale(w["context_mean"], w["context_sd"]),
            titles=Baseline(w["titles"], w["title_logits"], documents["history"]["overall"]),
            signature=Signature.from_json(documents["signature"]),
            image_signature=Signature.from_json(documents["image_signature"]),
            config=ArtworkConfig.model_validate(documents["config"]),
            absorbed=tuple(documents["history"]["absorbed"]),
            metrics=documents["metrics"],
        )


def context_digest(x: Float32) -> str:
    """Of a context (d,) as it was given: float32, every null alike."""
    plain = np.where(np.isnan(x), np.float32("nan"), x).astype("<f4")
    return f"{xxhash.xxh3_64_intdigest(plain.tobytes()):016x}"


def arm_set_digest(images: Int64) -> str:
    """Of the images a title offered, in whatever order."""
    return f"{xxhash.xxh3_64_intdigest(np.sort(images).astype('<i8').tobytes()):016x}"


def padded(arms: Sequence[Int64]) -> tuple[Int64, Bools]:
    """Titles' artwork ids side by side: ids (T, K), -1 where a title has fewer, and which are there.

    Raises:
        MalformedData: a title has no image.
    """
    sizes = np.array([len(images) for images in arms], dtype=np.int64)
    if len(sizes) == 0 or sizes.min() == 0:
        raise MalformedData("there is nothing to choose: every title needs at least one image.")
    present = np.arange(sizes.max()) < sizes[:, None]
    ids = np.full(present.shape, -1, dtype=np.int64)
    ids[present] = np.concatenate([np.asarray(images, dtype=np.int64) for images in arms])
    return ids, present


def _all_on_best(values: Float64, present: Bools) -> Float64:
    """Probability 1 on the largest value of each row, the first of equals."""
    best = np.where(present, values, -np.inf).argmax(axis=1)
    certain: Float64 = (np.arange(present.shape[1]) == best[:, None]).astype(np.float64)
    return certain
