"""Figures of a simulation, as SVG: values in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from experiments.estimates import Estimate
from matinee.figures import BLUE, COLOURS, FAINT, GREEN, INK, RED, NothingToDraw, drawing
from matinee.simulation.new_titles import Comparison
from matinee.simulation.scenarios import KILLED, LAUNCHED, WORSE, Search
from matinee.simulation.tally import ArmDay, Figure

NOTE = "SIMULATED members"
_MEASURES: Mapping[str, Callable[[ArmDay], Figure | None]] = {
    "plays a member who came": lambda one: one.plays,
    "minutes a member who came": lambda one: one.minutes,
    "share of due memberships renewed": lambda one: one.renewals,
}


def arms_by_day(rows: Sequence[ArmDay], experiment: str) -> bytes:
    """Plays, minutes and renewals of each arm over days, with 95 % intervals.

    Raises:
        NothingToDraw: the experiment has no day.
    """
    mine = [row for row in rows if row.experiment == experiment]
    if not mine:
        raise NothingToDraw(f"{experiment} has no day.")
    arms = list(dict.fromkeys(row.arm for row in mine))

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(_MEASURES), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (title, measure) in zip(panels, _MEASURES.items(), strict=True):
            for arm, colour in zip(arms, COLOURS, strict=False):
                _line(panel, [(row.day, measure(row)) for row in mine if row.arm == arm], arm, colour)
            panel.set_title(title)
        panels[0].legend(frameon=False, fontsize=8, ncols=len(arms))
        days = sorted({row.day for row in mine})
        step = max(1, len(days) // 7)
        panels[-1].set_xticks(days[::step], [f"{day:%d %b}" for day in days[::step]])

    return drawing(draw, f"{experiment}, day by day", f"{NOTE}; bands: 95 % intervals of a day", height=5.6)


def _line(panel: Any, points: Sequence[tuple[date, Figure | None]], arm: str, colour: str) -> None:
    known = [(day, found) for day, found in points if found is not None]
    days = [day for day, _ in known]
    panel.fill_between(
        days, [f.low for _, f in known], [f.high for _, f in known], color=colour, alpha=0.15, linewidth=0
    )
    panel.plot(days, [f.mean for _, f in known], color=colour, label=arm, marker="o", markersize=2.5)


def intervals(estimates: Mapping[str, Estimate], title: str) -> bytes:
    """Relative differences from control with their intervals, one below the other.

    Raises:
        NothingToDraw: there is no estimate that is relative to something.
    """
    shown = [
        (name, e) for name, e in estimates.items() if e.relative is not None and e.relative_low is not None
    ]
    if not shown:
        raise NothingToDraw(f"{title}: no relative difference.")

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for place, (_, e) in enumerate(reversed(shown)):
            low, middle, high = (
                100 * float(value or 0) for value in (e.relative_low, e.relative, e.relative_high)
            )
            colour = GREEN if low > 0 else RED if high < 0 else FAINT
            panel.plot([low, high], [place, place], color=colour)
            panel.plot([middle], [place], "o", color=colour, markersize=5)
            panel.annotate(
                f"{middle:+.2f} %",
                (middle, place),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        panel.axvline(0, color=INK, linewidth=0.8)
        panel.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)])
        panel.set_ylim(-0.6, len(shown) - 0.2)
        panel.set_xlabel("difference from control, % of control")

    return drawing(
        draw,
        title,
        f"{NOTE}; bars: 95 % intervals; green: above 0, red: below",
        height=1.2 + 0.42 * len(shown),
    )


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
