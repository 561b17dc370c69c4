"""A page of every feature, searchable, from the declarations alone: no server, no network."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template

from feature_repo.declarations import Declarations, Feature, FeatureTable

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Features of $source</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
input { font: inherit; width: 100%; padding: .5rem .7rem; margin: .6rem 0 1rem; box-sizing: border-box; }
details { border-top: 1px solid #8884; padding: .35rem 0; }
summary { cursor: pointer; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; background: #8881; padding: .6rem; } .quiet { opacity: .65; } dt { font-weight: 600; }
</style>
<h1>Features of $source</h1>
<p>$counts. Generated from the declarations; digest $digest.</p>
<label for="q">Search by name, description, unit or owner</label>
<input id="q" type="search" autofocus>
<p id="n" class="quiet" aria-live="polite"></p>
<main>$tables</main>
<h2>Unavailable for this source</h2><ul>$unavailable</ul>
<script>
const q = document.getElementById("q"), all = [...document.querySelectorAll("details")];
const show = () => { let n = 0; const words = q.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const d of all) { d.hidden = !words.every(w => d.dataset.text.includes(w)); n += !d.hidden; }
  document.getElementById("n").textContent = n + " of " + all.length + " features"; };
q.addEventListener("input", show); show();
</script></html>
""")


def write_site(declarations: Declarations, folder: Path) -> Path:
    """Write `index.html` and `features.json`; equal declarations give equal bytes. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [described(t, f) for t in declarations.tables for f in t.features]
    (folder / "features.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    index = folder / "index.html"
    index.write_text(page(declarations))
    return index


def page(declarations: Declarations) -> str:
    """The whole page as text."""
    counts = ", ".join(f"{len(t.features)} in {t.name}" for t in declarations.tables)
    lacking = (
        f"<li><code>{html.escape(f'{table}:{feature.name}')}</code> needs {html.escape(', '.join(missing))}</li>"
        for table, feature, missing in declarations.unavailable
    )
    return _PAGE.substitute(
        source=html.escape(declarations.source),
        counts=html.escape(counts),
        digest=" ".join(t.digest for t in declarations.tables[:1]),
        tables="".join(_section(table) for table in declarations.tables),
        unavailable="".join(lacking) or "<li>nothing</li>",
    )


def _section(table: FeatureTable) -> str:
    features = "".join(_entry(table, feature) for feature in table.features)
    when = "stored" if table.stored else "evaluated at request time"
    return (
        f"<h2>{html.escape(table.name)}</h2><p>{html.escape(table.description)} One row a {table.entity.name}, "
        f"{table.weight.value}, {when}, digest <code>{table.digest}</code>.</p>{features}"
    )


def _entry(table: FeatureTable, feature: Feature) -> str:
    row = described(table, feature)
    facts = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>"
        for k, v in row.items()
        if k != "computation"
    )
    searched = html.escape(" ".join(str(v) for k, v in row.items() if k != "computation").lower(), quote=True)
    return (
        f'<details data-text="{searched}"><summary><code>{html.escape(feature.name)}</code> '
        f'<span class="quiet">{html.escape(feature.description)}</span></summary>'
        f"<dl>{facts}</dl><pre>{html.escape(feature.computation.text())}</pre></details>"
    )


def described(table: FeatureTable, feature: Feature) -> dict[str, object]:
    """Everything a person asks of a feature, by name."""
    return {
        "feature": f"{table.name}:{feature.name}",
        "description": feature.description,
        "unit": feature.unit,
        "entity": table.entity.name,
        "weight": table.weight.value,
        "dtype": feature.dtype.value,
        "window_days": feature.over,
        "expectation": "; ".join(str(e) for e in feature.expect) or f"of type {feature.dtype.value}",
        "owner": feature.owner,
        "needs": ", ".join(sorted(feature.needs)),
        "digest": feature.digest,
        "computation": feature.computation.text(),
    }
