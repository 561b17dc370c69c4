"""Data Docs a person can read at this width: a page for each table and `as_of`, and an index of them.

Findings come first, the worst on top; every column is folded away below and can be searched. A page is one
file that asks no host for anything: its style and its few lines of script are in it, and a policy forbids the rest.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Template
from urllib.parse import quote

import pyarrow as pa

from validations.checks import Profile, number, timestamp
from validations.expectations import DType, TableContract
from validations.inspection import Inspection
from validations.pages import expected_text, key_text, value_text
from validations.report import Finding, GateReport
from validations.sketch import sketches

GREAT_EXPECTATIONS = "great_expectations"
"""The folder of Great Expectations' own site, under the docs."""

WITH_ROWS = 200
"""Findings that are shown with the rows they are in; the history has those of all."""

LISTED = 500
"""Reports that the index lists, the newest first."""

_HEAD = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }
input { font: inherit; width: 100%; padding: .5rem .7rem; margin: .6rem 0; box-sizing: border-box; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .6rem; border-top: 1px solid #8884;
text-align: left; vertical-align: top; overflow-wrap: anywhere; } details { border-top: 1px solid #8884; padding: .3rem 0; }
details details, td details { border: 0; padding: 0; } summary { cursor: pointer; } svg { fill: #47a; }
.error, .failed { color: #c33; font-weight: 600; } .warning { color: #a60; font-weight: 600; } .info { color: #47a; }
.passed { color: #283; font-weight: 600; } .quiet { opacity: .65; } dt { font-weight: 600; float: left; clear: left; width: 9em; }
dd { margin-left: 9.5em; } [hidden] { display: none; }
</style>
""")

_SEARCH = """<script>
for (const q of document.querySelectorAll("input[type=search]")) {
  const all = [...document.querySelectorAll(q.dataset.of)], told = document.getElementById(q.dataset.told);
  const show = () => { let n = 0; const words = q.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const one of all) { one.hidden = !words.every(w => one.dataset.text.includes(w)); n += !one.hidden; }
    told.textContent = n + " of " + all.length; };
  q.addEventListener("input", show); show(); }
</script></html>
"""


def write_page(
    docs: Path, contract: TableContract, report: GateReport, inspection: Inspection, table: pa.Table
) -> Path:
    """Write the page of one report, and the index anew; returns the page's path."""
    page = docs / "tables" / report.table / f"as_of={report.as_of:%Y-%m-%dT%H%M%SZ}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(table_page(contract, report, inspection, table), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(_listed(report)), encoding="utf-8")
    (docs / "index.html").write_text(index_page(docs), encoding="utf-8")
    return page


def table_page(contract: TableContract, report: GateReport, inspection: Inspection, table: pa.Table) -> str:
    """The whole page of one report as text."""
    worst = report.worst_first
    findings = "".join(_finding(finding, number < WITH_ROWS) for number, finding in enumerate(worst))
    drawn = sketches(table, [profile.name for profile in inspection.profiles])
    columns = "".join(_columns(contract, report, inspection.profiles, drawn))
    return "".join((
        _HEAD.substitute(title=html.escape(f"{report.table}: {verdict(report)}")),
        f"<h1>{html.escape(report.table)} <span class={'passed' if report.passed else 'failed'}>{verdict(report)}</span></h1>",
        _facts(report),
        f"<h2>{len(worst):,} findings, the worst first</h2>" if worst else "<h2>No findings</h2>",
        _search("findings", ".finding", "Search findings by column, expectation or severity") if worst else "",
        findings,
        f"<h2>{len(inspection.profiles):,} columns</h2><details><summary>Show all columns, searchable</summary>",
        _search("columns", ".column", "Search columns by name, type, verdict or expectation"),
        "<table><thead><tr><th>Column<th>Verdict<th>Type<th>Null<th>Least<th>Greatest<th>Distribution<th>Expected",
        f"</thead><tbody>{columns}</tbody></table></details>",
        '<p class="quiet">Distributions are drawn from at most 10,000 evenly spaced rows.</p>',
        f'<p><a href="../../index.html">All tables</a>, <a href="{_suite(report.table)}">suite</a></p>',
        _SEARCH,
    ))  # fmt: skip


def _suite(table: str) -> str:
    return html.escape(f"../../{GREAT_EXPECTATIONS}/expectations/{quote(table)}.html")


def index_page(docs: Path) -> str:
    """What has been checked, the newest `as_of` first; a table checked again for one `as_of` stands once."""
    told = (docs / "tables").glob("*/*.json")
    found = ((json.loads(one.read_text(encoding="utf-8")), one.with_suffix(".html")) for one in told)
    listed = sorted(found, key=lambda one: (one[0]["as_of"], one[0]["table"]), reverse=True)
    rows = "".join(_listing(values, page.relative_to(docs)) for values, page in listed[:LISTED])
    left = f'<p class="quiet">The {LISTED} newest of {len(listed):,}.</p>' if len(listed) > LISTED else ""
    return "".join((
        _HEAD.substitute(title="The gate"), "<h1>The gate</h1>",
        _search("tables", ".table", "Search by table, day or verdict"),
        "<table><thead><tr><th>Table<th>As of<th>Verdict<th>Rows<th>Set aside<th>Errors<th>Warnings<th>Infos<th>Checked at",
        f"</thead><tbody>{rows}</tbody></table>{left}", _SEARCH,
    ))  # fmt: skip


def verdict(report: GateReport) -> str:
    """The verdict in words."""
    return "failed" if not report.passed else "passed with warnings" if report.warned else "passed"


def _listed(report: GateReport) -> dict[str, object]:
    severities = [finding.severity for finding in report.findings]
    return {
        "table": report.table,
        "as_of": f"{report.as_of:%Y-%m-%d %H:%M:%S}",
        "verdict": verdict(report),
        "rows": report.rows,
        "quarantined": report.quarantined,
        **{severity: severities.count(severity) for severity in ("error", "warning", "info")},
        "at": f"{report.at:%Y-%m-%d %H:%M:%S}" if report.at else "",
    }


def _listing(values: Mapping[str, object], page: Path) -> str:
    shown = [html.escape(str(value)) for value in values.values()]
    told = html.escape(" ".join(map(str, values.values())).lower(), quote=True)
    link = f'<a href="{html.escape(quote(page.as_posix()))}">{shown[0]}</a>'
    mark = "failed" if values["verdict"] == "failed" else "passed"
    cells = [link, shown[1], f"<span class={mark}>{shown[2]}</span>", *shown[3:]]
    return f'<tr class="table" data-text="{told}"><td>' + "<td>".join(cells)


def _facts(report: GateReport) -> str:
    facts = {
        "As of": f"{report.as_of:%Y-%m-%d %H:%M:%S} UTC",
        "Rows": f"{report.rows:,}",
        "Set aside": f"{report.quarantined:,} rows" if report.quarantined else "none",
        "Checks": f"{report.evaluated:,} in {report.elapsed_seconds:.1f} s",
        "Drift from": report.reference or "not looked at: no reference",
        "Contract": report.contract_digest[:16],
        "File": report.digest[:16] or "—",
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{html.escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _search(name: str, of: str, label: str) -> str:
    return (
        f'<label for="q-{name}">{label}</label> <span class="quiet" id="n-{name}" aria-live="polite"></span>'
        f'<input id="q-{name}" type="search" data-of="{of}" data-told="n-{name}">'
    )


def _finding(finding: Finding, with_rows: bool) -> str:
    told = html.escape(f"{finding.severity} {finding.column} {finding.expectation}".lower(), quote=True)
    line = (
        f"<span class={finding.severity}>{finding.severity}</span> <code>{html.escape(finding.column)}</code> expected "
        f"{html.escape(finding.expectation)}, found {html.escape(finding.observed)}"
    )
    if not (finding.sample and with_rows):
        return f'<details class="finding" data-text="{told}"><summary>{line}</summary></details>'
    rows = "".join(
        f"<tr><td>{one.row:,}<td>{html.escape(key_text(one))}<td>{html.escape(value_text(one.value))}"
        for one in finding.sample
    )
    return (
        f'<details class="finding" data-text="{told}"><summary>{line}</summary>'
        f"<table><thead><tr><th>Row<th>Key<th>Value</thead><tbody>{rows}</tbody></table></details>"
    )


def _columns(
    contract: TableContract, report: GateReport, profiles: Iterable[Profile], drawn: Mapping[str, str]
) -> Iterator[str]:
    declared = {column.name: column for column in contract.columns}
    worst = {finding.column: finding.severity for finding in reversed(report.worst_first)}
    for profile in profiles:
        verdict = worst.get(profile.name, "passed")
        shown = (verdict, profile.found, f"{profile.null_share:.2%}", *_extremes(profile))
        expected = expected_text(declared[profile.name])
        told = html.escape(f"{profile.name} {verdict} {profile.found} {expected}".lower(), quote=True)
        yield (
            f'<tr class="column" data-text="{told}"><td><code>{html.escape(profile.name)}</code><td class={verdict}>'
            + "<td>".join(map(html.escape, shown))
            + f"<td>{drawn.get(profile.name, '—')}<td>{html.escape(expected)}"
        )


def _extremes(profile: Profile) -> tuple[str, str]:
    if profile.nulls == profile.rows or (profile.low is None and profile.dtype is not DType.TIMESTAMP):
        return "—", "—"
    shown = timestamp if profile.dtype is DType.TIMESTAMP else number
    return shown(profile.low), shown(profile.high)
