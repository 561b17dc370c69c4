"""What the documentation site looks like and how it searches: no font, no script, no image comes from elsewhere."""

STYLE = """\
:root { color-scheme: light dark; --bg: #fbfbf9; --fg: #1d1f21; --quiet: #5c6166; --line: #d9d9d4; --soft: #efefea;
  --accent: #0b5fad; --warn: #9a4a00; }
@media (prefers-color-scheme: dark) { :root { --bg: #16181a; --fg: #e6e6e3; --quiet: #a2a7ab; --line: #34383b;
  --soft: #212426; --accent: #7db8f0; --warn: #f0b070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1.2rem 4rem; max-width: 76rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.55rem; margin: .3rem 0; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
code, pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .7rem .9rem; margin: .3rem 0; white-space: pre-wrap; border-radius: 4px; }
.quiet { color: var(--quiet); } .warn { color: var(--warn); }
label { display: block; margin: 1rem 0 .2rem; font-weight: 600; }
input { font: inherit; width: 100%; padding: .5rem .7rem; color: inherit; background: var(--bg);
  border: 1px solid var(--quiet); border-radius: 4px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td code, time, td.when { white-space: nowrap; } td code { overflow-wrap: normal; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
details { border-bottom: 1px solid var(--line); }
details[open] { padding-bottom: 1rem; }
summary { display: grid; grid-template-columns: minmax(14rem, 2.2fr) 4fr 7.5rem 5rem; gap: .9rem; align-items: center;
  cursor: pointer; padding: .4rem 0; list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:hover { background: var(--soft); }
summary > code::before { content: "▸ "; color: var(--quiet); } details[open] > summary > code::before { content: "▾ "; }
td.what { min-width: 15rem; }
summary .n { white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums; color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .4rem 0 .8rem; }
dt { color: var(--quiet); } dd { margin: 0; }
.figures { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-variant-numeric: tabular-nums; }
svg { display: block; color: var(--accent); } summary svg { width: 7.5rem; height: 1.5rem; }
.large svg { width: 100%; max-width: 30rem; height: 6rem; border-bottom: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; max-width: 30rem; color: var(--quiet); }
@media (max-width: 46rem) { summary { grid-template-columns: 1fr; gap: .1rem; } dl { grid-template-columns: 1fr; } }
"""

SCRIPT = """\
"use strict";
const field = document.getElementById("q"), said = document.getElementById("n");
const words = () => field.value.toLowerCase().split(/\\s+/).filter(Boolean);
const fits = text => words().every(word => text.includes(word));
const MOST = 150;
function filterPage(all) {
  let shown = 0;
  for (const one of all) { one.hidden = !fits(one.dataset.text); shown += !one.hidden; }
  said.textContent = shown + " of " + all.length + " features";
}
function cell(row, content) { row.insertCell().append(content); }
function searchSite(list) {
  const body = document.getElementById("found"), whole = document.getElementById("results");
  const found = words().length ? FEATURES.filter(f => fits(f.join(" ").toLowerCase())) : [];
  whole.hidden = !found.length;
  body.replaceChildren();
  for (const [table, name, description, unit, owner] of found.slice(0, MOST)) {
    const row = body.insertRow(), link = document.createElement("a"), code = document.createElement("code");
    link.href = table + ".html#" + name; code.textContent = name; link.append(code);
    [link, table, description, unit, owner].forEach(content => cell(row, content));
  }
  const more = found.length > MOST ? ", the first " + MOST + " shown" : "";
  said.textContent = words().length ? found.length + " of " + FEATURES.length + " features" + more : "";
}
function open(hash) {
  const one = hash && document.getElementById(decodeURIComponent(hash.slice(1)));
  if (one && one.tagName === "DETAILS") { one.open = true; one.scrollIntoView(); }
}
function age(element) {
  const hours = (Date.now() - Date.parse(element.dateTime)) / 36e5, slo = Number(element.dataset.slo);
  if (!(hours >= 0)) return;
  const old = hours < 72 ? hours.toFixed(1) + " hours" : (hours / 24).toFixed(0) + " days";
  const note = document.createElement("span");
  note.className = hours > slo ? "warn" : "quiet";
  note.textContent = " (" + old + " old now, " + (hours > slo ? "past" : "within") + " its promise of " + slo + " hours)";
  element.after(note);
}
const all = [...document.querySelectorAll("details[data-text]")];
const show = () => all.length ? filterPage(all) : searchSite();
field.addEventListener("input", show);
field.addEventListener("input", () => history.replaceState(null, "", field.value ? "?q=" + encodeURIComponent(field.value) : location.pathname));
field.value = new URLSearchParams(location.search).get("q") || "";
show(); open(location.hash);
addEventListener("hashchange", () => open(location.hash));
document.querySelectorAll("time[data-slo]").forEach(age);
"""
