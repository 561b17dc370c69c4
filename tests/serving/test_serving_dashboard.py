"""The dashboard against what a service under it really says."""

from __future__ import annotations

import json
import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving import metrics
from serving.dashboard import PANELS, dashboard, highest, name_of, quantile, rate, share, summed

OF_PROMETHEUS = {"by", "sum", "max", "rate", "le", "histogram_quantile", "__rate_interval"}


def words(expression):
    """Metric names and labels of an expression: all its words, without functions, numbers and quoted values."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", bare)) - OF_PROMETHEUS


def test_every_metric_of_ours_is_on_the_dashboard():
    shown = " ".join(target.expression for panel in PANELS for target in panel.targets)
    ours = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
    assert len(ours) == 17
    for metric in ours:
        assert name_of(metric) in shown


def test_legends_use_only_labels_that_the_expression_keeps():
    for panel in PANELS:
        for target in panel.targets:
            kept = {
                label for by in re.findall(r"by \(([^)]*)\)", target.expression) for label in by.split(", ")
            }
            assert set(re.findall(r"{{(\w+)}}", target.legend)) == kept - {"le"}, panel.title


def test_it_is_what_grafana_imports():
    made = json.loads(json.dumps(dashboard()))
    assert made["uid"] == "matinee-serving"
    assert [panel["id"] for panel in made["panels"]] == list(range(1, len(PANELS) + 1))
    taken = [(x, y) for p in made["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"]) for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(taken) == len(set(taken))  # no two overlap
    assert max(x for x, _ in taken) < 24  # Grafana's grid
    (variable,) = made["templating"]["list"]
    assert {panel["datasource"]["uid"] for panel in made["panels"]} == {"${" + variable["name"] + "}"}
    for panel in made["panels"]:
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]
        assert panel["description"]


def test_expressions_are_promql():
    registry = CollectorRegistry()
    hits = Counter("hits", "Hits.", ["route", "status"], registry=registry)
    waits = Histogram("waits", "Waits.", ["route"], registry=registry)
    depth = Gauge("depth", "Depth.", ["route"], registry=registry)
    assert rate(hits, "route") == "sum by (route) (rate(hits_total[$__rate_interval]))"
    assert quantile(0.99, waits, "route") == (
        "histogram_quantile(0.99, sum by (le, route) (rate(waits_bucket[$__rate_interval])))"
    )
    assert summed(depth) == "sum (depth)"
    assert highest(depth, "route") == "max by (route) (depth)"
    assert share(hits, '{status="500"}') == (
        'sum (rate(hits_total{status="500"}[$__rate_interval])) / (sum (rate(hits_total[$__rate_interval])) > 0)'
    )
