"""Team draft: fair, and far more sensitive than an A/B on the same simulated members."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.interleaving import Interleaved, credit, preference, team_draft

RANKINGS = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(RANKINGS, RANKINGS, st.integers(0, 25), st.integers(0, 2**32))
def test_a_draft_picks_the_best_left_of_each_in_turns(a, b, size, seed):
    found = team_draft(a, b, size, np.random.default_rng(seed))
    assert len(set(found.entries)) == len(found.entries) == min(size, len(set(a) | set(b)))
    for team, ranking in (("a", a), ("b", b)):
        for place, (entry, whose) in enumerate(zip(found.entries, found.teams, strict=True)):
            if whose == team:
                assert entry == next(e for e in ranking if e not in found.entries[:place])
    for place in range(0, len(found.entries) - 1, 2):
        if set(a[: place + 2]) - set(found.entries[:place]) and len(set(a) - set(found.entries[:place])) >= 2 <= len(set(b) - set(found.entries[:place])):  # fmt: skip
            assert set(found.teams[place : place + 2]) == {"a", "b"}


def test_who_goes_first_is_a_coin():
    rng = np.random.default_rng(0)
    first = [team_draft([1, 2], [2, 1], 2, rng).teams[0] for _ in range(4_000)]
    assert scipy.stats.binomtest(first.count("a"), 4_000).pvalue > 0.001


def test_points_go_to_who_picked_what_was_played():
    shown = Interleaved((5, 3, 9), ("a", "b", "b"))
    assert credit(shown, [3, 9, 77]) == (0, 2)
    assert credit(shown, []) == (0, 0)


def test_a_preference_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.poisson(2, 300).astype(float), rng.poisson(2.2, 300).astype(float)
    found, oracle = preference(a, b), scipy.stats.ttest_rel(b, a)
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-9)
    assert found.share == pytest.approx(b.sum() / (a.sum() + b.sum()))


def test_nothing_to_compare_is_no_preference():
    with pytest.raises(ValueError, match="nothing to compare"):
        preference(np.ones(5), np.ones(5))
    with pytest.raises(ValueError, match="names an entry twice"):
        team_draft([1, 1], [2], 2, np.random.default_rng(0))


TITLES, PLACES = 40, 10
EXAMINED = 1 / np.log2(np.arange(PLACES) + 2)  # how likely a place is looked at, relative to the first


class Members:
    """Simulated members: tastes over titles, and how much each plays at all; most of an A/B's noise is the latter."""

    def __init__(self, rng, count):
        self.rng, self.count = rng, count
        self.taste = rng.normal(0, 1, (count, TITLES))
        self.keen = rng.gamma(0.8, 0.25, count).clip(max=1)

    def ranked(self, noise):
        """Each member's ranking by a model that knows taste up to `noise`."""
        return np.argsort(-(self.taste + self.rng.normal(0, noise, self.taste.shape)), axis=1)

    def plays(self, member, entries):
        """Which of the entries are played."""
        chance = self.keen[member] * EXAMINED[: len(entries)] / (1 + np.exp(-self.taste[member, entries]))
        return np.asarray(entries)[self.rng.random(len(entries)) < chance]


def interleaved(rng, count, noise_a, noise_b):
    members = Members(rng, count)
    a, b = members.ranked(noise_a), members.ranked(noise_b)
    points = np.array([
        credit(shown, members.plays(m, shown.entries))
        for m in range(count)
        for shown in [team_draft(a[m].tolist(), b[m].tolist(), PLACES, rng)]
    ])  # fmt: skip
    return preference(points[:, 0], points[:, 1])


def a_b(rng, count, noise_a, noise_b):
    members = Members(rng, count)
    a, b = members.ranked(noise_a), members.ranked(noise_b)
    treated = rng.random(count) < 0.5
    counts = np.array([len(members.plays(m, (b if treated[m] else a)[m, :PLACES])) for m in range(count)])
    return scipy.stats.ttest_ind(counts[treated], counts[~treated], equal_var=False)


@pytest.mark.slow
def test_an_a_a_interleaving_alarms_at_five_per_cent():
    """2,000 runs of 60 members: 5 % ± 1 point; Monte-Carlo standard error .5."""
    rng = np.random.default_rng(3)
    alarms = np.mean([interleaved(rng, 60, 1.0, 1.0).p_value < 0.05 for _ in range(2_000)])
    assert alarms == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
def test_interleaving_needs_a_fifth_of_the_members_at_most():
    """How many times the members an A/B needs for the same z: (z / z)², both on 3,000 members, 30 runs each."""
    rng = np.random.default_rng(4)
    ours = [interleaved(rng, 3_000, 1.6, 1.0) for _ in range(12)]
    theirs = [a_b(rng, 3_000, 1.6, 1.0) for _ in range(30)]
    z_ours = np.mean([scipy.stats.norm.isf(p.p_value / 2) * np.sign(p.difference) for p in ours])
    z_theirs = np.mean([t.statistic for t in theirs])
    assert z_theirs > 0.3  # there is an effect to see
    assert (z_ours / z_theirs) ** 2 >= 5
