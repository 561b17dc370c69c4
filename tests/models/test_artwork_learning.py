"""What a batch teaches: a title's level and its images' effects are found together."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from models.artwork_learning import Learnt, Shown, Start, learnt, relative_to
from models.artwork_posterior import updated
from models.artwork_settings import ArtworkConfig

EXACT = ArtworkConfig(level_rounds=60, level_tolerance=1e-9, newton_steps=40, tolerance=1e-10)


def start_of(means, titles, level=-2.0, sd=0.3, taste_sd=0.2, level_precision=1.8):
    mean = np.atleast_2d(np.asarray(means, np.float32))
    precision = np.concatenate([[sd**-2.0], np.full(mean.shape[1] - 1, taste_sd**-2.0)])
    row = np.asarray(titles)
    return Start(mean, precision, row, int(row.max()) + 1, level, level_precision)


def fresh(start):
    return Learnt(start.belief, np.full(start.titles, start.level))


def counts(shown, played, width=1):
    """Context-free impressions, two rows an image: those played and those not."""
    arms = np.arange(len(shown))
    weight = np.concatenate([played, np.asarray(shown) - played]).astype(float)
    design = np.zeros((2 * len(arms), width), np.float32)
    design[:, 0] = 1
    play = np.repeat([1.0, 0.0], len(arms)).astype(np.float32)
    return Shown(np.tile(arms, 2), design, play, weight)


def test_a_row_of_weight_n_is_n_rows():
    rng = np.random.default_rng(0)
    start = start_of(rng.normal(0, 0.1, (4, 3)), [0, 0, 1, 1])
    rows, times = rng.integers(0, 4, 30), rng.integers(1, 9, 30)
    design = np.concatenate([np.ones((30, 1)), rng.normal(size=(30, 2))], axis=1).astype(np.float32)
    play, offset = (rng.random(30) < 0.4).astype(np.float32), rng.normal(-1, 0.2, 30)
    once = updated(start.belief, rows, design, play, offset, EXACT, times.astype(float))
    each = np.repeat(np.arange(30), times)
    repeated = updated(start.belief, rows[each], design[each], play[each], offset[each], EXACT)
    assert once.mean == pytest.approx(repeated.mean, abs=1e-6)
    assert once.precision == pytest.approx(repeated.precision, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_level_and_effects_are_the_mode_that_a_general_optimiser_finds(seed):
    """One title, three images shown unevenly, two tastes; b ~ N(-2, 1/1.8), θ ~ N(m, diag)."""
    rng = np.random.default_rng(seed)
    start = start_of(rng.normal(0, 0.2, (3, 3)), [0, 0, 0])
    rows = rng.choice(3, 600, p=[0.8, 0.15, 0.05])
    design = np.concatenate([np.ones((600, 1)), rng.normal(size=(600, 2))], axis=1).astype(np.float32)
    play = (rng.random(600) < 0.3).astype(np.float32)
    found = learnt(fresh(start), start, Shown(rows, design, play, np.ones(600)), EXACT)

    def loss(flat):
        level, theta = flat[0], flat[1:].reshape(3, 3)
        eta = level + (theta[rows] * design).sum(axis=1)
        nats = (np.logaddexp(0, eta) - play * eta).sum()
        return (
            nats
            + 0.5 * (start.precision * (theta - start.mean) ** 2).sum()
            + 0.5 * start.level_precision * (level - start.level) ** 2
        )

    mode = scipy.optimize.minimize(loss, np.zeros(10), tol=1e-12).x
    assert found.levels[0] == pytest.approx(mode[0], abs=2e-4)
    assert found.belief.mean.ravel() == pytest.approx(mode[1:], abs=2e-4)
    p = expit(mode[0] + (mode[1:].reshape(3, 3)[rows] * design).sum(axis=1))
    added = [(p * (1 - p))[rows == a] @ design[rows == a] ** 2 for a in range(3)]
    assert found.belief.precision == pytest.approx(start.precision + np.array(added), rel=2e-3)


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.6])
def test_a_title_that_is_played_otherwise_than_thought_does_not_mislead_about_its_images(rate):
    """All images alike at `rate`, thought to be .12; the first was shown 50 times as often as the others."""
    start = start_of(np.zeros((4, 1)), [0, 0, 0, 0], level_precision=0.05)
    shown = np.array([50_000, 1_000, 1_000, 1_000])
    found = learnt(fresh(start), start, counts(shown, rate * shown), ArtworkConfig())
    effects = found.belief.mean[:, 0]
    assert np.ptp(effects) < 0.05
    assert expit(found.levels[0] + effects) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("rate", [0.002, 0.6])
def test_a_level_far_from_where_it_was_thought_is_found_in_two_rounds(rate):
    start = start_of(np.zeros((4, 1)), [0, 0, 0, 0], level_precision=0.05)
    shown = np.array([50_000, 1_000, 1_000, 1_000])
    quick = learnt(fresh(start), start, counts(shown, rate * shown), ArtworkConfig(level_rounds=2))
    exact = learnt(fresh(start), start, counts(shown, rate * shown), EXACT)
    assert quick.levels == pytest.approx(exact.levels, abs=0.01)


def test_a_much_shown_image_does_not_outvote_the_others_in_its_titles_level():
    """Images at .3 and twice .1: their mean logit is -1.747; the level of all plays together would be -0.87."""
    start = start_of(np.zeros((3, 1)), [0, 0, 0], sd=1.0, level_precision=1e-6)
    shown = np.array([1_000_000, 20_000, 20_000])
    found = learnt(fresh(start), start, counts(shown, [0.3, 0.1, 0.1] * shown), EXACT)
    logits = np.log([0.3 / 0.7, 0.1 / 0.9, 0.1 / 0.9])
    assert found.levels[0] == pytest.approx(logits.mean(), abs=0.01)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_what_was_seen_of_an_image_stays_where_it_was_when_its_title_moves(seed):
    """An image's rate follows the level only as far as it rests on the prior, and moving back undoes it."""
    rng = np.random.default_rng(seed)
    start = start_of(rng.normal(0, 0.2, (3, 1)), [0, 0, 0])
    shown = np.array([0, 50, 10**7])
    found = learnt(fresh(start), start, counts(shown, np.round(0.1 * shown)), ArtworkConfig())
    moved = relative_to(found.levels + 0.5, found, start)
    change = (moved.levels + moved.belief.mean[:, 0]) - (found.levels + found.belief.mean[:, 0])
    assert change[0] == pytest.approx(0.5, abs=1e-6)
    assert 0.3 < change[1] < 0.5
    assert change[2] == pytest.approx(0, abs=1e-4)
    back = relative_to(found.levels, moved, start)
    assert back.belief.mean == pytest.approx(found.belief.mean, abs=1e-6)


def test_titles_learn_for_themselves():
    """Two titles in one batch are two batches; a third, of which nothing was shown, stays as it was."""
    rng = np.random.default_rng(3)
    start = start_of(rng.normal(0, 0.2, (6, 1)), [0, 0, 1, 1, 2, 2])
    shown = np.array([300, 20, 5_000, 100, 0, 0])
    batch = counts(shown, rng.binomial(shown, 0.2))
    both = learnt(fresh(start), start, batch, EXACT)
    of = lambda title: batch.take(np.flatnonzero(start.title_row[batch.rows] == title))  # noqa: E731
    first = learnt(fresh(start), start, of(0), EXACT)
    then = learnt(first, start, of(1), EXACT)
    assert then.levels == pytest.approx(both.levels, abs=1e-6)
    assert then.belief.mean == pytest.approx(both.belief.mean, abs=1e-6)
    assert (first.belief.mean[2:] == start.mean[2:]).all()
    assert first.levels[1:].tolist() == [start.level] * 2


def test_days_one_after_another_come_to_what_all_of_them_say_at_once():
    """To second order: Laplace updates of ten days against the one update of all."""
    rng = np.random.default_rng(5)
    start = start_of(rng.normal(0, 0.1, (40, 1)), np.repeat(np.arange(10), 4))
    rate = expit(-1.5 + rng.normal(0, 0.3, 40))
    shown = rng.integers(50, 200, (10, 40))
    played = rng.binomial(shown, rate)
    daily = fresh(start)
    for one, other in zip(shown, played, strict=True):
        daily = learnt(daily, start, counts(one, other), EXACT)
    at_once = learnt(fresh(start), start, counts(shown.sum(axis=0), played.sum(axis=0)), EXACT)
    assert daily.belief.mean == pytest.approx(at_once.belief.mean, abs=0.05)
    assert daily.levels == pytest.approx(at_once.levels, abs=0.05)
    assert daily.belief.precision == pytest.approx(at_once.belief.precision, rel=0.2)
