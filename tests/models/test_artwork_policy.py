"""The artwork bandit: what it learns from a log of randomised images, and what it then shows."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

from models.artifact import ArtifactError
from models.artwork import ArtworkPolicy, context_digest, padded
from models.artwork_data import ArtworkImages, ArtworkLog, Scale, UnknownArtwork
from models.artwork_evaluate import evaluate_artwork
from models.artwork_posterior import Belief, updated
from models.artwork_residuals import Residuals, effect_variance
from models.artwork_settings import ArtworkConfig
from models.artwork_train import train_artwork
from models.creative_quality import CreativeQuality, Validity, train_creative_quality
from models.data import MalformedData
from models.off_policy import TooLittleOverlap
from models.signature import Signature

D, M = 4, 6


def signature(width, prefix):
    return Signature(tuple(f"{prefix}{i}" for i in range(width)), ("x",) * width)


@dataclass(frozen=True)
class Images:
    """300 titles with 3 to 6 images; appeal follows what an image shows (`explained` of its variance) or not."""

    images: ArtworkImages
    appeal: np.ndarray
    taste: np.ndarray
    users: np.ndarray
    base: np.ndarray

    @classmethod
    def drawn(cls, seed, explained=0.8, titles=300, sd=0.5):
        rng = np.random.default_rng(seed)
        title = np.repeat(np.arange(titles), rng.integers(3, 7, titles))
        z = rng.normal(size=(len(title), M)).astype(np.float32)
        weights = rng.normal(size=M)
        seen = z @ weights / np.linalg.norm(weights)
        appeal = sd * (np.sqrt(explained) * seen + np.sqrt(1 - explained) * rng.normal(size=len(title)))
        taste = z @ rng.normal(0, 0.15, (M, D)) + rng.normal(0, 0.05, (len(title), D))
        users = rng.normal(size=(500, D)).astype(np.float32)
        images = ArtworkImages(1000 + np.arange(len(title)), 50 + title, z)
        return cls(images, appeal, taste, users, rng.normal(-1.5, 0.4, titles))

    def rate(self, user, image):
        title = self.images.title_id[image] - 50
        return expit(
            self.base[title] + self.appeal[image] + (self.users[user] * self.taste[image]).sum(axis=-1)
        )

    def log(self, seed, n, first=0):
        """`n` impressions of images drawn uniformly within a title."""
        rng = np.random.default_rng(seed)
        title = rng.integers(0, len(self.base), n)
        count = np.bincount(self.images.title_id - 50)
        image = (np.cumsum(count) - count)[title] + (rng.random(n) * count[title]).astype(int)
        user = 5 * rng.integers(0, len(self.users) // 5, n)
        play = (rng.random(n) < self.rate(user, image)).astype(np.float32)
        return ArtworkLog(first + np.arange(n), user, 50 + title, self.images.artwork_id[image],
                          self.users[user], play, 1 / count[title])  # fmt: skip

    def value(self, policy, name="thompson"):
        """The true play rate of `policy`, over every fifth user and all titles."""
        users = np.arange(0, 500, 5)
        user, title = np.tile(users, len(self.base)), np.repeat(np.arange(len(self.base)), len(users))
        arms = [self.images.artwork_id[self.images.title_id == 50 + t] for t in range(len(self.base))]
        ids, present = (part[title] for part in padded(arms))
        p = np.concatenate([
            policy.probabilities(self.users[user[rows]], ids[rows], present[rows], name)
            for rows in np.array_split(np.arange(len(user)), 20)
        ])  # fmt: skip
        rates = self.rate(user[:, None], np.where(present, ids - 1000, 0))
        return float((p * np.where(present, rates, 0)).sum(axis=1).mean())


def trained(world, log, quality=None, **config):
    return train_artwork(
        world.images, log, signature(D, "c"), signature(M, "i"), quality, ArtworkConfig(**config)
    )


@pytest.fixture(scope="module")
def world():
    return Images.drawn(1)


@pytest.fixture(scope="module")
def log(world):
    return world.log(2, 60_000)


@pytest.fixture(scope="module")
def quality(world, log):
    return train_creative_quality(world.images, log, signature(M, "i"))


@pytest.fixture(scope="module")
def policy(world, log, quality):
    return trained(world, log, quality)


# What it learns


def test_one_images_mode_is_what_a_general_optimiser_finds():
    rng = np.random.default_rng(0)
    design = np.concatenate([np.ones((40, 1)), rng.normal(size=(40, 2))], axis=1).astype(np.float32)
    play, offset = (rng.random(40) < 0.3).astype(np.float32), np.full(40, -1.0)
    prior = Belief(np.array([[0.2, 0.0, -0.1]], np.float32), np.array([[4.0, 9.0, 9.0]], np.float32))
    found = updated(prior, np.zeros(40, np.int64), design, play, offset, ArtworkConfig())

    def loss(theta):
        eta = offset + design @ theta
        return (np.logaddexp(0, eta) - play * eta).sum() + 0.5 * (
            prior.precision[0] * (theta - prior.mean[0]) ** 2
        ).sum()

    mode = scipy.optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    p = expit(offset + design @ mode)
    assert found.mean[0] == pytest.approx(mode, abs=1e-4)
    assert found.precision[0] == pytest.approx(prior.precision[0] + (p * (1 - p)) @ design**2, rel=1e-3)


def test_images_do_not_touch_each_others_belief():
    """All at once is one by one, whatever the number of impressions of each; image 2 has none."""
    rng = np.random.default_rng(1)
    rows = rng.choice([0, 1, 3, 4], 900, p=[0.7, 0.2, 0.09, 0.01]).astype(np.int64)
    design = np.concatenate([np.ones((900, 1)), rng.normal(size=(900, 3))], axis=1).astype(np.float32)
    play, offset = (rng.random(900) < 0.2).astype(np.float32), rng.normal(-1.4, 0.3, 900)
    prior = Belief(rng.normal(0, 0.1, (5, 4)).astype(np.float32), np.full((5, 4), 10, np.float32))
    together = updated(prior, rows, design, play, offset, ArtworkConfig(tolerance=1e-9, newton_steps=30))
    for image in (0, 1, 3, 4):
        mine = rows == image
        alone = updated(prior, rows[mine], design[mine], play[mine], offset[mine],
                        ArtworkConfig(tolerance=1e-9, newton_steps=30))  # fmt: skip
        assert together.mean[image] == pytest.approx(alone.mean[image], abs=1e-6)
        assert together.precision[image] == pytest.approx(alone.precision[image], rel=1e-6)
    assert (together.mean[2] == prior.mean[2]).all()
    assert (together.precision[2] == prior.precision[2]).all()


def test_newton_survives_a_separable_image():
    """Thousands of plays and nothing else, against a prior far away: no overshoot, a finite mode."""
    design = np.ones((5_000, 1), np.float32)
    prior = Belief(np.array([[-8.0]], np.float32), np.array([[0.01]], np.float32))
    config = ArtworkConfig(newton_steps=60)
    found = updated(
        prior, np.zeros(5_000, np.int64), design, np.ones(5_000, np.float32), np.zeros(5_000), config
    )
    assert 5 < found.mean[0, 0] < 20


def test_the_order_and_repetition_of_rows_do_not_matter(world, log, policy, quality):
    shuffled = np.random.default_rng(3).permutation(np.concatenate([np.arange(len(log)), np.arange(500)]))
    again = trained(world, log.take(shuffled), quality)
    assert (again.belief.mean == policy.belief.mean).all()
    assert (again.belief.precision == policy.belief.precision).all()
    assert again.absorbed == policy.absorbed


def test_a_log_absorbed_before_changes_nothing(world, log, policy):
    day = world.log(5, 2_000, first=10**6)
    once = policy.absorb(day)
    assert policy.absorb(log) is policy
    assert once is not policy
    assert once.absorb(day.take(np.arange(2_000)[::-1])) is once
    assert once.absorbed == (log.digest, day.digest)


def test_an_untaught_policy_believes_its_prior_and_can_be_taught_the_same_log_again(log, policy):
    start = policy.untaught()
    assert np.array_equal(start.belief.mean, policy.prior_mean)
    assert start.absorbed == ()
    again = start.absorb(log)
    np.testing.assert_allclose(again.belief.precision, policy.belief.precision, rtol=0.05)
    close = np.abs(again.belief.mean - policy.belief.mean) * np.sqrt(policy.belief.precision)
    assert np.quantile(close, 0.95) < 0.2  # of a posterior standard deviation


def test_another_days_log_only_adds_precision(world, policy):
    day = world.log(5, 2_000, first=10**6)
    after = policy.absorb(day)
    shown = np.isin(policy.artwork_ids, day.artwork_id)
    assert (after.belief.precision[shown, 0] > policy.belief.precision[shown, 0]).all()
    assert (after.belief.precision[~shown] == policy.belief.precision[~shown]).all()
    elsewhere = ~np.isin(policy.title_ids, day.title_id)
    assert (after.belief.mean[elsewhere] == policy.belief.mean[elsewhere]).all()
    assert world.value(after) > world.value(policy, "uniform")


def test_an_image_of_no_title_is_refused(world, policy):
    day = world.log(5, 10)
    unknown = dataclasses.replace(day, artwork_id=np.full(10, 77))
    with pytest.raises(UnknownArtwork, match="artworks 77 are not among"):
        policy.absorb(unknown)


def test_an_image_logged_for_another_title_is_refused(world, policy):
    day = world.log(5, 10)
    with pytest.raises(MalformedData, match="logged for another title"):
        policy.absorb(dataclasses.replace(day, title_id=day.title_id + 1))


def test_the_variance_of_effects_is_recovered_from_their_scores():
    """u ~ N(I q, I) with q ~ N(0, τ²): E[u²] = I + I²τ²."""
    rng = np.random.default_rng(0)
    information = rng.uniform(1, 20, 20_000)
    score = information * rng.normal(0, 0.4, 20_000) + np.sqrt(information) * rng.normal(size=20_000)
    assert np.sqrt(effect_variance(Residuals(score, information))) == pytest.approx(0.4, rel=0.03)
    noise = np.sqrt(information) * rng.normal(size=20_000)
    assert np.sqrt(effect_variance(Residuals(noise, information))) < 0.1


def test_the_variances_of_a_world_are_recovered_though_tastes_move_rates():
    """Of appeal of sd .5 a fifth is no feature's: .5·√.2 = .22; tastes beside those of features have sd .05·√(100/4) = .25.

    Tastes widen rates, and a title's mean play rate is then not the rate at its level: were it taken for it, chance
    would look larger than it is and effects smaller.
    """
    world = Images.drawn(11)
    rng = np.random.default_rng(12)
    wide = dataclasses.replace(world, taste=world.taste + rng.normal(0, 0.25, world.taste.shape))
    log = wide.log(13, 120_000)
    prior = trained(wide, log, train_creative_quality(wide.images, log, signature(M, "i"))).prior
    assert prior.taste_sd == pytest.approx(np.sqrt(0.25**2 + 0.05**2), rel=0.12)
    assert prior.quality_sd == pytest.approx(0.5 * np.sqrt(0.2), rel=0.25)
    assert prior.gain == pytest.approx(0.5 * np.sqrt(0.8), rel=0.25)


# What it shows


def test_it_earns_more_than_uniform_and_than_the_best_image_for_everyone(world, policy):
    best = world.value(policy)
    assert best > 1.25 * world.value(policy, "uniform")
    assert best > world.value(policy, "editorial") > 1.1 * world.value(policy, "uniform")


def test_a_prior_from_what_images_show_pays_before_anything_was_shown(world, log, quality):
    """Half the titles were never shown: uniform without the score, better than that with it."""
    new = world.images.title_id >= 50 + 150
    seen = log.take(log.title_id < 50 + 150)
    quality = train_creative_quality(world.images, seen, signature(M, "i"))
    informed, blank = trained(world, seen, quality), trained(world, seen)
    assert (informed.belief.precision[new] == informed.belief.precision[new][0]).all()
    correlation = np.corrcoef(informed.belief.mean[new, 0], world.appeal[new])[0, 1]
    assert correlation > 0.6
    assert (blank.belief.mean[new, 0] == 0).all()
    assert world.value(informed) > 1.02 * world.value(blank)


def test_a_score_of_unproven_validity_is_ignored(world, log, quality):
    doubtful = dataclasses.replace(quality, validity=Validity(rho=0.8, low=-0.01, sd=0.5, titles=10))
    assert trained(world, log, doubtful).prior.gain == 0
    assert trained(world, log, quality).prior.gain > 0


def test_a_choice_is_the_same_for_a_user_and_a_day(world, policy):
    titles = np.arange(50, 70)
    arms = [world.images.artwork_id[world.images.title_id == t] for t in titles]
    one = policy.choose(world.users[0], titles, arms, 7, 20_000)
    again = policy.choose(world.users[0], titles, arms, 7, 20_000)
    assert (one.artwork_ids == again.artwork_ids).all()
    epochs = [policy.choose(world.users[0], titles, arms, 7, day).artwork_ids for day in range(30)]
    assert len(np.unique(epochs, axis=0)) > 5
    assert all(image in mine for image, mine in zip(one.artwork_ids, arms, strict=True))


def test_a_choice_comes_with_the_probability_it_was_drawn_with(world, policy):
    titles = np.arange(50, 90)
    arms = [world.images.artwork_id[world.images.title_id == t] for t in titles]
    choice = policy.choose(world.users[3], titles, arms, 7, 20_000)
    ids, present = padded(arms)
    p = policy.probabilities(np.tile(world.users[3], (40, 1)), ids, present)
    assert choice.propensities == pytest.approx(p[ids == choice.artwork_ids[:, None]], abs=1e-12)
    assert (choice.propensities >= policy.config.floor).all()
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-9


def test_probabilities_follow_from_the_belief_by_hand(world, policy):
    """Means θ·[1, x], half the posterior's standard deviation, a floor of 2 %."""
    mine = world.images.artwork_id[world.images.title_id == 50]
    row, x = mine - 1000, world.users[5]
    design = np.concatenate([[1], (x - policy.contexts.mean) / policy.contexts.sd])
    mean = policy.belief.mean[row] @ design
    sd = 0.5 * np.sqrt((design**2 / policy.belief.precision[row]).sum(axis=1))
    draws = np.random.default_rng(0).normal(mean, sd, (400_000, len(mine))).argmax(axis=1)
    expected = 0.02 + (1 - 0.02 * len(mine)) * np.bincount(draws, minlength=len(mine)) / len(draws)
    ids, present = padded([mine])
    assert policy.probabilities(x[None], ids, present)[0] == pytest.approx(expected, abs=0.003)


def test_a_choice_says_what_its_propensity_was_computed_from(world, policy):
    titles = np.arange(50, 53)
    arms = [world.images.artwork_id[world.images.title_id == t] for t in titles]
    of = lambda policy, x, arms, name="thompson": policy.choose(x, titles, arms, 7, 20_000, name).decision  # noqa: E731
    said = of(policy, world.users[3], arms)
    assert (said.policy, said.temper, said.floor, len(said.arm_sets)) == ("thompson", 0.5, 0.02, 3)
    assert said == of(policy, world.users[3].copy(), [images[::-1] for images in arms])
    fewer = of(policy, world.users[3], [arms[0][:-1], *arms[1:]])
    assert fewer.arm_sets[0] != said.arm_sets[0]
    assert fewer.arm_sets[1:] == said.arm_sets[1:]
    assert of(policy, world.users[4], arms).context != said.context
    assert of(policy, world.users[3], arms, "uniform").policy == "uniform"
    later = policy.absorb(world.log(5, 2_000, first=10**6))
    assert of(later, world.users[3], arms).belief != said.belief
    assert policy.absorb(world.log(2, 60_000)).belief_digest == said.belief


def test_every_null_of_a_context_is_the_same_null():
    """NaNs differ in their payload bits; what they say does not."""
    one, other = (np.array([bits, 0], np.uint32).view(np.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert context_digest(one) == context_digest(other) != context_digest(np.zeros(2, np.float32))


@pytest.mark.parametrize("name", ["uniform", "editorial"])
def test_the_other_policies_say_their_propensities_too(world, policy, name):
    titles = np.arange(50, 90)
    arms = [world.images.artwork_id[world.images.title_id == t] for t in titles]
    choice = policy.choose(world.users[3], titles, arms, 7, 20_000, name)
    sizes = np.array([len(mine) for mine in arms])
    assert choice.propensities == pytest.approx(1 / sizes if name == "uniform" else np.ones(40))
    if name == "editorial":
        appeal = [policy.prior_mean[mine - 1000, 0] for mine in arms]
        assert choice.artwork_ids.tolist() == [a[v.argmax()] for a, v in zip(arms, appeal, strict=True)]


def test_an_image_nobody_has_heard_of_gets_the_prior(policy):
    """Two unknown images are alike; beside a proven one, an unknown one is drawn by the prior's own doubt."""
    ids, present = padded([np.array([5, 6])])
    assert policy.probabilities(np.zeros((1, D), np.float32), ids, present)[0] == pytest.approx(
        [0.5, 0.5], abs=1e-9
    )


def test_null_context_is_the_average_user(world, policy):
    ids, present = padded([world.images.artwork_id[:4]])
    unknown = policy.probabilities(np.full((1, D), np.nan, np.float32), ids, present)
    average = policy.probabilities(policy.contexts.mean[None].astype(np.float32), ids, present)
    assert unknown == pytest.approx(average, abs=1e-6)


def test_a_title_without_images_is_refused(policy):
    with pytest.raises(MalformedData, match="at least one image"):
        policy.choose(np.zeros(D, np.float32), np.array([1]), [np.array([], np.int64)], 1, 1)


def test_a_saved_policy_chooses_as_before_and_refuses_damage(world, policy, tmp_path):
    digest = policy.save(tmp_path / "a")
    loaded = ArtworkPolicy.load(tmp_path / "a")
    titles = np.arange(50, 90)
    arms = [world.images.artwork_id[world.images.title_id == t] for t in titles]
    before, after = (p.choose(world.users[1], titles, arms, 3, 9) for p in (policy, loaded))
    assert (before.artwork_ids == after.artwork_ids).all()
    assert (before.propensities == after.propensities).all()
    assert loaded.save(tmp_path / "b") == digest
    assert loaded.absorb(world.log(2, 60_000)) is loaded
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError):
        ArtworkPolicy.load(tmp_path / "a")


# Data it will not take


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"play": np.array([0.0, 0.5], np.float32)}, "play is 0 or 1", id="half a play"),
        pytest.param({"propensity": np.array([0.0, 0.5])}, "propensity lies above 0", id="propensity 0"),
        pytest.param(
            {"propensity": np.array([np.nan, 0.5])}, "propensity lies above 0", id="propensity null"
        ),
        pytest.param({"user_id": np.array([1])}, "user_id has 1 rows", id="short column"),
        pytest.param({"context": np.zeros(2, np.float32)}, "context has shape", id="flat context"),
    ],
)
def test_a_malformed_log_is_refused(world, change, said):
    rows = world.log(1, 2)
    with pytest.raises(MalformedData, match=said):
        dataclasses.replace(rows, **change)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_is_learnt_where_all_or_nothing_was_played(world, rate):
    rows = dataclasses.replace(world.log(1, 100), play=np.full(100, rate, np.float32))
    with pytest.raises(MalformedData, match="nothing can be learnt"):
        trained(world, rows)


def test_columns_that_no_signature_names_are_refused(world, log):
    with pytest.raises(MalformedData, match="context has 4 columns, its signature names 3"):
        train_artwork(world.images, log, signature(3, "c"), signature(M, "i"))


def test_a_scale_leaves_null_and_constant_columns_at_zero():
    scale = Scale.of(np.array([[1, 5, np.nan], [3, 5, np.nan]], np.float32))
    assert scale.transform(np.array([[3, 7, 1], [np.nan, 5, 2]], np.float32)).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
    ]


# Evaluation off the policy's own path


def test_uniform_valued_on_a_uniform_log_is_the_logs_own_play_rate(world, log, policy):
    found = evaluate_artwork(policy, world.images, log.take(np.arange(5_000)), "uniform")
    assert found.policy == found.uniform
    assert found.uniform.snips == pytest.approx(log.play[:5_000].mean(), abs=1e-9)
    assert found.lift == 0
    assert (found.low, found.high) == pytest.approx(
        (0, 0), abs=1e-12
    )  # the same rows: no doubt about the difference
    assert found.policy.effective_sample_size == pytest.approx(5_000)


def test_intervals_hold_the_true_value_19_times_in_20(world, policy):
    """60 logs of 3,000 rows each, against the world's own rates."""
    truth = world.value(policy)
    lift = truth / world.value(policy, "uniform") - 1
    logs = (world.log(2_000 + seed, 3_000) for seed in range(60))
    found = [evaluate_artwork(policy, world.images, log, folds=2) for log in logs]
    assert (
        sum(f.policy.low <= truth <= f.policy.high for f in found) >= 52
    )  # below 52: 0.6 % for Binomial(60, .95)
    assert sum(f.low <= lift <= f.high for f in found) >= 52
    assert sum(f.policy.dr.low <= truth <= f.policy.dr.high for f in found) >= 52
    assert sum(f.dr_lift.low <= lift <= f.dr_lift.high for f in found) >= 52
    assert np.mean([f.policy.snips for f in found]) == pytest.approx(truth, abs=0.009)  # 3.5 standard errors


@pytest.mark.parametrize("name", ["thompson", "editorial", "uniform"])
def test_estimates_agree_with_the_worlds_own_rates(world, policy, name):
    found = evaluate_artwork(policy, world.images, world.log(77, 100_000), name, confidence=0.999)
    assert found.policy.low < world.value(policy, name) < found.policy.high
    assert found.policy.ips == pytest.approx(found.policy.snips, abs=0.01)
    assert found.policy.dr.low < world.value(policy, name) < found.policy.dr.high
    assert found.policy.dr.high - found.policy.dr.low < found.policy.high - found.policy.low


def test_too_little_overlap_is_refused(world, policy):
    with pytest.raises(TooLittleOverlap, match="at least 200 are needed"):
        evaluate_artwork(policy, world.images, world.log(5, 150))


# Creative quality


def test_scores_follow_appeal_and_say_how_well(world, quality):
    found = np.corrcoef(quality.score(world.images.features), world.appeal)[0, 1]
    assert found > 0.8
    assert quality.validity.usable
    assert quality.validity.low < quality.validity.rho <= 1
    assert quality.validity.rho == pytest.approx(np.sqrt(0.8), abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_where_appeal_is_not_what_images_show_the_score_is_not_trusted(seed):
    world = Images.drawn(40 + seed, explained=0.0)
    found = train_creative_quality(world.images, world.log(seed, 30_000), signature(M, "i"))
    assert abs(found.validity.rho) < 0.35
    assert found.validity.low < 0.1


def test_a_saved_quality_model_scores_as_before(world, quality, tmp_path):
    digest = quality.save(tmp_path / "a")
    loaded = CreativeQuality.load(tmp_path / "a")
    assert (loaded.score(world.images.features) == quality.score(world.images.features)).all()
    assert (loaded.validity, dict(loaded.metrics)) == (quality.validity, dict(quality.metrics))
    assert loaded.save(tmp_path / "b") == digest


def test_images_that_all_look_alike_cannot_be_scored(world, log):
    alike = dataclasses.replace(world.images, features=np.ones_like(world.images.features))
    with pytest.raises(MalformedData, match="nothing to score"):
        train_creative_quality(alike, log, signature(M, "i"))
