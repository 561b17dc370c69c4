"""Served beside computed: what counts as a difference, and what is said about it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from events.sources import SOURCES
from feature_repo.declarations import FeatureService
from feature_repo.families import declare
from matinee.comparing import EXAMPLES, Served, Tally
from serving.samples import Layout, Sample, Vectors

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)
NULL = np.nan


@pytest.fixture(scope="module")
def service():
    """Four features of the ranker: two stored, two user × title."""
    tables = {table.name: table for table in declare(SOURCES["world"]).service("ranking").tables}
    stored = dataclasses.replace(tables["user_profile"], features=tables["user_profile"].features[:2])
    pairs = dataclasses.replace(tables["user_title"], features=tables["user_title"].features[:2])
    return FeatureService("ranking", (stored, pairs), "four of them")


@pytest.fixture(scope="module")
def compared(service):
    """Compare rows that were served (one request each) with rows that are computed, column by column."""

    def compare(online, offline, *, tolerance=0.0, order=(0, 1, 2, 3), digests=None, after=None):
        names, made = list(service.digests), digests or list(service.digests.values())
        layout = Layout("ranking", tuple(names[i] for i in order), tuple(made[i] for i in order))
        samples = [
            Sample(f"r{row}", 7 + row, NOW + timedelta(seconds=row), "world", "g", NOW, 1,
                   (Vectors(layout, np.array([100 + row]), np.array([values], dtype=np.float32)),))
            for row, values in enumerate(online)
        ]  # fmt: skip
        served = Served(NOW, tuple(samples), tuple(sample.vectors[0] for sample in samples))
        tally = after or Tally.of(service, tolerance)
        tally.add(served, np.array(offline, dtype=np.float32))
        return tally

    return compare


def test_equal_values_are_no_finding_and_null_equals_null(compared):
    rows = [[1, NULL, np.inf, 0.1], [NULL, 2, -np.inf, 3]]
    tally = compared(rows, rows)
    assert tally.findings() == ()
    assert tally.compared == 8


@pytest.mark.parametrize(
    ("online", "offline", "kind"),
    [
        pytest.param(1.0, 2.0, "mismatch", id="other values"),
        pytest.param(1.0, np.nextafter(np.float32(1), np.float32(2)), "mismatch", id="the last bit"),
        pytest.param(0.0, -0.0, "mismatch", id="a sign no arithmetic sees"),
        pytest.param(NULL, 0.0, "missing", id="null online only"),
        pytest.param(0.0, NULL, "extra", id="null offline only"),
        pytest.param(np.inf, np.float32(3.4e38), "mismatch", id="infinity"),
    ],
)
def test_a_difference_is_counted_as_what_it_is_and_shown(compared, service, online, offline, kind):
    tally = compared([[5, online, 5, 5]] * 2, [[5, offline, 5, 5]] * 2)
    (finding,) = tally.findings()
    name = list(service.digests)[1]
    assert (finding.feature, finding.digest) == (name, service.digests[name])
    counts = {"mismatch": finding.mismatch, "missing": finding.missing, "extra": finding.extra}
    assert counts == {"mismatch": 0, "missing": 0, "extra": 0} | {kind: 2}
    assert (finding.wrong, finding.compared, len(finding.examples)) == (2, 2, 2)
    first = finding.examples[0]
    assert (first.user_id, first.title_id, first.at, first.request_id) == (7, 100, NOW, "r0")
    assert (first.online, first.offline) == (
        None if np.isnan(online) else online,
        None if np.isnan(offline) else np.float32(offline),
    )
    assert name in str(finding)
    assert "user 7, title 100" in str(first)


def test_the_worst_come_first_and_examples_are_few(compared, service):
    names = list(service.digests)
    online = [[1, 1, 1, 1]] * 10
    offline = [[1, 2, 1, 1]] + [[1, 1, 1, 2]] * 9
    found = compared(online, offline).findings()
    assert [finding.feature for finding in found] == [names[3], names[1]]
    assert [finding.wrong for finding in found] == [9, 1]
    assert [len(finding.examples) for finding in found] == [EXAMPLES, 1]
    assert [example.request_id for example in found[0].examples] == ["r1", "r2", "r3"]


def test_a_tolerance_is_for_user_title_arithmetic_and_nothing_else(compared, service):
    names = list(service.digests)
    online, offline = [[10, 1, 10, 1]], [[10.05, 1, 10.05, 1.2]]
    found = compared(online, offline, tolerance=0.01).findings()
    assert {finding.feature for finding in found} == {names[0], names[3]}
    exactly = compared(online, offline).findings()
    assert {finding.feature for finding in exactly} == {names[0], names[2], names[3]}


def test_columns_in_another_order_are_found_by_name_even_where_values_are_right(compared, service):
    names = list(service.digests)
    offline = np.arange(8).reshape(2, 4)
    found = compared(offline[:, [0, 2, 1, 3]], offline, order=(0, 2, 1, 3)).findings()
    assert {finding.feature for finding in found} == {names[1], names[2]}
    assert all("declared to stand" in finding.layout and finding.wrong == 0 for finding in found)
    by_name = {finding.feature: finding.layout for finding in found}
    assert names[2] in by_name[names[1]]


def test_values_that_are_another_features_say_whose_they_are(compared, service):
    names = list(service.digests)
    offline = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = {f.feature: f for f in compared(offline[:, [0, 3, 2, 1]], offline).findings()}
    assert {name: finding.holds for name, finding in found.items()} == {
        names[1]: names[3],
        names[3]: names[1],
    }
    offline = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    once = compared(offline[:, [0, 3, 2, 1]], offline)
    (again, *_) = compared([[1, 2, 3, 9], [5, 6, 7, 8]], offline, after=once).findings()
    assert again.holds == ""  # of another day's rows it is not so
    constant = compared([[9, 9, 9, 9]] * 2, [[1, 9, 9, 9]] * 2).findings()
    assert [finding.holds for finding in constant] == [""]


def test_what_was_served_under_another_digest_is_a_finding_under_that_digest(compared, service):
    digests = list(service.digests.values())
    (found,) = compared(
        [[1, 2, 3, 4]], [[1, 0, 3, 4]], digests=[digests[0], "older", *digests[2:]]
    ).findings()
    assert (found.digest, found.wrong) == ("older", 0)
    assert f"declared {digests[1]}" in found.layout


def test_what_was_not_served_is_not_compared(compared, service):
    offline = np.array([[1, 2, 3, 4]])
    assert compared(offline[:, [0, 1, 3]], offline, order=(0, 1, 3)).findings() == ()


@settings(max_examples=60, deadline=None)
@given(
    online=arrays.arrays(np.float32, (5, 4), elements=st.sampled_from([NULL, 0.0, -0.0, 1.0, 2.5])),
    offline=arrays.arrays(np.float32, (5, 4), elements=st.sampled_from([NULL, 0.0, -0.0, 1.0, 2.5])),
)
def test_counts_agree_with_looking_at_one_value_after_the_other(compared, service, online, offline):
    def by_hand(ours, theirs):
        if np.isnan(ours) and np.isnan(theirs):
            return None
        if np.isnan(ours) or np.isnan(theirs):
            return "missing" if np.isnan(ours) else "extra"
        return None if ours.tobytes() == theirs.tobytes() else "mismatch"

    expected = {}
    for place, name in enumerate(service.digests):
        kinds = [by_hand(a, b) for a, b in zip(online[:, place], offline[:, place], strict=True)]
        if any(kinds):
            expected[name] = tuple(kinds.count(kind) for kind in ("mismatch", "missing", "extra"))
    found = compared(online, offline).findings()
    assert {f.feature: (f.mismatch, f.missing, f.extra) for f in found} == expected
    shares = [f.wrong / f.compared for f in found]
    assert shares == sorted(shares, reverse=True)
