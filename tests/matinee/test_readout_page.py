"""One page that can be forwarded: the sentence first, every figure and table beside it."""

import re
from datetime import UTC, datetime

import pytest

from experiments.metrics import ArmStatistics, Statistics
from experiments.reading import SHIPPED, load
from experiments.readout import read_out
from matinee.figures import Interval, NothingToDraw, effects
from matinee.readout_page import markdown, page, tables

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEVEL = {"watch_minutes": 60.0, "plays": 3.0, "renewals": 0.8, "renewals_due": 1.0}
SPREAD = {"watch_minutes": 1200.0, "plays": 3.0, "renewals": 0.2, "renewals_due": 0.3}


def made(treated=1.05, units=20_000, **more):
    experiment = load(SHIPPED).experiments["homepage-multi-objective"]
    arms = [
        ArmStatistics(arm=a, units=n, mean=LEVEL | {"watch_minutes": 60 * f}, variance=SPREAD, covariance={"renewals,renewals_due": 0.15})
        for a, n, f in (("control", 20_000, 1.0), ("treatment", units, treated))
    ]  # fmt: skip
    segments = {name: tuple(arms) for name in ("country=NO", "country=<b>")}
    return read_out(experiment.model_copy(update=more), Statistics(arms=tuple(arms), segments=segments), NOON)


def test_the_sentence_stands_first_and_figures_are_in_the_page():
    text = page(made(), simulated=False).decode()
    assert (
        text.index("Ship treatment: minutes_per_member rose by 5.0%")
        < text.index("<img")
        < text.index("<table")
    )
    assert "data:image/svg+xml;base64," in text
    assert not re.search(r'(src|href)="http', text)
    assert "are simulated" not in text
    assert "are simulated" in page(made(), simulated=True).decode()


def test_equal_read_outs_give_equal_bytes():
    assert page(made(), simulated=True) == page(made(), simulated=True)


def test_what_people_wrote_is_text_and_no_markup():
    text = page(made(hypothesis="<script>alert(1)</script>"), simulated=False).decode()
    assert "<script>" not in text
    assert "country=&lt;b&gt;" in text


def test_a_broken_test_shows_no_estimates():
    text = page(made(units=15_000), simulated=False).decode()
    assert "Broken, so there is no winner" in text
    assert "<table" not in text
    assert "<img" not in text


def test_markdown_says_the_same_in_tables():
    readout = made()
    text = markdown(readout, simulated=False)
    assert text.startswith("# homepage-multi-objective\n")
    assert f"> **{readout.sentence}**" in text
    (metrics, segments) = tables(readout)
    assert [row[1] for row in metrics[2]] == ["minutes_per_member", "plays_per_member", "renewal_share"]
    assert "| guards | renewal_share | 0.8 | 0.8 |" in text
    assert "(the primary; p corrected for all segments, Benjamini-Hochberg)" in segments[0]
    assert "One look, with all of alpha" in text


def test_effects_draw_each_with_its_limit():
    rows = [
        Interval("minutes", 0.05, 0.04, 0.06, good=True),
        Interval("renewals", -0.01, -0.02, 0.0, -0.05, good=True),
    ]
    svg = effects(rows, "treatment against control", "a note").decode()
    assert "minutes" in svg and "renewals" in svg and "+5.00 %" in svg  # noqa: PT018
    with pytest.raises(NothingToDraw):
        effects([], "x", "y")
