"""From the ledger to what runs: promotions, shadows and canaries go into files that a service follows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from matinee.context import fetched
from matinee.deployment import bento_folder, build_bento, newest_tag
from matinee.progress import Stage, Stages
from matinee.publishing import publish_champions
from matinee.rolling_out import end_canary, end_shadow
from matinee.session import console
from registry import VersionDraft
from serving.champions import Champions
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import Manifest
from serving.rollout import Rollout

pytestmark = pytest.mark.slow


def source_of(day):
    folder = bento_folder(day, newest_tag(day, "homepage"))
    return LiveSource(Folders.of(folder, day.workspace.root), Manifest.load(folder))


def another_ranker(day, folder, weight):
    """The ranker with another head's weight: a version of its own, for no training."""
    from models.choice import Fusion
    from models.ranker import Ranker

    first = day.registry.get("ranker/1")
    replace(Ranker.load(fetched(day, "ranker/1")), fusion=Fusion(weight, 0.5)).save(folder)
    files = {path.name: path for path in folder.iterdir()}
    draft = VersionDraft(
        "ranker",
        files,
        first.metrics,
        signature=first.signature,
        training_set=first.training_set,
        source=first.source,
    )
    return day.registry.register(draft).ref


def test_after_a_day_the_champions_are_published_as_the_bento_has_them(copied_day):
    published = Champions.read(copied_day.workspace.champions)
    packed = Manifest.load(bento_folder(copied_day, newest_tag(copied_day, "homepage"))).versions
    assert {version.ref: version.digest for version in published.versions} == {
        version.ref: version.digest for version in packed
    }
    assert publish_champions(copied_day) == ()


def test_a_promotion_on_the_command_line_reaches_a_service_whose_bento_is_older(
    copied_day, command, tmp_path
):
    source = source_of(copied_day)
    first = source.current().plan(17).versions.ranker
    ref = another_ranker(copied_day, tmp_path / "ranker", 0.25)
    command(f"matinee models promote {ref}")
    source.look()
    assert (source.current().plan(17).versions.ranker, source.refusals) == (ref, {})
    command(f"matinee models promote {first}")
    source.look()
    assert source.current().plan(17).versions.ranker == first


def test_aliases_that_were_moved_elsewhere_are_published_on_request(copied_day, command, tmp_path):
    source = source_of(copied_day)
    first = source.current().plan(17).versions.ranker
    ref = another_ranker(copied_day, tmp_path / "ranker", 0.5)
    copied_day.registry.promote(ref, by="somebody", reason="over HTTP")
    source.look()
    assert source.current().plan(17).versions.ranker == first
    assert ref in command("matinee bento champions").stdout
    source.look()
    assert source.current().plan(17).versions.ranker == ref
    copied_day.registry.promote(first, by="somebody", reason="back")
    command("matinee bento champions")


def test_shadows_and_canaries_are_declared_packed_and_taken_back(copied_day, command, tmp_path):
    ref = another_ranker(copied_day, tmp_path / "ranker", 0.75)
    said = command(f"matinee bento shadow {ref}").stdout
    assert f"The newest Bento lacks {ref}" in " ".join(said.split())
    assert "matinee bento build" in said
    build_bento(copied_day, "homepage", Stage("build", Stages(console)))
    said = command(f"matinee bento canary {ref} --share .05").stdout
    assert "lacks" not in said
    assert "5.00%" in said
    source = source_of(copied_day)
    assert source.refusals == {}
    assert ref in source.current().rankers
    served = [user for user in range(2000) if source.current().plan(user).versions.ranker == ref]
    assert 60 <= len(served) <= 140  # 100 of 2,000; a standard deviation is 9.7
    end_canary(copied_day, ref)
    end_shadow(copied_day, ref)
    assert Rollout.read(copied_day.workspace.rollout) == Rollout()
    source.look()
    assert ref not in source.current().rankers
    assert json.loads(command("matinee bento shadows --json").stdout) == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("canary ranker/1", "give a --share above 0, or --off"),
        ("canary ranker/1 --share 0", "give a --share above 0, or --off"),
        ("canary ranker/1 --off", "'ranker/1' is no canary. There is: none."),
        ("shadow ranker/77", "ranker"),
        (
            "shadow creative_quality/1",
            "creative_quality/1 is not served by itself. Served are: retriever, ranker, artwork",
        ),
    ],
)
def test_what_cannot_be_rolled_out_is_refused_with_a_reason(copied_day, command, asked, says):
    refused = command(f"matinee bento {asked}", fails=True).stderr
    assert says in " ".join(refused.replace("│", " ").split())
    assert "Traceback" not in refused
