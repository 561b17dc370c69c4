"""One contract for pages, whether their stages run in the page's process or as services of their own."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

import httpx
import numpy as np
import pytest

from serving.answers import CandidatesAnswer, PageRequest, ScoresAnswer
from serving.asked import CandidatesAsked, ImagesAsked, Pin, ScoresAsked
from serving.deadline import Deadline
from serving.edge import Edge
from serving.engines import HERE, Engines
from serving.exposure_table import read
from serving.exposures import ExposureLog
from serving.live import LiveSource, VersionNotLoaded
from serving.live_set import Folders
from serving.page import Homepage
from serving.parts import OtherGeneration, Parts, UnevenScores, UnknownTitles
from serving.remote import (
    Remote,
    StageClient,
    StageGarbled,
    StageRefused,
    engines_at,
    packed,
    unpacked,
)
from serving.selection import NewUser

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
KINDS = ("retriever", "ranker", "artwork")
NEW_USER = 10**12


class Services:
    """The three parts behind HTTP's semantics, without a network: a transport that answers as the services do."""

    def __init__(self, world, kinds=KINDS):
        folders = Folders.of(world.home, world.home)
        self.sources = {kind: LiveSource(folders, world.manifest(kind)) for kind in kinds}
        self.asked = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        kind = request.url.host
        parts = Parts(self.sources[kind].current(), NOON.replace(year=2020))  # its own clock must not matter
        method, model = {
            "retriever": (parts.candidates, CandidatesAsked),
            "ranker": (parts.scores, ScoresAsked),
            "artwork": (parts.images, ImagesAsked),
        }[kind]
        try:
            told = method(model.model_validate_json(request.content))
        except (NewUser, UnknownTitles, OtherGeneration, VersionNotLoaded, UnevenScores) as problem:
            return httpx.Response(400, json={"error": str(problem)})
        return httpx.Response(200, content=told.model_dump_json())

    def clients(self, answer=None):
        transport = httpx.MockTransport(answer or self.answer)
        return {kind: StageClient.at(f"http://{kind}", transport=transport) for kind in KINDS}

    def engines(self, answer=None):
        remote = Remote(self.clients(answer))
        return Engines(remote.retrieve, remote.rank, remote.illustrate)


@pytest.fixture
def homepage(world, tmp_path):
    logs = []

    def make(engines=HERE, apart=()):
        log = ExposureLog(tmp_path / f"exposures-{len(logs)}", name="test")
        logs.append(log)
        source = LiveSource(Folders.of(world.home, world.home), world.manifest(), apart=apart)
        ids = count()
        return Homepage(source, log, lambda: f"request-{next(ids)}", engines=engines)

    yield make
    for log in logs:
        log.close()


def page_of(core, user_id=2, size=12, budget_ms=5_000):
    return core.page(
        PageRequest(user_id=user_id, size=size), NOON, Deadline.within(budget_ms, time.monotonic)
    )


def told(page):
    """All of a page but what no two requests share."""
    return page.model_dump(exclude={"request_id", "timings_ms"})


# What any homepage promises, however its stages are run.


@pytest.fixture(params=["together", "apart"])
def core(request, world, homepage):
    if request.param == "together":
        return homepage()
    return homepage(Services(world).engines(), apart=KINDS)


def test_a_page_is_ranked_illustrated_and_logged(core, world, tmp_path):
    logged = tmp_path / "exposures-0"
    page = page_of(core)
    assert (page.source, len(page.titles), page.degraded) == ("ranked", 12, ())
    assert page.versions.model_dump() == {kind: f"{kind}/1" for kind in KINDS}
    assert all(title.scores.choice is not None for title in page.titles)
    assert any(title.propensity is not None for title in page.titles)
    watched = world.reader.history(2).tolist()
    assert not {title.title_id for title in page.titles} & set(watched)
    values = [title.scores.objective - title.scores.diversity_penalty for title in page.titles]
    assert values[0] == max(values)
    core.exposures.close()
    rows = [row for row in read(logged).to_pylist() if row["request_id"] == page.request_id]
    assert [row["title_id"] for row in rows] == [title.title_id for title in page.titles]


def test_a_new_user_gets_what_is_popular(core):
    page = page_of(core, NEW_USER, 5)
    assert (page.source, page.degraded[0].reason) == ("popular", "no features of this user yet")


# And both ways give the same page.


@pytest.mark.parametrize("arms", [(), ({"weights.diversity": 0.0}, {"artwork_policy": "uniform"})])
def test_pages_are_equal_to_the_last_bit_whether_stages_run_together_or_apart(world, homepage, arms):
    world.go_live(*arms)
    together, apart = homepage(), homepage(Services(world).engines(), apart=KINDS)
    for user_id in (*range(1, 16), NEW_USER):
        assert told(page_of(apart, user_id)) == told(page_of(together, user_id))


@pytest.mark.parametrize("kind", KINDS)
def test_any_one_stage_may_run_apart_from_the_others(world, homepage, kind):
    remote = Services(world, [kind]).engines()
    stage = {"retriever": "retrieve", "ranker": "rank", "artwork": "illustrate"}[kind]
    mixed = replace(HERE, **{stage: getattr(remote, stage)})
    assert told(page_of(homepage(mixed, apart=[kind]))) == told(page_of(homepage()))


def test_a_page_that_runs_apart_loads_no_models_of_its_own(world, homepage):
    models = homepage(Services(world).engines(), apart=KINDS).source.current().models
    assert (models.retrievers, models.rankers, models.artworks) == ({}, {}, {})


# Faults of the services are faults of stages.


def dead(_):
    raise httpx.ConnectError("connection refused")


def late(request):
    raise httpx.ReadTimeout("too late", request=request)


def refusing(_):
    return httpx.Response(500, json={"error": "An unexpected error has occurred"})


def garbled(_):
    return httpx.Response(200, content=b'{"user_id": 2}')


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (dead, "StageUnreachable"),
        (late, "StageTooLate"),
        (refusing, "StageRefused"),
        (garbled, "StageGarbled"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "source", "stage"),
    [("retriever", "popular", "retrieve"), ("ranker", "retrieved", "rank"), ("artwork", "ranked", "artwork")],
)
def test_a_service_that_fails_degrades_the_page_which_says_so(
    world, homepage, kind, source, stage, fault, reason
):
    services = Services(world)

    def answer(request):
        return fault(request) if request.url.host == kind else services.answer(request)

    page = page_of(homepage(services.engines(answer), apart=KINDS))
    assert (page.source, [(d.stage, d.reason) for d in page.degraded]) == (source, [(stage, reason)])
    assert len(page.titles) == 12


def test_a_service_is_waited_for_as_long_as_its_stage_has_and_no_longer(world, homepage):
    services, timeouts = Services(world), []

    def answer(request):
        timeouts.append(request.extensions["timeout"]["read"])
        return services.answer(request)

    page_of(homepage(services.engines(answer), apart=KINDS), budget_ms=900)
    shares = world.manifest().defaults.stage_shares
    ends = (shares.retrieve, shares.rank, shares.artwork)
    assert all(0 < waited <= 0.9 * end for waited, end in zip(timeouts, ends, strict=True))


def test_a_page_is_never_made_of_two_snapshots(world, homepage):
    services = Services(world)
    core = homepage(services.engines(), apart=KINDS)
    world.publish(seed=3)
    services.sources["ranker"].look()
    page = page_of(core)
    assert (page.source, page.degraded[0].reason) == ("retrieved", "StageRefused")
    core.source.look()  # the page is ahead of the retriever now
    assert page_of(core).source == "popular"
    for kind in KINDS:
        services.sources[kind].look()
    page = page_of(core)
    assert (page.source, page.degraded, page.generation) == ("ranked", (), world.reader.generation)


def test_an_answer_from_another_snapshot_or_version_is_not_taken(world, homepage):
    services = Services(world)

    def other(request):
        told = json.loads(services.answer(request).content)
        return httpx.Response(200, json=told | {"version": f"{request.url.host}/9"})

    page = page_of(homepage(services.engines(other), apart=KINDS))
    assert (page.source, page.degraded[0].reason) == ("popular", "MixedGenerations")


def test_how_images_are_drawn_is_the_pages_to_say_not_the_artwork_services(world, homepage):
    services = Services(world)  # which have not heard of the experiment
    world.go_live({"artwork_policy": "uniform"}, {"artwork_policy": "uniform"})
    apart, together = page_of(homepage(services.engines(), apart=KINDS)), page_of(homepage())
    assert told(apart) == told(together)
    assert all(title.propensity in (None, pytest.approx(1 / world.shape.artworks)) for title in apart.titles)


@pytest.mark.parametrize(("kind", "source"), [("ranker", "retrieved"), ("artwork", "ranked")])
def test_an_answer_about_other_titles_than_were_asked_for_is_not_taken(world, homepage, kind, source):
    services = Services(world)

    def swapped(request):
        told = json.loads(services.answer(request).content)
        if request.url.host == kind:
            told["title_ids"] = told["title_ids"][::-1]
        return httpx.Response(200, json=told)

    page = page_of(homepage(services.engines(swapped), apart=KINDS))
    assert (page.source, [d.reason for d in page.degraded]) == (source, ["StageGarbled"])


def test_a_request_that_is_pinned_to_what_is_not_here_is_refused_by_field(world):
    services = Services(world)
    client = services.clients()["retriever"]
    for pin, says in [
        ({"generation": "another"}, "snapshot another is not live here"),
        ({"version": "retriever/9"}, "no retriever 'retriever/9' is loaded. Loaded: retriever/1"),
    ]:
        with pytest.raises(StageRefused, match=says):
            client.ask("/candidates", CandidatesAsked(user_id=2, pin=Pin(**pin)), CandidatesAnswer, 1.0)
    uneven = ScoresAsked(user_id=2, title_ids=(1001, 1002), retrieval=(0.5,))
    with pytest.raises(StageRefused, match="1 retrieval scores for 2 titles"):
        services.clients()["ranker"].ask("/score", uneven, ScoresAnswer, 1.0)


def test_an_arms_version_is_asked_for_by_name(world, homepage):
    world.save_models(number=2, seed=5)
    world.go_live({}, {"ranker": "ranker/2"})
    services = Services(world)
    apart, together = homepage(services.engines(), apart=KINDS), homepage()
    versions = set()
    for user_id in range(1, 13):
        page = page_of(apart, user_id)
        assert told(page) == told(page_of(together, user_id))
        versions.add(page.versions.ranker)
    assert versions == {"ranker/1", "ranker/2"}
    asked = {json.loads(r.content)["pin"]["version"] for r in services.asked if r.url.host == "ranker"}
    assert asked == versions


def test_vectors_arrive_as_they_were_sent():
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    assert (unpacked(packed(vectors), 7) == vectors).all()
    with pytest.raises(StageGarbled, match="vectors of 6 titles"):
        unpacked(packed(vectors), 6)
    with pytest.raises(StageGarbled):
        unpacked("no base64!", 7)


def test_the_settings_say_which_stages_run_elsewhere_and_with_which_token():
    engines, apart = engines_at(Edge())
    assert (engines, apart) == (HERE, frozenset())
    edge = Edge(ranker_url="http://ranker:3000", api_token="a-token-of-our-own")
    engines, apart = engines_at(edge)
    assert apart == {"ranker"}
    assert (engines.retrieve, engines.illustrate) == (HERE.retrieve, HERE.illustrate)
    client = engines.rank.__self__.clients["ranker"].http
    assert str(client.base_url) == "http://ranker:3000"
    assert client.headers["authorization"] == "Bearer a-token-of-our-own"
