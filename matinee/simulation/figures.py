"""Figures of a simulation, as SVG: values in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matinee.figures import BLUE, COLOURS, FAINT, GREEN, RED, NothingToDraw, drawing
from matinee.simulation.new_titles import Comparison
from matinee.simulation.scenarios import KILLED, LAUNCHED, WORSE, Search

NOTE = "SIMULATED members"


def funnel_figure(outcomes: Mapping[str, int]) -> bytes:
    """How many ideas came to what.

    Raises:
        NothingToDraw: there was no idea.
    """
    total = sum(outcomes.values())
    if not total:
        raise NothingToDraw("no idea was tried.")

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        bars = [
            ("ideas tried", total, FAINT),
            *(
                (name, n, GREEN if name == LAUNCHED else RED if name in (KILLED, WORSE) else BLUE)
                for name, n in outcomes.items()
            ),
        ]
        for place, (_, n, colour) in enumerate(reversed(bars)):
            panel.barh(place, n, color=colour, height=0.6)
            panel.annotate(f"{n}", (n, place), (4, 0), textcoords="offset points", va="center")
        panel.set_yticks(range(len(bars)), [name for name, *_ in reversed(bars)])
        panel.set_xlim(0, total * 1.1)

    return drawing(
        draw,
        "What became of random ideas",
        f"{NOTE}; each idea an A/B test on members of its own",
        height=2.4,
    )


def weeks_saved(found: Comparison) -> bytes:
    """How the choice of images of new titles gets good, with the score and without."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for name, one, colour in (
            ("priors from the score", found.informed, BLUE),
            ("priors without it", found.uninformed, RED),
        ):
            panel.plot(
                range(len(one.lift)), 100 * one.lift, color=colour, marker="o", markersize=3, label=name
            )
        panel.set_xlabel("days since the title was first shown")
        panel.set_ylabel("% of what the best images\nadd to uniform choice")
        panel.legend(frameon=False)

    saved = "" if found.saved is None else f", {found.saved.weeks:.1f} weeks saved"
    return drawing(draw, f"Images of {found.titles} new titles{saved}", NOTE, height=3.2)


def search_path(found: Search) -> bytes:
    """Where the search for weights looked: renewals against minutes, both relative to the hand-set weights."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for number, colour in zip(sorted({point.round for point in found.points}), COLOURS, strict=False):
            mine = [point for point in found.points if point.round == number]
            panel.errorbar(
                [100 * p.minutes for p in mine], [100 * p.renewals for p in mine], yerr=[196 * p.renewals_error for p in mine],
                fmt="o", color=colour, markersize=4, elinewidth=0.6, label=f"round {number}",
            )  # fmt: skip
        panel.axhline(0, color=FAINT, linewidth=0.8)
        panel.axvline(0, color=FAINT, linewidth=0.8)
        panel.set_xlabel("minutes, % of those under the hand-set weights")
        panel.set_ylabel("renewals, % of those under\nthe hand-set weights")
        panel.legend(frameon=False, fontsize=8)

    return drawing(draw, "Search for weights", f"{NOTE}; bars: 95 % intervals of an arm", height=3.8)
