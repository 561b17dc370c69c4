"""The Bento services: a thin shell of HTTP around the page and its parts."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, LiteralString, TypeVar, cast

import bentoml
from pydantic import AwareDatetime, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_repo.snapshot import SnapshotError
from models.signature import SignatureMismatch
from serving import logs, metrics
from serving.access import Access
from serving.admission import Admitted, since_arrival
from serving.answers import (
    ArtworkAnswer,
    CandidatesAnswer,
    Page,
    PageRequest,
    PagesAnswer,
    PagesRequest,
    ScoresAnswer,
)
from serving.asked import CandidatesAsked, ImagesAsked, ScoresAsked
from serving.deadline import Deadline
from serving.description import Description
from serving.edge import Edge
from serving.explaining import ExplainRequest, Explanation, explained
from serving.exposures import ExposureLog
from serving.health import Health, Readiness, State, readiness
from serving.json_only import JsonOnly
from serving.live import LiveSource, VersionNotLoaded, check_servable
from serving.live_set import Folders
from serving.manifest import Kind, Manifest, ServiceName
from serving.observed import Observed
from serving.page import Homepage as HomepageCore
from serving.parts import OtherGeneration, Parts, UnevenScores, UnknownTitles
from serving.quality_factor import Quality, QualityFactor
from serving.remote import engines_at
from serving.samples import SampleLog
from serving.selection import NewUser
from serving.shadow_log import ShadowLog
from serving.shadows import Shadows
from serving.tracing import tracing
from serving.versions import made_otherwise

logger = logging.getLogger(__name__)
BENTO = Path(__file__).resolve().parent.parent
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
A = TypeVar("A", CandidatesAnswer, ScoresAnswer, ArtworkAnswer)


class Settings(BaseSettings):
    """The environment, read once where the process starts."""

    model_config = SettingsConfigDict(env_prefix="MATINEE_", frozen=True)

    home: Path = Field(description="the workspace of one source")
    starts_at: AwareDatetime | None = Field(None, description="simulated sessions: the time when we start")
    sample_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of requests whose feature vectors are logged; else as the Bento says",
    )


def clock_from(starts_at: datetime | None) -> Callable[[], datetime]:
    """The time in UTC; for simulated sessions, one that stands at `starts_at` now and runs on from there."""
    if starts_at is None:
        return lambda: datetime.now(UTC)
    start, began = starts_at.astimezone(UTC), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


ENVIRONMENT: list[dict[str, str]] = [
    {"name": "MATINEE_HOME", "stage": "runtime"},
    {"name": "OMP_NUM_THREADS", "value": "1"},
    {"name": "UV_TORCH_BACKEND", "value": "cpu"},  # else the image is gigabytes of CUDA larger
]


def service(name: ServiceName) -> Callable[[C], C]:
    """A Bento service: one worker; requests wait for each other in threads, not in the event loop."""
    declare = bentoml.service(
        name=name,
        workers=1,
        threads=16,
        traffic={"timeout": 10},  # how many may come is for `Admitted` to say, which answers with Retry-After
        logging={"access": {"enabled": False}},
        metrics={
            "enabled": False
        },  # its labels hold any path a client makes up; ours count, at the same /metrics
        envs=ENVIRONMENT,
    )

    def decorate(kind: C) -> C:
        kind.state = State()  # type: ignore[attr-defined]
        declared = declare(kind)
        # From the outermost to the innermost.
        declared.add_asgi_middleware(Observed, service=name, routes=partial(routes_of, declared))
        declared.add_asgi_middleware(Health, state=kind.state)  # type: ignore[attr-defined]
        declared.add_asgi_middleware(Access)
        declared.add_asgi_middleware(Admitted)
        declared.add_asgi_middleware(JsonOnly)
        declared.add_asgi_middleware(Description, declared=partial(described_by_bentoml, declared))
        return cast("C", declared)

    return decorate


def routes_of(declared: Any) -> frozenset[str]:
    """The paths of a service's endpoints."""
    return frozenset(api.route for api in declared.apis.values())


def described_by_bentoml(declared: Any) -> Mapping[str, Any]:
    """A service's OpenAPI description; it costs some milliseconds."""
    found: Mapping[str, Any] = declared.openapi_spec.asdict()
    return found


def endpoint(function: F) -> F:
    """A POST route named after the method, its body the one argument's fields."""
    return cast("F", bentoml.api(function))


def before_workers(function: F) -> F:
    """Run once in the process that starts the workers, before it does."""
    return cast("F", bentoml.on_deployment(function))


def at_shutdown(function: F) -> F:
    """Run when the worker has finished its last request."""
    return cast("F", bentoml.on_shutdown(function))


class Process:
    """What every service process has: a source of live versions that keeps looking for newer ones."""

    state: State  # one a service, shared with the layer that answers for its health

    def __init__(self, apart: Collection[Kind] = ()) -> None:
        """Load models, those in `apart` excepted, and features; runs in the worker, after `refuse_to_start`."""
        from models.threads import use_threads  # noqa: PLC0415  (brings PyTorch, which only workers need)

        logs.configure(self._name())
        use_threads(1)
        settings = Settings()
        self.now = clock_from(settings.starts_at)
        manifest = Manifest.load(BENTO)
        given = settings.sample_share
        self.sample_share = manifest.defaults.sample_share if given is None else given
        self.source = LiveSource(Folders.of(BENTO, settings.home), manifest, apart=apart)
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self.source.keep_looking, args=(self._stop,), daemon=True)
        self._looking.start()
        self.state.ask = self.readiness

    @before_workers
    @staticmethod
    def refuse_to_start() -> None:
        """End the process with a readable reason, before any worker starts, if it could not serve."""
        try:
            manifest, edge = Manifest.load(BENTO), Edge()
            tracing(manifest.service, edge.traces)
            check_servable(Folders.of(BENTO, Settings().home), manifest)
            for version in manifest.versions:
                for difference in made_otherwise(version.ref, version.framework):
                    logger.warning("%s", difference)
        except (RuntimeError, SnapshotError, SignatureMismatch, LookupError, ValueError, OSError) as problem:
            sys.exit(f"refusing to start: {type(problem).__name__}: {problem}")

    @property
    def parts(self) -> Parts:
        """What answers one request."""
        return Parts(self.source.current(), self.now())

    def counted(self, answer: A) -> A:
        """The answer, Prometheus being told how fresh it is."""
        service, live = self._name(), self.source.current()
        metrics.count_freshness(service, live.freshness, answer.stale, self.now())
        metrics.count_version(service, service, answer.version)
        return answer

    @classmethod
    def _name(cls) -> str:
        return cls.__name__.lower()

    def readiness(self) -> Readiness:
        """Whether to send requests here, or why not."""
        return readiness(
            self.source.folders.online,
            self.source.current().reader.generation,
            self.source.refusals,
            looking=self._looking.is_alive(),
            stopping=self._stop.is_set(),
        )

    @at_shutdown
    def stop_looking(self) -> None:
        """Let the thread go that looks for newer versions."""
        self._stop.set()
        self._looking.join()

    def __is_alive__(self) -> bool:
        """Alive while it still takes up what is new."""
        return self._looking.is_alive()

    def __is_ready__(self) -> bool:
        """As /readyz says, which also says why not."""
        return self.readiness().problem is None


PAGES_AT_ONCE = 16
"""Pages that wait for other services at a time; alone, a page has the process for itself."""


@service("homepage")
class Homepage(Process):
    """Pages of titles with artwork."""

    def __init__(self) -> None:
        """Open the logs beside what every process has."""
        edge = Edge()
        engines, apart = engines_at(edge)
        super().__init__(apart)
        folders, name = self.source.folders, writer_name()
        self._exposures = ExposureLog(folders.exposures, name=name)
        self._samples = SampleLog(folders.samples, name=name, share=self.sample_share)
        self._judgements = ShadowLog(folders.shadows, name=name)
        defaults = self.source.current().manifest.defaults
        steering = defaults.adaptive_quality
        self._shadows = Shadows(self._judgements, lambda: self._core.busy, defaults.shadow_share)
        self._core = HomepageCore(
            self.source,
            self._exposures,
            logs.page_id,
            self._samples,
            on_shown=self._shadows.offer,
            quality=None if steering is None else Quality(QualityFactor(steering)),
            engines=engines,
            spans=tracing("homepage", edge.traces).stage,
            turn=threading.BoundedSemaphore(PAGES_AT_ONCE if apart else 1),
        )

    @endpoint
    def page(self, request: PageRequest, /) -> Page:
        """The page of one user; its exposures are on disk when it is answered."""
        live, now = self.source.current(), self.now()
        page = self._core.page(request, now, self._deadline().earlier(since_arrival(time.monotonic)))
        metrics.count(page, self.source.refusals)
        metrics.count_abandoned(self._core.guard.out)
        metrics.count_freshness("homepage", live.freshness, page.stale, now)
        return page

    @endpoint
    def explain(self, request: ExplainRequest, /) -> Explanation:
        """Why each title of a user's page stands where it does; it is shown to nobody and not logged."""
        return explained(self._core.looked_at(request, self.now(), self._deadline()), request.reasons)

    @endpoint
    def precompute(self, request: PagesRequest, /) -> PagesAnswer:
        """Pages of many users ahead of time; who shows one, later, reports its impressions."""
        return self._core.ahead(request, self.now(), self._deadline)

    def _deadline(self) -> Deadline:
        return Deadline.within(self.source.current().manifest.defaults.budget_ms, time.monotonic)

    @at_shutdown
    def close_logs(self) -> None:
        """Finish what is being written."""
        self._shadows.close()
        for log in (self._exposures, self._samples, self._judgements):
            log.close()


@service("retriever")
class Retriever(Process):
    """Candidate generation alone."""

    @endpoint
    def candidates(self, request: CandidatesAsked, /) -> CandidatesAnswer:
        """Unwatched titles for one user, best first."""
        with client_faults():
            return self.counted(self.parts.candidates(request))


@service("ranker")
class Ranker(Process):
    """Ranking alone."""

    @endpoint
    def score(self, request: ScoresAsked, /) -> ScoresAnswer:
        """Each head's score of some titles for one user."""
        with client_faults():
            return self.counted(self.parts.scores(request))


@service("artwork")
class Artwork(Process):
    """Artwork alone."""

    @endpoint
    def choose(self, request: ImagesAsked, /) -> ArtworkAnswer:
        """One image for each of some titles, as on the user's page of the day."""
        with client_faults():
            return self.counted(self.parts.images(request))


@contextmanager
def client_faults() -> Iterator[None]:
    """Turn what only the client can mend into a 400 that names the field."""
    try:
        yield
    except NewUser as problem:
        raise _invalid("user_id", "unknown_user", problem) from problem
    except UnknownTitles as problem:
        raise _invalid("title_ids", "unknown_title", problem) from problem
    except UnevenScores as problem:
        raise _invalid("retrieval", "uneven_scores", problem) from problem
    except OtherGeneration as problem:
        raise _invalid("pin.generation", "other_generation", problem) from problem
    except VersionNotLoaded as problem:
        raise _invalid("pin.version", "version_not_loaded", problem) from problem


def _invalid(field: str, kind: LiteralString, problem: Exception) -> ValidationError:
    reason = PydanticCustomError(kind, "{reason}", {"reason": str(problem)})
    return ValidationError.from_exception_data(
        "request", [InitErrorDetails(type=reason, loc=tuple(field.split(".")), input=None)]
    )


def writer_name() -> str:
    """A name no other writer of exposures has: the time, sortable, the host (a pod's name) and the process."""
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())[:63]
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{host}-{os.getpid()}"
