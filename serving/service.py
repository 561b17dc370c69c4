"""The Bento services: a thin shell of HTTP around the page and its parts."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, TypeVar, cast

import bentoml
from pydantic import AwareDatetime, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_repo.snapshot import SnapshotError
from models.signature import SignatureMismatch
from serving import metrics
from serving.admission import Admitted, since_arrival
from serving.answers import (
    ArtworkAnswer,
    CandidatesAnswer,
    CandidatesRequest,
    Page,
    PageRequest,
    ScoresAnswer,
    TitlesRequest,
)
from serving.deadline import Deadline
from serving.exposures import ExposureLog
from serving.json_only import JsonOnly
from serving.live import LiveSource, check_servable
from serving.live_set import Folders
from serving.manifest import Manifest, NotABento
from serving.page import Homepage as HomepageCore
from serving.parts import Parts, UnknownTitles
from serving.quality_factor import Quality, QualityFactor
from serving.samples import SampleLog
from serving.selection import NewUser
from serving.shadow_log import ShadowLog
from serving.shadows import Shadows
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


def service(name: str) -> Callable[[C], C]:
    """A Bento service: one worker; requests wait for each other in threads, not in the event loop."""
    declare = bentoml.service(
        name=name,
        workers=1,
        threads=16,
        traffic={"timeout": 10},  # how many may come is for `Admitted` to say, which answers with Retry-After
        logging={"access": {"enabled": False}},
        envs=[{"name": "MATINEE_HOME"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
    )

    def decorate(kind: C) -> C:
        declared = declare(kind)
        declared.add_asgi_middleware(JsonOnly)
        declared.add_asgi_middleware(Admitted)
        return cast("C", declared)

    return decorate


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

    def __init__(self) -> None:
        """Load models and features; runs in the worker, after `refuse_to_start` let it pass."""
        from models.threads import use_threads  # noqa: PLC0415  (brings PyTorch, which only workers need)

        use_threads(1)
        settings = Settings()
        self.now = clock_from(settings.starts_at)
        manifest = Manifest.load(BENTO)
        given = settings.sample_share
        self.sample_share = manifest.defaults.sample_share if given is None else given
        self.source = LiveSource(Folders.of(BENTO, settings.home), manifest)
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self.source.keep_looking, args=(self._stop,), daemon=True)
        self._looking.start()

    @before_workers
    @staticmethod
    def refuse_to_start() -> None:
        """End the process with a readable reason, before any worker starts, if it could not serve."""
        try:
            manifest = Manifest.load(BENTO)
            check_servable(Folders.of(BENTO, Settings().home), manifest)
            for version in manifest.versions:
                for difference in made_otherwise(version.ref, version.framework):
                    logger.warning("%s", difference)
        except (NotABento, SnapshotError, SignatureMismatch, LookupError, ValueError, OSError) as problem:
            sys.exit(f"refusing to start: {type(problem).__name__}: {problem}")

    @property
    def parts(self) -> Parts:
        """What answers one request."""
        return Parts(self.source.current(), self.now())

    def counted(self, answer: A) -> A:
        """The answer, Prometheus being told how fresh it is."""
        service, live = type(self).__name__.lower(), self.source.current()
        metrics.count_freshness(service, live.freshness, answer.stale, self.now())
        return answer

    @at_shutdown
    def stop_looking(self) -> None:
        """Let the thread go that looks for newer versions."""
        self._stop.set()
        self._looking.join()

    def __is_alive__(self) -> bool:
        """Alive while it still takes up what is new."""
        return self._looking.is_alive()

    def __is_ready__(self) -> bool:
        """Ready once models and features are loaded, which is before it listens, until it is stopped."""
        return not self._stop.is_set()


@service("homepage")
class Homepage(Process):
    """Pages of titles with artwork."""

    def __init__(self) -> None:
        """Open the logs beside what every process has."""
        super().__init__()
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
            lambda: uuid.uuid4().hex,
            self._samples,
            on_shown=self._shadows.offer,
            quality=None if steering is None else Quality(QualityFactor(steering)),
        )

    @endpoint
    def page(self, request: PageRequest, /) -> Page:
        """The page of one user; its exposures are on disk when it is answered."""
        live, now = self.source.current(), self.now()
        deadline = Deadline.within(live.manifest.defaults.budget_ms, time.monotonic)
        page = self._core.page(request, now, deadline.earlier(since_arrival(time.monotonic)))
        metrics.count(page, self.source.refusals)
        metrics.count_freshness("homepage", live.freshness, page.stale, now)
        return page

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
    def candidates(self, request: CandidatesRequest, /) -> CandidatesAnswer:
        """Unwatched titles for one user, best first."""
        with client_faults():
            return self.counted(self.parts.candidates(request))


@service("ranker")
class Ranker(Process):
    """Ranking alone."""

    @endpoint
    def score(self, request: TitlesRequest, /) -> ScoresAnswer:
        """Each head's score of some titles for one user."""
        with client_faults():
            return self.counted(self.parts.scores(request))


@service("artwork")
class Artwork(Process):
    """Artwork alone."""

    @endpoint
    def choose(self, request: TitlesRequest, /) -> ArtworkAnswer:
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


def _invalid(field: str, kind: LiteralString, problem: Exception) -> ValidationError:
    reason = PydanticCustomError(kind, "{reason}", {"reason": str(problem)})
    return ValidationError.from_exception_data(
        "request", [InitErrorDetails(type=reason, loc=(field,), input=None)]
    )


def writer_name() -> str:
    """A name no other writer of exposures has: the time, sortable, and the process."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{os.getpid()}"
