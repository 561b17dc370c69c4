"""Where the boxes of a drawing stand and its arrows run; numbers alone, in pixels from the upper left corner.

A layered drawing after Sugiyama, Tagawa and Toda (IEEE Trans. Systems, Man and Cybernetics 11, 1981): a column for
each kind, and another for those of a kind that stand behind others of it; an arrow that passes a column bends in it, where room is kept for it; barycentre sweeps put each column
in an order with few crossings; then everything moves as near as it can to what it is joined with. All arrows from
one box that pass a column do so in one bend.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean

from registry.boxes import Box, Kind, arrows

LETTER, LINE = 7.25, 16
"""Width of a letter and distance of lines of the labels: a monospaced face of 12 px, whose letters are 0.6 em wide."""
_CELLS, _LINES = 26, 3  # a label's longest line, and how many it may have
_PADDING, _GAP, _BETWEEN, _BEND = 10, 14, 76, 6  # inside boxes; under one another; between columns; of a bend
_SWEEPS = 8  # few drawings get better after the first four

Node = tuple[
    str, int
]  # a box by its name and its own column; with a later column, the bend of its arrows there
Links = Mapping[Node, Sequence[Node]]


@dataclass(frozen=True)
class Placed:
    """A box where it is drawn; `lines` are of its label."""

    box: Box
    lines: tuple[str, ...]
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Heading:
    """The head of a column: of what kind its boxes are, and how many things they stand for."""

    kind: Kind
    count: int
    x: int
    width: int


@dataclass(frozen=True)
class Arrow:
    """From the right edge of the box named `before` to the left edge of `behind`.

    Of `points`, the first and the second are joined by a curve, the second and third straight, and so on.
    """

    before: str
    behind: str
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """A whole drawing; everything is within `width` × `height`."""

    headings: tuple[Heading, ...]
    boxes: tuple[Placed, ...]
    arrows: tuple[Arrow, ...]
    width: int
    height: int


def laid_out(boxes: Sequence[Box]) -> Layout:
    """Boxes in columns from left to right, and arrows between them.

    Raises:
        ValueError: an arrow leads to a box that is not further along the chain.
    """
    lines = {box.name: wrapped(box.label) for box in boxes}
    home = _homes(boxes)
    headings = _headings(home, boxes, lines)
    paths = {(before, behind): _path(before, behind, home) for before, behind in arrows(boxes)}
    nodes = dict.fromkeys([*home.items(), *(node for path in paths.values() for node in path)])
    columns = [[node for node in nodes if node[1] == place] for place in range(len(headings))]
    heights = {node: _height(lines[node[0]]) if node[1] == home[node[0]] else _BEND for node in nodes}
    joined = dict.fromkeys(link for path in paths.values() for link in pairwise(path))
    middles = _middles(_ordered(columns, joined), heights, joined)
    placed = [
        Placed(box, lines[box.name], headings[at].x, middles[box.name, at] - heights[box.name, at] // 2,
               headings[at].width, heights[box.name, at])
        for box in boxes for at in [home[box.name]]
    ]  # fmt: skip
    return Layout(
        headings=tuple(headings),
        boxes=tuple(placed),
        arrows=tuple(Arrow(*ends, _points(path, headings, middles)) for ends, path in paths.items()),
        width=headings[-1].x + headings[-1].width if headings else 0,
        height=max((box.y + box.height for box in placed), default=0),
    )


def cells(text: str) -> int:
    """How many letters wide a text is in a monospaced face: those of Chinese, Japanese and Korean take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(label: str) -> tuple[str, ...]:
    """A label in lines that fit a box; of one too long for them the end is shown, and not all of what is before.

    >>> wrapped("user_engagement: watch_minutes_sum_28d")
    ('user_engagement:', 'watch_minutes_sum_28d')
    """
    lines: list[str] = []
    rest = " ".join(label.split())
    while cells(rest) > _CELLS and len(lines) < _LINES - 1:
        fitting = next(cut for cut in range(_CELLS, 0, -1) if cells(rest[:cut]) <= _CELLS)
        cut = _break(rest, fitting)
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return (*lines, rest if cells(rest) <= _CELLS else "…" + _end(rest))


def _end(text: str) -> str:
    """As much of the end of a text as a line holds beside an ellipsis."""
    return next(text[-many:] for many in range(_CELLS - 1, 0, -1) if cells(text[-many:]) < _CELLS)


def _break(text: str, fitting: int) -> int:
    """Where to break a text of which so many letters fit: at a space, or else behind a mark, or else anywhere."""
    if (space := text.rfind(" ", 0, fitting + 1)) > 0:
        return space
    return 1 + max(text.rfind(mark, 0, fitting) for mark in "_/:-.") or fitting


def _height(lines: Sequence[str]) -> int:
    return len(lines) * LINE + 2 * _PADDING


def _homes(boxes: Sequence[Box]) -> dict[str, int]:
    """The column of each box: by its kind, and by how many of its kind it stands behind."""
    known, depth = {box.name: box for box in boxes}, dict.fromkeys((box.name for box in boxes), 0)
    for _ in range(len(boxes) + 1):  # as the longest way has steps, and one to see that it is at its end
        before = dict(depth)
        for box in boxes:
            same = [depth[name] + 1 for name in box.before if known[name].kind is box.kind]
            depth[box.name] = max(same, default=0)
        if depth == before:
            break
    else:
        raise ValueError("an arrow leads back to where it came from, over boxes of one kind.")
    order = list(Kind)
    layers = {box.name: (order.index(box.kind), depth[box.name]) for box in boxes}
    columns = sorted(set(layers.values()))
    return {name: columns.index(layer) for name, layer in layers.items()}


def _headings(
    home: Mapping[str, int], boxes: Sequence[Box], lines: Mapping[str, Sequence[str]]
) -> list[Heading]:
    """The columns from left to right, each as wide as its widest label or its head."""
    headings, x = [], 0
    for column in range(max(home.values(), default=-1) + 1):
        here = [box for box in boxes if home[box.name] == column]
        kind, count = here[0].kind, sum(box.count for box in here)
        longest = max(*(cells(line) for box in here for line in lines[box.name]), len(f"{kind} {count:,}"))
        headings.append(Heading(kind, count, x, round(longest * LETTER) + 2 * _PADDING))
        x += headings[-1].width + _BETWEEN
    return headings


def _path(before: str, behind: str, home: Mapping[str, int]) -> list[Node]:
    """The boxes and bends that an arrow goes through."""
    if home[before] >= home[behind]:
        raise ValueError(
            f"an arrow leads from {before!r} to {behind!r}, which is not further along the chain."
        )
    return [*((before, column) for column in range(home[before], home[behind])), (behind, home[behind])]


def _ordered(
    columns: Sequence[Sequence[Node]], joined: Iterable[tuple[Node, Node]]
) -> Sequence[Sequence[Node]]:
    """The columns in the best order that barycentre sweeps come by, to the right and to the left in turn."""
    links = list(joined)
    best, fewest = columns, crossings(columns, links)
    for sweep in range(_SWEEPS):
        columns = (
            _swept(columns, links)
            if sweep % 2 == 0
            else _swept(columns[::-1], [link[::-1] for link in links])[::-1]
        )
        if (found := crossings(columns, links)) < fewest:
            best, fewest = columns, found
    return best


def _swept(columns: Sequence[Sequence[Node]], links: Iterable[tuple[Node, Node]]) -> Sequence[Sequence[Node]]:
    """Each column but the first in the order of the mean place of what its nodes are joined with in the one before."""
    before: dict[Node, list[Node]] = {}
    for one, other in links:
        before.setdefault(other, []).append(one)
    swept = list(columns[:1])
    for column in columns[1:]:
        there, here = _shares(swept[-1]), _shares(column)
        means = {
            node: fmean(there[one] for one in before.get(node, ())) if node in before else here[node]
            for node in column
        }
        swept.append(sorted(column, key=means.__getitem__))
    return swept


def _shares(column: Sequence[Node]) -> dict[Node, float]:
    """How far down its column each node is, from 0 to 1."""
    return {node: (place + 0.5) / len(column) for place, node in enumerate(column)}


def crossings(columns: Sequence[Sequence[Node]], links: Iterable[tuple[Node, Node]]) -> int:
    """How many pairs of links cross: inversions, counted by insertion."""
    place = {node: position for column in columns for position, node in enumerate(column)}
    between: dict[int, list[tuple[int, int]]] = {}
    for one, other in links:
        between.setdefault(one[1], []).append((place[one], place[other]))
    total = 0
    for ends in between.values():
        above: list[int] = []
        for _, end in sorted(ends):
            total += len(above) - bisect_right(above, end)
            insort(above, end)
    return total


def _middles(
    columns: Sequence[Sequence[Node]], heights: Mapping[Node, int], joined: Iterable[tuple[Node, Node]]
) -> dict[Node, int]:
    """The height at which each node's middle is: near those it is joined with, in the order given, none overlapping."""
    near: dict[Node, list[Node]] = {}
    for one, other in joined:
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    middles = {
        node: at for column in columns for node, at in zip(column, _stacked(column, heights), strict=True)
    }
    for _ in range(_SWEEPS):
        for column in columns:
            wanted = [fmean(middles[other] for other in near.get(node, [node])) for node in column]
            middles |= zip(column, spread(wanted, _stacked(column, heights)), strict=True)
    top = min((middles[node] - heights[node] / 2 for node in middles), default=0)
    return {node: round(at - top) for node, at in middles.items()}


def _stacked(column: Sequence[Node], heights: Mapping[Node, int]) -> list[float]:
    """The middles of nodes that stand close under one another, around 0."""
    ends = list(accumulate(heights[node] + _GAP for node in column))
    return [end - (heights[node] + _GAP) / 2 - ends[-1] / 2 for node, end in zip(column, ends, strict=True)]


def spread(wanted: Sequence[float], closest: Sequence[float]) -> list[float]:
    """The places nearest to `wanted`, by least squares, no two of which are closer than they are in `closest`.

    Isotonic regression, by pooling adjacent violators (Ayer et al., Annals of Mathematical Statistics 26, 1955).

    >>> spread([5, 5, 9], [0, 2, 4])
    [4.0, 6.0, 9.0]
    """
    pools: list[tuple[float, int]] = []  # (mean, how many)
    for want, least in zip(wanted, closest, strict=True):
        mean, size = float(want - least), 1
        while pools and pools[-1][0] > mean:
            other, many = pools.pop()
            mean, size = (mean * size + other * many) / (size + many), size + many
        pools.append((mean, size))
    means = [mean for mean, size in pools for _ in range(size)]
    return [mean + least for mean, least in zip(means, closest, strict=True)]


def _points(
    path: Sequence[Node], headings: Sequence[Heading], middles: Mapping[Node, int]
) -> tuple[tuple[int, int], ...]:
    """Both edges of every column on the way, without the left one of the first and the right one of the last."""
    edges = [
        (x, middles[node])
        for node in path
        for x in (headings[node[1]].x, headings[node[1]].x + headings[node[1]].width)
    ]
    return tuple(edges[1:-1])
