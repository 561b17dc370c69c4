"""What was predicted beside what happened, with how sure that is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from models.data import MalformedData, RankingSet
from models.metrics import Undefined, expected_calibration_error
from models.objective import HeadScores
from models.reliability import Bin, of_heads, reliability, wilson


def f32(*values):
    return np.array(values, dtype=np.float32)


def test_bins_hold_equally_many_rows_by_rising_probability():
    found = reliability(f32(1, 0, 0, 1, 1, 1), f32(0.9, 0.1, 0.2, 0.3, 0.8, 0.7), bins=3)
    assert [part.rows for part in found.bins] == [2, 2, 2]
    assert [part.probability for part in found.bins] == pytest.approx([0.15, 0.5, 0.85], rel=1e-6)
    assert [part.frequency for part in found.bins] == [0, 1, 1]
    assert found.error == pytest.approx((0.15 + 0.5 + 0.15) / 3, rel=1e-6)
    assert found.rows == 6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 7, 15, 16, 400])
def test_the_error_is_the_expected_calibration_error_of_the_metrics(seed, rows):
    rng = np.random.default_rng(seed)
    probability = rng.random(rows).astype(np.float32).round(1)  # with ties
    label = (rng.random(rows) < probability).astype(np.float32)
    found = reliability(label, probability)
    assert found.error == pytest.approx(expected_calibration_error(label, probability), rel=1e-5, abs=1e-7)
    assert found.rows == rows


@given(rows=st.integers(1, 500), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_bounds_are_those_of_scipy(rows, share):
    came_true = round(share * rows)
    theirs = binomtest(came_true, rows).proportion_ci(0.95, method="wilson")
    assert wilson(came_true / rows, rows) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


def test_bounds_hold_the_frequency_and_stay_within_0_and_1():
    found = reliability(np.zeros(30), np.linspace(0, 1, 30), bins=2)
    for part in found.bins:
        assert 0 <= part.low <= part.frequency <= part.high <= 1


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_bounds_hold_a_frequency_of_0_or_1_whatever_the_rounding(frequency):
    for rows in range(1, 200):
        low, high = wilson(frequency, rows)
        assert low <= frequency <= high


def test_labels_between_0_and_1_are_averaged():
    (only,) = reliability(f32(0.25, 0.75), f32(0.5, 0.5), bins=1).bins
    assert only == Bin(0.5, 0.5, *wilson(0.5, 2), 2)


@pytest.mark.parametrize(
    ("label", "probability", "error", "says"),
    [
        (f32(), f32(), Undefined, "no rows"),
        (f32(1), f32(0.5, 0.5), MalformedData, "1 labels and 2"),
        (f32(np.nan, 1), f32(0.5, 0.5), MalformedData, "1 of 2 values of label"),
        (f32(1, 0), f32(1.5, 0.5), MalformedData, "1 of 2 values of probability"),
        (f32(1, 0), f32(-0.5, 0.5), MalformedData, "1 of 2 values of probability"),
    ],
)
def test_what_no_diagram_can_show_is_refused(label, probability, error, says):
    with pytest.raises(error, match=says):
        reliability(label, probability)


class Told:
    """A ranker that says what its first feature does; whether it has three heads or one."""

    def __init__(self, heads=3):
        self.heads = heads

    def score(self, features, position=None):
        said = features[:, 0] + 0 * position
        return HeadScores(said, *([said / 2, said / 4][: self.heads - 1]))


def rows(**columns):
    n = len(columns["play"])
    nan = np.full(n, np.nan, np.float32)
    given = {
        "completion": nan,
        "retention": nan,
        **{name: np.array(v, np.float32) for name, v in columns.items()},
    }
    ids = np.zeros(n, np.int64)
    return RankingSet(
        given.pop("features")[:, None],
        position=np.zeros(n, np.float32),
        user_id=ids,
        title_id=ids,
        period=ids,
        **given,
    )


def test_each_head_is_judged_on_the_rows_that_have_its_label():
    found = of_heads(Told(), rows(
        features=[0.2, 0.4, 0.6, 0.8], play=[0, 1, 1, 0], completion=[0.5, 0.25, np.nan, 1.0], retention=[1, np.nan, 0, 1],
    ))  # fmt: skip
    assert {head: part.rows for head, part in found.items()} == {"play": 4, "completion": 1, "retention": 3}
    (completion,) = found["completion"].bins
    assert (completion.probability, completion.frequency) == (pytest.approx(0.2), 0.25)
    assert [part.probability for part in found["retention"].bins] == pytest.approx([0.05, 0.15, 0.2])


def test_heads_that_are_absent_or_without_labels_have_no_diagram():
    assert set(of_heads(Told(), rows(features=[0.2, 0.4], play=[0, 1]))) == {"play"}
    labelled = rows(features=[0.2, 0.4], play=[0, 1], completion=[0, 1])
    assert set(of_heads(Told(1), labelled)) == {"play"}
    assert set(of_heads(Told(2), labelled)) == {"play", "completion"}
