"""New titles: how fast images are told apart, and what a quality score saves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from models.artwork import ArtworkPolicy
from models.artwork_cold_start import (
    Appeal,
    NewTitles,
    NothingToExplore,
    Traffic,
    counted,
    exploration_saved,
    learning_curve,
    saved,
    shares_of,
    start_of,
)
from models.artwork_data import ArtworkLog, Scale
from models.artwork_learning import Learnt, learnt
from models.artwork_prior import Prior
from models.artwork_residuals import Baseline
from models.artwork_settings import ArtworkConfig
from models.data import MalformedData
from models.signature import Signature

CONFIG = ArtworkConfig()


def titles(seed, n=60, images=5, sd=0.4, level=-2.0):
    rng = np.random.default_rng(seed)
    present = np.arange(images) < rng.integers(2, images + 1, (n, 1))
    return NewTitles(expit(level + rng.normal(0, sd, (n, images))), present)


def blank(new, sd=0.4, level=-2.0):
    return start_of(new, np.zeros(new.rate.shape), sd, level, 1.8)


def test_the_curve_starts_at_uniform_and_rises_to_the_best_image_less_the_floor():
    new = titles(1)
    curve = learning_curve(new, blank(new), Traffic(20_000, 12), CONFIG, np.random.default_rng(0))
    assert curve[0] == pytest.approx(new.uniform, rel=1e-6)
    best = np.where(new.present, new.rate, 0).max(axis=1)
    count = new.present.sum(axis=1)
    floor = 0.02 * (count * new.uniform) + (1 - 0.02 * count) * best
    assert (curve[-1] <= floor + 1e-12).all()
    assert curve[-1].mean() > 0.98 * floor.mean()


def test_a_day_is_decided_by_the_days_before_it_only():
    """Delayed batches: the first day knows nothing, however much traffic it has."""
    new = titles(2)
    for impressions in (10, 100_000):
        curve = learning_curve(new, blank(new), Traffic(impressions, 1), CONFIG, np.random.default_rng(0))
        assert curve[0] == pytest.approx(new.uniform, rel=1e-6)


def test_counts_teach_what_the_policy_learns_from_single_impressions():
    """The same three days, as counts and as logs of single impressions absorbed by a served policy."""
    new = titles(3, n=6)
    start, rng = blank(new), np.random.default_rng(0)
    row, _ = np.nonzero(new.present)
    nobody = Scale(np.zeros(0), np.zeros(0))
    policy = ArtworkPolicy(
        artwork_ids=np.arange(len(row)), title_ids=row, belief=start.belief, prior_mean=start.mean,
        prior=Prior(nobody, np.zeros((0, 0)), 0.0, 0.4, 0.1), contexts=nobody,
        titles=Baseline(np.arange(6), np.full(6, -2.0), -2.0),
        signature=Signature((), ()), image_signature=Signature((), ()),
        config=ArtworkConfig(title_prior_impressions=1.8 / (expit(-2) * expit(2))),
    )  # fmt: skip
    now, first = Learnt(start.belief, np.full(6, -2.0)), 0
    for _ in range(3):
        shown, played = (
            part[new.present] for part in new.day(new.present / new.present.sum(1, keepdims=True), 400, rng)
        )
        now = learnt(now, start, counted(shown, played), CONFIG)
        image = np.repeat(np.arange(len(row)), shown)
        order = np.concatenate([np.arange(n) for n in shown])
        play = (order < played[image]).astype(np.float32)
        ids = first + np.arange(len(image))
        first += len(image)
        policy = policy.absorb(
            ArtworkLog(ids, ids, row[image], image, np.zeros((len(ids), 0), np.float32), play, np.full(len(ids), 0.5))
        )  # fmt: skip
    assert policy.belief.mean == pytest.approx(now.belief.mean, abs=1e-4)
    assert policy.belief.precision == pytest.approx(now.belief.precision, rel=1e-4)
    assert policy.titles.logits == pytest.approx(now.levels, abs=1e-4)
    ids = np.where(new.present, np.cumsum(new.present).reshape(new.present.shape) - 1, -1)
    served = policy.probabilities(np.zeros((6, 0), np.float32), ids, new.present)
    assert shares_of(new, now, CONFIG) == pytest.approx(served, abs=1e-3)


def test_counts_are_at_most_two_rows_an_image_and_none_where_nothing_was_shown():
    found = counted(np.array([0, 5, 7, 4]), np.array([0, 0, 7, 1]))
    assert found.rows.tolist() == [2, 3, 1, 3]
    assert found.play.tolist() == [1, 1, 0, 0]
    assert found.weight.tolist() == [7, 1, 5, 3]


def test_a_valid_score_saves_weeks_and_a_better_one_more():
    of = lambda rho: exploration_saved(  # noqa: E731
        Appeal(0.4 * rho, 0.4 * np.sqrt(1 - rho**2), -2.0, 5), 140, CONFIG, titles=400
    )
    none, some, much = of(0.0), of(0.4), of(0.8)
    assert none.weeks == none.impressions == 0
    assert 0.2 < some.weeks < much.weeks <= much.uninformed_weeks
    assert some.impressions == pytest.approx(140 * some.weeks)
    assert of(0.4) == some


def test_weeks_saved_are_read_off_the_curves_by_hand():
    """Uniform .10, the end .20, so the rate asked for is .18: after 4.5 days without the score, after 1.25 with it."""
    uninformed = np.array([0.10, 0.12, 0.14, 0.16, 0.17, 0.19, 0.20])
    informed = np.array([0.12, 0.175, 0.195, 0.195, 0.195, 0.195, 0.195])
    found = saved(informed, uninformed, 0.10, 100)
    assert found.uninformed_weeks == pytest.approx(4.5 / 7)
    assert found.informed_weeks == pytest.approx(1.25 / 7)
    assert found.weeks == pytest.approx(3.25 / 7)
    assert found.impressions == pytest.approx(325)


def test_a_score_that_delays_saves_less_than_nothing():
    fast, slow = np.array([0.1, 0.15, 0.2]), np.array([0.1, 0.11, 0.12])
    assert saved(slow, fast, 0.1, 7).weeks == pytest.approx((1.6 - 3) / 7)


def test_a_score_that_is_right_from_the_first_day_saves_all_of_the_exploration():
    found = saved(np.array([0.2, 0.2, 0.2]), np.array([0.1, 0.15, 0.2]), 0.1, 70)
    assert (found.informed_weeks, found.weeks) == (0, found.uninformed_weeks)


def test_where_exploration_teaches_nothing_no_saving_is_claimed():
    with pytest.raises(NothingToExplore, match="3 days teach nothing"):
        saved(np.array([0.2, 0.2, 0.2]), np.array([0.1, 0.1, 0.1]), 0.1, 70)


@settings(deadline=None)
@given(st.lists(st.floats(0.11, 0.5), min_size=2, max_size=8), st.floats(0, 0.2))
def test_who_is_never_behind_saves_never_less_than_nothing(rates, lead):
    behind = np.sort(np.array(rates))
    assert saved(behind + lead, behind, 0.1, 7).weeks >= 0
    assert saved(behind, behind + lead, 0.1, 7).weeks <= 0


@pytest.mark.parametrize(
    ("appeal", "traffic"),
    [
        (Appeal(0.1, 0.0, -2.0, 5), 70),
        (Appeal(0.1, np.nan, -2.0, 5), 70),
        (Appeal(0.1, 0.3, -2.0, 1), 70),
        (Appeal(0.1, 0.3, -2.0, 5), 0),
    ],
)
def test_where_there_is_nothing_to_explore_no_saving_is_claimed(appeal, traffic):
    with pytest.raises(NothingToExplore, match="nothing to explore"):
        exploration_saved(appeal, traffic, CONFIG)


def test_titles_without_images_or_with_impossible_rates_are_refused():
    with pytest.raises(MalformedData, match="an image in every row"):
        NewTitles(np.zeros((2, 2)), np.array([[True, True], [False, False]]))
    with pytest.raises(MalformedData, match=r"outside 0\.\.1"):
        NewTitles(np.array([[0.1, 1.2]]), np.ones((1, 2), bool))
