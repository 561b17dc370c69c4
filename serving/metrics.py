"""What Prometheus is told about pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from feature_repo.freshness import Freshness
from serving.answers import Page, Stale

PAGES = Counter("matinee_pages", "Pages answered, by how far the making of them got.", ["source"])
DEGRADATIONS = Counter("matinee_degradations", "Stages that could not do their part.", ["stage", "reason"])
STAGE_SECONDS = Histogram(
    "matinee_stage_seconds",
    "Time a page spent in each stage.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
REFUSED = Gauge(
    "matinee_refused",
    "1 while something newer is refused and the last good one stays.",
    ["what"],
    multiprocess_mode="max",
)

STALE = Counter(
    "matinee_stale_answers", "Answers made from a table older than promised.", ["service", "table"]
)
AGE_SECONDS = Gauge(
    "matinee_feature_age_seconds",
    "Age of a feature table at the last request, by the service's clock.",
    ["table"],
    multiprocess_mode="mostrecent",
)
SLO_SECONDS = Gauge(
    "matinee_feature_slo_seconds",
    "How old a feature table may be.",
    ["table"],
    multiprocess_mode="mostrecent",
)

SHED = Counter(
    "matinee_shed", "Requests turned away with 503: the queue was full, or they had waited.", ["reason"]
)
RUNNING = Gauge("matinee_running", "Requests being worked on.", multiprocess_mode="livesum")
WAITING = Gauge("matinee_waiting", "Requests waiting to be worked on.", multiprocess_mode="livesum")
SHADOWS = Counter(
    "matinee_shadows",
    "Pages for shadow versions to judge: judged, failed, nothing to judge, or left out as full or late.",
    ["outcome"],
)
OUT = Gauge(
    "matinee_abandoned_threads",
    "Threads of stages that nobody waits for any longer and that have not come back.",
    ["stage"],
    multiprocess_mode="livesum",
)


def count(page: Page, refusals: Collection[str]) -> None:
    """Count one page and its stages; `refusals` are what is refused at this moment."""
    for what in ("snapshot", "experiments", "champions", "rollout", "deltas"):
        REFUSED.labels(what).set(what in refusals)
    PAGES.labels(page.source).inc()
    for problem in page.degraded:
        DEGRADATIONS.labels(problem.stage, problem.reason).inc()
    for stage, milliseconds in page.timings_ms.items():
        STAGE_SECONDS.labels(stage).observe(milliseconds / 1000)


def count_freshness(service: str, tables: Iterable[Freshness], stale: Iterable[Stale], now: datetime) -> None:
    """Tell how old the tables behind an answer are, and count those that were older than promised."""
    for table in tables:
        AGE_SECONDS.labels(table.table).set(table.age_hours(now) * 3600)
        SLO_SECONDS.labels(table.table).set(table.slo_hours * 3600)
    for one in stale:
        STALE.labels(service, one.table).inc()
