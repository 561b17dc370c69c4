"""A Grafana dashboard of what `serving.metrics` counts, made from those very metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from serving import metrics

Measured = Counter | Gauge | Histogram
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PER_ROW, WIDTH, HEIGHT = 3, 8, 8
SCHEMA_VERSION = 39


@dataclass(frozen=True)
class Target:
    """A PromQL expression, and how each of its lines is called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart. `unit` is Grafana's name of one."""

    title: str
    description: str
    unit: str
    targets: tuple[Target, ...]


def name_of(metric: Measured) -> str:
    """How a metric's series is called; of a histogram, without its ending."""
    (described,) = metric.describe()
    return f"{described.name}_total" if described.type == "counter" else str(described.name)


def rate(metric: Counter, *by: str, where: str = "") -> str:
    """How often a second, by labels."""
    return f"sum{_by(by)} (rate({name_of(metric)}{where}[$__rate_interval]))"


def share(metric: Counter, where: str) -> str:
    """The share, 0..1, of what is counted that `where` selects; nothing while nothing is counted."""
    return f"{rate(metric, where=where)} / ({rate(metric)} > 0)"


def quantile(q: float, metric: Histogram, *by: str) -> str:
    """A quantile of what a histogram counts, by labels."""
    buckets = f"rate({name_of(metric)}_bucket[$__rate_interval])"
    return f"histogram_quantile({q}, sum{_by(('le', *by))} ({buckets}))"


def summed(metric: Gauge, *by: str) -> str:
    """A gauge over all processes, by labels."""
    return f"sum{_by(by)} ({name_of(metric)})"


def highest(metric: Gauge, *by: str) -> str:
    """A gauge's highest value over all processes, by labels."""
    return f"max{_by(by)} ({name_of(metric)})"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


PANELS = (
    Panel(
        "Requests", "Answered a second; `other` is every path that is no endpoint.", "reqps",
        (Target(rate(metrics.REQUESTS, "service", "route", "status"), "{{service}} {{route}} {{status}}"),),
    ),
    Panel(
        "Time to an answer", "What clients wait for, without the network.", "s",
        (
            Target(quantile(0.5, metrics.REQUEST_SECONDS, "route"), "{{route}} p50"),
            Target(quantile(0.99, metrics.REQUEST_SECONDS, "route"), "{{route}} p99"),
        ),
    ),
    Panel(
        "Requests in flight", "What replicas are scaled by.", "short",
        (Target(summed(metrics.IN_FLIGHT, "service"), "{{service}}"),),
    ),
    Panel(
        "Pages by source", "How far the making of pages got.", "reqps",
        (Target(rate(metrics.PAGES, "source"), "{{source}}"),),
    ),
    Panel(
        "Pages that are not ranked", "Share of pages that had to do without a stage; new users are among them.",
        "percentunit", (Target(share(metrics.PAGES, '{source!="ranked"}'), "not ranked"),),
    ),
    Panel(
        "Failed requests", "Share of requests that the service could not answer.", "percentunit",
        (Target(share(metrics.REQUESTS, '{status=~"5.."}'), "5xx"),),
    ),
    Panel(
        "Time of each stage, p99", "Where a page's time goes.", "s",
        (Target(quantile(0.99, metrics.STAGE_SECONDS, "stage"), "{{stage}}"),),
    ),
    Panel(
        "Degradations", "Stages that could not do their part, and why.", "reqps",
        (Target(rate(metrics.DEGRADATIONS, "stage", "reason"), "{{stage}}: {{reason}}"),),
    ),
    Panel(
        "News refused", "1 while a newer snapshot or experiment file is refused.", "short",
        (Target(highest(metrics.REFUSED, "what"), "{{what}}"),),
    ),
    Panel(
        "Pages by arm", "Shares should stay as declared; the read-out tests whether they do.", "reqps",
        (Target(rate(metrics.ARM_PAGES, "experiment", "arm"), "{{experiment}}/{{arm}}"),),
    ),
    Panel(
        "Answers by model version", "Which versions are in use: a promotion is a crossing.", "reqps",
        (Target(rate(metrics.VERSION_ANSWERS, "service", "version"), "{{service}} {{version}}"),),
    ),
    Panel(
        "Age of features, as a share of what is promised", "Above 1 a table is stale.", "percentunit",
        (Target(f"{highest(metrics.AGE_SECONDS, 'table')} / {highest(metrics.SLO_SECONDS, 'table')}", "{{table}}"),),
    ),
    Panel(
        "Stale answers", "Made from a table that is older than promised.", "reqps",
        (Target(rate(metrics.STALE, "service", "table"), "{{service}} {{table}}"),),
    ),
    Panel(
        "Turned away", "Requests answered 503 because the queue was full or they had waited too long.", "reqps",
        (Target(rate(metrics.SHED, "reason"), "{{reason}}"),),
    ),
    Panel(
        "Admitted", "Requests being worked on, and those that wait their turn.", "short",
        (Target(summed(metrics.RUNNING), "running"), Target(summed(metrics.WAITING), "waiting")),
    ),
    Panel(
        "Abandoned threads", "Stages that nobody waits for any longer and that have not come back.", "short",
        (Target(summed(metrics.OUT, "stage"), "{{stage}}"),),
    ),
    Panel(
        "Shadows", "What became of the pages that shadow versions were to judge.", "reqps",
        (Target(rate(metrics.SHADOWS, "outcome"), "{{outcome}}"),),
    ),
)  # fmt: skip


def dashboard(panels: tuple[Panel, ...] = PANELS) -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "matinee-serving",
        "title": "matinee: serving",
        "tags": ["matinee"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": [_panel(place, panel) for place, panel in enumerate(panels)],
    }


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(place, PER_ROW)
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": DATASOURCE,
                "expr": target.expression,
                "legendFormat": target.legend,
            }
            for n, target in enumerate(panel.targets)
        ],
    }
