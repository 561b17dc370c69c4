"""Figures that people look at, as SVG: values in, bytes out. Equal values give equal bytes.

Colours are Okabe and Ito's (2008), which people with any kind of colour vision tell apart; what a line is stands beside
it. Nothing here touches matplotlib's global state for longer than a drawing takes, and no window is ever opened.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from models.progress import Epoch
from models.reliability import Reliability

BLUE, RED, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8860B", "#56B4E9"
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
INK, FAINT, GRID = "#222222", "#767676", "#DDDDDD"
WIDTH = 7.2
"""Inches; a column of text on a screen."""
_STYLE: Any = {
    "svg.hashsalt": "matinee", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 9.0, "axes.titlelocation": "left", "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "xtick.color": INK, "ytick.color": INK, "text.color": INK, "lines.linewidth": 1.8,
    "text.parse_math": False,
}  # fmt: skip


class NothingToDraw(ValueError):
    """A figure of no values."""


ECE = "mean distance from the dashed line"


@dataclass(frozen=True)
class ParetoPoint:
    """What a weight on diversity comes to: mean nDCG and mean distance within a list."""

    weight: float
    ndcg: float
    diversity: float


class Belief(Protocol):
    """What is believed of one image: its play rate, between bounds."""

    @property
    def artwork_id(self) -> int: ...  # noqa: D102
    @property
    def rate(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


class Beliefs(Protocol):
    """What is believed of all images of a title after a day; `day` is None before the first."""

    @property
    def day(self) -> date | None: ...  # noqa: D102
    @property
    def arms(self) -> Sequence[Belief]: ...  # noqa: D102


def learning_curve(epochs: Sequence[Epoch], model: str, metric_names: Sequence[str] | None = None) -> bytes:
    """Training loss and validation metrics over epochs, a panel each; `metric_names` some of them, in order.

    An epoch that was done before, and from whose checkpoint training went on, is marked.

    Raises:
        NothingToDraw: there are no epochs.
    """
    if not epochs:
        raise NothingToDraw(f"no epoch of {model}.")
    names = tuple(epochs[-1].metrics) if metric_names is None else tuple(metric_names)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0]
        loss = {epoch.number: epoch.loss for epoch in epochs}
        _curve(panels[0], loss, BLUE, "training loss, mean over steps (nats)")
        for panel, name in zip(panels[1:], names, strict=True):
            known = {epoch.number: epoch.metrics[name] for epoch in epochs if name in epoch.metrics}
            _curve(panel, known, RED, f"{name.replace('_', ' ')} on the validation period")
        for epoch in (epoch for epoch in epochs if epoch.resumed):
            for panel in panels:
                panel.axvline(epoch.number, color=FAINT, linewidth=1, linestyle=":")
            panels[0].annotate(
                "resumed here", (epoch.number, 1), (3, -3), xycoords=("data", "axes fraction"),
                textcoords="offset points", va="top", color=FAINT,
            )  # fmt: skip
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panels[-1].set_xlim(min(loss) - 0.5, max(loss) + 0.5)

    title = f"Training of {model}: {_count(len({epoch.number for epoch in epochs}), 'epoch')}"
    return _svg(draw, title, "numbers: the last epoch", height=0.8 + 1.5 * (1 + len(names)))


def reliability_diagram(heads: Mapping[str, Reliability], model: str, data: str) -> bytes:
    """How often each head's event came about beside how probable it was held, over bins of equal count.

    Raises:
        NothingToDraw: there are no heads.
    """
    if not heads:
        raise NothingToDraw(f"{model} has no head.")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(heads), squeeze=False)[0]
        for panel, (head, found), colour in zip(panels, heads.items(), COLOURS, strict=False):
            _reliability_panel(panel, head, found, colour)
        panels[0].set_ylabel("share in which it came about")

    title = f"Do the probabilities of {model} come true? ({data})"
    height = 1.3 + WIDTH / max(len(heads), 2) * 0.8
    return _svg(
        draw,
        title,
        f"dashed: as predicted; bars: 95 % bounds; bins of equal count; ECE: {ECE}",
        height=height,
    )


def pareto_front(points: Sequence[ParetoPoint], *, k: int, data: str, simulated: bool) -> bytes:
    """Relevance against variety of lists of k, over weights on diversity; those that nothing beats in both are joined.

    Raises:
        NothingToDraw: there are no points.
    """
    if not points:
        raise NothingToDraw("no weight was tried.")
    front = on_front(points)

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        joined = sorted((point for point in points if point in front), key=lambda point: point.diversity)
        panel.plot([p.diversity for p in joined], [p.ndcg for p in joined], color=BLUE, zorder=2)
        for point in points:
            best = point in front
            panel.scatter(
                point.diversity, point.ndcg, s=34, zorder=3, color=BLUE if best else "white", edgecolor=BLUE if best else FAINT
            )  # fmt: skip
            panel.annotate(
                f"{point.weight:g}", (point.diversity, point.ndcg), (5, 4), textcoords="offset points",
                color=INK if best else FAINT,
            )  # fmt: skip
        panel.set_xlabel(
            f"diversity within the first {k}: mean of 1 − cos over pairs (more is more varied →)"
        )
        panel.set_ylabel(f"nDCG@{k} (more is better ↑)")
        panel.margins(0.08)

    people = "simulated users" if simulated else "real users"
    note = "numbers: weight on diversity; filled: on the front; hollow: another weight is at least as good in both"
    return _svg(draw, f"What variety costs: {data}, {people}", note, height=4.2)


def posterior_over_time(history: Sequence[Beliefs], title: str, *, simulated: bool) -> bytes:
    """The believed play rate of each image of a title after each day, with 80 % bounds.

    `history` is what `models.artwork_history.belief_history` gives.

    Raises:
        NothingToDraw: there are no days, or no images.
    """
    if not history or not history[0].arms:
        raise NothingToDraw(f"nothing is believed of {title!r}.")

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        lines = []
        for place, first in enumerate(history[0].arms):
            colour = COLOURS[place % len(COLOURS)]
            of_arm = [beliefs.arms[place] for beliefs in history]
            days = range(len(history))
            panel.fill_between(days, [b.low for b in of_arm], [b.high for b in of_arm], color=colour, alpha=0.14, linewidth=0)  # fmt: skip
            panel.plot(
                days, [b.rate for b in of_arm], color=colour, linestyle=("-", "--")[place // len(COLOURS) % 2]
            )
            lines.append((of_arm[-1].rate, f"image {first.artwork_id}", colour))
        panel.set_xlim(0, max(len(history) - 1, 1))
        panel.yaxis.set_major_formatter(FuncFormatter(_percent))
        _beside(panel, lines)
        _days(panel, [beliefs.day for beliefs in history])
        panel.set_ylabel("believed play rate of an impression")

    people = "simulated members" if simulated else "real members"
    note = "lines: mean; bands: 80 % bounds, for the average member"
    return _svg(draw, f"What was believed of the images of {title} ({people})", note, height=4.2, right=0.88)


def on_front(points: Iterable[ParetoPoint]) -> frozenset[ParetoPoint]:
    """The points that no other beats: at least as good in both, and better in one."""
    known = tuple(points)
    return frozenset(point for point in known if not any(_beats(other, point) for other in known))


def _beats(one: ParetoPoint, other: ParetoPoint) -> bool:
    ours, theirs = (one.ndcg, one.diversity), (other.ndcg, other.diversity)
    return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]


def _curve(panel: Axes, values: Mapping[int, float], colour: str, title: str) -> None:
    panel.plot(list(values), list(values.values()), color=colour, marker="o", markersize=3.5)
    panel.set_title(title)
    panel.margins(y=0.18)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=4))
    if values:
        last = max(values)
        panel.annotate(
            f"{values[last]:.4g}", (last, values[last]), (0, 6), textcoords="offset points", ha="center", color=colour
        )  # fmt: skip


def _reliability_panel(panel: Axes, head: str, found: Reliability, colour: str) -> None:
    x, y = [part.probability for part in found.bins], [part.frequency for part in found.bins]
    below = [part.frequency - part.low for part in found.bins]
    above = [part.high - part.frequency for part in found.bins]
    ends = [*x, *(part.low for part in found.bins), *(part.high for part in found.bins)]
    margin = 0.05 * (max(ends) - min(ends))
    low, high = min(ends) - margin, max(ends) + margin
    panel.plot([low, high], [low, high], color=FAINT, linewidth=1, linestyle="--")
    panel.errorbar(x, y, yerr=[below, above], color=colour, fmt="o", markersize=3.5, linewidth=1.2)
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal", anchor="W")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4))
    panel.set_title(head, color=colour, fontweight="bold")
    panel.set_xlabel(f"predicted probability\nECE {found.error:.4f}; {found.rows:,} rows", loc="left")


def _beside(panel: Axes, lines: Sequence[tuple[float, str, str]]) -> None:
    """Names at the ends of lines, moved apart as far as it takes to read them."""
    low, high = panel.get_ylim()
    closest = (high - low) * 0.055
    place = float("-inf")
    for value, name, colour in sorted(lines):
        place = max(value, place + closest)
        panel.annotate(name, (1.015, place), xycoords=("axes fraction", "data"), va="center", color=colour, annotation_clip=False)  # fmt: skip


def _days(panel: Axes, days: Sequence[date | None]) -> None:
    step = max(1, -(-len(days) // 6))
    shown = range(0, len(days), step)
    panel.set_xticks(list(shown), [_day(days[place]) for place in shown])
    panel.set_xlabel("after the day")


def _day(day: date | None) -> str:
    return "before" if day is None else f"{day:%d %b}"


def _percent(value: float, _: Any) -> str:
    return f"{100 * value:.3g} %"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def filled(
    panel: Axes,
    rectangles: Iterable[tuple[float, float, float, float]],
    colour: str,
    name: str,
    label: str | None = None,
    edge: str | None = None,
) -> None:
    """Rectangles (left, top, width, height) of one colour as one shape, called `name` in the file and `label` in a legend."""
    corners = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
    boxes = np.array(list(rectangles), dtype=float).reshape(-1, 1, 4)
    vertices = (boxes[:, :, :2] + corners * boxes[:, :, 2:]).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(boxes))
    shape = PathPatch(
        Path(vertices, codes), facecolor=colour, edgecolor=edge or colour, linewidth=0.6 if edge else 0.15, label=label, gid=name
    )  # fmt: skip
    panel.add_patch(shape)


def drawing(
    draw: Callable[[Figure], None], title: str, note: str, *, height: float, right: float = 1.0
) -> bytes:
    """A figure of our look, for whoever has values of another kind to show; `draw` fills it. See `_svg`."""
    return _svg(draw, title, note, height=height, right=right)


def _svg(
    draw: Callable[[Figure], None], title: str, note: str, *, height: float, right: float = 1.0
) -> bytes:
    """A figure of `height` inches under its title and above a note on how to read it; `right` keeps a margin for names, as a share of the width."""
    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
        figure = Figure(figsize=(WIDTH, height), layout=layout)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=FAINT)
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return written.getvalue()


@dataclass(frozen=True)
class Interval:
    """An effect with its bounds, relative to control; `limit` is what it must stay beyond, `good` whether it does."""

    name: str
    value: float
    low: float
    high: float
    limit: float | None = None
    good: bool | None = None


def effects(intervals: Sequence[Interval], title: str, note: str) -> bytes:
    """Effects under each other with their intervals, against no effect and each against its own limit.

    Raises:
        NothingToDraw: there are none.
    """
    if not intervals:
        raise NothingToDraw(f"no effect in {title!r}.")

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        for place, one in enumerate(intervals):
            colour = FAINT if one.good is None else (GREEN if one.good else RED)
            bounds = [[one.value - one.low], [one.high - one.value]]
            panel.errorbar([one.value], [place], xerr=bounds, color=colour, fmt="o", markersize=5, capsize=3)
            panel.annotate(
                f"{100 * one.value:+.2f} %", (one.value, place), (0, 6), textcoords="offset points", ha="center", color=colour
            )  # fmt: skip
            if one.limit is not None:
                panel.plot(
                    [one.limit] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=1.4, linestyle=":"
                )
        panel.axvline(0, color=FAINT, linewidth=1)
        panel.set_yticks(range(len(intervals)), [one.name for one in intervals])
        panel.set_ylim(len(intervals) - 0.4, -0.7)
        panel.xaxis.set_major_formatter(FuncFormatter(_percent))
        panel.set_xlabel("change relative to control")

    return _svg(draw, title, note, height=1.3 + 0.45 * len(intervals))
