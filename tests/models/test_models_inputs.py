import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.inputs import InfiniteFeature, Standardiser, WrongWidth, fit_standardiser

NULL = np.nan


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_a_column_is_centred_and_scaled_over_its_known_rows():
    fitted = fit_standardiser(column(1, 2, 3, NULL))
    # mean 2, population deviation sqrt(2/3); a null is the mean, and says so in a column of its own
    step = np.sqrt(1.5)
    np.testing.assert_allclose(
        fitted.transform(column(1, 2, 3, NULL)), [[-step, 0], [0, 0], [step, 0], [0, 1]], atol=1e-6
    )


def test_a_constant_column_is_zero_whatever_comes_later():
    fitted = fit_standardiser(column(7, 7, 7))
    assert fitted.transform(column(7, 100, -5, NULL, np.inf)).tolist() == [[0]] * 5


def test_a_column_that_is_always_null_is_zero_and_has_no_indicator():
    fitted = fit_standardiser(column(NULL, NULL))
    assert fitted.width == 1
    assert fitted.transform(column(NULL, 3)).tolist() == [[0], [0]]


def test_columns_null_in_the_same_rows_share_one_indicator():
    x = np.array([[1, 5, 1, NULL], [NULL, NULL, 2, 1], [3, 4, 3, 2]], dtype=np.float32)
    fitted = fit_standardiser(x)
    assert fitted.indicators.tolist() == [0, 3]  # columns 0 and 1 share; column 2 has no nulls
    assert fitted.transform(x)[:, 4:].tolist() == [[0, 1], [1, 0], [0, 0]]


def test_with_tails_the_middle_of_the_rows_sets_the_scale_and_what_is_beyond_counts_as_its_edge():
    fitted = fit_standardiser(column(0, 1, 2, 3, 1000), tails=0.25)
    # a quarter of five rows is one: 1, 1, 2, 3, 3, whose mean is 2 and whose deviation sqrt(4/5); a normal's would be .5466
    step = np.sqrt(5 / 4) * 0.5466
    expected = [-2 * step, -step, 0, step, 5]
    np.testing.assert_allclose(fitted.transform(column(0, 1, 2, 3, 1000)).ravel(), expected, atol=1e-3)


@pytest.mark.parametrize("tails", [0.05, 0.25, 0.4])
def test_a_normal_column_has_the_same_scale_with_tails_and_without(tails):
    x = (3 + 2 * np.random.default_rng(0).normal(size=(200_000, 1))).astype(np.float32)
    fitted = fit_standardiser(x, tails=tails, max_rows=200_000)
    assert fitted.mean[0] == pytest.approx(3, abs=0.03)
    assert 1 / fitted.inverse_std[0] == pytest.approx(2, abs=0.03)


def test_where_all_but_the_tails_are_one_value_every_row_sets_the_scale():
    rare = column(*[0] * 9, 1)
    assert fit_standardiser(rare, tails=0.25).transform(rare).std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("tails", [-0.1, 0.5, NULL])
def test_tails_that_leave_no_rows_are_refused(tails):
    with pytest.raises(ValueError, match="tails"):
        fit_standardiser(column(1, 2), tails=tails)


def test_a_title_with_every_feature_at_its_average_has_inputs_of_zero():
    rng = np.random.default_rng(0)
    counts = np.floor(np.exp(2.5 * rng.normal(size=5000)))
    x = np.stack([counts, 3 + rng.normal(size=5000), -counts], axis=1).astype(np.float32)
    fitted = fit_standardiser(x)
    assert fitted.scale.astype(bool).tolist() == [True, False, True]
    np.testing.assert_allclose(fitted.transform(fitted.average[None]), 0, atol=1e-5)


def test_values_far_out_are_clipped():
    fitted = fit_standardiser(column(-1, 0, 1), clip=3)
    assert fitted.transform(column(1e9, -1e9, np.inf, -np.inf)).ravel().tolist() == [3, -3, 3, -3]


def test_a_heavy_tail_is_read_in_logarithms_and_a_normal_column_is_not():
    rng = np.random.default_rng(0)
    counts = np.floor(np.exp(2.5 * rng.normal(size=5000)))
    normal = rng.normal(size=5000)
    x = np.stack([counts, normal, -counts], axis=1).astype(np.float32)
    fitted = fit_standardiser(x)
    assert (fitted.scale > 0).tolist() == [True, False, True]
    scale = np.median(counts[counts > 0])
    logs = np.log(1 + counts / scale)
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(fitted.transform(x)[:, 0], np.clip(expected, -5, 5), atol=1e-4)
    np.testing.assert_allclose(fitted.transform(x)[:, 2], np.clip(-expected, -5, 5), atol=1e-4)


def test_squashing_keeps_the_order_of_values():
    rng = np.random.default_rng(1)
    x = (rng.standard_cauchy(size=(400, 1)) * 100).astype(np.float32)
    fitted = fit_standardiser(x, clip=1e9)
    assert fitted.scale[0] > 0
    out = fitted.transform(np.sort(x, axis=0)).ravel()
    assert (np.diff(out) >= 0).all()


@given(
    arrays(np.float32, (7, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.just(float("nan"))),
    arrays(np.float32, (5, 3), elements=st.floats(width=32)),
)
def test_whatever_comes_the_network_reads_finite_numbers_within_the_clip(training, live):
    for tails in (0.0, 0.25):
        out = fit_standardiser(training, clip=4, tails=tails).transform(live)
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 4


def test_rows_are_standardised_alike_alone_and_among_many():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40_000, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = NULL
    x[:, 3] = np.exp(4 * rng.normal(size=len(x)))
    fitted = fit_standardiser(x)
    whole = fitted.transform(x)
    for row in (0, 16_383, 16_384, 39_999):
        np.testing.assert_array_equal(fitted.transform(x[[row]])[0], whole[row])


def test_fitting_on_a_sample_comes_close_to_fitting_on_all():
    x = np.random.default_rng(3).normal(5, 2, size=(20_000, 2)).astype(np.float32)
    few, all_rows = fit_standardiser(x, max_rows=5_000), fit_standardiser(x)
    np.testing.assert_allclose(few.mean, all_rows.mean, atol=0.1)
    np.testing.assert_allclose(few.inverse_std, all_rows.inverse_std, rtol=0.05)


def test_the_input_is_left_as_it_was():
    x = column(1, NULL, 3)
    fit_standardiser(x).transform(x)
    np.testing.assert_array_equal(x, column(1, NULL, 3))


def test_a_standardiser_survives_its_arrays():
    x = np.random.default_rng(4).normal(size=(50, 3)).astype(np.float32)
    x[3, 1] = NULL
    fitted = fit_standardiser(x, clip=2.5)
    again = Standardiser.from_arrays(fitted.to_arrays("p"), "p")
    assert again.clip == 2.5
    np.testing.assert_array_equal(again.transform(x), fitted.transform(x))


def test_infinite_training_values_are_refused_and_their_columns_named():
    with pytest.raises(InfiniteFeature) as caught:
        fit_standardiser(np.array([[1, np.inf, 2], [1, 1, -np.inf]], dtype=np.float32))
    assert caught.value.columns == (1, 2)


def test_another_number_of_columns_is_refused():
    with pytest.raises(WrongWidth, match=r"\(n, 1\)"):
        fit_standardiser(column(1, 2)).transform(np.ones((2, 3), np.float32))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="needs training rows"):
        fit_standardiser(np.empty((0, 3), np.float32))
