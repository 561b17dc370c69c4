import numpy as np
import pytest
from scipy.optimize import minimize

from models.calibration import Calibration, fit_calibration
from models.metrics import expected_calibration_error


def chance(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_where_scipy_finds_the_penalised_likelihood_highest(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=300) * 3
    label = (rng.random(300) < chance(0.5 * logits - 1)).astype(float)
    p = chance(logits)

    def cost(w):  # a·log p - b·log(1 - p) + c, as the paper writes it
        z = -w[0] * np.log(1 - p) + w[1] * np.log(p) + w[2]
        return np.sum(np.logaddexp(0, z) - label * z) + 0.5 * ((w[0] - 1) ** 2 + (w[1] - 1) ** 2 + w[2] ** 2)

    expected = minimize(cost, [1.0, 1.0, 0.0], tol=1e-12).x
    fitted = fit_calibration(logits, label)
    assert (fitted.above, fitted.below, fitted.intercept) == pytest.approx(tuple(expected), abs=1e-5)


def test_equal_bends_are_platts_line():
    z = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(Calibration(0.7, 0.7, -0.4)(z), chance(0.7 * z - 0.4), rtol=1e-6)


def test_a_curve_that_no_line_follows_is_followed():
    """Honest above zero and four times too sure below it."""
    rng = np.random.default_rng(2)
    logits = 3 * rng.normal(size=40_000)
    truth = chance(np.where(logits > 0, logits, logits / 4))
    label = (rng.random(40_000) < truth).astype(float)
    bent, (slope, intercept) = (
        fit_calibration(logits, label),
        np.polyfit(logits, np.log(truth / (1 - truth)), 1),
    )
    line = chance(slope * logits + intercept)
    assert np.abs(bent(logits) - truth).mean() < 0.02 < np.abs(line - truth).mean()


@pytest.mark.parametrize("tilt", [0.3, 3.0])
def test_no_bend_reorders(tilt):
    """Chances that fall where the head is surest call for a negative bend; the line is taken instead."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=4000) * 3
    label = (rng.random(4000) < chance(tilt * np.where(logits > 0, -logits, logits) + 0.1 * logits)).astype(
        float
    )
    fitted = fit_calibration(logits, label)
    assert min(fitted.above, fitted.below) >= 0
    assert (np.diff(fitted(np.sort(logits))) >= 0).all()


def test_overconfident_logits_become_honest_probabilities():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=20_000)
    label = (rng.random(20_000) < chance(honest)).astype(float)
    logits = 4 * honest + 2
    assert expected_calibration_error(label, chance(logits)) > 0.1
    assert expected_calibration_error(label, fit_calibration(logits, label)(logits)) < 0.015


def test_shares_are_fitted_as_expectations():
    logits = np.array([-1.0, 1.0] * 5000)
    label = np.where(logits > 0, 0.9, 0.2)
    np.testing.assert_allclose(fit_calibration(logits, label)(np.array([-1.0, 1.0])), [0.2, 0.9], atol=1e-3)


def test_separated_classes_have_a_finite_fit():
    fitted = fit_calibration(np.array([-1.0, -2, 1, 2]), np.array([0.0, 0, 1, 1]))
    assert 0 < fitted.above < 10
    assert 0 < fitted.below < 10


def test_a_head_that_ranks_backwards_is_worth_its_base_rate():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=5000)
    label = (rng.random(5000) < chance(-2 * logits - 1)).astype(float)
    fitted = fit_calibration(logits, label)
    assert (fitted.above, fitted.below) == (0, 0)
    np.testing.assert_allclose(fitted(np.array([-3.0, 3.0])), label.mean(), atol=1e-3)


def test_extreme_logits_do_not_overflow():
    assert Calibration()(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("label", [np.array([]), np.array([np.nan, 1.0])])
def test_unlabelled_rows_are_refused(label):
    with pytest.raises(ValueError, match="labelled rows"):
        fit_calibration(np.zeros(len(label)), label)
