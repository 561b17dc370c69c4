"""A simulation's report: one page of HTML that holds all it shows, and the same as JSON. It runs nothing and fetches nothing."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import Any

from experiments.holdout import HoldoutReadout
from experiments.live import LiveExperiments
from experiments.readout import Readout
from matinee.figures import NothingToDraw
from matinee.readout_page import STYLE, body
from matinee.simulation import figures
from matinee.simulation.loop import Run
from matinee.simulation.new_titles import Comparison
from matinee.simulation.scenarios import KILLED, LAUNCHED, OUTCOMES, Search, Tested

_STYLE = STYLE + "td.n,th.n{text-align:right}"
SIMULATED = (
    "SIMULATED. Members, plays and renewals on this page are of the built-in world: its figures say how the system "
    "works, not how people choose."
)


@dataclass(frozen=True)
class Findings:
    """All that a simulation found; what was not asked is None or empty. `power` says in words what could be told apart."""

    run: Run
    tested: Mapping[str, Tested] = field(default_factory=dict)
    search: Search | None = None
    new_titles: Comparison | None = None
    funnel: Sequence[Tested] = ()
    holdout: HoldoutReadout | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def funnel_outcomes(self) -> dict[str, int]:
        """Outcome → how many ideas came to it."""
        counted = Counter(one.outcome for one in self.funnel)
        return (
            {name: counted[name] for name in OUTCOMES if counted[name] or name in (LAUNCHED, KILLED)}
            if counted
            else {}
        )


def write(found: Findings, folder: Path) -> Path:
    """Write `report.html` and `report.json` into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(found), indent=1, default=_plain) + "\n")
    page = folder / "report.html"
    page.write_text(html(found))
    return page


def as_json(found: Findings) -> dict[str, Any]:
    """Everything the page shows, for programs."""
    run = found.run
    return {
        "simulated": True,
        "world": run.world.config.model_dump(mode="json"),
        "config": run.config.model_dump(mode="json"),
        "began": run.began.as_of,
        "ended": run.ended.as_of,
        "days": [
            {**asdict(one.traffic), "day": one.day.as_of.date(), "bento": one.bento, "learnt": one.learnt,
             "seconds": round(one.seconds, 1)} for one in run.days
        ],
        "trials": [{"experiment": e.trial.experiment.name, "outcome": e.outcome, "day": e.day, **told(e.readout)} for e in run.trials],
        "watched": [{"day": day, "experiment": seen.experiment, "roll_back": seen.roll_back, "sentence": seen.sentence} for day, seen in run.programme.watched],
        "tested": {name: _tested(one) for name, one in found.tested.items()},
        "search": None if found.search is None else {
            "points": [{**asdict(p), "weights": p.weights.model_dump()} for p in found.search.points],
            "found": found.search.found.model_dump(), "confirmed": _tested(found.search.confirmed),
        },
        "new_titles": None if found.new_titles is None else asdict(found.new_titles),
        "funnel": {"outcomes": found.funnel_outcomes, "ideas": [_tested(one) for one in found.funnel]},
        "holdout": None if found.holdout is None else found.holdout.model_dump(mode="json", exclude={"statistics"}),
        "launched": dict(LiveExperiments.read(run.ended.workspace.live).launched),
        "seconds": dict(found.seconds),
        "notes": dict(found.notes),
    }  # fmt: skip


def told(made: Readout) -> dict[str, Any]:
    """A read-out in short."""
    return {
        "verdict": made.verdict.value, "sentence": made.sentence, "units": list(made.health.units),
        "comparisons": [
            {"treatment": c.treatment, "success": c.success, "deteriorated": list(c.deteriorated),
             "estimates": [e.model_dump() for e in (c.primary, *(g.estimate for g in c.guardrails))]} for c in made.comparisons
        ],
    }  # fmt: skip


def _tested(one: Tested) -> dict[str, Any]:
    return {
        "outcome": one.outcome,
        "arms": {arm: w.model_dump() for arm, w in one.weights.items()},
        **told(one.readout),
    }


def html(found: Findings) -> str:
    """The page; equal findings give an equal page."""
    run = found.run
    title = f"{len(run.days)} simulated days of {run.world.config.n_members:,} members"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{run.began.as_of:%Y-%m-%d} to {run.ended.as_of:%Y-%m-%d}, {run.world.config.n_titles:,} titles, seed {run.world.config.seed}</p>',
        f'<p class="simulated">{SIMULATED}</p>',
        _section("Day by day", _days(found)),
        *_trials(found),
        *_scenarios(found),
        _section("Notes", _table(("", ""), [(k, v) for k, v in found.notes.items()])) if found.notes else "",
    ]
    head = f'<meta charset="utf-8"><title>Simulated: {escape(title)}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        + "\n".join(p for p in parts if p)
        + "\n</body></html>\n"
    )


def _days(found: Findings) -> str:
    heads = (
        "day",
        "pages",
        "plays",
        "minutes",
        "satisfaction",
        "diversity",
        "renewed",
        "cancelled",
        "learnt",
        "seconds",
    )
    rows = [
        (f"{one.day.as_of:%Y-%m-%d}", one.traffic.sessions, one.traffic.plays, round(one.traffic.minutes), one.traffic.satisfaction,
         one.traffic.diversity, one.traffic.renewed, one.traffic.cancelled, ", ".join(one.learnt), round(one.seconds, 1))
        for one in found.run.days
    ]  # fmt: skip
    return _table(heads, rows)


def _trials(found: Findings) -> list[str]:
    parts = [
        _section(
            f"In the loop: {one.trial.experiment.name} was {one.outcome} on day {one.day}", body(one.readout)
        )
        for one in found.run.trials
    ]
    if found.holdout is not None:
        parts.append(_section("Hold-out: everything that changed, against nothing", _holdout(found.holdout)))
    return parts


def _holdout(made: HoldoutReadout) -> str:
    units = ", ".join(f"{arm.arm} {arm.units:,}" for arm in made.statistics.arms)
    rows = [
        (one.metric, one.estimate.control, one.estimate.treatment, f"{one.estimate.relative:+.2%}",
         f"{one.estimate.relative_low:+.2%} to {one.estimate.relative_high:+.2%}", "" if one.detectable is None else f"{one.detectable:.2%}")
        for one in made.effects
        if one.estimate is not None and one.estimate.relative is not None
    ]  # fmt: skip
    heads = ("metric", "held out", "winners only", "change", "95 % interval", "found 80 % of the time")
    said = f'<p class="verdict">{escape(made.sentence)}</p><p class="note">members: {escape(units)}</p>'
    return said + _table(heads, rows)


def _scenarios(found: Findings) -> list[str]:
    parts = [_section(f"{name}: {one.outcome}", body(one.readout)) for name, one in found.tested.items()]
    if found.search is not None:
        parts.append(_section(
            "Search for weights", f"<p>Found: <code>{escape(str(found.search.found))}</code></p>",
            _drawn(lambda: figures.search_path(found.search), "search path") if found.search else "", body(found.search.confirmed.readout),
        ))  # fmt: skip
    if found.new_titles is not None:
        parts.append(
            _section(
                "New titles",
                _drawn(lambda: figures.weeks_saved(found.new_titles), "weeks saved")
                if found.new_titles
                else "",
            )
        )
    if found.funnel:
        parts.append(
            _section("Ideas", _drawn(lambda: figures.funnel_figure(found.funnel_outcomes), "idea funnel"))
        )
    return parts


def _section(title: str, *parts: str) -> str:
    return "\n".join((f"<h2>{escape(title)}</h2>", *parts))


def _drawn(draw: Any, alt: str) -> str:
    try:
        svg = draw()
    except NothingToDraw as nothing:
        return f'<p class="note">No figure: {escape(str(nothing))}</p>'
    return f'<figure><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"></figure>'


def _table(heads: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        number = isinstance(value, int | float)
        shown = (
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:.4g}"
            if isinstance(value, float)
            else escape(str(value))
        )
        return f'<td class="n">{shown}</td>' if number else f"<td>{shown}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    cells = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{cells}</table>"


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else str(value)
