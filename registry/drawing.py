"""A lineage as a picture: an SVG document that stands alone, with no script and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from registry.boxes import Box, Kind, drawable, shortened
from registry.layout import LETTER, LINE, Arrow, Heading, Layout, Placed, cells, laid_out
from registry.lineage import Lineage

_MARGIN, _TOP, _FOOT = (
    24,
    84,
    40,
)  # around everything; above the boxes, for title and heads; under them, for the legend
_LONGEST_TARGET, _NARROWEST = 60, 620  # letters of the title; pixels that it and the legend need
_LIVE = "in use now: an alias stands on it, or it serves in an arm that runs"
_FOLDED = "stands for several"
_NOTHING = "Nothing hangs on it in the ledger."
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)


@dataclass(frozen=True)
class Palette:
    """The colours of a drawing on light or on dark paper; `kinds` are (inside, outline) of boxes."""

    paper: str
    ink: str
    arrow: str
    live: str
    kinds: Mapping[Kind, tuple[str, str]]


LIGHT = Palette(
    paper="#ffffff", ink="#1f2328", arrow="#868e98", live="#cf222e",
    kinds={
        Kind.EVENTS: ("#eef1f4", "#57606a"), Kind.FEATURES: ("#ddf4ff", "#0969da"),
        Kind.SERVICES: ("#d5f5f2", "#0a7a72"), Kind.TRAINING_SETS: ("#dafbe1", "#1a7f37"),
        Kind.VERSIONS: ("#fff3d6", "#8a5d00"), Kind.BENTOS: ("#ffe9dd", "#bc4c00"),
        Kind.ARMS: ("#f3e8ff", "#8250df"), Kind.READOUTS: ("#ffe3ee", "#bf3989"),
    },
)  # fmt: skip
DARK = Palette(
    paper="#0d1117", ink="#e6edf3", arrow="#6e7681", live="#ff7b72",
    kinds={
        Kind.EVENTS: ("#21262d", "#8b949e"), Kind.FEATURES: ("#0c2d4d", "#58a6ff"),
        Kind.SERVICES: ("#07302d", "#39c5bb"), Kind.TRAINING_SETS: ("#0f2f1a", "#3fb950"),
        Kind.VERSIONS: ("#3a2a05", "#d29922"), Kind.BENTOS: ("#3d1f0c", "#f0883e"),
        Kind.ARMS: ("#2b1a4d", "#a371f7"), Kind.READOUTS: ("#3d1229", "#f778ba"),
    },
)  # fmt: skip


def to_svg(lineage: Lineage) -> str:
    """The lineage as an SVG document, from raw events on the left to read-outs on the right.

    A column for each kind that there is, in the order of the chain. What is live has a dot and a heavy outline; a box
    that stands for several things is dashed. Labels too long for their box are whole in its `<title>`. Very many
    boxes of a kind are folded into one, as in `registry.boxes.drawable`. Equal lineages give equal text.
    """
    layout = laid_out(drawable(lineage.boxes()))
    width = max(layout.width, _NARROWEST) + 2 * _MARGIN
    height = _TOP + max(layout.height, LINE) + _FOOT + _MARGIN
    title = f"Lineage of {lineage.target}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{_escaped(title)}</title>",
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        f'<text class="name" x="{_MARGIN}" y="34">{_escaped(shortened(title, _LONGEST_TARGET))}</text>',
        f'<g transform="translate({_MARGIN} {_TOP})">',
        *_body(layout),
        *_legend(layout),
        "</g>",
        "</svg>",
        "",
    ])  # fmt: skip


def _body(layout: Layout) -> Iterator[str]:
    yield from (_head(heading) for heading in layout.headings)
    yield from (_arrow(arrow) for arrow in layout.arrows)
    yield from (_box(placed) for placed in layout.boxes)
    if not layout.boxes:
        yield f'<text x="0" y="{LINE}">{_NOTHING}</text>'


def _head(heading: Heading) -> str:
    return (
        f'<text class="head {_slug(heading.kind)}" x="{heading.x}" y="-16">{heading.kind} '
        f'<tspan class="count">{heading.count:,}</tspan></text>'
    )


def _arrow(arrow: Arrow) -> str:
    """A curve that leaves and arrives level, and runs level where it passes a column."""
    (x, y), *rest = arrow.points
    path = [f"M{x} {y}"]
    for place, (to_x, to_y) in enumerate(rest):
        half = (x + to_x) // 2
        path.append(f"H{to_x}" if place % 2 else f"C{half} {y} {half} {to_y} {to_x} {to_y}")
        x, y = to_x, to_y
    ends = f'data-before="{_escaped(arrow.before)}" data-behind="{_escaped(arrow.behind)}"'
    return f'<path class="arrow" {ends} d="{"".join(path)}"/>'


def _box(placed: Placed) -> str:
    box = placed.box
    marks = ["box", _slug(box.kind), *(["live"] if box.live else []), *(["folded"] if box.count > 1 else [])]
    above = (
        placed.height - len(placed.lines) * LINE
    ) // 2 - 4  # a letter's foot is 4 px above the end of its line
    lines = "".join(
        f'<text x="{placed.x + placed.width // 2}" y="{placed.y + above + LINE * row}">{_escaped(line)}</text>'
        for row, line in enumerate(placed.lines, start=1)
    )
    size = f'width="{placed.width}" height="{placed.height}"'
    dot = (
        f'<circle class="dot" cx="{placed.x + placed.width - 1}" cy="{placed.y + 1}" r="6"/>'
        if box.live
        else ""
    )
    return (
        f'<g class="{" ".join(marks)}" data-name="{_escaped(box.name)}"><title>{_escaped(_spoken(box))}</title>'
        f'<rect x="{placed.x}" y="{placed.y}" {size} rx="6"/>{lines}{dot}</g>'
    )


def _spoken(box: Box) -> str:
    return f"{box.label} (in use now)" if box.live else box.label


def _legend(layout: Layout) -> Iterator[str]:
    """What the marks mean that are in this drawing."""
    y, x = layout.height + _FOOT, 0
    if any(placed.box.live for placed in layout.boxes):
        yield f'<circle class="dot" cx="6" cy="{y - 4}" r="6"/><text class="legend" x="20" y="{y}">{_LIVE}</text>'
        x = 44 + round(cells(_LIVE) * LETTER)
    if any(placed.box.count > 1 for placed in layout.boxes):
        yield f'<g class="folded"><rect x="{x}" y="{y - 12}" width="24" height="16" rx="4"/></g>'
        yield f'<text class="legend" x="{x + 32}" y="{y}">{_FOLDED}</text>'


def _style() -> str:
    """Rules for both papers: dark where the reader's system is."""
    return (
        ".lineage text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
        ".lineage .name,.lineage .head{font-family:ui-sans-serif,system-ui,'Segoe UI','DejaVu Sans',sans-serif;font-weight:600}"
        ".lineage .name{font-size:17px}.lineage .count{font-weight:400}.lineage .box text{text-anchor:middle}"
        ".lineage .arrow{fill:none;stroke-width:1.25}.lineage .folded rect{stroke-dasharray:5 3}"
        ".lineage .live rect{stroke-width:3}"
        f"{_colours(LIGHT)}@media (prefers-color-scheme:dark){{{_colours(DARK)}}}"
    )


def _colours(palette: Palette) -> str:
    rules = [
        f".lineage .paper{{fill:{palette.paper}}}.lineage text{{fill:{palette.ink}}}",
        f".lineage .arrow{{stroke:{palette.arrow}}}",
        f".lineage .dot{{fill:{palette.live};stroke:{palette.paper};stroke-width:2}}",
        f".lineage .folded rect{{fill:none;stroke:{palette.ink}}}",
    ]
    for kind, (inside, outline) in palette.kinds.items():
        rules.append(f".lineage .{_slug(kind)} rect{{fill:{inside};stroke:{outline}}}")
        rules.append(f".lineage .head.{_slug(kind)}{{fill:{outline}}}")
    return "".join(rules)


def _slug(kind: Kind) -> str:
    return kind.name.lower()


def _escaped(text: str) -> str:
    """Text as XML has it, in an element or in quotes; what XML cannot hold, such as a bell, is a mark of its own."""
    return _UNWRITABLE.sub("\ufffd", text).translate(_ESCAPES)
