"""Objectives resolve to versions by local data: champions, canaries for a share of units, versions let go when unneeded."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from experiments.config import BUCKETS, EVERYONE, HELD_OUT, WINNERS_ONLY, Holdout
from experiments.hashing import bucket, key_of
from experiments.live import LiveExperiments, LiveHoldout
from models.artifact import ArtifactError
from models.objective import ObjectiveWeights
from serving.champions import AnotherLedger, ChampionNotHere, Champions
from serving.live import LiveSource
from serving.live_set import Folders
from serving.manifest import VersionNotPacked
from serving.resolver import Resolver, UnknownObjective
from serving.rollout import Canary, NotRolledOut, Rollout, Shadow
from serving.versions import described, needed

NEXT_DAY = datetime(2026, 3, 3, tzinfo=UTC)
USERS = range(1, 4001)


@pytest.fixture
def opened(world):
    """Open a source over what the workspace holds now."""

    def opened(service="homepage", manifest=None):
        return LiveSource(Folders.of(world.home, world.home), manifest or world.manifest(service))

    return opened


def crown(world, *refs):
    """Publish champions whose files lie in the workspace."""
    versions = [
        described(ref, world.versions[ref], {}).model_copy(
            update={"folder": world.versions[ref].relative_to(world.home).as_posix()}
        )
        for ref in refs
    ]
    Champions(versions=tuple(versions)).write(world.home / "live" / "champions.json")


def roll_out(world, *entries):
    shadows = tuple(entry for entry in entries if isinstance(entry, Shadow))
    canaries = tuple(entry for entry in entries if isinstance(entry, Canary))
    Rollout(shadows=shadows, canaries=canaries).write(world.home / "live" / "rollout.json")


def held(source):
    models = source.current().models
    return {*models.retrievers, *models.rankers, *models.artworks}


# --- objectives ------------------------------------------------------------------------------------------


def test_an_objective_brings_the_versions_it_is_made_with_and_an_unknown_one_is_refused_by_name(opened):
    live = opened().current()
    page, images = live.plan(3), live.plan(3, objective="artwork")
    assert page.versions.model_dump() == {
        "retriever": "retriever/1",
        "ranker": "ranker/1",
        "artwork": "artwork/1",
    }
    assert images.versions.model_dump() == {"retriever": None, "ranker": None, "artwork": "artwork/1"}
    assert page.weights == ObjectiveWeights()
    with pytest.raises(UnknownObjective, match="no objective 'hompage'. There are: homepage, artwork"):
        live.plan(3, objective="hompage")


def test_a_targeted_experiment_takes_in_those_whose_context_says_so(world, opened):
    world.go_live({"weights.diversity": 0.0}, {"weights.diversity": 1.0})
    path = world.home / "live" / "experiments.json"
    declared = json.loads(path.read_text())
    declared["experiments"][0]["declaration"]["targeting"] = {"country": ["SE"]}
    path.write_text(json.dumps(declared))
    live = opened().current()
    assert live.plan(5).arms == live.plan(5, {"country": "NO"}).arms == ()
    (arm,) = live.plan(5, {"country": "SE"}).arms
    assert arm.experiment == "trial"


def test_what_is_resolved_does_not_depend_on_who_was_resolved_before(world, opened):
    world.go_live(*({"weights.diversity": share / 10} for share in range(10)))
    live = opened().current()
    canary = Canary(kind="ranker", ref="ranker/1", share=0.3)
    forgetful = Resolver(live.experiments, live.manifest.defaults, [canary], remembered=1)
    other = Resolver(live.experiments, live.manifest.defaults, [canary])
    forward = {user: forgetful.resolve("homepage", user) for user in USERS[:200]}
    assert forward == {user: other.resolve("homepage", user) for user in reversed(USERS[:200])}


# --- canaries --------------------------------------------------------------------------------------------


def test_a_canary_is_served_to_its_share_and_to_the_same_ones_as_it_grows(world, opened):
    world.save_models(number=2, seed=2)
    source = opened()
    served = {}
    for share in (0.05, 0.2, 1.0):
        roll_out(world, Canary(kind="ranker", ref="ranker/2", share=share))
        source.look()
        plans = {user: source.current().plan(user) for user in USERS}
        served[share] = {user for user, plan in plans.items() if plan.versions.ranker == "ranker/2"}
        assert {user for user, plan in plans.items() if plan.canary == ("ranker",)} == served[share]
        sd = (len(USERS) * share * (1 - share)) ** 0.5  # of a binomial count
        assert abs(len(served[share]) - len(USERS) * share) <= 4 * sd
    assert served[0.05] < served[0.2] < served[1.0] == set(USERS)
    assert {plan.versions.retriever for plan in plans.values()} == {"retriever/1"}


def test_a_share_is_so_many_buckets_of_the_canarys_own_hash_and_not_one_more(world, opened):
    canary = Canary(kind="ranker", ref="ranker/1", share=0.05)
    roll_out(world, canary)
    live = opened().current()
    last, next_one = (
        next(unit for unit in range(10**6) if bucket(key_of(unit), canary.seed) == place)
        for place in (499, 500)
    )
    assert live.plan(last).canary == ("ranker",)
    assert live.plan(next_one).canary == ()


def test_being_served_a_canary_says_nothing_about_the_arm(world, opened):
    roll_out(world, Canary(kind="ranker", ref="ranker/1", share=0.5))
    world.go_live({"weights.diversity": 0.0}, {"weights.diversity": 1.0})
    live = opened().current()
    plans = [live.plan(user) for user in USERS]
    both = sum(plan.canary == ("ranker",) and plan.arms[0].arm == "arm1" for plan in plans)
    assert abs(both - len(USERS) / 4) < 4 * (len(USERS) * 3 / 16) ** 0.5


def test_an_arm_that_names_a_version_is_not_given_the_canary(world, opened):
    world.save_models(number=2, seed=2)
    world.save_models(number=3, seed=3)
    roll_out(world, Canary(kind="ranker", ref="ranker/3", share=1.0))
    world.go_live({"ranker": "ranker/2"}, {"weights.diversity": 0.5})
    live = opened().current()
    for user in USERS[:100]:
        plan = live.plan(user)
        expected = "ranker/2" if plan.arms[0].arm == "arm0" else "ranker/3"
        assert plan.versions.ranker == expected


def test_a_page_names_its_canary_and_the_set_it_was_made_under(world, opened):
    source = opened()
    before = source.current().declared.id
    roll_out(world, Canary(kind="ranker", ref="ranker/1", share=1 / BUCKETS))
    source.look()
    after = source.current().declared.id
    assert before != after
    roll_out(world)
    source.look()
    assert source.current().declared.id == before  # equal declarations, equal id


def test_a_roll_out_that_cannot_be_is_refused_when_it_is_declared():
    canary = Canary(kind="ranker", ref="ranker/2", share=0.1)
    with pytest.raises(ValidationError, match="2 canaries are rankers; a kind has one at a time"):
        Rollout(canaries=(canary, Canary(kind="ranker", ref="ranker/3", share=0.1)))
    with pytest.raises(ValidationError, match="greater than 0"):
        Canary(kind="ranker", ref="ranker/2", share=0)
    with pytest.raises(NotRolledOut, match="'ranker/9' is no canary. There is: ranker/2"):
        Rollout(canaries=(canary,)).without_canary("ranker/9")
    replaced = Rollout(canaries=(canary,)).with_canary(canary.model_copy(update={"ref": "ranker/3"}))
    assert replaced.references == ("ranker/3",)
    shadow = Shadow(kind="ranker", ref="ranker/2")
    assert Rollout().with_shadow(shadow).with_shadow(shadow).shadows == (shadow,)


@pytest.mark.parametrize(
    "entry", [Canary(kind="ranker", ref="ranker/7", share=0.5), Shadow(kind="ranker", ref="ranker/7")]
)
def test_a_rolled_out_version_that_is_not_in_the_bento_is_refused_and_the_last_good_one_stays(
    world, opened, entry
):
    source = opened()
    before = source.current()
    roll_out(world, entry)
    source.look()
    assert source.current() is before
    who = type(entry).__name__.lower()
    assert (
        f"the {who} ranker/7: ranker 'ranker/7' is not in this Bento. It holds: artwork 'artwork/1'"
        in source.refusals["rollout"]
    )
    started = opened()  # a process that starts now serves the default, and says why
    assert started.current().plan(1).versions.ranker == "ranker/1"
    assert "ranker/7" in started.refusals["rollout"]


# --- champions -------------------------------------------------------------------------------------------


def test_a_promoted_version_is_served_though_the_bento_does_not_hold_it(world, opened):
    manifest = world.manifest()
    world.save_models(number=2, seed=2)
    source = opened(manifest=manifest)
    crown(world, "ranker/2", "retriever/1")
    source.look()
    assert source.current().plan(1).versions.model_dump() == {
        "retriever": "retriever/1", "ranker": "ranker/2", "artwork": "artwork/1"
    }  # fmt: skip
    assert held(source) == {"retriever/1", "ranker/2", "artwork/1"}
    crown(world, "ranker/1")
    source.look()
    assert source.current().plan(1).versions.ranker == "ranker/1"
    assert opened(manifest=manifest).current().plan(1).versions.ranker == "ranker/1"


def test_a_champion_whose_files_are_not_there_or_not_the_ones_published_is_refused(world, opened):
    manifest = world.manifest()
    world.save_models(number=2, seed=2)
    world.save_models(number=3, seed=3)
    crown(world, "ranker/2")
    folder = world.versions["ranker/2"]
    shutil.rmtree(folder)
    source = opened(manifest=manifest)  # the Bento's own default holds, and it says why
    assert source.current().plan(1).versions.ranker == "ranker/1"
    assert (
        "champion 'ranker/2' is not in this Bento, which holds artwork/1, ranker/1"
        in source.refusals["champions"]
    )
    shutil.copytree(world.versions["ranker/3"], folder)  # whole, and another one
    with pytest.raises(ArtifactError, match="is not ranker/2 as it was packed"):
        source._made(source.current().reader, source._newest(("champions",)), None)
    shutil.rmtree(folder)
    crown(world, "ranker/3")
    source.look()
    assert source.current().plan(1).versions.ranker == "ranker/3"
    assert source.refusals == {}


def test_a_champion_of_another_ledger_is_refused(world, opened):
    manifest = world.manifest()
    world.save_models(number=2, seed=2)
    other = described("ranker/1", world.versions["ranker/2"], {}).model_copy(
        update={"folder": "models/ranker/2"}
    )
    Champions(versions=(other,)).write(world.home / "live" / "champions.json")
    source = opened(manifest=manifest)
    assert "they come of different ledgers" in source.refusals["champions"]
    with pytest.raises(AnotherLedger):
        source._newest(("champions",))


@pytest.mark.parametrize("folder", ["/etc", "versions/../../elsewhere"])
def test_champions_lie_inside_the_workspace(world, folder):
    champion = described("ranker/1", world.versions["ranker/1"], {}).model_copy(update={"folder": folder})
    with pytest.raises(ValidationError, match="leaves the workspace"):
        Champions(versions=(champion,))


def test_a_champion_that_is_nowhere_is_named_with_what_would_help(world):
    champion = described("ranker/9", world.versions["ranker/1"], {}).model_copy(update={"folder": "gone"})
    with pytest.raises(ChampionNotHere, match=r"not in .*gone. Promote it again to publish them, or build"):
        Champions(versions=(champion,)).over(world.manifest(), ("ranker",), world.home)


def test_new_features_and_the_champions_trained_on_them_are_taken_up_together(world, opened):
    manifest = world.manifest()
    source = opened(manifest=manifest)
    world.publish(as_of=NEXT_DAY, digest="changed")
    world.save_models(number=2)
    source.look()  # the snapshot alone fits no version
    assert "trained on d0, live is changed0" in source.refusals["snapshot"]
    crown(world, "retriever/2", "ranker/2", "artwork/2")
    source.look()
    assert source.refusals == {}
    assert source.current().reader.as_of == NEXT_DAY
    assert set(source.current().plan(1).versions.model_dump().values()) == {
        "retriever/2",
        "ranker/2",
        "artwork/2",
    }


def test_of_several_new_things_the_one_that_cannot_be_served_does_not_hold_up_the_others(world, opened):
    source = opened()
    generation = world.publish(as_of=NEXT_DAY, seed=4)
    world.go_live({"ranker": "ranker/7"}, {})
    roll_out(world, Canary(kind="ranker", ref="ranker/1", share=0.5))
    source.look()
    assert set(source.refusals) == {"experiments"}
    assert source.current().reader.generation == generation
    assert source.current().declared.rollout.references == ("ranker/1",)


def test_versions_describe_themselves_as_the_bento_packs_them(world):
    for packed in world.manifest().versions:
        found = described(packed.ref, world.versions[packed.ref], {})
        assert (found.kind, found.digest, found.reads) == (packed.kind, packed.digest, packed.reads)
        service = {"retriever": "retrieval_user", "ranker": "ranking", "artwork": "artwork_context"}[
            packed.kind
        ]
        assert found.reads[service] == world.reader.digests(service)


def test_a_service_of_one_part_follows_the_champions_of_its_kind_alone(world, opened):
    manifest = world.manifest("ranker")
    world.save_models(number=2, seed=2)
    source = opened(manifest=manifest)
    crown(world, "retriever/2", "ranker/2")
    roll_out(world, Canary(kind="retriever", ref="retriever/9", share=0.5))
    source.look()
    assert (held(source), source.refusals) == ({"ranker/2"}, {})


# --- versions come and go --------------------------------------------------------------------------------


def test_a_version_is_let_go_when_its_experiment_has_stopped_and_no_request_holds_it(world, opened):
    world.save_models(number=2, seed=2)
    world.go_live({"ranker": "ranker/1"}, {"ranker": "ranker/2"})
    source = opened()
    in_flight = source.current()
    kept = weakref.ref(in_flight.models.rankers["ranker/1"])
    gone = [weakref.ref(in_flight.models.rankers["ranker/2"]), weakref.ref(in_flight.rankers["ranker/2"])]
    world.go_live()
    source.look()
    gc.collect()
    assert all(ref() is not None for ref in gone)  # a request still has it
    del in_flight
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert kept() is source.current().models.rankers["ranker/1"]


def test_a_ranker_is_compiled_over_the_catalogue_once_for_each_snapshot(world, opened):
    source = opened()
    compiled = source.current().rankers["ranker/1"]
    world.go_live({"weights.diversity": 0.1}, {"weights.diversity": 0.9})
    source.look()
    assert source.current().rankers["ranker/1"] is compiled
    world.publish(as_of=NEXT_DAY, seed=1)
    source.look()
    assert source.current().rankers["ranker/1"] is not compiled


def test_a_missing_version_is_missed_when_it_is_taken_up_not_when_it_is_asked_for(world):
    with pytest.raises(VersionNotPacked, match="the canary ranker/5: ranker 'ranker/5' is not in this Bento"):
        needed(
            world.manifest(),
            LiveExperiments(),
            Rollout(canaries=(Canary(kind="ranker", ref="ranker/5", share=1),)),
        )


def test_the_resolver_answers_alike_for_units_at_the_ends_of_what_an_id_can_be(world):
    resolver = Resolver(
        LiveExperiments(), world.defaults(), [Canary(kind="ranker", ref="ranker/1", share=1.0)]
    )
    assert resolver.resolve("homepage", 0) == resolver.resolve("homepage", 2**63 - 1)


def test_held_out_units_go_on_seeing_what_was_launched_before_and_their_versions_are_loaded(world, opened):
    for number in (2, 3):
        world.save_models(number=number, seed=number)
    holdout = Holdout(
        name="quarter", held_out=0.3, winners_only=0.3, start=datetime(2026, 1, 1), end=datetime(2026, 4, 1)
    )
    LiveExperiments(
        launched={"ranker": "ranker/3"},
        holdout=LiveHoldout(declaration=holdout, baseline={"ranker": "ranker/2"}),
    ).write(world.home / "live" / "experiments.json")
    source = opened()
    plans = [source.current().plan(unit) for unit in range(1, 200)]
    seen = {(plan.arms[0].arm, plan.versions.ranker) for plan in plans}
    assert seen == {(HELD_OUT, "ranker/2"), (WINNERS_ONLY, "ranker/3"), (EVERYONE, "ranker/3")}
    assert {"ranker/2", "ranker/3"} < held(source)
