"""What the artwork models are trained on: impressions whose reward window has closed, and what is recorded of them."""

from datetime import timedelta

import numpy as np
import pytest

from matinee.periods import Period
from matinee.training_artwork import WINDOW, artwork_log


@pytest.fixture
def last_days(opened_day):
    return [Period(opened_day.bench.split.valid.start, opened_day.bench.split.valid.end)]


def raw(day, query):
    with day.bench.desk.events() as connection:
        return connection.sql(query).fetchall()


def test_a_reward_is_a_play_known_within_the_window_and_only_closed_windows_enter(opened_day, last_days):
    """Against going through impressions and plays one by one."""
    start, end = last_days[0].start, last_days[0].end
    log = artwork_log(opened_day.bench, last_days)
    plays = {}
    for impression, created in raw(opened_day, "SELECT impression_id, created_timestamp FROM plays"):
        plays.setdefault(impression, []).append(created)
    expected = {
        impression: any(created < known + WINDOW for created in plays.get(impression, ()))
        for impression, happened, known, artwork, propensity in raw(
            opened_day,
            "SELECT impression_id, event_timestamp, created_timestamp, artwork_id, artwork_propensity FROM impressions",
        )
        if start <= happened < end and known + WINDOW <= end and artwork is not None and propensity > 0
    }
    assert dict(zip(log.impression_id.tolist(), (log.play == 1).tolist(), strict=True)) == expected
    assert 0 < sum(expected.values()) < len(expected)


def test_an_impressions_reward_is_the_same_whenever_it_is_read(opened_day, last_days):
    """Read when its period ends, and a day later when more plays are known."""
    early = artwork_log(opened_day.bench, last_days)
    later = artwork_log(opened_day.bench, [*last_days, opened_day.bench.split.test])
    both = np.isin(later.impression_id, early.impression_id)
    assert (later.impression_id[both] == early.impression_id).all()
    assert (later.play[both] == early.play).all()
    assert (~both & np.isin(later.user_id, early.user_id)).any()


def test_a_window_of_another_length_is_another_reward(opened_day, last_days, monkeypatch):
    usual = artwork_log(opened_day.bench, last_days)
    monkeypatch.setattr("matinee.training_artwork.WINDOW", timedelta(minutes=30))
    short = artwork_log(opened_day.bench, last_days)
    assert len(short) > len(usual)
    assert short.play.mean() < usual.play.mean()


def test_versions_are_recorded_with_validity_and_what_the_score_saves(opened_day):
    of = lambda ref: {metric.key: metric for metric in opened_day.registry.get(ref).metrics}  # noqa: E731
    quality, artwork = of("creative_quality/1"), of("artwork/1")
    assert quality["validity"].split == artwork["quality_validity"].split == "cross-validated"
    assert artwork["quality_validity"].value == quality["validity"].value
    assert artwork["weeks_saved"].split == "simulated"
    without, with_it = artwork["weeks_to_learn"].value, artwork["weeks_to_learn_with_score"].value
    assert artwork["weeks_saved"].value == pytest.approx(without - with_it)
    assert 0 < without <= 4
    saved, a_week = artwork["impressions_saved"].value, artwork["impressions_a_week"].value
    assert saved == pytest.approx(7 * artwork["weeks_saved"].value * max(1, round(a_week / 7)))
    assert {"snips_lift", "dr_lift", "effective_sample_size"} <= set(artwork)
