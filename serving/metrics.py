"""What a serving process tells Prometheus.

Labels are bounded: routes, stages, reasons and tables are few by nature, arms and versions by `Bounded`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from feature_repo.freshness import Freshness
from serving.answers import Page, Stale

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MAX_SERIES = 1_000
"""Arms, and versions, that have a series of their own: four times the 250 experiments live at once."""
OTHER = "other"

REQUESTS = Counter("matinee_requests", "Requests answered.", ["service", "route", "status"])
REQUEST_SECONDS = Histogram(
    "matinee_request_seconds", "Time from a request to its answer.", ["service", "route"], buckets=_SECONDS
)
IN_FLIGHT = Gauge(
    "matinee_requests_in_flight",
    "Requests that are being answered: what replicas are scaled by.",
    ["service"],
    multiprocess_mode="livesum",
)
PAGES = Counter("matinee_pages", "Pages answered, by how far the making of them got.", ["source"])
ARM_PAGES = Counter(
    "matinee_arm_pages", "Pages answered, by arm and how far they got.", ["experiment", "arm", "source"]
)
VERSION_ANSWERS = Counter(
    "matinee_version_answers", "Answers a model version had a part in.", ["service", "kind", "version"]
)
DEGRADATIONS = Counter("matinee_degradations", "Stages that could not do their part.", ["stage", "reason"])
STAGE_SECONDS = Histogram(
    "matinee_stage_seconds", "Time a page spent in each stage.", ["stage"], buckets=_SECONDS
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
STAGES = ("retrieve", "rank", "artwork", "log", "sample")
"""The stages that run in threads of their own."""
OUT = Gauge(
    "matinee_abandoned_threads",
    "Threads of stages that nobody waits for any longer and that have not come back.",
    ["stage"],
    multiprocess_mode="livesum",
)


class Bounded:
    """Label values of which at most `limit` are told apart; later ones are all `other`.

    >>> few = Bounded(2)
    >>> [few.of(("trial", arm)) for arm in "abca"]
    [('trial', 'a'), ('trial', 'b'), ('other', 'other'), ('trial', 'a')]
    """

    def __init__(self, limit: int) -> None:
        """None seen yet."""
        self.limit = limit
        self._seen: set[tuple[str, ...]] = set()

    def of(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """The values, or as many `other`s."""
        if values not in self._seen:
            if len(self._seen) >= self.limit:
                return (OTHER,) * len(values)
            self._seen.add(values)
        return values


_ARMS, _VERSIONS = Bounded(MAX_SERIES), Bounded(MAX_SERIES)


def count(page: Page, refusals: Collection[str]) -> None:
    """Count one page and its stages; `refusals` are what is refused at this moment."""
    for what in ("snapshot", "experiments", "champions", "rollout", "deltas"):
        REFUSED.labels(what).set(what in refusals)
    PAGES.labels(page.source).inc()
    for shown in page.arms:
        ARM_PAGES.labels(*_ARMS.of((shown.experiment, shown.arm)), page.source).inc()
    for kind, version in page.versions.model_dump(exclude_none=True).items():
        count_version("homepage", kind, version)
    for problem in page.degraded:
        DEGRADATIONS.labels(problem.stage, problem.reason).inc()
    for stage, milliseconds in page.timings_ms.items():
        STAGE_SECONDS.labels(stage).observe(milliseconds / 1000)


def count_abandoned(out: Mapping[str, int]) -> None:
    """Tell how many threads of each stage have not come back, `out` naming those with any."""
    for stage in STAGES:
        OUT.labels(stage).set(out.get(stage, 0))


def count_version(service: str, kind: str, version: str) -> None:
    """Count an answer that a model version had a part in."""
    VERSION_ANSWERS.labels(service, *_VERSIONS.of((kind, version))).inc()


def count_request(service: str, route: str, status: int, seconds: float) -> None:
    """Count a request that was answered."""
    REQUESTS.labels(service, route, str(status)).inc()
    REQUEST_SECONDS.labels(service, route).observe(seconds)


def count_freshness(service: str, tables: Iterable[Freshness], stale: Iterable[Stale], now: datetime) -> None:
    """Tell how old the tables behind an answer are, and count those that were older than promised."""
    for table in tables:
        AGE_SECONDS.labels(table.table).set(table.age_hours(now) * 3600)
        SLO_SECONDS.labels(table.table).set(table.slo_hours * 3600)
    for one in stale:
        STALE.labels(service, one.table).inc()
