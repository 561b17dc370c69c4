"""HTML of the documentation site: values in, text out."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from string import Template

from feature_repo.declarations import Declarations, Feature, FeatureTable, references_of
from feature_repo.distributions import LEVELS, Distribution
from feature_repo.formula import expected, formula

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css">
</head>
<body>
$body
$scripts<script src="site.js"></script>
</body>
</html>
""")


@dataclass(frozen=True)
class Computed:
    """The newest computed file of a table: when it is of, its rows, its columns."""

    as_of: datetime
    rows: int
    columns: Mapping[str, Distribution]


@dataclass(frozen=True)
class Usage:
    """Who reads a feature, in words: `models` such as "ranker/3 @champion", `arms` such as "test/b (running)"."""

    models: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()


def index_page(declarations: Declarations, computed: Mapping[str, Computed]) -> str:
    """The search over all features, the tables, the services, and what the source makes impossible."""
    count = sum(len(table.features) for table in declarations.tables)
    body = f"""<h1>Features of {_e(declarations.source)}</h1>
<p>{count:,} features in {len(declarations.tables)} tables, generated from their declarations.</p>
<label for="q">Search by name, description, unit or owner</label>
<input id="q" type="search" autocomplete="off" autofocus>
<p id="n" class="quiet" role="status"></p>
<div id="results" class="wide" hidden><table>
<thead><tr><th>feature</th><th>table</th><th>description</th><th>unit</th><th>owner</th></tr></thead>
<tbody id="found"></tbody></table></div>
<h2>Tables</h2>
<div class="wide"><table>
<thead><tr><th>table</th><th class="n">features</th><th>one row a</th><th>kind</th><th>description</th><th>as of</th><th class="n">rows</th></tr></thead>
<tbody>{"".join(_table_row(table, computed.get(table.name)) for table in declarations.tables)}</tbody></table></div>
<h2>Services</h2>
<dl>{"".join(_service(s.name, s.description, [t.name for t in s.tables]) for s in declarations.services)}</dl>
<h2>Unavailable for this source</h2>
{_unavailable(declarations)}"""
    return _PAGE.substitute(
        title=_e(f"Features of {declarations.source}"),
        body=body,
        scripts='<script src="features.js"></script>\n',
    )


def table_page(
    source: str,
    table: FeatureTable,
    sql: Mapping[str, str],
    computed: Computed | None,
    usage: Mapping[str, Usage],
) -> str:
    """Every feature of one table; `sql` by feature name, `usage` by digest."""
    entries = "\n".join(
        _entry(table, feature, sql.get(feature.name, ""), computed, usage.get(feature.digest, Usage()))
        for feature in table.features
    )
    body = f"""<p><a href="index.html">Features of {_e(source)}</a></p>
<h1>{_e(table.name)}</h1>
<p>{_e(table.description)}</p>
<dl>{_facts(_about(table))}<dt>computed</dt><dd>{_freshness(table, computed)}</dd></dl>
<label for="q">Filter these features</label>
<input id="q" type="search" autocomplete="off">
<p id="n" class="quiet" role="status"></p>
<main>
{entries}
</main>"""
    return _PAGE.substitute(title=_e(f"{table.name} · features of {source}"), body=body, scripts="")


def _e(text: object) -> str:
    return html.escape(str(text))


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)


def _table_row(table: FeatureTable, computed: Computed | None) -> str:
    when, rows = (_moment(computed.as_of), f"{computed.rows:,}") if computed else ("", "")
    kind = table.weight.value if table.stored else f"{table.weight.value}, at request time"
    return (
        f'<tr><td><a href="{table.name}.html"><code>{_e(table.name)}</code></a></td><td class="n">{len(table.features)}</td>'
        f'<td>{_e(table.entity.name)}</td><td>{kind}</td><td class="what">{_e(table.description)}</td>'
        f'<td class="when">{when}</td><td class="n">{rows}</td></tr>'
    )


def _service(name: str, description: str, tables: Sequence[str]) -> str:
    links = ", ".join(f'<a href="{table}.html">{_e(table)}</a>' for table in tables)
    return f"<dt><code>{_e(name)}</code></dt><dd>{_e(description)}: {links}</dd>"


def _unavailable(declarations: Declarations) -> str:
    """By what is lacking, since one column takes many features along."""
    by_need: dict[str, list[str]] = {}
    for table, feature, missing in declarations.unavailable:
        by_need.setdefault(", ".join(missing), []).append(f"{table}:{feature.name}")
    if not by_need:
        return "<p>Nothing.</p>"
    return "".join(
        f"<details><summary><span><code>{_e(need)}</code></span><span>{len(names)} features need it</span></summary>"
        f"<p>{', '.join(f'<code>{_e(name)}</code>' for name in names)}</p></details>"
        for need, names in by_need.items()
    )


def _about(table: FeatureTable) -> Iterable[tuple[str, str]]:
    per = f"{table.keep} newest events a" if table.keep > 1 else "one a"
    yield (
        "rows",
        f"{per} {_e(table.entity.name)} (<code>{_e(table.entity.join_key)}</code>), {_e(table.entity.description)}",
    )
    yield "kind", f"{table.weight.value}, {'stored' if table.stored else 'evaluated at request time'}"
    yield (
        "fresh",
        f"for {table.slo_hours:g} hours after its as_of; rows live for {table.ttl_days:,} days"
        if table.stored
        else "",
    )
    yield "digest", f"<code>{table.digest}</code>"


def _freshness(table: FeatureTable, computed: Computed | None) -> str:
    if not table.stored:
        return "at each request, from stored features"
    if computed is None:
        return '<span class="warn">not yet</span>'
    moment = computed.as_of
    return (
        f'as of <time datetime="{moment.isoformat()}" data-slo="{table.slo_hours:g}">{_moment(moment)}</time>, '
        f"{computed.rows:,} rows"
    )


def _entry(table: FeatureTable, feature: Feature, sql: str, computed: Computed | None, usage: Usage) -> str:
    shown = computed.columns.get(feature.name) if computed else None
    words = (feature.name, feature.description, feature.unit, feature.owner)
    nulls = f"{shown.null_share:.0%} null" if shown else ""
    return f"""<details id="{_e(feature.name)}" data-text="{_e(" ".join(words).lower())}">
<summary><code>{_e(feature.name)}</code><span>{_e(feature.description)}</span><span>{_histogram(shown) if shown else ""}</span><span class="n">{nulls}</span></summary>
<dl>{_facts(_about_feature(table, feature, computed, usage))}</dl>
{_drawn(shown, feature.unit) if shown else ""}<pre>{_e(sql)}</pre>
</details>"""


def _about_feature(
    table: FeatureTable, feature: Feature, computed: Computed | None, usage: Usage
) -> Iterable[tuple[str, str]]:
    yield "formula", f"<code>{_e(formula(table, feature))}</code>"
    yield "unit", _e(feature.unit)
    yield "window", f"{feature.over} day{'s' if feature.over != 1 else ''}" if feature.over else ""
    yield "expected", _e("; ".join(map(expected, feature.expect))) or f"of type {feature.dtype.value}"
    yield "type", _e(feature.dtype.value)
    yield "owner", _e(feature.owner)
    yield "made of", ", ".join(f"<code>{_e(need)}</code>" for need in sorted(feature.needs))
    yield "reads", _reads(table, feature)
    yield "computed", _freshness(table, computed)
    yield (
        "models",
        _e(", ".join(usage.models)) or '<span class="quiet">none that has an alias or serves</span>',
    )
    yield "arms", _e(", ".join(usage.arms)) or '<span class="quiet">none</span>'
    yield "digest", f"<code>{feature.digest}</code>"


def _reads(table: FeatureTable, feature: Feature) -> str:
    """Links to the features that its arithmetic reads."""
    return ", ".join(
        f'<a href="{ref.table}.html#{ref.feature}"><code>{_e(ref.feature if ref.table == table.name else ref)}</code></a>'
        for ref in references_of(feature.computation)
    )


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _drawn(shown: Distribution, unit: str) -> str:
    """The large histogram with its ends, and the figures under it."""
    if not shown.quantiles:
        return f'<p class="warn">Unknown for all {shown.rows:,} rows.</p>'
    names = [{0.0: "least", 0.5: "median", 1.0: "greatest"}.get(level, f"{level:.0%}") for level in LEVELS]
    figures = [
        ("null", f"{shown.null_share:.2%}"), ("distinct", f"{shown.distinct:,}"), ("mean", _number(shown.mean)),
        *((name, _number(value)) for name, value in zip(names, shown.quantiles, strict=True)),
    ]  # fmt: skip
    told = "".join(f'<span><span class="quiet">{name}</span> {value}</span>' for name, value in figures)
    return f"""<div class="large">{_histogram(shown)}<div class="ends"><span>{_number(shown.low)}</span><span>{_e(unit)}</span><span>{_number(shown.high)}</span></div></div>
<p class="figures">{told}</p>
"""


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:,.4g}"


def _histogram(shown: Distribution) -> str:
    """Bars as one path in a 100 × 24 box; the tallest is full height, any that is not empty can be seen."""
    if not shown.counts:
        return ""
    top, width = max(shown.counts), 100 / len(shown.counts)
    bars = (
        f"M{place * width:.4g} 24v-{max(24 * count / top, 0.7):.3g}h{width * 0.86:.3g}V24z"
        for place, count in enumerate(shown.counts)
        if count
    )
    label = f"histogram from {_number(shown.low)} to {_number(shown.high)}"
    return (
        f'<svg viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<path fill="currentColor" d="{"".join(bars)}"/></svg>'
    )
