"""What an artwork policy would have earned on a log of images that another policy drew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from models.artwork import ArtworkPolicy, Bools, PolicyName
from models.artwork_data import ArtworkImages, ArtworkLog, Float64
from models.data import Int64
from models.off_policy import (
    Interval,
    Model,
    NotEvaluable,
    PolicyValue,
    dr_terms,
    mean_interval,
    policy_value,
    quantile,
    snips_influence,
)

_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class PolicyLift:
    """A policy against uniform choice on the same rows; `lift` is relative, from SNIPS, `dr_lift` from DR values."""

    policy: PolicyValue
    uniform: PolicyValue
    lift: float
    low: float
    high: float
    dr_lift: Interval

    @property
    def metrics(self) -> Mapping[str, float]:
        """The figures that a model version is recorded with."""
        return {
            "ips": self.policy.ips,
            "snips": self.policy.snips,
            "snips_uniform": self.uniform.snips,
            "snips_lift": self.lift,
            "snips_lift_low": self.low,
            "snips_lift_high": self.high,
            "dr_lift": self.dr_lift.value,
            "dr_lift_low": self.dr_lift.low,
            "dr_lift_high": self.dr_lift.high,
            "effective_sample_size": self.policy.effective_sample_size,
        }


@dataclass(frozen=True)
class _Choices:
    """Each row's images (N, K), which exist, the place of the one that was shown, how likely the policy shows each."""

    ids: Int64
    present: Bools
    shown: Int64
    target: Float64

    @property
    def uniform(self) -> Float64:
        """(N, K) 1 / number of images."""
        shares: Float64 = self.present / self.present.sum(axis=1, keepdims=True)
        return shares

    def of_shown(self, values: Float64) -> Float64:
        """(N,) the entry of the logged image."""
        return values[np.arange(len(values)), self.shown]


def evaluate_artwork(
    policy: ArtworkPolicy,
    images: ArtworkImages,
    log: ArtworkLog,
    name: PolicyName = "thompson",
    confidence: float = 0.95,
    least_effective: float = 200,
    folds: int = 5,
) -> PolicyLift:
    """`policy` against uniform choice on a log it was not trained on; each title offers all its `images`.

    The doubly robust values use what `policy` would believe after the other folds of the log (cross-fitting,
    Chernozhukov et al. 2018); a user's rows are in one fold.

    Raises:
        TooLittleOverlap: as `policy_value`.
        NotEvaluable: uniform choice earned nothing, so that no relative lift exists.
        UnknownArtwork: the log shows an image that is not in `images`, or of which the policy knows nothing.
    """
    log = log.canonical()
    choices = _choices(policy, images, log, name)
    expected = _cross_fitted(policy, choices, log, folds)
    reward = log.play.astype(np.float64)

    def value(probabilities: Float64) -> tuple[PolicyValue, Float64, Model]:
        target = choices.of_shown(probabilities)
        model = Model(choices.of_shown(expected), (probabilities * expected).sum(axis=1))
        found = policy_value(target, log.propensity, reward, confidence, least_effective, model)
        return found, target / log.propensity, model

    ours, our_weight, our_model = value(choices.target)
    theirs, their_weight, their_model = value(choices.uniform)
    if theirs.snips <= 0:
        raise NotEvaluable("uniform choice earned nothing on this log: no relative lift exists.")
    snips = _ratio(
        ours.snips,
        theirs.snips,
        snips_influence(our_weight, reward, ours.snips),
        snips_influence(their_weight, reward, theirs.snips),
        confidence,
    )
    ours_dr = dr_terms(our_weight, reward, our_model)
    theirs_dr = dr_terms(their_weight, reward, their_model)
    return PolicyLift(
        ours, theirs, snips.value, snips.low, snips.high, _dr_lift(ours_dr, theirs_dr, confidence)
    )


def _dr_lift(ours: Float64, theirs: Float64, confidence: float) -> Interval:
    our_mean, their_mean = mean_interval(ours, confidence).value, mean_interval(theirs, confidence).value
    if their_mean <= 0:
        raise NotEvaluable("uniform choice is estimated to earn nothing: no relative lift exists.")
    rows = len(ours)
    return _ratio(our_mean, their_mean, (ours - our_mean) / rows, (theirs - their_mean) / rows, confidence)


def _ratio(
    ours: float, theirs: float, our_influence: Float64, their_influence: Float64, confidence: float
) -> Interval:
    """`ours`/`theirs` - 1; both come from the same rows, so their errors are taken together (delta method)."""
    ratio = ours / theirs
    influence = our_influence - ratio * their_influence
    margin = quantile(confidence) * float(np.sqrt((influence**2).sum())) / theirs
    return Interval(ratio - 1, ratio - 1 - margin, ratio - 1 + margin)


def _cross_fitted(policy: ArtworkPolicy, choices: _Choices, log: ArtworkLog, folds: int) -> Float64:
    """Expected plays (N, K) of every image of each row, by a policy that absorbed the other folds."""
    _, user = np.unique(log.user_id, return_inverse=True)
    fold = user % folds
    expected = np.zeros(choices.ids.shape)
    for held in np.unique(fold).tolist():
        rows = np.flatnonzero(fold == held)
        taught = policy.absorb(log.take(np.flatnonzero(fold != held)))
        for part in _parts(rows):
            ids, present = choices.ids[part], choices.present[part]
            logit = taught.play_logits(log.context[part], log.title_id[part], ids)
            expected[part] = np.where(present, expit(logit), 0.0)
    return expected


def _choices(policy: ArtworkPolicy, images: ArtworkImages, log: ArtworkLog, name: PolicyName) -> _Choices:
    ids, present, shown = _offered(images, log)
    target = np.zeros(ids.shape)
    for part in _parts(np.arange(len(log))):
        target[part] = policy.probabilities(log.context[part], ids[part], present[part], name)
    return _Choices(ids, present, shown, target)


def _offered(images: ArtworkImages, log: ArtworkLog) -> tuple[Int64, Bools, Int64]:
    """Each row's images (N, K), which exist, and the place of the one that was shown."""
    titles, title_row = images.title_rows
    by_title = np.argsort(title_row, kind="stable")
    count = np.bincount(title_row, minlength=len(titles))
    start = np.cumsum(count) - count
    rank = np.empty(len(images), dtype=np.int64)  # the place of an image among its title's
    rank[by_title] = np.arange(len(images)) - np.repeat(start, count)
    shown = images.rows(log.artwork_id)
    title = title_row[shown]
    place = np.arange(count[title].max(initial=1))
    present = place < count[title, None]
    rows = by_title[np.where(present, start[title, None] + place, 0)]
    return np.where(present, images.artwork_id[rows], -1), present, rank[shown]


def _parts(rows: Int64) -> Iterator[Int64]:
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[first : first + _ROWS_AT_ONCE]
