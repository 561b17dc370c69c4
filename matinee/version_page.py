"""A version's report: one page of HTML that holds all it shows. It runs nothing and fetches nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape

from matinee.evaluation import Evaluation, Incomplete
from models.uncertainty import Comparison, Estimate
from registry import Metric
from registry.canonical import JSON

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;vertical-align:top;border-bottom:1px solid #eee}
td.n,th.n{text-align:right}.ours{font-weight:600}.interval,.note{color:#767676}.note{font-size:.9rem}
code,pre{font:.82rem/1.45 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
figure{margin:1rem 0}figure img{max-width:100%}
.simulated{background:#fff4d6;padding:.5rem .8rem;border-left:4px solid #b8860b}
"""


@dataclass(frozen=True)
class Told:
    """What a page tells of a version that is about to be, or has been, registered.

    `figures` are SVG by file name; `digests` what its lineage rests on, in words (`feature service ranking` → digest).
    `metrics` of peers bear the peer's name before the measure's, such as `popularity_7d_recall`.
    """

    model: str
    source: str
    as_of: datetime
    config: Mapping[str, JSON]
    training_set: str
    rows: int
    metrics: Sequence[Metric] = ()
    peers: Sequence[str] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    simulated: bool = False


def version_page(told: Told, evaluation: Evaluation | None = None) -> bytes:
    """The page, UTF-8. Equal values give equal bytes.

    Raises:
        Incomplete: the evaluation is of another source, or its figures are simulated and the page says they are not.
    """
    if evaluation is not None and (evaluation.source, evaluation.simulated) != (told.source, told.simulated):
        raise Incomplete(
            f"an evaluation on {evaluation.source!r} (simulated: {evaluation.simulated}) does not belong on a page "
            f"about {told.source!r} (simulated: {told.simulated})."
        )
    title = f"{told.model}, {told.source}, {told.as_of:%Y-%m-%d}"
    parts = [
        f"<h1>{escape(told.model)}</h1>",
        f'<p class="note">trained for {escape(told.source)} as of {told.as_of:%Y-%m-%d %H:%M} UTC</p>',
        _SIMULATED if told.simulated else "",
        "" if evaluation is None else _evaluation(evaluation),
        _metrics(told),
        _figures(told.figures),
        _origin(told),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'.encode()


_SIMULATED = '<p class="simulated">The members and their plays are simulated: figures say how the method works, not how people choose.</p>'


def _evaluation(found: Evaluation) -> str:
    """For every slice: a row a measure, ours beside its peers, each with its interval; then ours minus each."""
    period = f"{found.as_of:%Y-%m-%d} to {found.until:%Y-%m-%d}"
    note = (
        f"Plays from {period}, on which no model was trained. Means over the same users with 95 % intervals; "
        "a difference is ours minus theirs, p the probability of one as large by chance alone."
    )
    parts = ["<h2>Beside its peers</h2>", f'<p class="note">{note}</p>']
    for part in found.slices:
        users = {found.estimate(found.ours, part, name).users for name in found.measures(part)}
        counted = f" ({' / '.join(f'{n:,}' for n in sorted(users))} users)" if users else ""
        parts += [f"<h3>{escape(part)}{counted}</h3>", _slice(found, part)]
    return "\n".join(parts)


def _slice(found: Evaluation, part: str) -> str:
    compared = [peer for peer in found.peers if found.comparisons.get(peer, {}).get(part)]
    heads = ["measure", *found.models, *(f"minus {peer}" for peer in compared)]
    rows = []
    for name in found.measures(part):
        cells = [_interval(found.estimates[model].get(part, {}).get(name)) for model in found.models]
        cells += [_difference(found.comparisons[peer][part].get(name)) for peer in compared]
        rows.append([escape(name), *cells])
    together = [found.of_all.get(model, {}).get(part, {}) for model in found.models]
    for name in dict.fromkeys(name for one in together for name in one):
        cells = [f"{one[name]:.4f}" if name in one else "" for one in together]
        rows.append([escape(name), *cells, *("" for _ in compared)])
    return _table(heads, rows, ours=1)


def _interval(found: Estimate | None) -> str:
    if found is None:
        return ""
    return f'{found.value:.4f} <span class="interval">[{found.low:.4f}, {found.high:.4f}]</span>'


def _difference(found: Comparison | None) -> str:
    if found is None:
        return ""
    d = found.difference
    interval = f"[{d.low:+.4f}, {d.high:+.4f}], p {_chance(found.p_value)}"
    return f'{d.value:+.4f} <span class="interval">{interval}</span>'


def _chance(p_value: float) -> str:
    return "&lt; 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _metrics(told: Told) -> str:
    """Recorded metrics, the model's own beside those of the same measure that bear a peer's name."""
    if not told.metrics:
        return ""
    parts = ["<h2>Recorded metrics</h2>"]
    for split in dict.fromkeys(metric.split for metric in told.metrics):
        known = {metric.name: metric.value for metric in told.metrics if metric.split == split}
        own = [name for name in known if not any(name.startswith(f"{peer}_") for peer in told.peers)]
        peers = [peer for peer in told.peers if any(name.startswith(f"{peer}_") for name in known)]
        rows = [
            [escape(name), f"{known[name]:.4g}", *(_number(known.get(f"{peer}_{name}")) for peer in peers)]
            for name in own
        ]
        parts += [
            f"<h3>{escape(split or 'all')} period</h3>",
            _table(["measure", told.model, *peers], rows, ours=1),
        ]
    return "\n".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _figures(figures: Mapping[str, bytes]) -> str:
    """Each as a picture within the page: a file of its own in its own right, whose names meet no other's."""
    if not figures:
        return ""
    shown = [
        f'<figure><img alt="{escape(_words(name), quote=True)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"></figure>'
        for name, svg in figures.items()
    ]
    return "\n".join(["<h2>Figures</h2>", *shown])


def _words(name: str) -> str:
    return name.rsplit(".", 1)[0].replace("-", " ")


def _origin(told: Told) -> str:
    digests = {f"training set ({told.rows:,} rows)": told.training_set, **told.digests}
    rows = [[escape(name), f"<code>{escape(digest)}</code>"] for name, digest in digests.items()]
    config = json.dumps(told.config, indent=2, sort_keys=True, ensure_ascii=False)
    return "\n".join(
        [
            "<h2>What it was made from</h2>",
            _table(["what", "digest"], rows),
            "<h2>Configuration</h2>",
            f"<pre>{escape(config)}</pre>",
        ]
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, ours: int | None = None) -> str:
    """A table; cells are HTML, headings text. With `ours`, figures: that column stands out, and all but the first stand right."""
    figures = ours is not None

    def style(place: int) -> str:
        names = [*(["n"] if figures and place else []), *(["ours"] if place == ours else [])]
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f"<th{style(place)}>{escape(name)}</th>" for place, name in enumerate(heads))
    body = "\n".join(
        "<tr>" + "".join(f"<td{style(place)}>{cell}</td>" for place, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
