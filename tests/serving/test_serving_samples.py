"""The sample log: whom it takes, what it keeps of them, and what a crash or a full disk may do to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from serving.answers import PageRequest
from serving.deadline import Deadline
from serving.exposure_table import read
from serving.exposures import ExposureLog
from serving.live import LiveSource
from serving.live_set import Folders
from serving.page import NOT_SAMPLED, Homepage
from serving.samples import (
    LAYOUTS,
    OTHER_ROWS,
    SHOWN_ROWS,
    DamagedSamples,
    Given,
    Layout,
    Sample,
    SampleLog,
    Vectors,
    encode,
    newest,
    sampled,
)

NOW = datetime(2026, 3, 2, 18, 30, tzinfo=UTC)


def sample(request_id="r1", values=None, titles=None, names=("a", "b"), at=NOW):
    values = np.array([[1, np.nan], [3, 4]], dtype=np.float32) if values is None else values
    ids = np.arange(len(values)) if titles is None else np.array(titles, dtype=np.int64)
    layout = Layout("ranking", tuple(f"t:{name}" for name in names), tuple(f"d{name}" for name in names))
    return Sample(request_id, 7, at, "world", "g1", NOW, 3, (Vectors(layout, ids, values),))


def equal(one, other):
    """The same in everything, values bit for bit."""
    mine, theirs = (replace(s, vectors=()) for s in (one, other))
    return mine == theirs and all(
        a.layout == b.layout
        and a.title_ids.tolist() == b.title_ids.tolist()
        and a.values.dtype == b.values.dtype == np.float32
        and a.values.tobytes() == b.values.tobytes()
        for a, b in zip(one.vectors, other.vectors, strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(values=arrays.arrays(np.uint32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_every_bit_comes_back_in_the_order_it_was_given(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    bits = values.view(np.float32)  # any bits: NaNs of every kind, infinities, -0.0, denormals
    logged = sample(values=bits, names=[str(i) for i in range(bits.shape[1])])
    with SampleLog(folder, name="a", share=1) as log:
        log.append(logged)
    (found,) = newest(folder)
    assert equal(found, logged)


def test_the_newest_come_first_over_segments_and_writers(tmp_path):
    for writer in ("20260302-a", "20260303-b"):
        with SampleLog(tmp_path, name=writer, share=1, max_segment_bytes=1) as log:  # a segment each
            for number in range(3):
                log.append(sample(f"{writer}{number}"))
    found = [one.request_id for one in newest(tmp_path)]
    assert found == ["20260303-b2", "20260303-b1", "20260303-b0", "20260302-a2", "20260302-a1", "20260302-a0"]
    assert len(list((tmp_path / LAYOUTS).iterdir())) == 1
    assert list(newest(tmp_path / "nowhere")) == []


def test_the_oldest_segments_go_but_none_that_a_writer_holds(tmp_path):
    with SampleLog(tmp_path, name="a-living", share=1, keep=2) as living:
        living.append(sample("kept"))
        with SampleLog(tmp_path, name="b", share=1, max_segment_bytes=1, keep=2) as log:
            for number in range(5):
                log.append(sample(f"b{number}"))
        assert [one.request_id for one in newest(tmp_path)] == ["b4", "b3", "kept"]


def test_an_entry_whose_bytes_never_reached_the_disk_is_left_out(tmp_path):
    with SampleLog(tmp_path, name="a", share=1) as log:
        log.append(sample("r1"))
    whole = encode(sample("r2"))
    segment = next(tmp_path.glob("*.samples"))
    first = segment.read_bytes()
    for torn in (bytes(len(whole)), whole[:40] + bytes(len(whole) - 40)):
        segment.write_bytes(first + torn)
        assert [one.request_id for one in newest(tmp_path)] == ["r1"]


@pytest.mark.parametrize("kept", [1, 15, 20, 100])
def test_an_entry_cut_short_by_a_crash_is_left_out(tmp_path, kept):
    with SampleLog(tmp_path, name="a", share=1) as log:
        log.append(sample("r1"))
    torn = encode(sample("r2"))
    with next(tmp_path.glob("*.samples")).open("ab") as file:
        file.write(torn[:kept])
    assert [one.request_id for one in newest(tmp_path)] == ["r1"]


@pytest.mark.parametrize("place", [0, 5, 9, 13, 17, 40])
def test_damage_before_the_last_entry_is_an_error_that_names_the_place(tmp_path, place):
    with SampleLog(tmp_path, name="a", share=1) as log:
        log.append(sample("r1"))
        log.append(sample("r2"))
    segment = next(tmp_path.glob("*.samples"))
    content = bytearray(segment.read_bytes())
    content[place] ^= 1
    segment.write_bytes(bytes(content))
    with pytest.raises(DamagedSamples, match=r"a-00000\.samples: the entry at byte 0 fails"):
        list(newest(tmp_path))


def test_a_layout_that_is_not_what_its_name_says_is_an_error(tmp_path):
    with SampleLog(tmp_path, name="a", share=1) as log:
        log.append(sample())
    (layout,) = (tmp_path / LAYOUTS).iterdir()
    service, features, digests = json.loads(layout.read_text())
    layout.write_text(json.dumps([service, features[::-1], digests]))
    with pytest.raises(DamagedSamples, match="not what its name says"):
        list(newest(tmp_path))
    layout.unlink()
    with pytest.raises(DamagedSamples, match="cannot be read"):
        list(newest(tmp_path))


def test_the_share_is_of_ids_and_the_same_everywhere():
    ids = [f"{number:032x}" for number in range(20_000)]
    for share in (0.0, 0.01, 0.3, 1.0):
        taken = [request for request in ids if sampled(request, share)]
        spread = 4 * (share * (1 - share) / len(ids)) ** 0.5  # four standard deviations of a binomial share
        assert abs(len(taken) / len(ids) - share) <= spread
    tenth = {request for request in ids if sampled(request, 0.1)}
    assert tenth <= {request for request in ids if sampled(request, 0.2)}
    assert sampled("5f0c3e9f1a3b4d0e8f6f4f8a27a4c1d2", 0.14)
    assert not sampled("5f0c3e9f1a3b4d0e8f6f4f8a27a4c1d2", 0.13)


def test_the_shown_titles_are_kept_and_some_that_were_left_out():
    titles = np.random.default_rng(0).permutation(200)
    whole = Given("ranking", titles, titles[:, None].astype(np.float32))
    shown = titles[np.random.default_rng(1).permutation(200)[:40]]
    kept = whole.some(shown)
    assert set(shown[:SHOWN_ROWS]) <= set(kept.title_ids)
    assert len(kept.title_ids) == SHOWN_ROWS + OTHER_ROWS
    assert kept.values[:, 0].tolist() == kept.title_ids.tolist()  # rows and ids still belong together
    few = Given("ranking", titles[:20], whole.values[:20])
    assert few.some(shown) is few


# --- in a page -----------------------------------------------------------------------------------------


@pytest.fixture
def homepage(world):
    """Opens a homepage that logs what models were given, for a share of the requests."""
    opened = []

    def open_(share=1.0, **log):
        folders = Folders.of(world.home, world.home)
        name = f"test-{len(opened)}"
        exposures = ExposureLog(folders.exposures, name=name)
        samples = SampleLog(folders.samples, name=name, share=share, **log)
        opened.extend([exposures, samples])
        ids = itertools.count()
        source = LiveSource(folders, world.manifest())
        return Homepage(source, exposures, lambda: f"request-{next(ids)}", samples)

    yield open_
    for log in opened:
        log.close()


def ask(homepage, user_id=1, size=10, budget_ms=5_000, now=NOW, clock=time.monotonic):
    return homepage.page(PageRequest(user_id=user_id, size=size), now, Deadline.within(budget_ms, clock))


def test_a_sample_is_what_each_model_was_given(world, homepage):
    page = ask(homepage(), user_id=3, size=10)
    (found,) = newest(world.home / "samples")
    reader = world.reader
    assert (found.request_id, found.user_id, found.at, found.source) == (page.request_id, 3, NOW, "world")
    assert (found.generation, found.as_of, found.sequence) == (
        reader.generation,
        reader.as_of,
        reader.sequence,
    )
    given = {vectors.layout.service: vectors for vectors in found.vectors}
    assert list(given) == ["retrieval_user", "ranking", "artwork_context"]
    for service, vectors in given.items():
        digests = reader.digests(service)
        assert dict(zip(vectors.layout.features, vectors.layout.digests, strict=True)) == digests
        assert list(vectors.layout.features) == list(digests)
    ranking = given["ranking"]
    assert {title.title_id for title in page.titles} <= set(ranking.title_ids.tolist())
    expected = reader.matrix("ranking", 3, ranking.title_ids, at=NOW)
    assert ranking.values.tobytes() == expected.tobytes()
    for service in ("retrieval_user", "artwork_context"):
        assert len(given[service].title_ids) == 0
        assert given[service].values.tobytes() == reader.vector(service, 3).tobytes()


def test_only_the_chosen_requests_are_logged(world, homepage):
    home = homepage(share=0.3)
    asked = [ask(home, user_id=1 + number % 30).request_id for number in range(40)]
    logged = [one.request_id for one in newest(world.home / "samples")]
    assert logged[::-1] == [request for request in asked if sampled(request, 0.3)]
    assert 0 < len(logged) < 40


def test_of_a_new_user_only_what_chose_the_images_was_given_anything(world, homepage):
    assert ask(homepage(), user_id=10**12).source == "popular"
    (found,) = newest(world.home / "samples")
    assert [vectors.layout.service for vectors in found.vectors] == ["artwork_context"]
    assert np.isnan(found.vectors[0].values).all()


def test_a_page_past_its_deadline_keeps_what_was_given_until_then(world, homepage):
    ticks = iter([0.0] * 20)  # enough for retrieval
    page = ask(homepage(), budget_ms=1_000, clock=lambda: next(ticks, 60.0))
    assert page.source == "retrieved"
    (found,) = newest(world.home / "samples")
    assert "ranking" not in {vectors.layout.service for vectors in found.vectors}


def test_a_disk_that_refuses_samples_costs_the_page_nothing_and_the_page_says_so(world, homepage):
    home = homepage()
    shutil.rmtree(world.home / "samples")
    page = ask(home, size=3)
    assert [(problem.stage, problem.reason) for problem in page.degraded] == [("sample", NOT_SAMPLED)]
    assert page.source == "ranked"
    assert len(read(world.home / "exposures")) == len(page.titles)
    (world.home / "samples").mkdir()
    again = ask(home, size=3)  # and goes on once the disk does
    assert again.degraded == ()
    assert again.source == "ranked"
    assert [one.request_id for one in newest(world.home / "samples")] == [again.request_id]


def test_a_closed_sample_log_costs_the_page_nothing_either(homepage):
    home = homepage()
    home.samples.close()
    assert [problem.stage for problem in ask(home).degraded] == ["sample"]


# --- freshness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "stale"),
    [
        pytest.param(timedelta(hours=30), False, id="as old as promised"),
        pytest.param(timedelta(hours=30, microseconds=1), True, id="just older"),
        pytest.param(timedelta(hours=-1), False, id="newer than the clock"),
    ],
)
def test_an_answer_past_the_promise_says_of_which_tables(world, homepage, late, stale):
    as_of = world.reader.as_of
    page = ask(homepage(), now=as_of + late)
    stored = {"user_profile", "user_activity", "title_profile", "title_activity"}
    assert stored <= set(world.reader.view.promises)
    assert page.source == "ranked"
    assert page.degraded == ()
    if not stale:
        assert not stored & {one.table for one in page.stale}
        return
    assert stored <= {one.table for one in page.stale}
    assert {(one.age_hours, one.slo_hours) for one in page.stale if one.table in stored} == {(30.0, 30.0)}
    logged = read(world.home / "exposures")
    assert len(logged) == len(page.titles)


def test_a_younger_generation_makes_answers_fresh_again(world, homepage):
    home = homepage()
    later = world.reader.as_of + timedelta(days=2)
    assert ask(home, now=later).stale
    world.publish(as_of=later - timedelta(hours=1))
    home.source.look()
    assert ask(home, now=later).stale == ()


def test_ages_are_worked_out_once_a_state_and_not_once_a_request(world, homepage):
    home = homepage()
    live = home.source.current()
    assert live.freshness is live.freshness
    assert os.fspath(home.source.folders.samples).endswith("samples")
