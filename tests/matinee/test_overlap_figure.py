"""The overlap matrix as a picture: every cell of it is where the matrix has it, and as dark as its share."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.generated import write_folder
from experiments.overlap import Overlap
from matinee.figures import NothingToDraw
from matinee.overlap_figure import arranged, covering, edges_of, overlap_matrix
from matinee.programme import declared_overlap

SVG = "{http://www.w3.org/2000/svg}"
RUNNING = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """250 experiments in 25 layers, ten slots each."""
    folder = tmp_path_factory.mktemp("many")
    write_folder(folder)
    return declared_overlap(folder, RUNNING)


def overlap_of(layers, reaches):
    """Experiments by reach, of which those of one layer never meet."""
    shares = np.outer(reaches, reaches)
    for i, one in enumerate(layers):
        for j, other in enumerate(layers):
            if i == j:
                shares[i, j] = reaches[i]
            elif one == other:
                shares[i, j] = 0.0
    names = tuple(f"e{i}" for i in range(len(layers)))
    return Overlap(names=names, layers=tuple(layers), shares=tuple(map(tuple, shares.tolist())))


def boxes(root, name):
    """Left, top, right, bottom of every rectangle of a shape, on the page."""
    (group,) = (element for element in root.iter(f"{SVG}g") if element.get("id") == name)
    found = []
    for path in group.iter(f"{SVG}path"):
        for piece in re.findall(r"M [^zZ]*", path.get("d", "")):
            corners = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", piece), dtype=float)
            found.append([*corners.min(axis=0), *corners.max(axis=0)])
    return np.array(found).reshape(-1, 4)


def painted(svg, n):
    """The name of the shape that each cell is in; fails where a cell is in two or none but white."""
    root = ET.fromstring(svg)
    ((left, top, right, bottom),) = boxes(root, "matrix")
    cells = np.full((n, n), "", dtype=object)
    names = [g.get("id") for g in root.iter(f"{SVG}g") if re.match(r"share-|itself", g.get("id") or "")]
    for name in names:
        scale = np.array([right - left, bottom - top] * 2) / n
        found = (boxes(root, name) - [left, top, left, top]) / scale
        assert np.abs(found - np.rint(found)).max(initial=0) < 0.01, "edges of cells"
        for x0, y0, x1, y1 in np.rint(found).astype(int):
            assert (cells[y0:y1, x0:x1] == "").all(), "a cell is painted twice"
            cells[y0:y1, x0:x1] = name
    return cells


def texts(svg):
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_cell_of_250_experiments_is_painted_as_its_share_says(many):
    """The shade of each cell against the matrix itself, found anew by comparing with the bounds in the legend."""
    svg = overlap_matrix(many)
    cells = painted(svg, 250)
    order = sorted(
        range(250), key=lambda i: (int(many.layers[i].split("_")[1]), -many.shares[i][i], many.names[i])
    )
    shares = np.array(many.shares)[np.ix_(order, order)]
    bounds = [0.2, 0.3, 0.5]  # per cent; reaches are a tenth of .5 to .95
    expected = np.full((250, 250), "", dtype=object)
    for number, bound in enumerate(bounds, 1):
        expected[shares * 100 >= bound - 1e-9] = f"share-{number}"
    np.fill_diagonal(expected, "itself")
    assert (cells == expected).all()
    assert {"0.2 % to 0.3 %", "0.3 % to 0.5 %", "0.5 % or more", "never", "itself"} <= set(texts(svg))
    assert (cells == cells.T).all()
    met = (cells != "") & (cells != "itself")
    assert met.sum() == 2 * len(many.meeting())


def test_every_layer_is_a_frame_around_its_experiments_and_is_named(many):
    svg = overlap_matrix(many)
    root, cells = ET.fromstring(svg), painted(svg, 250)
    frames = [g.get("id") for g in root.iter(f"{SVG}g") if (g.get("id") or "").startswith("layer-")]
    assert frames == [f"layer-layer_{i}" for i in range(25)]
    ((left, top, right, _),) = boxes(root, "matrix")
    for place, name in enumerate(frames):
        ((x0, y0, x1, y1),) = (boxes(root, name) - [left, top, left, top]) * 250 / (right - left)
        assert (x0, y0, x1, y1) == pytest.approx(
            (10 * place, 10 * place, 10 * place + 10, 10 * place + 10), abs=0.01
        )
        inside = cells[10 * place : 10 * place + 10, 10 * place : 10 * place + 10]
        assert set(inside[~np.eye(10, dtype=bool)]) == {""}
    assert texts(svg).count("layer_7 (10)") == 2, "beside rows and under columns"


def test_a_picture_says_what_it_is_in_words_and_fetches_nothing(many):
    root = ET.fromstring(overlap_matrix(many))
    said = "Who can meet whom: 250 experiments in 25 layers, 30,000 pairs can meet"
    assert root.find(f"{SVG}title").text == said
    assert said in texts(ET.tostring(root))
    assert not list(root.iter(f"{SVG}image"))
    assert not list(root.iter(f"{SVG}script"))


def test_few_experiments_are_named_each_with_its_layer():
    found = overlap_of(["page", "art", "page"], [0.5, 0.2, 1.0])
    said = texts(overlap_matrix(found))
    assert {"page: e2", "page: e0", "art: e1", "e0", "e1", "e2"} <= set(said)
    assert arranged(found) == [2, 0, 1], "layers as they come, then the one that reaches more"


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(overlap_of(["page"], [0.5]), id="one alone"),
        pytest.param(overlap_of(["page", "page"], [0.5, 0.4]), id="nobody meets"),
        pytest.param(overlap_of(["page", "art"], [1.0, 1.0]), id="everybody meets"),
        pytest.param(overlap_of(["page", "art", "ads"], [1.0, 1e-4, 1e-4]), id="a wide range"),
        pytest.param(overlap_of(["a" * 100, "b" * 100], [0.3, 0.3]), id="long names"),
    ],
)
def test_cells_are_painted_where_two_meet_and_nowhere_else(found):
    svg, n = overlap_matrix(found), len(found.names)
    cells = painted(svg, n)
    shares = np.array(found.shares)[np.ix_(arranged(found), arranged(found))]
    assert ((cells != "") == (shares > 0)).all()
    assert (np.diag(cells) == "itself").all()
    order = {"": 0, **{f"share-{k}": k for k in range(1, 9)}}
    flat = [(shares[i, j], order[cells[i, j]]) for i in range(n) for j in range(n) if i != j]
    assert [dark for _, dark in sorted(flat)] == sorted(dark for _, dark in flat), "more is not lighter"


def test_nothing_to_draw_is_said():
    with pytest.raises(NothingToDraw):
        overlap_matrix(Overlap(names=(), layers=(), shares=()))


@given(arrays(bool, st.integers(1, 9).map(lambda n: (n, n))))
def test_rectangles_cover_each_marked_cell_once_and_no_other(cells):
    painted_by = np.zeros(cells.shape, int)
    for left, top, width, height in covering(cells):
        painted_by[top : top + height, left : left + width] += 1
    assert (painted_by == cells).all()


@pytest.mark.parametrize(
    ("pairs", "edges"),
    [((0.0, 0.0), []), ((0.01, 0.01), [0.01]), ((0.012, 0.04), [0.01, 0.02, 0.03]), ((1e-9, 1.0), [0.05, 0.1, 0.2, 0.3, 0.5, 1.0])],
)  # fmt: skip
def test_bounds_are_round_and_the_highest_are_kept(pairs, edges):
    shares = np.array([[1.0, pairs[0]], [pairs[1], 1.0]])
    assert edges_of(shares) == pytest.approx(edges)
