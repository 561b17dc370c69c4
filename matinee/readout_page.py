"""A read-out as one page that can be forwarded: the sentence, then what it rests on. HTML holds its figures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from experiments.decision import Comparison, levels_of
from experiments.drilldown import Novelty
from experiments.estimates import Estimate
from experiments.readout import Readout
from experiments.sentences import looks_said
from matinee.figures import Interval, effects
from registry.canonical import digest_of

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:54rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:1.8rem 0 .5rem}
.verdict{font-size:1.1rem;padding:.7rem 1rem;border-left:5px solid #767676;background:#f4f4f4}
.ship{border-color:#009E73}.stop,.broken{border-color:#D55E00}.note{color:#666;font-size:.9rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #eee}img{max-width:100%}
.simulated{background:#fff4d6;padding:.4rem .8rem}
"""
Table = tuple[str, list[str], list[list[str]]]
"""Title, headings, rows; all text."""


def page(readout: Readout, *, simulated: bool) -> bytes:
    """HTML, UTF-8; equal read-outs give equal bytes."""
    parts = [
        f"<h1>{escape(readout.experiment.name)}</h1>",
        '<p class="simulated">Members and what they did are simulated.</p>' if simulated else "",
        body(readout),
        f'<p class="note">{escape(_origin(readout))}</p>',
    ]
    head = f'<meta charset="utf-8"><title>{escape(readout.experiment.name)}</title><style>{STYLE}</style>'
    whole = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{whole}\n</body></html>\n'.encode()


def body(readout: Readout) -> str:
    """The read-out as a part of a page: who took part, the sentence, figures, tables, remarks."""
    return "\n".join((
        f'<p class="note">{escape(_context(readout))}</p>',
        f'<p class="verdict {readout.verdict.value.replace(" ", "-")}">{escape(readout.sentence)}</p>',
        *(_figure(svg) for svg in figures(readout)),
        *(_html(table) for table in tables(readout)),
        *(f"<p>{escape(line)}</p>" for line in remarks(readout)),
    ))  # fmt: skip


def markdown(readout: Readout, *, simulated: bool) -> str:
    """The same without figures, for a mail or a ticket."""
    parts = [
        f"# {readout.experiment.name}",
        _context(readout),
        "*Members and what they did are simulated.*" if simulated else "",
        f"> **{readout.sentence}**",
        *(_markdown(table) for table in tables(readout)),
        *remarks(readout),
        _origin(readout),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures(readout: Readout) -> list[bytes]:
    """The effects of each treatment, and where there is one the effect over days since first exposure."""
    note = "green: as hoped; red: not; dotted: a guardrail's margin; bars: intervals of this look"
    drawn = [
        effects(rows, f"{comparison.treatment} against {readout.experiment.control}", note)
        for comparison in readout.comparisons
        if (rows := _intervals(readout, comparison))
    ]
    note = "bars: 95 % intervals of each day alone"
    return drawn + [
        effects(rows, f"{one.treatment}: the effect by day since first exposure", note)
        for one in readout.novelty
        if (rows := _drawable(_plain(f"day {d.day}", d.estimate) for d in one.days))
    ]


def _drawable(rows: Iterable[Interval | None]) -> list[Interval]:
    return [row for row in rows if row is not None]


def _intervals(readout: Readout, comparison: Comparison) -> list[Interval]:
    guardrails = {g.name: g for g in readout.experiment.metrics.guardrails}
    rows = [_plain(comparison.primary.metric, comparison.primary, good=comparison.success or None)]
    for found in comparison.guardrails:
        limit = -guardrails[found.estimate.metric].sign * found.margin
        rows.append(_plain(found.estimate.metric, found.estimate, limit, good=found.non_inferior))
    return _drawable(rows)


def _plain(
    name: str, e: Estimate, limit: float | None = None, *, good: bool | None = None
) -> Interval | None:
    """None where control is so near nought that a relative effect means nothing."""
    if e.relative is None or e.relative_low is None or e.relative_high is None:
        return None
    return Interval(name, e.relative, e.relative_low, e.relative_high, limit, good)


def tables(readout: Readout) -> list[Table]:
    """Metrics of each treatment, then segments."""
    made = [_metrics(readout, comparison) for comparison in readout.comparisons]
    if readout.segments:
        rows = [
            [s.segment, s.treatment, _change(s.estimate), f"{s.p_adjusted:.3g}", "moved" if s.moved else ""]
            for s in readout.segments
        ]
        made.append(("By segment (the primary; p corrected for all segments, Benjamini-Hochberg)",
                     ["segment", "treatment", "change", "adjusted p", "finding"], rows))  # fmt: skip
    return made


def _metrics(readout: Readout, comparison: Comparison) -> Table:
    worse = set(comparison.deteriorated)
    rows = [_row("decides", comparison.primary, "wins" if comparison.success else "no clear win", worse)]
    for g in comparison.guardrails:
        said = (
            f"within its margin of {g.margin:.3g}" if g.non_inferior else f"may lose {g.margin:.3g} or more"
        )
        rows.append(_row("guards", g.estimate, said, worse))
    heads = ["role", "metric", "control", "treatment", "change (interval)", "p", "finding"]
    return f"{comparison.treatment} against {readout.experiment.control}", heads, rows


def _row(role: str, e: Estimate, finding: str, worse: set[str]) -> list[str]:
    said = f"{finding}; surely worse" if e.metric in worse else finding
    return [role, e.metric, f"{e.control:.4g}", f"{e.treatment:.4g}", _change(e), f"{e.p_value:.3g}", said]


def _change(e: Estimate) -> str:
    if e.relative is None or e.relative_low is None or e.relative_high is None:
        return f"{e.difference:+.4g} ({e.low:+.4g} to {e.high:+.4g})"
    return f"{e.relative:+.2%} ({e.relative_low:+.2%} to {e.relative_high:+.2%})"


def remarks(readout: Readout) -> list[str]:
    """How often it was looked at, what CUPED gave, whether the effect lasts."""
    lines = [looks_said(readout.looks, levels_of(readout.experiment, readout.rule, readout.looks))]
    lines += [
        f"What members did before took away {c.variance_cut:.0%} of the variance of {c.primary.metric} in {c.treatment} (CUPED)."
        for c in readout.comparisons
        if c.variance_cut is not None
    ]
    lines += [_lasting(one) for one in readout.novelty]
    return lines


def _lasting(one: Novelty) -> str:
    change = f"{one.slope.difference:+.3g} a day ({one.slope.low:+.3g} to {one.slope.high:+.3g})"
    said = "fades over the days since first exposure" if one.fading else "shows no sure fading"
    return f"The effect of {one.treatment} {said}: it changes by {change}."


def _context(readout: Readout) -> str:
    units = ", ".join(
        f"{name} {n:,}" for name, n in zip(readout.experiment.arms, readout.health.units, strict=True)
    )
    health = "healthy" if readout.health.healthy else "BROKEN"
    return f"{readout.experiment.hypothesis.strip()} Read out {readout.at:%Y-%m-%d %H:%M} UTC. Units: {units}; sample ratio {health}."


def _origin(readout: Readout) -> str:
    return f"Owner: {readout.experiment.owner}. The ledger keeps what this follows from under {digest_of(readout.model_dump(mode='json'))}."


def _figure(svg: bytes) -> str:
    return f'<figure><img alt="effects" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"></figure>'


def _html(table: Table) -> str:
    title, heads, rows = table
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _markdown(table: Table) -> str:
    title, heads, rows = table
    lines: Sequence[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
    return f"## {title}\n\n" + "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
