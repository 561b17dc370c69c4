"""New snapshots, experiments and versions are taken up whole, or refused with a reason while the last stays."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from models.artifact import ArtifactError
from models.signature import SignatureMismatch
from serving.live import LiveSource, check_servable
from serving.live_set import Folders
from serving.manifest import Manifest, NotABento, VersionNotPacked
from serving.plan import UnreadableParameter
from serving.versions import FeaturesDiffer

USER = 1
NEXT_DAY = datetime(2026, 3, 3, tzinfo=UTC)


@pytest.fixture
def opened(world):
    """Open a source over what the workspace holds now."""

    def opened(service="homepage"):
        return LiveSource(Folders.of(world.home, world.home), world.manifest(service))

    return opened


def held(source):
    models = source.current().models
    return {*models.retrievers, *models.rankers, *models.artworks}


def test_a_new_snapshot_is_taken_up_and_a_request_in_flight_keeps_its_own(world, opened):
    source = opened()
    in_flight = source.current()
    first = in_flight.reader.generation
    second = world.publish(as_of=NEXT_DAY, seed=1)
    source.look()
    assert source.current().reader.generation == second
    assert source.current().reader.as_of == NEXT_DAY
    assert in_flight.reader.generation == first


def test_a_title_that_came_after_training_is_found_from_its_first_snapshot_on(world, opened):
    """Six titles more, with features but no identity; they are found as the towers find any title of their features."""
    source = opened()
    before = source.current().retrievers["retriever/1"]
    replace(world, shape=replace(world.shape, titles=world.shape.titles + 6)).publish(as_of=NEXT_DAY, seed=1)
    source.look()
    live = source.current()
    new = np.setdiff1d(live.available, before.title_ids)
    assert len(new) == 6
    retriever = live.retriever(live.plan(USER))
    features, watched = live.reader.vector("retrieval_user", USER), live.reader.history(USER)
    found = retriever.candidates(features, watched, len(retriever.title_ids))
    assert set(new.tolist()) <= set(found.title_ids.tolist())
    loaded = live.models.retrievers["retriever/1"]
    again = loaded.with_titles(live.available, live.reader.vectors("retrieval_title", live.available))
    np.testing.assert_allclose(retriever.title_vectors(new), again.title_vectors(new), atol=1e-6)
    assert (retriever.title_vectors(before.title_ids) == before.title_vectors(before.title_ids)).all()


def test_a_title_without_any_feature_is_not_found(world, opened):
    source = opened()
    more = replace(world, shape=replace(world.shape, titles=world.shape.titles + 2))
    second = more.publish(as_of=NEXT_DAY, seed=1, bare=more.title_ids[-1:].tolist())
    source.look()
    assert source.current().reader.generation == second
    found = source.current().retrievers["retriever/1"].title_ids
    assert found.tolist() == more.title_ids[:-1].tolist()


def test_nothing_is_loaded_again_when_nothing_has_changed(opened):
    source = opened()
    before = source.current()
    source.look()
    assert source.current() is before


def test_a_snapshot_with_other_features_is_refused_and_the_last_good_one_stays(world, opened, caplog):
    source = opened()
    before = source.current()
    world.publish(as_of=NEXT_DAY, digest="changed")
    source.look()
    source.look()
    assert source.current() is before
    assert "user_profile:user_profile_0: trained on d0, live is changed0" in source.refusals["snapshot"]
    assert sum("refused" in record.message for record in caplog.records) == 1
    good = world.publish(as_of=NEXT_DAY, seed=2)
    source.look()
    assert (source.current().reader.generation, source.refusals) == (good, {})


def test_a_process_does_not_start_on_features_its_models_were_not_trained_on(world):
    manifest = world.manifest()
    world.publish(digest="changed")
    folders = Folders.of(world.home, world.home)
    with pytest.raises(FeaturesDiffer, match=r"retriever/1 does not fit") as refused:
        LiveSource(folders, manifest)
    with pytest.raises(FeaturesDiffer, match=re.escape(str(refused.value))):
        check_servable(folders, manifest)
    assert isinstance(refused.value, SignatureMismatch)
    assert "trained on d0, live is changed0" in str(refused.value)
    assert "does not fit feature service" in str(refused.value)


def test_experiments_are_taken_up_and_only_the_versions_they_need_are_held(world, opened):
    world.save_models(number=2)
    source = opened()
    assert held(source) == {"retriever/1", "ranker/1", "artwork/1"}
    ranker = source.current().models.rankers["ranker/1"]
    world.go_live({"ranker": "ranker/1"}, {"ranker": "ranker/2"})
    source.look()
    assert held(source) == {"retriever/1", "ranker/1", "ranker/2", "artwork/1"}
    assert source.current().models.rankers["ranker/1"] is ranker
    assert source.current().plan(5).arms[0].experiment == "trial"
    world.go_live()
    source.look()
    assert held(source) == {"retriever/1", "ranker/1", "artwork/1"}
    assert source.current().plan(5).arms == ()


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        pytest.param(
            {"ranker": "ranker/7"},
            "ranker 'ranker/7' is not in this Bento. It holds: artwork",
            id="not packed",
        ),
        pytest.param(
            {"ranker": "retriever/1"}, "ranker 'retriever/1' is not in this Bento", id="another kind"
        ),
        pytest.param(
            {"weights.divresity": 1.0}, "sets 'weights.divresity' to 1.0. The page reads", id="misspelt"
        ),
        pytest.param(
            {"artwork_policy": "magic"}, "artwork_policy (thompson, uniform, editorial)", id="policy"
        ),
        pytest.param({"weights.diversity": 7.0}, "less than or equal to 1", id="out of bounds"),
    ],
)
def test_experiments_that_cannot_be_served_are_refused_by_name(world, opened, arm, says):
    source = opened()
    before = source.current()
    world.go_live({"ranker": "ranker/1"}, arm)
    source.look()
    assert source.current() is before
    assert says in source.refusals["experiments"]
    with pytest.raises((VersionNotPacked, UnreadableParameter, ValueError)):
        opened()


def test_a_damaged_experiments_file_changes_nothing(world, opened):
    source = opened()
    (world.home / "live").mkdir()
    (world.home / "live" / "experiments.json").write_text('{"format": 1, "experi')
    source.look()
    assert source.current().experiments.experiments == ()
    assert "experiments" in source.refusals


def test_a_snapshot_pointer_that_vanishes_is_refused_once_and_its_return_ends_the_refusal(
    world, opened, caplog
):
    source = opened()
    before = source.current()
    (world.home / "online" / "CURRENT").rename(world.home / "aside")
    source.look()
    source.look()
    assert source.current() is before
    assert "no snapshot under" in source.refusals["snapshot"]
    assert sum("refused" in record.message for record in caplog.records) == 1
    (world.home / "aside").rename(world.home / "online" / "CURRENT")
    source.look()
    assert source.refusals == {}


def test_a_damaged_newest_snapshot_at_start_means_the_older_one_and_a_refusal(world, opened):
    older = world.reader.generation
    newer = world.publish(as_of=NEXT_DAY, seed=1)
    with (world.home / "online" / "snapshots" / newer / "catalogue.arrow").open("ab") as file:
        file.write(b"x")
    source = opened()
    assert source.current().reader.generation == older
    assert newer in source.refusals["snapshot"]


def test_a_service_of_one_part_needs_and_loads_only_that_part(world, opened):
    assert held(opened("ranker")) == {"ranker/1"}
    world.go_live({"retriever": "retriever/7"}, {"weights.play": 2.0})
    assert held(opened("ranker")) == {"ranker/1"}
    with pytest.raises(
        VersionNotPacked, match="arm 'arm0' of live experiment 'trial': retriever 'retriever/7'"
    ):
        opened("retriever")


def test_a_version_that_was_exchanged_after_packing_is_not_loaded(world):
    world.save_models(number=2, seed=4)
    manifest = world.manifest()
    shutil.rmtree(world.versions["ranker/1"])
    shutil.copytree(world.versions["ranker/2"], world.versions["ranker/1"])  # whole, but another one
    with pytest.raises(ArtifactError, match="is not ranker/1 as it was packed"):
        LiveSource(Folders.of(world.home, world.home), manifest)


def test_what_only_checks_does_not_wait_for_pytorch():
    look = "import sys, serving.service; sys.exit(bool({'torch', 'faiss', 'scipy.stats'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", look], check=True)


def test_a_folder_without_a_manifest_is_no_bento(tmp_path):
    with pytest.raises(NotABento, match="matinee bento build"):
        Manifest.load(tmp_path)
