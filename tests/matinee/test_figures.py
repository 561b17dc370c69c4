"""Figures show the values they are given, say what one sees, and are the same bytes for the same values."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from datetime import date

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matinee.figures import (
    NothingToDraw,
    ParetoPoint,
    learning_curve,
    on_front,
    pareto_front,
    posterior_over_time,
    reliability_diagram,
)
from models.progress import Epoch
from models.reliability import reliability

SVG = "{http://www.w3.org/2000/svg}"
EPOCHS = [Epoch(n, 9, 8 / n, {"recall_at_20": 0.1 + n * n / 300, "loss": 0.5 / n}) for n in range(1, 8)]
POINTS = [ParetoPoint(0, 0.3, 0.2), ParetoPoint(0.2, 0.31, 0.3), ParetoPoint(0.5, 0.28, 0.5)]


@dataclass(frozen=True)
class Belief:
    artwork_id: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Beliefs:
    day: date | None
    arms: tuple[Belief, ...]


def beliefs(days, rates):
    moments = [None, *(date(2026, 1, n) for n in range(1, days))]
    return [
        Beliefs(day, tuple(Belief(50 + i, r * (1 + n / 99), r / 2, r * 2) for i, r in enumerate(rates)))
        for n, day in enumerate(moments)
    ]


def heads():
    rng = np.random.default_rng(0)
    chance = {"play": rng.beta(1, 9, 900), "completion": rng.random(300)}
    return {name: reliability((rng.random(len(p)) < p).astype(float), p) for name, p in chance.items()}


DRAWN = {
    "learning": lambda: learning_curve(EPOCHS, "retriever"),
    "reliability": lambda: reliability_diagram(heads(), "ranker", "world, simulated"),
    "pareto": lambda: pareto_front(POINTS, k=20, data="kuairand", simulated=False),
    "posterior": lambda: posterior_over_time(beliefs(9, [0.1, 0.2]), "title 17", simulated=True),
}


def texts(svg):
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def lines(svg, points):
    """The y of every drawn line of so many points, top down on the page, and its colour."""
    found = []
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        places = re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
        if len(places) == points and "fill: none" in path.get("style", ""):
            found.append((np.array(places, dtype=float), path.get("style")))
    return found


def in_proportion(drawn, values):
    """Whether heights on the page are the values but for scale and shift, and more stands higher."""
    slope, shift = np.polyfit(values, drawn, 1)
    return slope < 0 and np.abs(slope * np.array(values) + shift - drawn).max() < 1e-3


@pytest.mark.parametrize("figure", DRAWN)
def test_equal_values_give_equal_bytes_without_a_date(figure):
    first, again = DRAWN[figure](), DRAWN[figure]()
    assert first == again
    assert b"dc:date" not in first
    assert b"Matplotlib" not in first


def test_another_process_draws_the_same_bytes_and_opens_no_window():
    program = (
        "import sys, hashlib; from matinee.figures import *; from models.progress import Epoch;"
        "curve = learning_curve([Epoch(n, 9, 8 / n, {'recall_at_20': 0.1 + n * n / 300, 'loss': 0.5 / n}) "
        "for n in range(1, 8)], 'retriever');"
        "assert 'matplotlib.pyplot' not in sys.modules; sys.stdout.buffer.write(curve)"
    )
    drawn = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert drawn == DRAWN["learning"]()


@pytest.mark.parametrize("figure", DRAWN)
def test_a_figure_is_one_picture_that_fetches_and_runs_nothing(figure):
    root = ET.fromstring(DRAWN[figure]())
    assert root.tag == f"{SVG}svg"
    assert {element.tag.split("}")[1] for element in root.iter() if element.tag.startswith(SVG)}.isdisjoint(
        {"script", "image", "foreignObject"}
    )


def test_drawing_leaves_the_settings_of_others_alone():
    before = dict(mpl.rcParams)
    DRAWN["pareto"]()
    assert dict(mpl.rcParams) == before


def test_a_learning_curve_shows_loss_and_every_metric_in_a_panel_with_its_name_and_last_value():
    drawn = DRAWN["learning"]()
    shown = texts(drawn)
    assert "Training of retriever: 7 epochs" in shown
    assert {"training loss, mean over steps (nats)", "recall at 20 on the validation period", "epoch"} <= set(
        shown
    )
    assert {"1.143", "0.2633", "0.07143"} <= set(shown)  # 8/7, 0.1 + 49/300, 0.5/7
    curves = lines(drawn, 7)
    for (places, _), values in zip(
        curves, ([e.loss for e in EPOCHS], *([e.metrics[m] for e in EPOCHS] for m in EPOCHS[0].metrics)), strict=True
    ):  # fmt: skip
        assert in_proportion(places[:, 1], values)
        assert np.diff(places[:, 0]) == pytest.approx(np.diff(places[:, 0])[0], abs=1e-3)


def test_a_learning_curve_shows_only_the_metrics_asked_for():
    shown = texts(learning_curve(EPOCHS, "retriever", ["loss"]))
    assert "loss on the validation period" in shown
    assert "recall at 20 on the validation period" not in shown


def test_a_training_that_went_on_from_a_checkpoint_says_so():
    assert "resumed here" not in texts(DRAWN["learning"]())
    assert "resumed here" in texts(learning_curve([replace(EPOCHS[2], resumed=True), *EPOCHS[3:]], "ranker"))


def test_one_epoch_is_a_curve_too():
    assert "Training of ranker: 1 epoch" in texts(learning_curve(EPOCHS[:1], "ranker"))


def test_a_reliability_diagram_says_of_every_head_its_error_and_rows():
    found = heads()
    shown = texts(DRAWN["reliability"]())
    assert "Do the probabilities of ranker come true? (world, simulated)" in shown
    assert {"play", "completion", "predicted probability", "share in which it came about"} <= set(shown)
    assert f"ECE {found['play'].error:.4f}; 900 rows" in shown


def test_a_pareto_front_names_every_weight_and_says_whose_users_they_are():
    shown = texts(DRAWN["pareto"]())
    assert {
        "0",
        "0.2",
        "0.5",
        "nDCG@20 (more is better ↑)",
        "What variety costs: kuairand, real users",
    } <= set(shown)
    assert "What variety costs: world, simulated users" in texts(
        pareto_front(POINTS, k=20, data="world", simulated=True)
    )
    ((joined, _),) = (line for line in lines(DRAWN["pareto"](), 2) if "#0072b2" in line[1])
    assert joined[0, 0] < joined[1, 0]
    assert joined[0, 1] < joined[1, 1]  # higher on the page: 0.31 before 0.28


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_point_is_on_the_front_unless_another_is_as_good_in_both_and_better_in_one(values):
    points = [ParetoPoint(w, float(ndcg), float(diversity)) for w, (ndcg, diversity) in enumerate(values)]
    front = on_front(points)
    assert front
    for point in points:
        better = [
            p for p in points
            if p.ndcg >= point.ndcg and p.diversity >= point.diversity and (p.ndcg > point.ndcg or p.diversity > point.diversity)
        ]  # fmt: skip
        assert (point in front) == (not better)


def test_beliefs_are_drawn_day_by_day_beside_the_names_of_their_images():
    history = beliefs(9, [0.1, 0.2])
    drawn = DRAWN["posterior"]()
    shown = texts(drawn)
    assert "What was believed of the images of title 17 (simulated members)" in shown
    assert {"image 50", "image 51", "before", "02 Jan"} <= set(shown)
    for place, (places, _) in enumerate(lines(drawn, 9)):
        assert in_proportion(places[:, 1], [day.arms[place].rate for day in history])


def test_names_of_images_that_are_believed_alike_do_not_cover_each_other():
    drawn = ET.fromstring(posterior_over_time(beliefs(3, [0.1] * 5), "title 1", simulated=False))
    named = [text for text in drawn.iter(f"{SVG}text") if "".join(text.itertext()).startswith("image ")]
    heights = sorted(float(text.get("y")) for text in named)
    assert len(heights) == 5
    assert np.diff(heights).min() > 9  # points: a line of text


@pytest.mark.parametrize(
    "draw",
    [
        lambda: learning_curve([], "ranker"),
        lambda: reliability_diagram({}, "ranker", "world"),
        lambda: pareto_front([], k=20, data="world", simulated=True),
        lambda: posterior_over_time([], "title 1", simulated=True),
        lambda: posterior_over_time([Beliefs(None, ())], "title 1", simulated=True),
    ],
)
def test_a_figure_of_nothing_is_refused(draw):
    with pytest.raises(NothingToDraw):
        draw()
