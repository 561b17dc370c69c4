"""The overlap matrix as a figure: who can meet whom, by layer, readable at hundreds of experiments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.overlap import Overlap
from matinee.figures import FAINT, INK, WIDTH, NothingToDraw, drawing, filled

SHADES = ("#D6E6F2", "#A6CBE3", "#6BA8D0", "#2F81B7", "#0A5A8F", "#063554")
"""From seldom to often: one hue, evenly darker, so that it is read in grey too."""
_NAMED = 40  # up to so many experiments each is named; beyond that only layers are
_SIDE = WIDTH * 0.72  # inches, of the matrix
_LINE = 0.13  # inches that a name needs
_LONGEST = 36  # letters of a name that are shown
Rectangle = tuple[int, int, int, int]
"""Left, top, width, height in cells."""


def overlap_matrix(overlap: Overlap) -> bytes:
    """The share of members that any two experiments have in common; row and column are experiments by layer and reach.

    Cells of like shares are drawn as one shape, whose name in the file is `share-1` for the seldomest and so on; layers are
    framed under `layer-NAME`, and an experiment's cell with itself is grey, under `itself`.

    Raises:
        NothingToDraw: there are no experiments.
    """
    if not overlap.names:
        raise NothingToDraw("no experiment runs.")
    order = arranged(overlap)
    shares = np.array(overlap.shares)[np.ix_(order, order)]
    layers = [overlap.layers[place] for place in order]
    edges = edges_of(shares)

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        _shade(panel, shares, edges)
        _frame(panel, layers)
        _label(panel, layers, [overlap.names[place] for place in order])
        figure.legend(
            loc="outside right center", frameon=False, title="of all members\nin both", alignment="left", fontsize=7.5, title_fontsize=7.5
        )  # fmt: skip

    n, pairs = len(order), len(overlap.meeting())
    title = f"Who can meet whom: {n:,} experiments in {len(set(layers)):,} layers, {pairs:,} pairs can meet"
    note = "rows and columns: experiments, by layer, within it by reach; frames: a layer, whose experiments never meet"
    return drawing(draw, title, note, height=_SIDE + 1.3)


def arranged(overlap: Overlap) -> list[int]:
    """Places of experiments by layer, in the order in which layers come, then by reach, then by name."""
    first = {layer: place for place, layer in reversed(list(enumerate(overlap.layers)))}

    def key(place: int) -> tuple[int, float, str]:
        return first[overlap.layers[place]], -overlap.shares[place][place], overlap.names[place]

    return sorted(range(len(overlap.names)), key=key)


def edges_of(shares: NDArray[np.float64]) -> list[float]:
    """Lower bounds of the classes that shares of pairs fall into: of 1, 2, 3 and 5 times powers of ten, the highest few."""
    pairs = shares[~np.eye(len(shares), dtype=bool)]
    if not (pairs > 0).any():
        return []
    least, most = float(pairs[pairs > 0].min()), float(pairs.max())
    powers = range(math.floor(math.log10(least)) - 1, math.floor(math.log10(most)) + 1)
    steps = [step * 10.0**power for power in powers for step in (1, 2, 3, 5)]
    reached = [edge for edge in steps if edge <= most * (1 + 1e-9)]
    below = sum(edge <= least * (1 + 1e-9) for edge in reached)
    return reached[max(below - 1, len(reached) - len(SHADES)) :]


def classes_of(shares: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """The class of each cell, 1 and up; 0 where two never meet, -1 on the diagonal. Below the first bound is the first class."""
    found = np.maximum(np.searchsorted(np.array(edges) * (1 - 1e-9), shares, side="right"), 1)
    found = np.where(shares > 0, found, 0)
    np.fill_diagonal(found, -1)
    return found


def covering(cells: NDArray[np.bool_]) -> Iterator[Rectangle]:
    """Rectangles that together are the marked cells, each once: far fewer than cells where like stands by like."""
    left = cells.copy()
    for top in range(len(left)):
        column = 0
        while column < len(left):
            if not left[top, column]:
                column += 1
                continue
            end = column + int(np.argmin(np.append(left[top, column:], False)))
            bottom = top + 1
            while bottom < len(left) and left[bottom, column:end].all():
                bottom += 1
            left[top:bottom, column:end] = False
            yield column, top, end - column, bottom - top
            column = end


def _shade(panel: Any, shares: NDArray[np.float64], edges: Sequence[float]) -> None:
    classes = classes_of(shares, edges)
    colours = [SHADES[round(place)] for place in np.linspace(0, len(SHADES) - 1, max(len(edges), 2))]
    for place in reversed(range(len(edges))):
        above = f" to {_percent(edges[place + 1])}" if place + 1 < len(edges) else " or more"
        label = f"{_percent(edges[place])}{above}"
        if place == 0 and (classes == 1).any() and shares[classes == 1].min() < edges[0] * (1 - 1e-9):
            label = f"less than {_percent(edges[1])}" if len(edges) > 1 else "some"
        filled(panel, covering(classes == place + 1), colours[place], f"share-{place + 1}", label)
    filled(panel, (), "white", "never", "never", edge=FAINT)
    filled(panel, covering(classes == -1), "#BBBBBB", "itself", "itself")


def _frame(panel: Any, layers: Sequence[str]) -> None:
    n = len(layers)
    panel.set(xlim=(0, n), ylim=(n, 0), aspect="equal", anchor="NW")
    panel.grid(visible=False)
    panel.patch.set(facecolor="white", gid="matrix")
    for layer, (start, end) in _spans(layers).items():
        panel.axhline(end, color=FAINT, linewidth=0.3)
        panel.axvline(end, color=FAINT, linewidth=0.3)
        filled(panel, [(start, start, end - start, end - start)], "none", f"layer-{layer}", edge=INK)


def _spans(layers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The rows [start, end) of each layer."""
    found, start = {}, 0
    for layer, rows in groupby(layers):
        end = start + sum(1 for _ in rows)
        found[layer], start = (start, end), end
    return found


def _layer_labels(layers: Sequence[str]) -> dict[int, str]:
    """Each layer in the middle of its rows, where there is room for its name and the number of its experiments."""
    room, named, free = _LINE / _SIDE * len(layers), {}, 0.0
    for layer, (start, end) in _spans(layers).items():
        if (middle := (start + end - 1) / 2) >= free:
            named[round(middle)] = f"{layer} ({end - start})"
            free = middle + room
    return named


def _label(panel: Any, layers: Sequence[str], names: Sequence[str]) -> None:
    """Every experiment with its layer, or where there are too many the layers alone."""
    rows = columns = _layer_labels(layers)
    if len(names) <= _NAMED:
        rows = {place: f"{layer}: {names[place]}" for place, layer in enumerate(layers)}
        columns = dict(enumerate(names))
    small: dict[str, Any] = {"fontsize": 7}
    panel.set_yticks([place + 0.5 for place in rows], [_short(name) for name in rows.values()], **small)
    panel.set_xticks(
        [place + 0.5 for place in columns],
        [_short(name) for name in columns.values()],
        rotation=90,
        **small,
    )
    panel.tick_params(length=0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
