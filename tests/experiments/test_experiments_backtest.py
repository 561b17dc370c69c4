"""Rules compared over stored read-outs of tests whose truth is known."""

import numpy as np
import pytest

from experiments.backtest import back_test
from experiments.decision import DecisionRule
from experiments.metrics import ArmStatistics, Statistics
from experiments.readout import Readout, read_out

UNITS = 20_000
SPREAD = {"watch_minutes": 1200.0, "plays": 3.0, "renewals": 0.2, "renewals_due": 0.3}
LEVEL = {"watch_minutes": 60.0, "plays": 3.0, "renewals": 0.8, "renewals_due": 1.0}


RULES = {"as it is": DecisionRule(), "strict": DecisionRule(alpha=0.001), "lax": DecisionRule(alpha=0.5)}


def stored(demo, at, rng, effect, name="t"):
    """A read-out of two arms whose minutes differ by `effect` and chance."""
    error = np.sqrt(SPREAD["watch_minutes"] / UNITS)
    minutes = 60 * (1 + effect) + rng.normal(0, np.sqrt(2) * error)
    means = {"control": LEVEL, "treatment": LEVEL | {"watch_minutes": minutes}}
    arms = tuple(
        ArmStatistics(arm=a, units=UNITS, mean=m, variance=SPREAD, covariance={"renewals,renewals_due": 0.15}) for a, m in means.items()
    )  # fmt: skip
    return read_out(demo.model_copy(update={"name": name}), Statistics(arms=arms), at)


@pytest.fixture(scope="module")
def history(demo, noon):
    """90 tests, true effects N(0, 1 %), most of which do nothing worth having; the truth; and every rule's result."""
    rng = np.random.default_rng(7)
    truth = rng.normal(0, 0.01, 90)
    readouts = [stored(demo, noon, rng, e, f"t{i}") for i, e in enumerate(truth)]
    return readouts, truth, back_test(readouts, RULES)


def test_what_a_rule_ships_is_worth_what_is_expected_of_it_and_not_what_was_read(history):
    _, truth, results = history
    for result in results:
        shipped = [int(name[1:]) for name in result.shipped]
        worth = truth[shipped].sum()
        sd = (
            np.sqrt(len(shipped)) * 0.004
        )  # of what remains unknown of each: √(τ²s²/(τ² + s²)), s .58 %, and some room
        assert result.expected_return == pytest.approx(worth, abs=3.3 * max(sd, 0.005))
        assert result.naive_return > result.expected_return


def test_a_lax_rule_ships_more_at_less_each(history):
    found = {r.name: r for r in history[2]}
    assert set(found["strict"].shipped) < set(found["as it is"].shipped) < set(found["lax"].shipped)
    per_ship = [found[name].expected_per_ship for name in ("strict", "as it is", "lax")]
    assert per_ship == sorted(per_ship, reverse=True)
    assert [r.expected_return for r in history[2]] == sorted(
        (r.expected_return for r in found.values()), reverse=True
    )


def test_the_stored_rule_gives_the_stored_verdicts(history):
    readouts = history[0]
    same = next(r for r in history[2] if r.name == "as it is")
    assert set(same.shipped) == {r.experiment.name for r in readouts if r.winner is not None}
    assert same.stopped == sum(r.verdict == "stop" for r in readouts)


def test_stored_json_is_enough(history):
    some = history[0][:8]
    again = [Readout.from_json(r.to_json()) for r in some]
    assert back_test(again, RULES) == back_test(some, RULES)


def test_returns_in_two_currencies_do_not_add_up(history, demo, noon):
    readouts = history[0]
    primary = demo.metrics.primary.model_copy(update={"name": "other"})
    other = demo.model_copy(update={"metrics": demo.metrics.model_copy(update={"primary": primary})})
    mixed = [*readouts[:5], stored(other, noon, np.random.default_rng(0), 0.0)]
    with pytest.raises(ValueError, match="minutes_per_member, other do not add up"):
        back_test(mixed, RULES)
